"""Features of an agent, in its own frame: its motion, and the lanes, agents and lights around it.

Functions take one scene at one moment. Features describe the things nearest to two places: the agent's present one, and
the one that it reaches in `AHEAD_S` at constant turn rate and speed. Each kind of thing is a set of tokens with a mask,
so neither order nor padding can matter. Letters: A agents, M polylines, P points, L lights, N tokens, F features.
"""

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.geometry import rotate, to_frame
from tether.data.scene import (
    DRIVING_LANE_TYPES,
    LANE_TYPES,
    RED_STATES,
    ROAD_EDGE_TYPES,
    YELLOW_STATES,
    AgentType,
    Array,
    Indexed,
    LightState,
    Scene,
    is_type,
)
from tether.simulator.route import first_place, route_of
from tether.simulator.world import Agents
from tether.worldmodel.motion import Motion, estimate_motion, move
from tether.worldmodel.nets import symlog

AHEAD_S = 2.0  # how far ahead an agent looks
LANES, NEIGHBOURS, LIGHTS, EDGES = 2, 3, 2, 4  # tokens of each kind around one place
POINTS_AHEAD = (1, 2, 4)  # points of a polyline after the nearest segment's start
# Relative difference (to 1 m^2 at least) up to which squared distances are equal. Beyond a corner two segments are
# equally near; rounding, which differs between meshes, must not choose between them.
TIE = 1e-4
HEADING_COST = 25.0  # m^2; half the cost of a lane that points against the agent
TYPES = (AgentType.VEHICLE, AgentType.PEDESTRIAN, AgentType.CYCLIST)
NO_PICK, INFINITY_BITS = 0x7FFFFFFF, 0x7F800000  # the largest int32; float32 infinity
# Divisors that bring ordinary values near 1: m/s, m/s^2, m and m; and a factor [s/rad].
SPEED, ACCELERATION, LENGTH, WIDTH, TURN_RATE = 10, 3, 5, 2, 2
GREEN_STATES = (LightState.ARROW_GO, LightState.GO)


@flax.struct.dataclass
class Frame(Indexed):
    """One moment of one scene.

    Attributes:
      now, before: `Agents` [A], at this step and one world step earlier.
      light_state: int32[L]; light_valid: bool[L].
      light_age: float32[L], seconds since the state changed, as far as it was seen.
    """

    now: Agents
    before: Agents
    light_state: Array
    light_valid: Array
    light_age: Array


@flax.struct.dataclass
class Sensed(Indexed):
    """Features of A agents.

    Attributes:
      own: float32[A, F].
      lanes, neighbours, lights: float32[A, N, F], 0 where masked, with masks bool[A, N].
      neighbours_index: int32[A, N], rows of the neighbours; anything where masked.
    """

    own: Array
    lanes: Array
    lanes_mask: Array
    neighbours: Array
    neighbours_mask: Array
    lights: Array
    lights_mask: Array
    neighbours_index: Array


@flax.struct.dataclass
class Pose:
    """Places and headings; fields float32[Q]."""

    x: Array
    y: Array
    heading: Array


def sense(frame: Frame, scene: Scene, span_s: float) -> Sensed:
    """All features of all agents. `span_s` is the time between `frame.before` and `frame.now` [s]."""
    motion = estimate_motion(frame.now, frame.before, span_s)
    here = Pose(frame.now.x, frame.now.y, frame.now.heading)
    moved = move(frame.now, motion, jnp.zeros_like(motion.speed), motion.turn_rate, 1, AHEAD_S)[..., 0]
    places = jax.tree.map(lambda *p: jnp.concatenate(p), here, Pose(moved.x, moved.y, moved.heading))
    frames = jax.tree.map(lambda p: jnp.tile(p, 2), here)
    *neighbours, index = _neighbours(frame.now, scene, places, frames)
    kinds = (_lanes(scene, places, frames), neighbours, _lights(frame, scene, places, frames))
    tokens = [_by_agent(*kind, frame.now.valid) for kind in kinds]
    own = jnp.where(frame.now.valid[:, None], _own(frame, scene, motion, span_s), 0.0)
    rows = _join_places(index)
    return jax.lax.stop_gradient(Sensed(own, *(part for pair in tokens for part in pair), neighbours_index=rows))


def sense_ego(sensed: Sensed, frame: Frame, scene: Scene) -> Array:
    """The outcome heads' input: all features of the ego, road edges near it, its route. float32[F]."""
    row = jax.tree.map(lambda a: a[scene.ego], (sensed.own, sensed.lanes, sensed.neighbours, sensed.lights))
    here = Pose(*(field[scene.ego][None] for field in (frame.now.x, frame.now.y, frame.now.heading)))
    is_edge = is_type(scene.road_type, ROAD_EDGE_TYPES)
    index, mask = _nearest(jnp.where(is_edge, _chord_distance(scene, here), jnp.inf), EDGES)
    edges = jnp.where(mask[..., None], _polyline_tokens(scene, index, here, here), 0.0)
    parts = (*row, edges, _route(scene, here.x[0], here.y[0], here.heading[0]))
    return jax.lax.stop_gradient(jnp.concatenate([part.ravel() for part in parts]))


def _route(scene: Scene, x: Array, y: Array, heading: Array) -> Array:
    """Lateral offset from the route and the speed limit there. float32[2]."""
    _, offset = first_place(route_of(scene), x, y, heading)
    distance_sq = jnp.square(scene.route_x - x) + jnp.square(scene.route_y - y)
    nearest = jnp.argmin(jnp.where(scene.route_valid, distance_sq, jnp.inf))
    return jnp.stack([symlog(offset), scene.route_speed_limit[nearest] / SPEED])


def _by_agent(tokens: Array, mask: Array, valid: Array) -> tuple[Array, Array]:
    """Brings [2 A, N, F] of both places to [A, 2 N, F] and clears what is masked or belongs to an invalid agent."""
    mask = _join_places(mask) & valid[:, None]
    return jnp.where(mask[..., None], _join_places(tokens), 0.0), mask


def _join_places(field: Array) -> Array:
    """[2 A, N, ...] -> [A, 2 N, ...]."""
    return jnp.concatenate(jnp.split(field, 2), axis=1)


def _own(frame: Frame, scene: Scene, motion: Motion, span_s: float) -> Array:
    seen = frame.before.valid
    columns = [
        motion.speed / SPEED,
        jnp.tanh(motion.speed),  # standing, creeping or moving
        jnp.where(seen, (motion.speed - frame.before.speed) / span_s / ACCELERATION, 0.0),
        motion.turn_rate * TURN_RATE,
        jnp.cos(motion.slip),
        jnp.sin(motion.slip),
        seen,
        scene.length / LENGTH,
        scene.width / WIDTH,
        *(scene.agent_type == kind for kind in TYPES),
    ]
    return jnp.stack([c.astype(jnp.float32) for c in columns], -1)


def _nearest(cost: Array, count: int) -> tuple[Array, Array]:
    """The `count` cheapest of [Q, N], cheapest first. Returns: int32[Q, count], bool[Q, count] (cost is finite).

    Non-negative floats sort like their bits, and the low bits can carry the index: each pick is then one minimum,
    several times faster on CPU than argmin or top_k. Costs that agree to 2^-14 count as equal.
    """
    size = cost.shape[-1]
    index_bits = (1 << (size - 1).bit_length()) - 1
    packed = jax.lax.bitcast_convert_type(cost.astype(jnp.float32), jnp.int32) & ~index_bits | jnp.arange(size)
    picks = [jnp.full(cost.shape[:-1], -1)]
    for _ in range(count):
        picks.append(jnp.min(jnp.where(packed > picks[-1][:, None], packed, NO_PICK), -1))
    picked = jnp.stack(picks[1:], -1)
    return jnp.minimum(picked & index_bits, size - 1), picked < INFINITY_BITS


def _chord_distance(scene: Scene, place: Pose) -> Array:
    """Squared distance [m^2] of Q places to the M polylines' chords, inf for empty ones: a cheap first sieve."""
    start_x, start_y, end_x, end_y = _chords(scene)
    along_x, along_y = end_x - start_x, end_y - start_y
    from_x, from_y = place.x[:, None] - start_x, place.y[:, None] - start_y
    per_length_sq = 1 / (jnp.square(along_x) + jnp.square(along_y) + 1e-6)  # divides M times, not Q * M times
    fraction = jnp.clip(from_x * (along_x * per_length_sq) + from_y * (along_y * per_length_sq), 0.0, 1.0)
    distance_sq = jnp.square(from_x - fraction * along_x) + jnp.square(from_y - fraction * along_y)
    return jnp.where(scene.road_valid[:, 0], distance_sq, jnp.inf)


def _chords(scene: Scene) -> tuple[Array, Array, Array, Array]:
    """First and last valid point of each polyline, each float32[M]."""
    last = jnp.maximum(scene.road_valid.sum(-1) - 1, 0)[:, None]
    end_x, end_y = (jnp.take_along_axis(field, last, -1)[:, 0] for field in (scene.road_x, scene.road_y))
    return scene.road_x[:, 0], scene.road_y[:, 0], end_x, end_y


def _lanes(scene: Scene, place: Pose, frame: Pose) -> tuple[Array, Array]:
    """Lanes near Q places that point the agent's way. Returns tokens [Q, LANES, F] and mask."""
    start_x, start_y, end_x, end_y = _chords(scene)
    norm = jnp.hypot(end_x - start_x, end_y - start_y) + 1e-6
    cos, sin = (end_x - start_x) / norm, (end_y - start_y) / norm
    agreement = jnp.cos(place.heading)[:, None] * cos + jnp.sin(place.heading)[:, None] * sin
    is_lane = is_type(scene.road_type, LANE_TYPES)
    cost = jnp.where(is_lane, _chord_distance(scene, place) + HEADING_COST * (1 - agreement), jnp.inf)
    index, mask = _nearest(cost, LANES)
    drivable = is_type(scene.road_type, DRIVING_LANE_TYPES)[index]
    return jnp.concatenate([_polyline_tokens(scene, index, place, frame), drivable[..., None]], -1), mask


def _polyline_tokens(scene: Scene, index: Array, place: Pose, frame: Pose) -> Array:
    """Polylines as seen from Q frames: the point nearest to `place`, the direction there, the points after it.

    Args: index: int32[Q, N] along M. Returns: float32[Q, N, F].
    """
    origin = frame.x[:, None, None], frame.y[:, None, None], frame.heading[:, None, None]
    x, y = to_frame(scene.road_x[index], scene.road_y[index], *origin)
    valid = scene.road_valid[index]
    place_x, place_y = to_frame(place.x, place.y, frame.x, frame.y, frame.heading)
    place_x, place_y = place_x[:, None, None], place_y[:, None, None]
    step_x, step_y = x[..., 1:] - x[..., :-1], y[..., 1:] - y[..., :-1]
    length_sq = jnp.square(step_x) + jnp.square(step_y) + 1e-6
    fraction = jnp.clip(((place_x - x[..., :-1]) * step_x + (place_y - y[..., :-1]) * step_y) / length_sq, 0.0, 1.0)
    foot_x, foot_y = x[..., :-1] + fraction * step_x, y[..., :-1] + fraction * step_y
    distance_sq = jnp.square(foot_x - place_x) + jnp.square(foot_y - place_y)
    distance_sq = jnp.where(valid[..., 1:], distance_sq, jnp.inf)
    least = distance_sq.min(-1, keepdims=True)
    segment = jnp.argmax(distance_sq <= least + TIE * (1 + least), -1)[..., None]
    following = jnp.minimum(segment + jnp.asarray(POINTS_AHEAD), jnp.maximum(valid.sum(-1, keepdims=True) - 1, 0))
    norm = jnp.sqrt(length_sq)
    at_segment = [jnp.take_along_axis(f, segment, -1) for f in (foot_x, foot_y, step_x / norm, step_y / norm)]
    after = [jnp.take_along_axis(f, following, -1) for f in (x, y)]
    return jnp.concatenate([symlog(part) for part in (*at_segment, *after)], -1)


def _neighbours(now: Agents, scene: Scene, place: Pose, frame: Pose) -> tuple[Array, Array, Array]:
    """Other agents near Q = 2 A places, two of each agent. Returns tokens [Q, NEIGHBOURS, F], mask and rows."""
    distance_sq = jnp.square(now.x - place.x[:, None]) + jnp.square(now.y - place.y[:, None])
    other = now.valid & ~jnp.tile(jnp.eye(now.x.shape[0], dtype=bool), (2, 1))
    index, mask = _nearest(jnp.where(other, distance_sq, jnp.inf), NEIGHBOURS)
    x, y = to_frame(now.x[index], now.y[index], frame.x[:, None], frame.y[:, None], frame.heading[:, None])
    own_x, own_y = jnp.tile(now.vel_x, 2)[:, None], jnp.tile(now.vel_y, 2)[:, None]
    velocity_x, velocity_y = rotate(now.vel_x[index] - own_x, now.vel_y[index] - own_y, -frame.heading[:, None])
    turned = now.heading[index] - frame.heading[:, None]
    columns = [
        *(symlog(x), symlog(y), velocity_x / SPEED, velocity_y / SPEED, jnp.cos(turned), jnp.sin(turned)),
        *(scene.length[index] / LENGTH, scene.width[index] / WIDTH),
        *(scene.agent_type[index] == kind for kind in TYPES),
    ]
    return jnp.stack([c.astype(jnp.float32) for c in columns], -1), mask, index


def _lights(frame: Frame, scene: Scene, place: Pose, origin: Pose) -> tuple[Array, Array]:
    """Traffic lights near Q places. Returns tokens [Q, LIGHTS, F] and mask."""
    distance_sq = jnp.square(scene.light_x - place.x[:, None]) + jnp.square(scene.light_y - place.y[:, None])
    index, mask = _nearest(jnp.where(frame.light_valid, distance_sq, jnp.inf), LIGHTS)
    pose = origin.x[:, None], origin.y[:, None], origin.heading[:, None]
    x, y = to_frame(scene.light_x[index], scene.light_y[index], *pose)
    state = frame.light_state[index]
    colours = [is_type(state, states) for states in (RED_STATES, YELLOW_STATES, GREEN_STATES)]
    columns = [symlog(x), symlog(y), symlog(frame.light_age[index]), *colours]
    return jnp.stack([c.astype(jnp.float32) for c in columns], -1), mask
