"""What rollouts teach and what is optimised: lambda-returns, advantages, the surrogate and the value loss.

Everything here is pure arithmetic on arrays: H imagined steps, B rows, N = H x B flattened transitions. A
transition is (s_t, a_t, r_t): the reward at index t is caused by the action at index t.
"""

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.simulator.world import Outcome


@flax.struct.dataclass
class Targets:
    """What a rollout teaches; arrays [H, B].

    Attributes:
      returns: float32, lambda-return from s_t, the regression target of every value head.
      advantage: float32, the return minus the mean value of s_t; 0 where invalid.
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


def targets(
    outcome: Outcome,
    valid: Array,
    value: Array,
    final_value: Array,
    *,
    discount: float,
    lam: float,
    penalty: Array,
    pessimistic: bool,
) -> Targets:
    """Lambda-returns and advantages of imagined rollouts.

    The reward is lowered by `penalty` times the disagreement. Where a rollout stops without a termination (end of the
    log, horizon, lost trust), it bootstraps from the smallest of the value heads: states behind the cut are never
    trained on, and an optimistic head there would be believed.

    Args:
      outcome: `Outcome` [H, B, ...].   valid: bool[H, B] from `counted`.
      value: float32[H, B, heads], V(s_t).   final_value: float32[B, heads], V(s_H).
      discount: per step.   penalty: float32.   pessimistic: else the mean of the heads is believed at the cut.
    """
    reward = jnp.where(valid, outcome.reward - penalty * outcome.disagreement, 0.0)
    later = jnp.concatenate([value[1:], final_value[None]])
    mean, believed = value.mean(-1), later.min(-1) if pessimistic else later.mean(-1)
    cut = valid & ~jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    following = jnp.where(cut, believed, jnp.concatenate([mean[1:], believed[-1:]]))
    shifted = jnp.concatenate([mean[:1], following[:-1]])
    cont = jnp.where(outcome.termination, 0.0, discount)
    returns = lambda_return(reward, cont, shifted, following[-1], jnp.where(cut, 0.0, lam))
    return Targets(returns, jnp.where(valid, returns - mean, 0.0), valid, reward.sum(0))


def surrogate(log_prob: Array, drawn: Array, weight: Array, clip: Array) -> Array:
    """What is maximised for decisions that were drawn, [N].

    weight * log_prob; or, where `clip` is above 0, min(r * weight, clamp(r, 1 - clip, 1 + clip) * weight) of the ratio
    r = p / p_drawn, which stops pushing a decision that has moved by that much already.

    Args: log_prob, drawn: float32[N], now and when it was drawn.   weight: float32[N].   clip: float32.
    Source: PPO, arXiv 1707.06347.
    """
    ratio = jnp.exp(log_prob - drawn)
    clipped = jnp.minimum(ratio * weight, jnp.clip(ratio, 1 - clip, 1 + clip) * weight)
    return jnp.where(clip > 0, clipped, weight * log_prob)


def value_loss(value: Array, returns: Array) -> Array:
    """Huber loss of every head to the same target, mean over heads.

    Args:
      value: float32[..., heads].   returns: float32[...].
    Returns: float32[...].
    """
    error = jnp.abs(value - returns[..., None])
    return jnp.where(error < 1, 0.5 * error**2, error - 0.5).mean(-1)


def masked_mean(values: Array, valid: Array) -> Array:
    """Mean over the valid entries; 0 where there is none."""
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(valid.sum(), 1)
