"""The one reward. It never looks at the log: distance to the log is imitation.

    reward = progress * (1 - jerk) * (1 - discomfort) * (1 - short time to collision) * (1 - offset) * (1 - wrong way)
           - failure * (at-fault collision + off the road + red light + departure from the route)
           - contact * (collision that is not at fault) - overlap * (depth of a contact)

Progress is a fraction of the way that the driving score can count, clipped to [-1, 1]: the score is full at 0.8 of the
log's progress, and what the log does is not known, so full progress is 0.8 of the way that the speed limit allows. In a
step with a terminating event it is 0. Faults are fractions of what the step has gained: driving badly is worth less
than driving well, and never less than standing. A failure costs as much as a whole rollout can gain. So of two
rollouts the one that scores higher earns more, and of those that score alike the calmer one (`score.py`); the product
form is CaRL's (arXiv 2504.17838).
"""

import jax.numpy as jnp

from tether.data.scene import Array
from tether.simulator.config import SimulatorConfig
from tether.simulator.events import FAILURES
from tether.simulator.world import Outcome


def step_mean(values: Array, valid: Array) -> Array:
    """The mean over all sub-steps of a step, 0 in those that are not valid: [..., S] -> [...]."""
    return jnp.sum(jnp.where(valid, values, 0.0), axis=-1) / valid.shape[-1]


def reward_terms(measures: dict[str, Array], valid: Array, speed_limit: Array, config: SimulatorConfig) -> dict:
    """The weighted terms whose sum is the reward of a step.

    Args:
      measures: what `outcome.measure` returns, [..., S].
      valid: bool[..., S].
      speed_limit: float32[...], [m/s] at the start of the step; 0 where unknown.
    Returns: dict of float32[...].
    """
    weights = config.reward
    happened = {name: jnp.any(measures[name] & valid, axis=-1) for name in FAILURES}
    failed = jnp.any(jnp.stack([happened[name] for name in FAILURES]), axis=0)
    reference = jnp.where(speed_limit > 0, speed_limit, weights.reference_speed)
    gained = step_mean(measures["progress_m"], valid) / (weights.full_progress * reference * config.dt)
    earned = weights.progress * jnp.where(failed, 0.0, jnp.clip(gained, -1.0, 1.0))
    depth = jnp.max(jnp.where(valid, measures["overlap_m"], 0.0), axis=-1)
    danger = jnp.clip(1 - measures["ttc_s"] / weights.ttc_safe, 0.0, 1.0)
    jerk = jnp.minimum(jnp.abs(measures["longitudinal_jerk"]) / config.comfort.longitudinal_jerk, 1.0)
    offset = jnp.minimum(jnp.abs(measures["route_offset_m"]) / config.corridor_m, 1.0)
    faults = {
        "jerk": weights.jerk * step_mean(jerk, valid),
        "uncomfortable": weights.uncomfortable * step_mean(measures["uncomfortable"], valid),
        "ttc": weights.ttc * step_mean(danger, valid),
        "offset": weights.offset * step_mean(offset**2, valid),
        "wrong_way": weights.wrong_way * step_mean(measures["wrong_way"], valid),
    }
    gain, taken = jnp.maximum(earned, 0.0), {}
    for name, fault in faults.items():
        taken[name] = -gain * fault
        gain = gain + taken[name]
    return {
        "progress": earned,
        **taken,
        **{name: -weights.failure * happened[name] for name in FAILURES},
        "contact": -weights.contact * jnp.any(measures["collision"] & ~measures["at_fault"] & valid, axis=-1),
        "overlap": -weights.overlap * jnp.minimum(depth, weights.overlap_cap),
    }


def own_reward(outcome: Outcome) -> Array:
    """The reward without contacts that are not the ego's fault, and their depth: float32[...].

    Replayed traffic cannot brake: it hits an ego that stops earlier than the log from behind, and drives through it. So
    this reward compares two policies in such a World.
    """
    blameless = ~jnp.any(outcome.at_fault & outcome.valid, axis=-1)
    terms = outcome.reward_terms
    return outcome.reward - jnp.where(blameless, terms["contact"] + terms["overlap"], 0.0)
