"""What is optimised: lambda-returns, advantages, PMPO, the cross-entropy of `cl_sft`, and the value loss.

Everything here is pure arithmetic on arrays: H imagined steps, B rows, N = H x B flattened transitions, K tokens,
V vocabulary. A transition is (s_t, a_t, r_t): the reward at index t is caused by the action at index t.
"""

import flax.struct
import jax
import jax.numpy as jnp

from data.scene import Array
from simulator.world import Outcome


@flax.struct.dataclass
class Targets:
    """What a rollout teaches; arrays [H, B].

    Attributes:
      returns: float32, lambda-return from s_t, the regression target of every value head.
      advantage: float32, how much better a_t was than the baseline; 0 where it says nothing.
      valid: bool, the transition counts.
      undiscounted: float32[B], sum of the valid rewards, for reporting.
    """

    returns: Array
    advantage: Array
    valid: Array
    undiscounted: Array


def lambda_return(reward: Array, cont: Array, value: Array, bootstrap: Array, lam: Array | float = 0.95) -> Array:
    """TD(lambda) targets for a rollout, computed backwards in time.

    R_t = reward_t + cont_t * ((1 - lam_t) * V_{t+1} + lam_t * R_{t+1}),  R_H = V_H = bootstrap.
    A rollout that is cut at t < H - 1 passes lam_t = 0 there: R_t then bootstraps from V_{t+1} and nothing later
    reaches it.

    Args:
      reward: float32[H, B].   cont: float32[H, B] in [0, 1], already times the discount; 0 at a termination.
      value: float32[H, B], V(s_t).   bootstrap: float32[B], V(s_H), the minimum over value heads.
      lam: float or float32[H, B].
    Returns: float32[H, B]; gradients are not stopped here.
    Raises: ValueError if shapes differ.
    Source: Sutton & Barto 12.1; DreamerV3, arXiv 2301.04104.
    """
    shapes = (reward.shape, cont.shape, value.shape, (reward.shape[0], *bootstrap.shape))
    if len(set(shapes)) != 1:
        raise ValueError(f"reward, cont, value and bootstrap must agree on [H, B], found {shapes}")
    lam = jnp.broadcast_to(jnp.asarray(lam, reward.dtype), reward.shape)
    following = jnp.concatenate([value[1:], bootstrap[None]])

    def step(later, inputs):
        reward, cont, following, lam = inputs
        now = reward + cont * ((1 - lam) * following + lam * later)
        return now, now

    _, returns = jax.lax.scan(step, bootstrap, (reward, cont, following, lam), reverse=True)
    return returns


def counted(alive: Array, outcome: Outcome, horizon: Array, trust: Array) -> Array:
    """Transitions that may teach: alive, before any truncation, within the horizon, and all trusted so far.

    Args:
      alive: bool[H, B], alive before the step.   outcome: `Outcome` [H, B, ...].
      horizon: int32, steps imagined at most.   trust: float32, the largest disagreement still believed.
    Returns: bool[H, B], a prefix of ones along H.
    """
    steps = jnp.arange(alive.shape[0])[:, None]
    truncated_before = jnp.cumsum(outcome.truncation, axis=0) - outcome.truncation > 0
    trusted = jnp.cumsum(outcome.disagreement > trust, axis=0) == 0
    return alive & ~truncated_before & trusted & (steps < horizon)


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


def targets(
    outcome: Outcome,
    valid: Array,
    value: Array,
    final_value: Array,
    *,
    discount: float,
    lam: float,
    penalty: Array,
    group: int,
    dead_band: float,
) -> Targets:
    """Lambda-returns and advantages of imagined rollouts.

    The reward is lowered by `penalty` times the disagreement. Where a rollout stops without a termination (end of the
    log, horizon, lost trust), it bootstraps from the smallest of the value heads: states behind the cut are never
    trained on, and an optimistic head there would be believed.

    The advantage is the lambda-return minus the mean value of s_t, minus the same difference averaged over the other
    members of the group. The value takes care of members having diverged to different states, the group mean of the
    value's error in this scene, which all members share. Advantages within `dead_band` standard deviations of
    zero are set to zero: a sign split (PMPO) would otherwise give near-ties the weight of a collision.

    Args:
      outcome: `Outcome` [H, B, ...].   valid: bool[H, B] from `counted`.
      value: float32[H, B, heads], V(s_t).   final_value: float32[B, heads], V(s_H).
      discount: per step.   penalty: float32.   group: G.
    """
    reward = jnp.where(valid, outcome.reward - penalty * outcome.disagreement, 0.0)
    mean, lowest = value.mean(-1), jnp.concatenate([value[1:], final_value[None]]).min(-1)
    cut = valid & ~jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    following = jnp.where(cut, lowest, jnp.concatenate([mean[1:], lowest[-1:]]))
    shifted = jnp.concatenate([mean[:1], following[:-1]])
    cont = jnp.where(outcome.termination, 0.0, discount)
    returns = lambda_return(reward, cont, shifted, following[-1], jnp.where(cut, 0.0, lam))
    surprise = returns - mean
    advantage = jnp.where(valid, surprise - leave_one_out(surprise, valid, group), 0.0)
    spread = jnp.sqrt(jnp.sum(advantage**2) / jnp.maximum(valid.sum(), 1))
    advantage = jnp.where(jnp.abs(advantage) > dead_band * spread, advantage, 0.0)
    return Targets(returns, advantage, valid, reward.sum(0))


def pmpo_weight(advantage: Array, alpha: float) -> Array:
    """Weight of each transition's log-probability: good and bad actions are balanced by count, magnitude is ignored.

    weight = alpha * N / |D+| on D+ = {advantage > 0}, -(1 - alpha) * N / |D-| on D- = {advantage < 0}, else 0.
    The loss is -mean(weight * log_prob), over the N transitions or over any uniform minibatch of them.

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


def value_loss(value: Array, returns: Array) -> Array:
    """Huber loss of every head to the same target, mean over heads.

    Args:
      value: float32[..., heads].   returns: float32[...].
    Returns: float32[...].
    """
    error = jnp.abs(value - returns[..., None])
    return jnp.where(error < 1, 0.5 * error**2, error - 0.5).mean(-1)


def categorical_kl(logits: Array, reference_logits: Array) -> Array:
    """Exact KL(policy || reference), summed over tokens.

    Args:
      logits, reference_logits: float32[..., K, V], unnormalised; the reference's gradient is stopped.
    Returns: float32[...].
    """
    log_p = jax.nn.log_softmax(logits)
    log_q = jax.nn.log_softmax(jax.lax.stop_gradient(reference_logits))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=(-2, -1))


def masked_mean(values: Array, valid: Array) -> Array:
    """Mean over the valid entries; 0 where there is none."""
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(valid.sum(), 1)
