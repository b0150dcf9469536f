"""The ego's motion: an exact kinematic bicycle on arcs, and its inverse from the log.

The middle of the rear axle moves along the heading, on arcs whose curvature is tan(steering angle) / wheelbase. The
box centre, which `EgoState` holds, lies ahead of it and swings outwards in a turn. Speed, acceleration, curvature and
all limits are the rear axle's; the box centre's velocity along the heading is the rear axle's speed.

Fields of `EgoState` may carry any leading axes `...`; B is the batch, S the sub-steps.
"""

import jax
import jax.numpy as jnp

from tether.data.geometry import rotate, to_frame, wrap_angle
from tether.data.scene import Array, Scene, SceneSpec
from tether.simulator.config import SimulatorConfig, VehicleLimits
from tether.simulator.world import Action, EgoState

PREVIEW_STEPS = 5  # log steps that the inverse looks ahead; 0.5 s halves 2 cm of label noise to 0.2 m/s^2
MIN_PREVIEW_M = 1.0  # below it the direction of the log's motion is label noise
PAST_STEPS = 3  # log steps over which the initial acceleration and curvature are differenced
# The rear axle lies this fraction of the length behind the centre: 1.2 m in a car of 4.8 m. It is what turning cars of
# real logs do: between 0.24 and 0.25 (least squares and median of lateral displacement against turn, 232 WOMD tracks).
REAR_AXLE_FRACTION = 0.25


def rear_axle(length: Array) -> Array:
    """Distance of the rear axle behind the box centre [m], from the box's `length` [m]."""
    return REAR_AXLE_FRACTION * length


def at_rear_axle(ego: EgoState) -> EgoState:
    """The same motion with x and y of the middle of the rear axle."""
    axle = rear_axle(ego.length)
    return ego.replace(x=ego.x - axle * jnp.cos(ego.heading), y=ego.y - axle * jnp.sin(ego.heading))


def velocity(ego: EgoState) -> tuple[Array, Array]:
    """Velocity of the box centre [m/s] along x and y: the rear axle's, plus the lateral part that the turn adds."""
    aside = rear_axle(ego.length) * ego.curvature * ego.speed
    return rotate(ego.speed, aside, ego.heading)


def limited(speed: Array, acceleration: Array, curvature: Array, limits: VehicleLimits) -> tuple[Array, Array]:
    """The action that the vehicle can follow at `speed` [m/s]."""
    grip = limits.lateral_acceleration_max / jnp.maximum(speed, 0.1) ** 2
    bound = jnp.minimum(limits.curvature_max, grip)
    acceleration = jnp.clip(acceleration, limits.acceleration_min, limits.acceleration_max)
    return acceleration, jnp.clip(curvature, -bound, bound)


def move(ego: EgoState, acceleration: Array, curvature: Array, limits: VehicleLimits, dt: float) -> EgoState:
    """One sub-step at constant acceleration, the rear axle along an arc of constant curvature.

    Braking ends at standstill, also inside the sub-step: then the distance is speed^2 / (2 |acceleration|). Unlike
    the field's reference model the car neither creeps backwards nor corners beyond its grip. The new state holds the
    realised acceleration, so a car that stands does not brake.
    """
    acceleration, curvature = limited(ego.speed, acceleration, curvature, limits)
    speed = jnp.maximum(ego.speed + acceleration * dt, 0.0)
    stopping = ego.speed + acceleration * dt < 0.0
    braking = jnp.where(stopping, -acceleration, 1.0)
    distance = jnp.where(stopping, ego.speed**2 / (2 * braking), (ego.speed + speed) / 2 * dt)
    return along_arc(ego, curvature, distance).replace(
        speed=speed,
        acceleration=(speed - ego.speed) / dt,
        curvature=curvature,
    )


def along_arc(ego: EgoState, curvature: Array, distance: Array) -> EgoState:
    """The ego's pose after its rear axle has gone `distance` [m] along an arc; what else it holds stays."""
    half_turn = curvature * distance / 2
    chord = distance * jnp.sinc(half_turn / jnp.pi)
    # The centre swings about the axle, at a right angle to the mean heading.
    swing = 2 * rear_axle(ego.length) * jnp.sin(half_turn)
    step_x, step_y = rotate(chord, swing, ego.heading + half_turn)
    return ego.replace(x=ego.x + step_x, y=ego.y + step_y, heading=wrap_angle(ego.heading + 2 * half_turn))


def advance(ego: EgoState, action: Action, limits: VehicleLimits, dt: float) -> EgoState:
    """Moves the ego by S sub-steps.

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

    Speed is the velocity along the box heading, which is the rear axle's, never negative: the ego cannot reverse.
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
    """The logged ego's place at `step` [B]; beyond the end of its track, at constant velocity."""
    last = last_valid_step(scene)
    held = jnp.minimum(step, last)[:, None]
    ahead_s = (step - held[:, 0]) * SceneSpec.dt

    def at(name):
        return jnp.take_along_axis(ego_track(scene, name), held, axis=1)[:, 0]

    return at("x") + at("vel_x") * ahead_s, at("y") + at("vel_y") * ahead_s


def action_towards(ego: EgoState, x: Array, y: Array, horizon_s: float) -> tuple[Array, Array]:
    """The constant acceleration and curvature that lead the box centre to (x, y) in `horizon_s`, unlimited.

    Axle and centre, `axle` ahead of it, turn about a point beside the axle; the centre's circle goes through the target
    where curvature = 2 left / (distance^2 + 2 axle ahead). Applied anew each sub-step this is a feedback law with a
    damping of 0.7 and more (pure pursuit), which follows the log without copying its noise.
    """
    ahead, left = to_frame(x, y, ego.x, ego.y, ego.heading)
    distance, axle = jnp.hypot(ahead, left), rear_axle(ego.length)
    curvature = 2 * left / (jnp.maximum(distance, MIN_PREVIEW_M) ** 2 + 2 * axle * jnp.maximum(ahead, 0.0))
    slip = jnp.arctan(axle * curvature)  # angle from the heading to the centre's motion
    half_turn = jnp.clip(jnp.arctan2(left, ahead) - slip, -1.0, 1.0)
    arc = jnp.where(ahead > 0, distance * jnp.cos(slip) / jnp.sinc(half_turn / jnp.pi), ahead)
    return 2 * (arc - ego.speed * horizon_s) / horizon_s**2, jnp.where(ahead > 0, curvature, 0.0)


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
