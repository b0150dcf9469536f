"""Vehicle models beside the World's own: the kinematic bicycle, pose increments and poses as given; their inverses.

A bicycle's rear axle does what the unicycle of `dynamics.py` does: it moves along its heading, on an arc whose
curvature is tan(steering angle) / wheelbase. The box centre, ahead of it, swings outwards. So one function drives both,
and the unicycle is the bicycle whose rear axle lies at the centre. Speed, curvature and all limits belong to the rear
axle; a box centre's velocity along the heading is the rear axle's speed.

Fields of `EgoState` may carry any leading axes `...`; S is the sub-steps.
"""

from typing import NamedTuple

import jax.numpy as jnp

from data.geometry import from_frame, to_frame, wrap_angle
from data.scene import Array
from simulator.config import VehicleLimits
from simulator.dynamics import advance
from simulator.world import Action, EgoState

# The rear axle lies this share of the length behind the centre: 1.2 m in a car of 4.8 m. It is what turning cars of
# real logs do: between 0.24 and 0.25 (least squares and median of lateral displacement against turn, 232 WOMD tracks).
REAR_AXLE_SHARE = 0.25
MIN_DISTANCE_M = 1e-5  # on less, float32 headings say nothing about the curvature


class PoseDelta(NamedTuple):
    """A step as seen from the pose before it: metres ahead and left, turn [rad]; arrays [...]."""

    ahead: Array
    left: Array
    turn: Array


def rear_axle(length: Array) -> Array:
    """Distance of the rear axle behind the box centre [m], from the box's `length` [m]."""
    return REAR_AXLE_SHARE * length


def shifted(ego: EgoState, ahead: Array) -> EgoState:
    """The same motion at the point `ahead` [m, ...] of the state's own one, along the heading."""
    return ego.replace(x=ego.x + ahead * jnp.cos(ego.heading), y=ego.y + ahead * jnp.sin(ego.heading))


def advance_bicycle(ego: EgoState, action: Action, axle: Array, limits: VehicleLimits, dt: float) -> EgoState:
    """Drives S sub-steps: exact arcs of the rear axle, no reversing, the limits of `dynamics.limited`.

    Args: ego: box centre, fields [...]. action: fields [..., S]. axle: [...], distance of the rear axle behind the
      centre [m]; 0 is the unicycle.
    Returns: `EgoState` of the box centre with fields [..., S], after each sub-step.
    """
    axle = jnp.asarray(axle)
    return shifted(advance(shifted(ego, -axle), action, limits, dt), axle[..., None])


def inverse(before: EgoState, after: EgoState, dt: float) -> tuple[Array, Array]:
    """The unlimited acceleration and curvature that lead from one state to the next in one step; arrays [...].

    Exact where `after` can be reached: the speeds give the acceleration, the turn over the arc's length the curvature.
    Where the car stops inside the step the speeds do not tell how hard it braked; the distance does, as
    speed^2 / (2 distance). Where it does not move, both are 0. Both headings are the box's: Waymax's inverse takes the
    box's before and the velocity's after, which turns side-slip into curvature. For a bicycle pass both states
    `shifted` to the rear axle.
    """
    travelled, turn = _arc_to(before, after.x, after.y, after.heading)
    distance = (before.speed + after.speed) / 2 * dt
    stops_inside = (after.speed == 0) & (travelled < distance)
    distance = jnp.where(stops_inside, travelled, distance)
    moves = distance > MIN_DISTANCE_M
    distance = jnp.where(moves, distance, 1.0)
    braking = jnp.where(moves, before.speed**2 / (2 * distance), before.speed / dt)
    acceleration = jnp.where(stops_inside, -braking, (after.speed - before.speed) / dt)
    return acceleration, jnp.where(moves, turn / distance, 0.0)


def _arc_to(ego: EgoState, x: Array, y: Array, heading: Array) -> tuple[Array, Array]:
    """Length [m] and turn [rad] of the arc to a pose, negative backwards; slip across the arc is left out."""
    turn = wrap_angle(heading - ego.heading)
    chord, _ = to_frame(x, y, ego.x, ego.y, ego.heading + turn / 2)
    return chord / jnp.sinc(turn / (2 * jnp.pi)), turn


def pose_delta(before: EgoState, after: EgoState) -> PoseDelta:
    """The step between two states in the frame of the first."""
    ahead, left = to_frame(after.x, after.y, before.x, before.y, before.heading)
    return PoseDelta(ahead, left, wrap_angle(after.heading - before.heading))


def apply_delta(ego: EgoState, delta: PoseDelta, dt: float) -> EgoState:
    """Delta dynamics: moves by a step given in the ego's frame. The inverse of `pose_delta`; nothing is limited."""
    x, y = from_frame(delta.ahead, delta.left, ego.x, ego.y, ego.heading)
    return set_pose(ego, x, y, ego.heading + delta.turn, dt)


def set_pose(ego: EgoState, x: Array, y: Array, heading: Array, dt: float) -> EgoState:
    """State-setting dynamics: the ego is put into the pose that is given; nothing is limited.

    Speed is the step's mean along the mean heading, never negative; acceleration and curvature are what it implies.
    """
    distance, turn = _arc_to(ego, x, y, heading)
    distance = jnp.maximum(distance, 0.0)
    moves = distance > MIN_DISTANCE_M
    return ego.replace(
        x=x,
        y=y,
        heading=wrap_angle(heading),
        speed=distance / dt,
        acceleration=(distance / dt - ego.speed) / dt,
        curvature=jnp.where(moves, turn / jnp.where(moves, distance, 1.0), 0.0),
    )
