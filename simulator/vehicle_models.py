"""Vehicle models beside the Worlds' own: pose increments and poses as given, which nothing limits; and inverses.

All take and return states of the box centre. What a pose implies about the motion is the rear axle's, as in
`dynamics.py`.

Fields of `EgoState` may carry any leading axes `...`.
"""

from typing import NamedTuple

import jax.numpy as jnp

from tether.data.geometry import from_frame, to_frame, wrap_angle
from tether.data.scene import Array
from tether.simulator.dynamics import at_rear_axle
from tether.simulator.world import EgoState

MIN_DISTANCE_M = 1e-5  # on less, float32 headings say nothing about the curvature


class PoseDelta(NamedTuple):
    """A step as seen from the pose before it: metres ahead and left, turn [rad]; arrays [...]."""

    ahead: Array
    left: Array
    turn: Array


def inverse(before: EgoState, after: EgoState, dt: float) -> tuple[Array, Array]:
    """The unlimited acceleration and curvature that `dynamics.move` takes from one state to the next; arrays [...].

    Exact where `after` can be reached: the speeds give the acceleration, the turn over the arc's length the curvature.
    Where the car stops inside the step the speeds do not tell how hard it braked; the distance does, as
    speed^2 / (2 distance). Where it does not move, both are 0. Both headings are the box's: Waymax's inverse takes the
    box's before and the velocity's after, which turns side-slip into curvature.
    """
    travelled, turn = _arc_to(before, after)
    distance = (before.speed + after.speed) / 2 * dt
    stops_inside = (after.speed == 0) & (travelled < distance)
    distance = jnp.where(stops_inside, travelled, distance)
    moves = distance > MIN_DISTANCE_M
    distance = jnp.where(moves, distance, 1.0)
    braking = jnp.where(moves, before.speed**2 / (2 * distance), before.speed / dt)
    acceleration = jnp.where(stops_inside, -braking, (after.speed - before.speed) / dt)
    return acceleration, jnp.where(moves, turn / distance, 0.0)


def _arc_to(before: EgoState, after: EgoState) -> tuple[Array, Array]:
    """Length [m] and turn [rad] of the rear axle's arc, negative backwards; slip across the arc is left out."""
    before, after = at_rear_axle(before), at_rear_axle(after)
    turn = wrap_angle(after.heading - before.heading)
    chord, _ = to_frame(after.x, after.y, before.x, before.y, before.heading + turn / 2)
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
    posed = ego.replace(x=x, y=y, heading=wrap_angle(heading))
    distance, turn = _arc_to(ego, posed)
    distance = jnp.maximum(distance, 0.0)
    moves = distance > MIN_DISTANCE_M
    return posed.replace(
        speed=distance / dt,
        acceleration=(distance / dt - ego.speed) / dt,
        curvature=jnp.where(moves, turn / jnp.where(moves, distance, 1.0), 0.0),
    )
