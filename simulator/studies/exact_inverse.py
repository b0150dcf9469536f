"""The action that leads from one state to the next, by the Worlds' own vehicle model (`simulator/dynamics.py`).

States are those of the box centre; the motion between them is the rear axle's. Fields of `EgoState` may carry any
leading axes `...`.
"""

import jax.numpy as jnp

from tether.data.geometry import to_frame, wrap_angle
from tether.data.scene import Array
from tether.simulator.dynamics import at_rear_axle
from tether.simulator.world import EgoState

MIN_DISTANCE_M = 1e-5  # on a shorter arc, rounding of float32 headings hides the curvature


def inverse(before: EgoState, after: EgoState, dt: float) -> tuple[Array, Array]:
    """The unlimited acceleration and curvature that `dynamics.move` takes from one state to the next; arrays [...].

    Exact where `after` can be reached: the speeds give the acceleration, the turn over the arc's length the curvature.
    Where the car stops inside the step, its braking follows from the distance and not from the speeds, as
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
