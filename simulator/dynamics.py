"""The ego's motion: an exact unicycle on arcs, and its inverse from the log.

Fields of `EgoState` may carry any leading axes `...`; B is the batch, S the sub-steps.
"""

import jax
import jax.numpy as jnp

from data.geometry import to_frame, wrap_angle
from data.scene import Array, Scene, SceneSpec
from simulator.config import SimulatorConfig, VehicleLimits
from simulator.world import Action, EgoState

PREVIEW_STEPS = 5  # log steps that the inverse looks ahead; 0.5 s halves 2 cm of label noise to 0.2 m/s^2
MIN_PREVIEW_M = 1.0  # below it the direction of the log's motion is label noise
PAST_STEPS = 3  # log steps over which the initial acceleration and curvature are differenced


def limited(speed: Array, acceleration: Array, curvature: Array, limits: VehicleLimits) -> tuple[Array, Array]:
    """The action that the vehicle can follow at `speed` [m/s]."""
    grip = limits.lateral_acceleration_max / jnp.maximum(speed, 0.1) ** 2
    bound = jnp.minimum(limits.curvature_max, grip)
    acceleration = jnp.clip(acceleration, limits.acceleration_min, limits.acceleration_max)
    return acceleration, jnp.clip(curvature, -bound, bound)


def move(ego: EgoState, acceleration: Array, curvature: Array, limits: VehicleLimits, dt: float) -> EgoState:
    """One sub-step at constant acceleration along an arc of constant curvature.

    Braking ends at standstill, also inside the sub-step: then the distance is speed^2 / (2 |acceleration|). Unlike
    the field's reference model the car neither creeps backwards nor corners beyond its grip. The new state holds the
    realised acceleration, so a car that stands does not brake.
    """
    acceleration, curvature = limited(ego.speed, acceleration, curvature, limits)
    speed = jnp.maximum(ego.speed + acceleration * dt, 0.0)
    stopping = ego.speed + acceleration * dt < 0.0
    braking = jnp.where(stopping, -acceleration, 1.0)
    distance = jnp.where(stopping, ego.speed**2 / (2 * braking), (ego.speed + speed) / 2 * dt)
    half_turn = curvature * distance / 2
    chord = distance * jnp.sinc(half_turn / jnp.pi)
    return ego.replace(
        x=ego.x + chord * jnp.cos(ego.heading + half_turn),
        y=ego.y + chord * jnp.sin(ego.heading + half_turn),
        heading=wrap_angle(ego.heading + 2 * half_turn),
        speed=speed,
        acceleration=(speed - ego.speed) / dt,
        curvature=curvature,
    )


def advance(ego: EgoState, action: Action, limits: VehicleLimits, dt: float) -> EgoState:
    """Drives S sub-steps.

    Args: ego: fields [...]. action: fields [..., S].
    Returns: `EgoState` with fields [..., S], after each sub-step.
    """

    def body(ego, act):
        ego = move(ego, *act, limits, dt)
        return ego, ego

    actions = (jnp.moveaxis(action.acceleration, -1, 0), jnp.moveaxis(action.curvature, -1, 0))
    _, swept = jax.lax.scan(body, ego, actions)
    return jax.tree.map(lambda field: jnp.moveaxis(field, 0, -1), swept)


def ego_track(scene: Scene, name: str) -> Array:
    """The ego's row [B, T] of a field [B, A, T]."""
    return jnp.take_along_axis(getattr(scene, name), scene.ego[:, None, None], axis=1)[:, 0]


def ego_size(scene: Scene) -> tuple[Array, Array]:
    """The ego's length and width [B]."""
    row = scene.ego[:, None]
    return jnp.take_along_axis(scene.length, row, 1)[:, 0], jnp.take_along_axis(scene.width, row, 1)[:, 0]


def last_valid_step(scene: Scene) -> Array:
    """The last log step of the ego's track, int32[B]: where the log ends."""
    valid = ego_track(scene, "valid")
    return jnp.max(jnp.where(valid, jnp.arange(valid.shape[-1]), 0), axis=-1).astype(jnp.int32)


def log_ego(scene: Scene, step: Array) -> EgoState:
    """The logged ego at log step `step` [B]; acceleration and curvature from the past only.

    Speed is the velocity along the box heading, never negative: the unicycle cannot slip or reverse.
    """

    def at(name, step):
        return jnp.take_along_axis(ego_track(scene, name), step[:, None], axis=1)[:, 0]

    def speed_at(step):
        heading = at("heading", step)
        return jnp.maximum(at("vel_x", step) * jnp.cos(heading) + at("vel_y", step) * jnp.sin(heading), 0.0)

    before = jnp.maximum(step - PAST_STEPS, 0)
    span = jnp.maximum(step - before, 1) * SceneSpec.dt
    speed, length_width = speed_at(step), ego_size(scene)
    turn = wrap_angle(at("heading", step) - at("heading", before))
    travelled = (speed + speed_at(before)) / 2 * span
    return EgoState(
        x=at("x", step),
        y=at("y", step),
        heading=at("heading", step),
        speed=speed,
        acceleration=(speed - speed_at(before)) / span,
        curvature=jnp.where(travelled > MIN_PREVIEW_M / 2, turn / jnp.maximum(travelled, MIN_PREVIEW_M / 2), 0.0),
        length=length_width[0],
        width=length_width[1],
    )


def log_position(scene: Scene, step: Array) -> tuple[Array, Array]:
    """Where the logged ego is at `step` [B]; beyond the end of its track at constant velocity."""
    last = last_valid_step(scene)
    held = jnp.minimum(step, last)[:, None]
    ahead_s = (step - held[:, 0]) * SceneSpec.dt

    def at(name):
        return jnp.take_along_axis(ego_track(scene, name), held, axis=1)[:, 0]

    return at("x") + at("vel_x") * ahead_s, at("y") + at("vel_y") * ahead_s


def action_towards(ego: EgoState, x: Array, y: Array, horizon_s: float) -> tuple[Array, Array]:
    """The constant acceleration and curvature that reach (x, y) in `horizon_s`, unlimited.

    The arc is the circle through the target that is tangent to the heading: curvature = 2 left / distance^2. Applied
    anew each sub-step this is a feedback law with damping 0.7, which follows the log without copying its noise.
    """
    ahead, left = to_frame(x, y, ego.x, ego.y, ego.heading)
    distance = jnp.hypot(ahead, left)
    half_turn = jnp.clip(jnp.arctan2(left, ahead), -1.0, 1.0)
    arc = jnp.where(ahead > 0, distance / jnp.sinc(half_turn / jnp.pi), ahead)
    curvature = jnp.where(ahead > 0, 2 * left / jnp.maximum(distance, MIN_PREVIEW_M) ** 2, 0.0)
    return 2 * (arc - ego.speed * horizon_s) / horizon_s**2, curvature


def track_log(ego: EgoState, scene: Scene, time: Array, substeps: int, config: SimulatorConfig) -> Action:
    """Limited actions that lead `ego` (at log step `time` [B], anywhere) along the log.

    Returns: `Action` with fields [B, substeps].
    """

    def body(ego, offset):
        x, y = log_position(scene, time + offset + PREVIEW_STEPS)
        action = action_towards(ego, x, y, PREVIEW_STEPS * config.dt)
        action = limited(ego.speed, *action, config.limits)
        return move(ego, *action, config.limits, config.dt), action

    _, (acceleration, curvature) = jax.lax.scan(body, ego, jnp.arange(substeps))
    return Action(acceleration=acceleration.T, curvature=curvature.T)


def log_actions(scene: Scene, start: Array, substeps: int, config: SimulatorConfig) -> Action:
    """The inverse of the log: actions [B, substeps] that drive the ego along it from its state at `start` [B]."""
    return track_log(log_ego(scene, start), scene, start, substeps, config)
