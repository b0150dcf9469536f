"""Returns and advantages of rollouts, and which of their transitions count.

Everything here is pure arithmetic on arrays: H imagined steps, B rows, N = H x B flattened transitions. A
transition is (s_t, a_t, r_t): the reward at index t is caused by the action at index t.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.data.settings import setting
from tether.simulator.world import Outcome


@dataclasses.dataclass(frozen=True)
class ReturnsConfig:
    """How returns are made of rewards.

    Attributes:
      discount: discount of rewards per world step.
      lam: lambda of the lambda-returns; 1 sums all rewards, 0 takes one reward and the value of the next state.
      pessimistic: whether a rollout that is cut bootstraps from the smallest of the value heads; otherwise from their
        mean.
    """

    discount: float = setting(0.95, above=0, most=1)
    lam: float = setting(0.95, most=1)
    pessimistic: bool = True


@flax.struct.dataclass
class Targets:
    """Targets of a rollout; arrays [H, B].

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


def counted(alive: Array, truncation: Array, disagreement: Array, horizon: Array | int, trust: Array | float) -> Array:
    """Transitions that count: alive, before any truncation, within the horizon, and all trusted so far.

    Args:
      alive: bool[H, B], alive before the step.   truncation: bool[H, B].   disagreement: float32[H, B].
      horizon: steps imagined at most.   trust: the largest disagreement that is believed.
    Returns: bool[H, B], a prefix of ones along H.
    """
    steps = jnp.arange(alive.shape[0])[:, None]
    truncated_before = jnp.cumsum(truncation, axis=0) - truncation > 0
    trusted = jnp.cumsum(disagreement > trust, axis=0) == 0
    return alive & ~truncated_before & trusted & (steps < horizon)


def targets(
    outcome: Outcome,
    valid: Array,
    value: Array,
    final_value: Array,
    penalty: Array,
    config: ReturnsConfig,
) -> Targets:
    """Lambda-returns and advantages of imagined rollouts.

    The reward is lowered by `penalty` times the disagreement. Where a rollout stops without a termination (end of the
    log, horizon, lost trust), it bootstraps from the smallest of the value heads. States after the cut are never
    trained on, so an optimistic head would be believed there.

    Args:
      outcome: `Outcome` [H, B, ...].   valid: bool[H, B] from `counted`.
      value: float32[H, B, heads], V(s_t).   final_value: float32[B, heads], V(s_H).
      penalty: float32.
    """
    reward = jnp.where(valid, outcome.reward - penalty * outcome.disagreement, 0.0)
    later = jnp.concatenate([value[1:], final_value[None]])
    mean, believed = value.mean(-1), later.min(-1) if config.pessimistic else later.mean(-1)
    cut = valid & ~jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    following = jnp.where(cut, believed, jnp.concatenate([mean[1:], believed[-1:]]))
    shifted = jnp.concatenate([mean[:1], following[:-1]])
    cont = jnp.where(outcome.termination, 0.0, config.discount)
    returns = lambda_return(reward, cont, shifted, following[-1], jnp.where(cut, 0.0, config.lam))
    return Targets(returns, jnp.where(valid, returns - mean, 0.0), valid, reward.sum(0))


def masked_mean(values: Array, valid: Array) -> Array:
    """Mean over the valid entries; 0 where there is none."""
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(valid.sum(), 1)
