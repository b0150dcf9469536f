"""What is learned from: states with the decision to be learned in each, and how much its log-probability weighs.

An objective is nothing but a way to make these of rollouts, so one gradient step (`learning.py`) serves them all.
"""

import flax.struct
import jax.numpy as jnp

from tether.data.scene import Array, Observation
from tether.policy.action_head import Decision
from tether.simulator.world import Rollout
from tether.training.returns import Targets


@flax.struct.dataclass
class Experience:
    """Transitions to learn from; arrays [H, R, ...] as they were driven, or [N, ...] for some of them.

    The mean of weight * log-probability over all transitions is maximised; those that are invalid have weight 0, and
    the others make up for them.

    Attributes:
      observation: `Observation`.
      decision: `Decision` [...], what was decided, or should have been.
      log_prob, reasoning_log_prob: float32[...], of the action and of the reasoning when they were drawn.
      weight: float32[...], of the action's log-probability; 0 where nothing is to be learned.
      reasoning_weight: float32[...], of the reasoning's.
      returns: float32[...], target of the value heads.
      valid: bool[...].
    """

    observation: Observation
    decision: Decision
    log_prob: Array
    reasoning_log_prob: Array
    weight: Array
    reasoning_weight: Array
    returns: Array
    valid: Array


def drawn(driven: Rollout, targets: Targets, weight: Array, reasoning: float) -> Experience:
    """The decisions that were drawn in a rollout; their reasoning has the weight of the action, times `reasoning`."""
    extras = driven.extras
    return Experience(
        observation=driven.observation,
        decision=extras["decision"],
        log_prob=extras["log_prob"],
        reasoning_log_prob=extras["reasoning_log_prob"],
        weight=weight,
        reasoning_weight=reasoning * weight,
        returns=targets.returns,
        valid=targets.valid,
    )


def demonstrated(driven: Rollout, decision: Decision, valid: Array, returns: Array) -> Experience:
    """Decisions of a teacher, or of the log, in the states of a rollout, all of one weight."""
    weight = uniform(valid)
    return Experience(
        observation=driven.observation,
        decision=decision,
        log_prob=jnp.zeros_like(weight),
        reasoning_log_prob=jnp.zeros_like(weight),
        weight=weight,
        reasoning_weight=weight,
        returns=returns,
        valid=valid,
    )


def uniform(valid: Array) -> Array:
    """Weights of one on average over all transitions, 0 where invalid."""
    return valid * (valid.size / jnp.maximum(valid.sum(), 1))
