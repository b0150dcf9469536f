"""Leaders: the boxes in the corridors that agents are about to drive through.

Functions work on one scene, without batch axis; batch with `jax.vmap`. Letters: A agents, K points of a corridor,
J boxes that may be in them.
"""

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.geometry import rotate, to_frame
from tether.data.scene import Array, Scene
from tether.simulator.logged_paths import Paths, at, pose_at
from tether.simulator.world import Agents

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
    """Boxes that may be in a corridor; fields [J].

    Attributes:
      x, y, heading, vel_x, vel_y, length, width: float32, see `simulator.world.Agents`.
      in_s: float32, time to which the box is extrapolated [s]; 0 for a box as it is now.
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


def boxes_now(agents: Agents, scene: Scene) -> Boxes:
    """The agents [A] as they are now."""
    return Boxes(
        x=agents.x,
        y=agents.y,
        heading=agents.heading,
        vel_x=agents.vel_x,
        vel_y=agents.vel_y,
        length=scene.length,
        width=scene.width,
        in_s=jnp.zeros_like(agents.x),
        visible=agents.valid,
    )


def joined(first: Boxes, second: Boxes) -> Boxes:
    """The first boxes, then the second."""
    return jax.tree.map(lambda *fields: jnp.concatenate(fields), first, second)


def corridor_ahead(paths: Paths, arc: Array, spacing: Array, points: int, length: Array, width: Array) -> Corridor:
    """K = `points` points, `spacing` [A] apart from arc lengths `arc` [A] on; `length`, `width`: [A], the agents'."""
    places = arc[:, None] + spacing[:, None] * jnp.arange(points + 1)
    x, y, _ = pose_at(paths, places)
    direction = jnp.arctan2(jnp.diff(y), jnp.diff(x))
    ends = (x[:, :-1], y[:, :-1], direction, places[:, :-1])
    return Corridor(*ends, half_length=length / 2, half_width=width / 2)


def nearest_point(corridor: Corridor, boxes: Boxes) -> Array:
    """Index int32[A, J] of the corridor's point nearest to a box's centre; the first of points that are equally near.

    Two plain minima: an argmin takes five times as long on a CPU.
    """
    square = (boxes.x - corridor.x[..., None]) ** 2 + (boxes.y - corridor.y[..., None]) ** 2
    order = jnp.arange(square.shape[1])[:, None]
    equal = square <= jnp.min(square, axis=1, keepdims=True) * EQUAL + 1e-3
    return jnp.min(jnp.where(equal, order, square.shape[1] - 1), axis=1)


def span_within(across: Array, boxes: Boxes, direction: Array, half_width: Array) -> tuple[Array, Array]:
    """The reach of boxes into a corridor, and where along it their part inside begins, from their centres [m]: [A, J].

    Only the part of a box inside the corridor counts. A box that enters at an angle begins with a corner, which may be
    metres ahead of its rear. On both sides of its hindmost corner a box recedes in a straight line.

    Args: across: of the centres, left positive.  direction: of the corridor there [rad].  half_width: [A, 1].
    Returns: the reach, negative where a box is outside; the beginning, arbitrary there.
    """
    turn = boxes.heading - direction
    cos, sin = jnp.abs(jnp.cos(turn)), jnp.abs(jnp.sin(turn))
    half_length, half_breadth = boxes.length / 2, boxes.width / 2
    half_along, half_across = cos * half_length + sin * half_breadth, sin * half_length + cos * half_breadth
    side = jnp.where(jnp.sin(turn) * jnp.cos(turn) >= 0, 1.0, -1.0)
    hindmost = side * (cos * half_breadth - sin * half_length)
    low, high = jnp.maximum(-half_across, -half_width - across), jnp.minimum(half_across, half_width - across)
    past = side * (jnp.clip(hindmost, low, high) - hindmost)
    slope = jnp.where(past > 0, cos / jnp.maximum(sin, 1e-6), sin / jnp.maximum(cos, 1e-6))
    return half_across + half_width - jnp.abs(across), jnp.abs(past) * slope - half_along


def look(corridor: Corridor, arc: Array, speed: Array, boxes: Boxes, grazing_m: float) -> View:
    """The boxes as seen by agents at arc lengths `arc` [A] with `speed` [A]; the first A boxes are the agents' own.

    The corridor's point nearest to a box's centre gives its place. Only its part inside the corridor counts, and only
    if the box reaches in by more than `grazing_m`. A box as it is now is ahead if its centre is. An extrapolated box is
    ahead if the agent, at its present speed, will not have reached it by that time. The gap to it assumes that the box
    comes along the corridor from now on, at its speed or the agent's, whichever is lower. That holds for a slower car
    that cuts in and for a car that crosses.
    """
    nearest = nearest_point(corridor, boxes)
    direction = at(corridor.direction, nearest)
    along, across = to_frame(boxes.x, boxes.y, at(corridor.x, nearest), at(corridor.y, nearest), direction)
    reach, near_end = span_within(across, boxes, direction, corridor.half_width[:, None])
    inside = reach > grazing_m
    place = at(corridor.arc, nearest) + along
    lead_speed = jnp.maximum(rotate(boxes.vel_x, boxes.vel_y, -direction)[0], 0.0)
    front = (arc + corridor.half_length)[:, None]
    unreached = place + near_end > front + speed[:, None] * boxes.in_s
    further = jnp.where(boxes.in_s > 0, unreached, place > arc[:, None])
    come = jnp.minimum(lead_speed, speed[:, None]) * boxes.in_s
    return View(
        gap=place + near_end - front - come,
        lead_speed=lead_speed,
        ahead=boxes.visible & inside & further & ~jnp.eye(*inside.shape, dtype=bool),
    )
