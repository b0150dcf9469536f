"""What is in the way: boxes in the corridors that agents are about to drive through.

Functions work on one scene, without batch axis; batch with `jax.vmap`. Letters: A agents, K points of a corridor,
J boxes that are looked at.
"""

import flax.struct
import jax.numpy as jnp

from data.geometry import rotate, to_frame
from data.scene import Array
from simulator.logged_paths import Paths, at, pose_at

EQUAL = 1 + 1e-5  # ratio of squared distances that differ by rounding alone


@flax.struct.dataclass
class Corridor:
    """The way ahead of each agent; float32[A, K] except the halves.

    Attributes:
      x, y: of the points.  direction: of travel from each point to the next [rad].
      arc: of the points along the logged path [m].
      half_length, half_width: float32[A], of the agents [m].
    """

    x: Array
    y: Array
    direction: Array
    arc: Array
    half_length: Array
    half_width: Array


@flax.struct.dataclass
class Boxes:
    """What is looked at; fields [J].

    Attributes:
      x, y, heading, vel_x, vel_y, length, width: float32, see `simulator.world.Agents`.
      in_s: float32, how far ahead this is foreseen [s].
      visible: bool.
    """

    x: Array
    y: Array
    heading: Array
    vel_x: Array
    vel_y: Array
    length: Array
    width: Array
    in_s: Array
    visible: Array


@flax.struct.dataclass
class View:
    """Boxes as agents see them; [A, J].

    Attributes:
      gap: float32, from the agent's front to the box along the path, as of now [m].
      lead_speed: float32, the box's speed along the path, never negative [m/s].
      ahead: bool, the box is in the corridor, ahead of the agent.
    """

    gap: Array
    lead_speed: Array
    ahead: Array


def corridor_ahead(paths: Paths, arc: Array, spacing: Array, points: int, length: Array, width: Array) -> Corridor:
    """K = `points` points, `spacing` [A] apart from arc lengths `arc` [A] on; `length`, `width`: [A], the agents'."""
    places = arc[:, None] + spacing[:, None] * jnp.arange(points + 1)
    x, y, _ = pose_at(paths, places)
    direction = jnp.arctan2(jnp.diff(y), jnp.diff(x))
    ends = (x[:, :-1], y[:, :-1], direction, places[:, :-1])
    return Corridor(*ends, half_length=length / 2, half_width=width / 2)


def nearest_point(corridor: Corridor, boxes: Boxes) -> Array:
    """Index int32[A, J] of the corridor's point nearest to a box's centre, of two that are equally near the first.

    Two plain minima: an argmin takes five times as long on a CPU.
    """
    square = (boxes.x - corridor.x[..., None]) ** 2 + (boxes.y - corridor.y[..., None]) ** 2
    order = jnp.arange(square.shape[1])[:, None]
    equal = square <= jnp.min(square, axis=1, keepdims=True) * EQUAL + 1e-3
    return jnp.min(jnp.where(equal, order, square.shape[1] - 1), axis=1)


def look(corridor: Corridor, arc: Array, speed: Array, boxes: Boxes) -> View:
    """The boxes as seen by agents at arc lengths `arc` [A] with `speed` [A]; the first A boxes are the agents' own.

    A box is placed by the corridor's point nearest to its centre and extends along and across the direction there. One
    that is there now is ahead by its centre. One that is foreseen is ahead if the agent, at its present speed, will
    not have reached it by then, and the gap to it is what it would be now if it came along the corridor: to a slower
    car that cuts in, or to the place where one crosses. If it is faster, it is the gap then.
    """
    nearest = nearest_point(corridor, boxes)
    direction = at(corridor.direction, nearest)
    along, across = to_frame(boxes.x, boxes.y, at(corridor.x, nearest), at(corridor.y, nearest), direction)
    cos, sin = jnp.abs(jnp.cos(boxes.heading - direction)), jnp.abs(jnp.sin(boxes.heading - direction))
    half_along = (cos * boxes.length + sin * boxes.width) / 2
    half_across = (cos * boxes.width + sin * boxes.length) / 2
    place = at(corridor.arc, nearest) + along
    lead_speed = jnp.maximum(rotate(boxes.vel_x, boxes.vel_y, -direction)[0], 0.0)
    inside = jnp.abs(across) < half_across + corridor.half_width[:, None]
    front = (arc + corridor.half_length)[:, None]
    unreached = place - half_along > front + speed[:, None] * boxes.in_s
    further = jnp.where(boxes.in_s > 0, unreached, place > arc[:, None])
    come = jnp.minimum(lead_speed, speed[:, None]) * boxes.in_s
    return View(
        gap=place - half_along - front - come,
        lead_speed=lead_speed,
        ahead=boxes.visible & inside & further & ~jnp.eye(*inside.shape, dtype=bool),
    )
