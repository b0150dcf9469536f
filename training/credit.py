"""How much likelier each imagined decision is to be made, by objective: weights of log-probabilities.

The mean of weight * log_prob (or of its clipped surrogate) over all N transitions is maximised; transitions that are
invalid have weight 0 and the others make up for them. H imagined steps, B rows, N = H x B; rows of a group stand next
to each other.
"""

import jax.numpy as jnp

from tether.data.scene import Array
from tether.training.config import RoundsConfig
from tether.training.objectives import Targets


def leave_one_out(values: Array, valid: Array, group: int) -> Array:
    """Mean over the other members of a row's group at the same step; 0 where no other member is valid.

    Rows of a group are neighbours: row b belongs to group b // G. Given the start the members act independently, so
    the others' mean does not depend on the row's own action: it is a baseline that adds no bias.

    Args:
      values: float32[H, B].   valid: bool[H, B].   group: G, rows per group.
    Returns: float32[H, B].
    """
    masked = jnp.where(valid, values, 0.0).reshape(values.shape[0], -1, group)
    count = valid.reshape(masked.shape).astype(values.dtype)
    others = (masked.sum(-1, keepdims=True) - masked) / jnp.maximum(count.sum(-1, keepdims=True) - count, 1)
    return others.reshape(values.shape)


def scaled(advantage: Array, valid: Array) -> Array:
    """Advantages so that their mean square over valid transitions is 1; nothing where all are 0."""
    spread = jnp.sqrt(jnp.sum(jnp.where(valid, advantage, 0.0) ** 2) / jnp.maximum(valid.sum(), 1))
    return jnp.where(valid, advantage / jnp.maximum(spread, 1e-6), 0.0)


def share(valid: Array) -> Array:
    """Weights of one on average over all transitions, 0 where invalid."""
    return valid * (valid.size / jnp.maximum(valid.sum(), 1))


def pmpo(worth: Targets, config: RoundsConfig) -> Array:
    """Good and bad decisions balanced by count; magnitude is ignored.

    The advantage is the value's surprise minus the same averaged over the other members of the group: the value takes
    care of members having diverged to different states, the group mean of the value's error in this scene, which all
    members share. Within `dead_band` standard deviations of zero it says nothing: a split by sign would otherwise give
    near-ties the weight of a collision.
    """
    surprise = worth.advantage
    centred = jnp.where(worth.valid, surprise - leave_one_out(surprise, worth.valid, config.group), 0.0)
    told = jnp.where(jnp.abs(scaled(centred, worth.valid)) > config.dead_band, centred, 0.0)
    return pmpo_weight(told, config.alpha)


def pmpo_weight(advantage: Array, alpha: float) -> Array:
    """Weight of each transition's log-probability.

    weight = alpha * N / |D+| on D+ = {advantage > 0}, -(1 - alpha) * N / |D-| on D- = {advantage < 0}, else 0.

    Args:
      advantage: float32[...], N entries, 0 where a transition is invalid or says nothing.
      alpha: in [0, 1], the share of the positive set.
    Source: PMPO, arXiv 2410.04166; Dreamer 4, arXiv 2509.24527.
    """
    good, bad = advantage > 0, advantage < 0
    push = alpha * advantage.size / jnp.maximum(good.sum(), 1)
    pull = (1 - alpha) * advantage.size / jnp.maximum(bad.sum(), 1)
    # In the advantage's own dtype, not a weak one: an update is compiled once for all objectives.
    return (push * good - pull * bad).astype(advantage.dtype)


def grpo(worth: Targets, config: RoundsConfig) -> Array:
    """Whole rollouts against the others of their group, without a value.

    Groups whose returns differ by less than `dead_band` standard deviations of the batch carry no signal and are left
    out. The batch's spread scales, not the group's: dividing by a group's own would inflate near-ties.

    Source: GRPO, arXiv 2402.03300; leave-one-out mean and no division by the group's spread as in Dr. GRPO, 2503.20783.
    """
    total = jnp.broadcast_to(worth.undiscounted, worth.valid.shape)
    everyone = jnp.ones_like(worth.valid)
    better = scaled(total - leave_one_out(total, everyone, config.group), everyone)
    groups = better.reshape(better.shape[0], -1, config.group)
    told = jnp.repeat(jnp.ptp(groups, axis=-1) > config.dead_band, config.group, axis=-1)
    return share(worth.valid) * jnp.where(told, better, 0.0)


def actor_critic(worth: Targets, config: RoundsConfig) -> Array:
    """The value's surprise over the range of returns, which keeps small returns from being blown up.

    Source: DreamerV3, arXiv 2301.04104; its range is a running mean over batches, this one is the batch's.
    """
    returns = jnp.where(worth.valid, worth.returns, jnp.nan)
    span = jnp.nanpercentile(returns, 95) - jnp.nanpercentile(returns, 5)
    return share(worth.valid) * worth.advantage / jnp.maximum(jnp.nan_to_num(span), 1.0)


def ppo(worth: Targets, config: RoundsConfig) -> Array:
    """Generalised advantages, which lambda-returns minus values are, at mean 0 and spread 1. Source: 1707.06347."""
    mean = jnp.sum(worth.advantage) / jnp.maximum(worth.valid.sum(), 1)
    return share(worth.valid) * scaled(worth.advantage - mean, worth.valid)


def cl_sft(worth: Targets, config: RoundsConfig) -> Array:
    """None: drives in the simulator are learned from. Imagination serves the value and the gap alone."""
    return jnp.zeros_like(worth.advantage)


WEIGHTS = {"pmpo": pmpo, "grpo": grpo, "actor_critic": actor_critic, "ppo": ppo, "cl_sft": cl_sft}
CLIPPED = ("grpo", "ppo")
