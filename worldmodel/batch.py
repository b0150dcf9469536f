"""Training data of world models: logged scenes, and the experience of an ego that was driven through them."""

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Indexed, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import advance
from tether.simulator.observe import ego_of
from tether.simulator.transition import ego_track_of, replace_row
from tether.simulator.world import Action, Agents, EgoState, Outcome, Rollout


@flax.struct.dataclass
class ModelBatch(Indexed):
    """Replayed transitions of B scenes. The others are the scene's log; the ego is `ego`.

    Attributes:
      scene: `Scene` [B, ...].
      start: int32[B], log step of the first state.
      first_ego: float32 `EgoState` [B], the ego in the first state (a perturbed start differs from the log).
      action: `Action` [B, H, S].
      ego: `EgoState` [B, H, S], after each sub-step.
      outcome: `Outcome` [B, H, ...], labels by geometry.
      alive: bool[B, H], alive before the step: the transition counts.
      dynamics: bool[B], the row counts for the loss of the others' motion. It is True for uniform log data only: where
        rows were picked because of what happened to the ego, the log's others are a biased sample.
    """

    scene: Scene
    start: Array
    first_ego: EgoState
    action: Action
    ego: EgoState
    outcome: Outcome
    alive: Array
    dynamics: Array


def from_rollout(scene: Scene, start: Array, rollout: Rollout, dynamics: Array) -> ModelBatch:
    """Turns a rollout in the log-replay simulator into training data.

    Args:
      scene: `Scene` [B, ...] and start: int32[B], where the rollout started.
      rollout: `Rollout` [H, B, ...] of the expert, a perturbed expert or a policy.
      dynamics: bool[B], see `ModelBatch`.
    """
    action, ego, outcome, alive = jax.tree.map(
        lambda a: jnp.swapaxes(a, 0, 1), (rollout.action, rollout.ego, rollout.outcome, rollout.alive)
    )
    first = ego_of(rollout.observation)[0]
    return ModelBatch(scene, start, first, action, ego, outcome, alive, dynamics)


def log_window(scene: Scene, start: Array, before: int, after: int) -> Agents:
    """The logged boxes from `before` log steps before `start` to `after` log steps after it.

    Steps outside the log are invalid. Returns: `Agents` [B, A, before + 1 + after].
    """
    steps = start[:, None] + jnp.arange(-before, after + 1)
    inside = (steps >= 0) & (steps < scene.valid.shape[-1])

    def take(field: Array) -> Array:
        return jnp.take_along_axis(field, jnp.clip(steps, 0, field.shape[-1] - 1)[:, None], axis=-1)

    fields = (scene.x, scene.y, scene.heading, scene.vel_x, scene.vel_y)
    return Agents(*(take(f) for f in fields), valid=take(scene.valid) & inside[:, None])


def driven_window(batch: ModelBatch, before: int, config: SimulatorConfig) -> Agents:
    """The boxes around a batch's rollout: the log, with the ego's row as it was driven.

    Each step is swept anew from its start. The recorded ego rests where it failed within a step, so a model could read
    the label from its input.

    Returns: `Agents` [B, A, before + 1 + H * S]; index `before` is the first state.
    """
    first = batch.first_ego[:, None]
    starts = first.then(batch.ego[:, :-1, -1])
    swept = advance(starts, batch.action, config.limits, config.dt)
    swept = jax.tree.map(lambda field: field.reshape(field.shape[0], -1), swept)
    logged = log_window(batch.scene, batch.start, before, swept.x.shape[1])
    future = replace_row(logged[..., before:], batch.scene.ego, ego_track_of(first.then(swept)))
    return logged[..., :before].then(future)
