"""The driving score of a rollout: AlpaSim's scene score, which a red light run sets to 0 as well."""

import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import last_valid_step
from tether.simulator.events import EVENTS, FAILURES
from tether.simulator.route import log_places
from tether.simulator.world import Rollout

FULL_PROGRESS = 0.8  # fraction of the log's progress that earns the full score
STANDING_LOG_M = 5.0  # where the log travels less, a rollout without failure scores 1


def driving_score(rollout: Rollout, scene: Scene, config: SimulatorConfig) -> dict[str, Array]:
    """0 after a failure, else min(clip(progress, 0, 1) / 0.8, 1); 1 where the log travels less than 5 m.

    All is measured along the route. Progress is the ego's gain over the log's own, from the rollout's start to its
    last step or the log's, whichever is first.

    Returns: dict of [B]: score, progress (the fraction, unclipped), failure, at_fault, off_road, red_light, corridor,
      wrong_way, collision (any), uncomfortable (fraction of the sub-steps driven), return (undiscounted), steps (of the
      World, while alive).
    """
    outcome, alive = rollout.outcome, rollout.alive
    valid = outcome.valid & alive[..., None]
    events = {event.name: jnp.any(getattr(outcome, event.name) & valid, axis=(0, 2)) for event in EVENTS}
    failure = jnp.any(jnp.stack([events[name] for name in FAILURES]), axis=0)
    gained = jnp.sum(jnp.where(valid, outcome.progress_m, 0.0), axis=(0, 2))
    logged = log_progress(scene, rollout.observation.time[0], alive.shape[0] * valid.shape[-1])
    progress = gained / jnp.maximum(logged, STANDING_LOG_M)
    earned = jnp.minimum(jnp.clip(progress, 0.0, 1.0) / FULL_PROGRESS, 1.0)
    earned = jnp.where(logged < STANDING_LOG_M, 1.0, earned)
    return {
        "score": jnp.where(failure, 0.0, earned),
        "progress": progress,
        "failure": failure,
        **events,
        "uncomfortable": jnp.sum(outcome.uncomfortable & valid, axis=(0, 2)) / jnp.maximum(jnp.sum(valid, (0, 2)), 1),
        "return": jnp.sum(jnp.where(alive, outcome.reward, 0.0), axis=0),
        "steps": jnp.sum(alive, axis=0),
    }


def log_progress(scene: Scene, start: Array, steps: int) -> Array:
    """Metres [B] that the logged ego gains along the route within `steps` log steps of `start` [B]."""
    end = jnp.minimum(start + steps, last_valid_step(scene))
    start_s, end_s = jnp.take_along_axis(log_places(scene), jnp.stack([start, end], axis=1), axis=1).T
    return end_s - start_s
