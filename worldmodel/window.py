"""The inputs of learned models, from a window of boxes: frames, features, and departures from lane following.

Letters: B batch, F frames (one per world step), A agents, S sub-steps, L lights.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.geometry import rotate, wrap_angle
from tether.data.scene import Array, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Agents, State
from tether.worldmodel.batch import ModelBatch, driven_window
from tether.worldmodel.features import Frame, Sensed, sense, sense_ego
from tether.worldmodel.guidance import Guide, Habits, guide_columns, guide_frames, habits_shown
from tether.worldmodel.motion import estimate_motion, move
from tether.worldmodel.nets import symlog

EVIDENCE_SCALE = (4.0, 4.0, 10.0)  # 1/m, 1/m, 1/rad: brings ordinary residuals of 0.5 s near 1
EGO_MOTION_SCALE = (0.1, 1.0, 5.0)  # 1/m, 1/m, 1/rad: the same for the ego's motion in a step
MOTION_ERRORS, EGO_MOTION = len(EVIDENCE_SCALE), len(EGO_MOTION_SCALE)


@flax.struct.dataclass
class Window:
    """Observed boxes as the networks read them.

    Attributes:
      frames: `Frame` [B, F, ...].
      sensed: `Sensed` [B, F, A, ...].
      ego_senses: float32[B, F, features].
      after: `Agents` [B, F - 1, A, S], what followed each frame but the last.
      guide: `Guide` [B, F, A], what the ways ahead ask; `sensed` has it as well.
      evidence: float32[B, F - 1, A, 3 S + 1], how `after` departs from what the ways ask.
    """

    frames: Frame
    sensed: Sensed
    ego_senses: Array
    after: Agents
    guide: Guide
    evidence: Array


def observe_window(
    boxes: Agents, scene: Scene, first: Array, simulator: SimulatorConfig, habits: Habits | None = None
) -> Window:
    """Reads a window of boxes [B, A, (F - 1) * S + 1] whose first one is at log step `first` [B].

    Args: habits: fields [B, A]; those that the boxes show if None.
    """
    frames, after = window_frames(boxes, scene, first, simulator), substep_boxes(boxes, simulator.substeps)
    sensed, ego_senses = sense_frames(frames, scene, simulator.step_s)
    if habits is None:
        habits = habits_shown(frames, after, scene, simulator)
    else:
        habits = jax.tree.map(lambda field: jnp.broadcast_to(field[:, None], frames.now.x.shape), habits)
    guide = guide_frames(frames, scene, habits, simulator)
    departure = evidence(frames[:, :-1], after, guide[:, :-1], simulator)
    return Window(frames, with_guide(sensed, guide, frames.now.valid), ego_senses, after, guide, departure)


def batch_window(batch: ModelBatch, context: int, simulator: SimulatorConfig) -> Window:
    """The window of a batch from `context` world steps before its first transition on; the ego as it was driven."""
    before = context * simulator.substeps
    boxes = driven_window(batch, before, simulator)
    return observe_window(boxes, batch.scene, batch.start - before, simulator)


def history_window(state: State, simulator: SimulatorConfig, habits: Habits) -> Window:
    """The window of a state's history. habits: fields [B, A]."""
    boxes, first = history_boxes(state, simulator)
    return observe_window(boxes, state.scene, first, simulator, habits)


def with_guide(sensed: Sensed, guide: Guide, valid: Array) -> Sensed:
    """Features of agents that include what their ways ask. Fields [..., A]."""
    return sensed.replace(own=jnp.concatenate([sensed.own, guide_columns(guide, valid)], -1))


def history_boxes(state: State, simulator: SimulatorConfig) -> tuple[Agents, Array]:
    """The whole world steps of a state's history: `Agents` [B, A, K], and the log step of the first, int32[B]."""
    span = (state.history.x.shape[-1] - 1) // simulator.substeps * simulator.substeps
    return state.history[..., -1 - span :], state.time - span


def window_frames(boxes: Agents, scene: Scene, first: Array, simulator: SimulatorConfig) -> Frame:
    """Every S-th box of a window with the lights of that moment.

    Args: boxes: `Agents` [B, A, (F - 1) * S + 1]; first: int32[B], log step of the window's first box.
    Returns: `Frame` with fields [B, F, A] and [B, F, L]; the first frame has no `before`.
    """
    now = jax.tree.map(lambda a: jnp.moveaxis(a[..., :: simulator.substeps], -1, 1), boxes)
    before = jax.tree.map(lambda a: jnp.concatenate([jnp.zeros_like(a[:, :1]), a[:, :-1]], 1), now)
    steps = first[:, None] + simulator.substeps * jnp.arange(now.x.shape[1])
    inside = (steps >= 0) & (steps < scene.light_state.shape[-1])
    index = jnp.clip(steps, 0, scene.light_state.shape[-1] - 1)[:, None]
    state, valid, age = (
        jnp.swapaxes(jnp.take_along_axis(field, index, -1), 1, 2)
        for field in (scene.light_state, scene.light_valid, light_age(scene.light_state, simulator.dt))
    )
    return Frame(now, before, state, valid & inside[..., None], age)


def light_age(light_state: Array, dt: float) -> Array:
    """Seconds since each light last changed, or since the log began. int32[..., T] -> float32[..., T]."""
    steps = jnp.arange(light_state.shape[-1])
    changed = jnp.concatenate([jnp.zeros_like(light_state[..., :1]), jnp.diff(light_state, axis=-1)], -1) != 0
    last_change = jax.lax.cummax(jnp.where(changed, steps, 0), axis=light_state.ndim - 1)
    return (steps - last_change) * dt


@functools.partial(jax.jit, static_argnames="span_s")  # traced once for all programs that contain it
def sense_frames(frames: Frame, scene: Scene, span_s: float) -> tuple[Sensed, Array]:
    """Features of every frame. Returns: `Sensed` [B, F, A, ...] and the ego's senses float32[B, F, features]."""

    def one(frame: Frame, scene: Scene) -> tuple[Sensed, Array]:
        sensed = sense(frame, scene, span_s)
        return sensed, sense_ego(sensed, frame, scene)

    return jax.vmap(jax.vmap(one, (0, None)))(frames, scene)


def sense_frame(frame: Frame, scene: Scene, span_s: float) -> tuple[Sensed, Array]:
    """Features of one frame [B, ...]: `Sensed` [B, A, ...] and the ego's senses float32[B, features]."""
    sensed, ego_senses = sense_frames(frame[:, None], scene, span_s)
    return sensed[:, 0], ego_senses[:, 0]


def substep_boxes(boxes: Agents, substeps: int) -> Agents:
    """The sub-steps after each frame of a window: [B, A, (F - 1) * S + 1] -> [B, F - 1, A, S]."""
    return jax.tree.map(lambda a: jnp.moveaxis(a[..., 1:].reshape(*a.shape[:-1], -1, substeps), 2, 1), boxes)


def motion_error(heading: Array, predicted: Agents, truth: Agents) -> tuple[Array, Array, Array]:
    """Truth minus prediction along and across `heading` [m] and of the heading [rad], each [..., S].

    Args: heading: float32[...]; predicted, truth: `Agents` [..., S].
    """
    along, across = rotate(truth.x - predicted.x, truth.y - predicted.y, -heading[..., None])
    return along, across, wrap_angle(truth.heading - predicted.heading)


def evidence(frames: Frame, after: Agents, guide: Guide, simulator: SimulatorConfig) -> Array:
    """The posterior's input: how each agent departs from what its way asks in the coming step.

    Args: frames, guide: [B, F - 1, A]; after: `Agents` [B, F - 1, A, S]. Returns: float32[B, F - 1, A, 3 S + 1].
    """
    substeps, dt = simulator.substeps, simulator.dt
    motion = estimate_motion(frames.now, frames.before, simulator.step_s)
    acceleration = jnp.minimum(guide.acceleration, guide.bound)
    asked = move(frames.now, motion, acceleration, guide.turn_rate, substeps, dt)
    known = after.valid & frames.now.valid[..., None]
    errors = motion_error(frames.now.heading, asked, after)
    scaled = [jnp.where(known, symlog(e * s), 0.0) for e, s in zip(errors, EVIDENCE_SCALE, strict=True)]
    return jnp.concatenate([*scaled, known[..., -1:]], -1)


def ego_motion(before: Agents, after: Agents) -> Array:
    """The ego's displacement and turn over a step, in its own frame before it. `Agents` [...] -> float32[..., 3]."""
    along, across = rotate(after.x - before.x, after.y - before.y, -before.heading)
    turn = wrap_angle(after.heading - before.heading)
    return jnp.stack([part * s for part, s in zip((along, across, turn), EGO_MOTION_SCALE, strict=True)], -1)


def ego_row(tree: Agents | Array, ego: Array, axis: int) -> Agents | Array:
    """The ego's entries along the agents' axis, counted from the end. Leaves [B, ...]; ego: int32[B]."""
    take = jax.vmap(lambda leaf, index: jnp.take(leaf, index, axis=axis))
    return jax.tree.map(lambda leaf: take(leaf, ego), tree)
