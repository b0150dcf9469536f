"""The way ahead of each agent: along the lane that it is on and those that follow, or along the arc that it drives.

A lane may lead to several others. An agent's choice is a number in [0, 1): the smaller it is, the farther to the left
is the lane that it takes. So a choice means the same wherever the agent is, and drawn choices cover its routes.
Functions take one scene. Letters: A agents, H segments of a path, W places along a path.
"""

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.geometry import offset_from, wrap_angle
from tether.data.scene import Array, Indexed, RoadIndex, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.geometry import Segments
from tether.simulator.road_index import rows_at
from tether.simulator.world import Agents
from tether.worldmodel.motion import Motion, running_sum

HOPS, PLACES = 24, 16  # segments after the first one, H - 1; W
NEAR_LANES = 32  # segments of a cell's list that are looked at, the nearest to its centre first
AXLE = 0.25  # of the length, from the centre back to the rear axle: a path begins there, as the axle stays on a lane
LEAST_SPACING_M, MOST_SPACING_M, SPACING_S = 2.0, 6.0, 0.3  # between two places: the farther apart, the faster
ON_LANE_M, ALONG_RAD = 2.5, 1.0  # an agent this near to a lane, turned from it by less, is on it
TURN_COST_M = 1.5  # metres of distance that count as much as a radian of difference in heading
PAST_END_M = 20.0  # length of the segments that go on straight where the map stops
BEND_SPEED, MOST_BEND = 2.0, 0.15  # m/s, below it turns are noise; 1/m


@flax.struct.dataclass
class Path(Indexed):
    """The ways ahead of all agents of a scene.

    Attributes:
      corner_x, corner_y: float32[A, H + 1], its corners [m], from beside the rear axle on; it goes on straight.
      x, y: float32[A, W], places along it, equally far from each other [m].
      spacing: float32[A], distance between two of them [m].
      on_lane: bool[A]; the others' ways are arcs.
      offset: float32[A], of the rear axle from the lane, left positive [m]; 0 off lanes.
    """

    corner_x: Array
    corner_y: Array
    x: Array
    y: Array
    spacing: Array
    on_lane: Array
    offset: Array


def paths_ahead(now: Agents, motion: Motion, scene: Scene, choice: Array, simulator: SimulatorConfig) -> Path:
    """The ways ahead of all agents.

    Args: now, motion: fields [A]; scene: with its road index; choice: float32[A], in [0, 1).
    """
    index = scene.road_index
    rear_x = now.x - AXLE * scene.length * jnp.cos(now.heading)
    rear_y = now.y - AXLE * scene.length * jnp.sin(now.heading)
    first, on_lane, offset, foot_x, foot_y = lane_at(index, rear_x, rear_y, now.heading, simulator)
    spacing = jnp.clip(SPACING_S * motion.speed, LEAST_SPACING_M, MOST_SPACING_M)
    followed, driven = chain(index, first, choice, foot_x, foot_y), arc(rear_x, rear_y, now.heading, motion, spacing)
    corners = tuple(jnp.where(on_lane[:, None], *pair) for pair in zip(followed, driven, strict=True))
    places = resampled(*corners, spacing[:, None] * jnp.arange(PLACES))
    return Path(*corners, *places, spacing, on_lane, jnp.where(on_lane, offset, 0.0))


def lane_at(
    index: RoadIndex, x: Array, y: Array, heading: Array, simulator: SimulatorConfig
) -> tuple[Array, Array, Array, Array, Array]:
    """The lane segment that each pose is on.

    Args: x, y, heading: float32[A].
    Returns: its row int32[A], whether there is one bool[A], the offset from its line, left positive, and x and y of its
      nearest point, float32[A] each [m].
    """
    rows, listed = rows_at(index, index.lanes, min(simulator.near_lanes, NEAR_LANES), x, y)
    near = Segments(*jnp.moveaxis(index.segments[rows], -1, 0), valid=listed)
    off_x, off_y, line, _ = offset_from(near, x[:, None], y[:, None])
    distance = jnp.sqrt(off_x * off_x + off_y * off_y)
    turn = jnp.abs(wrap_angle(jnp.arctan2(near.by - near.ay, near.bx - near.ax) - heading[:, None]))
    possible = listed & (distance < ON_LANE_M) & (turn < ALONG_RAD)
    cost = jnp.where(possible, distance + TURN_COST_M * turn, jnp.inf)
    best = jnp.argmin(cost, -1)[:, None]
    row, offset, off_x, off_y = (jnp.take_along_axis(field, best, -1)[:, 0] for field in (rows, line, off_x, off_y))
    return row, jnp.isfinite(cost.min(-1)), offset, x - off_x, y - off_y


def chain(index: RoadIndex, first: Array, choice: Array, foot_x: Array, foot_y: Array) -> tuple[Array, Array]:
    """The corners of ways along lanes: the first point of each, and the ends of the segments that follow by choice.

    Args: first: int32[A], rows of `index.segments`; choice: float32[A]; foot_x, foot_y: float32[A], on the first one.
    Returns: x and y, float32[A, H + 1].
    """

    def hop(carry: tuple, _: None) -> tuple[tuple, tuple]:
        row, x, y, ended = carry
        options = index.following[row]
        count = jnp.sum(options >= 0, -1)
        pick = jnp.minimum((choice * count).astype(jnp.int32), count - 1)
        after = jnp.take_along_axis(options, jnp.maximum(pick, 0)[:, None], -1)[:, 0]
        ended = ended | (count == 0)
        after = jnp.where(ended, row, after)
        ax, ay, bx, by = jnp.moveaxis(index.segments[after], -1, 0)
        length = jnp.maximum(jnp.hypot(bx - ax, by - ay), 1e-3)
        x = jnp.where(ended, x + (bx - ax) / length * PAST_END_M, bx)
        y = jnp.where(ended, y + (by - ay) / length * PAST_END_M, by)
        return (after, x, y, ended), (x, y)

    end_x, end_y = index.segments[first, 2], index.segments[first, 3]
    begin = first, end_x, end_y, jnp.zeros(first.shape, bool)
    _, corners = jax.lax.scan(hop, begin, None, HOPS)
    return tuple(
        jnp.concatenate([foot[:, None], end[:, None], rest.T], -1)
        for foot, end, rest in zip((foot_x, foot_y), (end_x, end_y), corners, strict=True)
    )


def resampled(x: Array, y: Array, along: Array) -> tuple[Array, Array]:
    """Points x, y at distances `along` [A, W] from the beginnings of polylines [A, H + 1]; the last segment goes on.

    A point is the first corner plus the part of each segment that lies before it, summed segment after segment:
    nothing of the size A * W * H is written to memory, and XLA does not compute the sum anew for each use.
    """
    step_x, step_y = jnp.diff(x), jnp.diff(y)
    length = jnp.maximum(jnp.sqrt(step_x * step_x + step_y * step_y), 1e-6)
    begins = running_sum(length) - length
    most = jnp.where(jnp.arange(length.shape[-1]) < length.shape[-1] - 1, 1.0, jnp.inf)
    segments = begins, 1 / length, jnp.broadcast_to(most, length.shape), step_x, step_y

    def further(point: tuple, segment: tuple) -> tuple[tuple, None]:
        begin, per_length, most, step_x, step_y = (field[:, None] for field in segment)
        passed = jnp.clip((along - begin) * per_length, 0.0, most)
        return (point[0] + passed * step_x, point[1] + passed * step_y), None

    first = tuple(jnp.broadcast_to(field[:, :1], along.shape) for field in (x, y))
    return jax.lax.scan(further, first, [field.T for field in segments], unroll=5)[0]


def arc(x: Array, y: Array, heading: Array, motion: Motion, spacing: Array) -> tuple[Array, Array]:
    """Corners [A, H + 1] of the arcs that poses [A] drive, which turn by a radian at most."""
    along = spacing[:, None] * jnp.arange(HOPS + 2)
    bend = jnp.clip(motion.turn_rate / jnp.maximum(motion.speed, BEND_SPEED), -MOST_BEND, MOST_BEND)
    half = jnp.clip(bend[:, None] * along, -1.0, 1.0) / 2
    chord = along * jnp.sinc(half / jnp.pi)
    angle = heading[:, None] + half
    return x[:, None] + chord * jnp.cos(angle), y[:, None] + chord * jnp.sin(angle)


def place_on(path: Path, along: Array) -> tuple[Array, Array, Array, Array]:
    """Poses at distances `along` float32[A, T] from the ways' beginnings: x, y, and cosine and sine of the heading.

    The last segment goes on straight.
    """
    at = jnp.clip((along / path.spacing[:, None]).astype(jnp.int32), 0, PLACES - 2)
    begin_x, begin_y, end_x, end_y = (
        jnp.take_along_axis(field, index, -1) for index in (at, at + 1) for field in (path.x, path.y)
    )
    fraction = along / path.spacing[:, None] - at
    way_x, way_y = end_x - begin_x, end_y - begin_y
    per_length = jax.lax.rsqrt(jnp.maximum(way_x * way_x + way_y * way_y, 1e-12))
    return begin_x + fraction * way_x, begin_y + fraction * way_y, way_x * per_length, way_y * per_length
