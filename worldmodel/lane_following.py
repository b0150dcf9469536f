"""How traffic follows lanes: where an agent steers, and how fast its way lets it be. Nothing is learned.

An agent steers towards a point of its way ahead. Bends of the way, red lights, agents in the way and agents that are
about to cross it each bound its acceleration. Functions take one scene.
Letters: A agents, W places along a path, L lights, Q points, T moments.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.geometry import to_frame, wrap_angle
from tether.data.scene import RED_STATES, YELLOW_STATES, AgentType, Array, Scene, is_type
from tether.simulator.car_following import CarFollowing, idm
from tether.simulator.world import Agents
from tether.worldmodel.lane_paths import AXLE, PLACES, Path, place_on, resampled
from tether.worldmodel.motion import STILL_SPEED, Motion

FOLLOWING = CarFollowing(headway_s=0.8, gap_m=1.5)  # closer than logged drivers follow on average
STOPPING = CarFollowing(headway_s=0.3, gap_m=1.0)  # before lights and crossing traffic
LOOK_S, LEAST_LOOK_M, MOST_LOOK_M = 0.8, 4.0, 15.0  # how far ahead the point lies that an agent steers to
AND_THEN_M = np.array([0.0, 1.0], np.float32)  # there, and a little farther on, to know the direction
KEPT_OFFSET_M = 0.5  # an agent keeps an offset from its lane up to this one
CYCLIST_OFFSET_M = 2.5  # and a cyclist one up to this
LATERAL_ACCELERATION = 2.5  # m/s^2, in bends
SLOWING, HARDEST_SLOWING = 2.0, 3.0  # m/s^2; braking that is planned for a bend ahead, and the hardest for any bend
GRAZE_M = 0.2  # boxes that would overlap by less than this pass each other
NOSE_M = 0.1  # an agent is ahead of another one if its centre is farther ahead than this
QUEUE_M, AT_STOP_M = 8.0, 12.0  # an agent waits for one that is this near ahead, or for a red light this near
AT_LIGHT_M = 1.5  # a light whose stop point is this near to a way belongs to it
PAST_STOP_M = 0.5  # an agent whose front is less than this past the stop point still stops
HARDEST_STOP, YELLOW_STOP = 6.0, 3.0  # m/s^2; an agent that would have to brake harder drives on, at red and at yellow
IN_S = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # moments at which ways are compared to find crossing traffic
MARGIN_M, ASIDE_M = 1.5, 0.5  # left free before crossing traffic, along and across the way
STARTING_SPEED = 3.0  # m/s; an agent that stands looks for crossing traffic as if it drove this fast


def steering(now: Agents, motion: Motion, scene: Scene, path: Path) -> Array:
    """Turn rates towards the way ahead; off lanes the present ones, of pedestrians 0: float32[A] [rad/s]."""
    ahead = jnp.clip(LOOK_S * motion.speed, LEAST_LOOK_M, MOST_LOOK_M)
    (x, then_x), (y, then_y) = (f.T for f in resampled(path.corner_x, path.corner_y, ahead[:, None] + AND_THEN_M))
    direction = jnp.arctan2(then_y - y, then_x - x)
    most = jnp.where(scene.agent_type == AgentType.CYCLIST, CYCLIST_OFFSET_M, KEPT_OFFSET_M)
    aside = jnp.clip(path.offset, -most, most)
    rear_x = now.x - AXLE * scene.length * jnp.cos(now.heading)
    rear_y = now.y - AXLE * scene.length * jnp.sin(now.heading)
    target = x - aside * jnp.sin(direction), y + aside * jnp.cos(direction)
    along, across = to_frame(*target, rear_x, rear_y, now.heading)
    bend = 2 * across / jnp.maximum(along * along + across * across, 1.0)
    on_foot = scene.agent_type == AgentType.PEDESTRIAN
    return jnp.where(on_foot, 0.0, jnp.where(path.on_lane, motion.speed * bend, motion.turn_rate))


def highest_acceleration(
    now: Agents, motion: Motion, scene: Scene, light_state: Array, light_valid: Array, path: Path, reacts: Array
) -> tuple[Array, Array]:
    """The highest acceleration that its way allows each agent, and whether something is there to wait for.

    Args: now, motion: fields [A]; light_state: int32[L]; light_valid: bool[L]; reacts: bool[A], those that keep clear
      of the ego; the others drive as if it were not there.
    Returns: float32[A] [m/s^2], inf where nothing bounds it, as for pedestrians; bool[A].
    """
    pairs = pairs_of(now, scene, reacts)
    leader, led, follows = behind_leaders(now, motion, scene, path, pairs)
    light, held = before_lights(motion, scene, light_state, light_valid, path)
    bounds = (leader, light, before_crossing_traffic(now, motion, scene, path, follows, pairs), in_bends(motion, path))
    on_foot = scene.agent_type == AgentType.PEDESTRIAN
    return jnp.where(on_foot, jnp.inf, jnp.min(jnp.stack(bounds), 0)), led | held


def project(path: Path, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """Where points lie on each way: how far along it and how far from it [m], and cosine and sine of its direction.

    Segment after segment, so that nothing of the size A * Q * W is written to memory, and nothing is computed twice.

    Args: x, y: float32[Q]. Returns: float32[A, Q] each.
    """
    way_x, way_y = jnp.diff(path.x), jnp.diff(path.y)
    per_length = jax.lax.rsqrt(jnp.maximum(way_x * way_x + way_y * way_y, 1e-12))
    begins = path.spacing[:, None] * jnp.arange(PLACES - 1)
    segments = path.x[:, :-1], path.y[:, :-1], way_x * per_length, way_y * per_length, begins

    def nearer(best: tuple, segment: tuple) -> tuple[tuple, None]:
        begin_x, begin_y, cos, sin, passed = (field[:, None] for field in segment)
        from_x, from_y = x - begin_x, y - begin_y
        on = jnp.clip(from_x * cos + from_y * sin, 0.0, path.spacing[:, None])
        apart = jnp.square(from_x - on * cos) + jnp.square(from_y - on * sin)
        this = apart, passed + on, cos, sin
        return tuple(jnp.where(apart < best[0], new, old) for new, old in zip(this, best, strict=True)), None

    nothing = jnp.zeros((path.x.shape[0], x.shape[0]))
    best = nothing + jnp.inf, nothing, nothing + 1.0, nothing
    apart, along, cos, sin = jax.lax.scan(nearer, best, [field.T for field in segments], unroll=3)[0]
    return along, jnp.sqrt(apart), cos, sin


def extents(length: Array, width: Array, cos: Array, sin: Array) -> tuple[Array, Array]:
    """Half of the length and width [m] that boxes take of a way, from which they are turned: fields [...]."""
    cos, sin = jnp.abs(cos), jnp.abs(sin)
    return (cos * length + sin * width) / 2, (cos * width + sin * length) / 2


def pairs_of(now: Agents, scene: Scene, reacts: Array) -> Array:
    """Whether an agent may react to another one: both are there, not the same, and the other is no ego that it ignores.

    Args: reacts: bool[A], to the ego. Returns: bool[A, A].
    """
    rows = jnp.arange(now.x.shape[0])
    return now.valid[:, None] & now.valid & (rows[:, None] != rows) & (reacts[:, None] | (rows != scene.ego))


def behind_leaders(now: Agents, motion: Motion, scene: Scene, path: Path, pairs: Array) -> tuple[Array, Array, Array]:
    """The acceleration behind the agents in the way. pairs: bool[A, A], see `pairs_of`.

    Returns: float32[A] [m/s^2]; whether one of them is near ahead, bool[A]; which agents are in whose way, bool[A, A].
    """
    along, apart, cos, sin = project(path, now.x, now.y)
    own_cos, own_sin = jnp.cos(now.heading), jnp.sin(now.heading)
    turned = own_cos * cos + own_sin * sin, own_sin * cos - own_cos * sin
    half_length, half_width = extents(scene.length, scene.width, *turned)
    front = (AXLE + 0.5) * scene.length[:, None]
    in_way = pairs & (along > AXLE * scene.length[:, None] + NOSE_M)
    in_way &= apart < half_width + scene.width[:, None] / 2 - GRAZE_M
    gap = along - front - half_length
    lead_speed = jnp.maximum(now.vel_x * cos + now.vel_y * sin, 0.0)
    allowed = idm(FOLLOWING, motion.speed[:, None], jnp.inf, gap, lead_speed)
    near = jnp.any(in_way & (gap < QUEUE_M), -1)
    return jnp.min(jnp.where(in_way, allowed, jnp.inf), -1), near, in_way


def before_lights(motion: Motion, scene: Scene, state: Array, valid: Array, path: Path) -> tuple[Array, Array]:
    """The acceleration before red and yellow lights, float32[A] [m/s^2], and whether one is near ahead, bool[A].

    Args: state: int32[L]; valid: bool[L].
    """
    along, apart, *_ = project(path, scene.light_x, scene.light_y)
    gap = along - (AXLE + 0.5) * scene.length[:, None] + PAST_STOP_M
    braking = jnp.square(motion.speed[:, None]) / (2 * jnp.maximum(gap, 0.1))
    red = is_type(state, RED_STATES) & (braking < HARDEST_STOP)
    yellow = is_type(state, YELLOW_STATES) & (braking < YELLOW_STOP)
    holds = valid & (apart < AT_LIGHT_M) & (gap > 0) & (red | yellow)
    allowed = idm(STOPPING, motion.speed[:, None], jnp.inf, gap, 0.0)
    return jnp.min(jnp.where(holds, allowed, jnp.inf), -1), jnp.any(holds & (gap < AT_STOP_M), -1)


def before_crossing_traffic(
    now: Agents, motion: Motion, scene: Scene, path: Path, follows: Array, pairs: Array
) -> Array:
    """The acceleration before places that an agent and another one would reach at the same time: float32[A] [m/s^2].

    Of two, the one that is then farther ahead of the other goes first; a pedestrian in front always does. An agent does
    not yield to one that stands, follows it or is followed by it.

    Args: follows: bool[A, A], which agents are in whose way already, see `behind_leaders`; pairs: see `pairs_of`.
    """
    moments, centre = jnp.asarray(IN_S), AXLE * scene.length[:, None]
    speed = jnp.maximum(motion.speed, STARTING_SPEED)[:, None]
    x, y, cos, sin = (field[:, None] for field in place_on(path, centre + speed * moments))  # [A, 1, T]
    other_x, other_y, other_cos, other_sin = place_on(path, centre + motion.speed[:, None] * moments)  # [A, T]
    on_foot = scene.agent_type == AgentType.PEDESTRIAN
    other_x = jnp.where(on_foot[:, None], now.x[:, None] + now.vel_x[:, None] * moments, other_x)
    other_y = jnp.where(on_foot[:, None], now.y[:, None] + now.vel_y[:, None] * moments, other_y)
    to_x, to_y = other_x - x, other_y - y
    ahead, aside = to_x * cos + to_y * sin, to_y * cos - to_x * sin
    turned = other_cos * cos + other_sin * sin, other_sin * cos - other_cos * sin
    half_length, half_width = extents(scene.length[:, None], scene.width[:, None], *turned)
    meet = jnp.abs(ahead) < half_length + scene.length[:, None, None] / 2 + MARGIN_M
    meet &= jnp.abs(aside) < half_width + scene.width[:, None, None] / 2 + ASIDE_M
    first = jnp.where(on_foot[:, None], ahead > 0, ahead > -(to_x * other_cos + to_y * other_sin))
    gap = speed[:, None] * moments + ahead - half_length - scene.length[:, None, None] / 2 - MARGIN_M
    allowed = idm(STOPPING, motion.speed[:, None, None], jnp.inf, gap, 0.0)
    allowed = jnp.min(jnp.where(meet & first, allowed, jnp.inf), -1)
    crosses = pairs & (now.speed > STILL_SPEED) & ~follows & ~follows.T
    return jnp.min(jnp.where(crosses, allowed, jnp.inf), -1)


def in_bends(motion: Motion, path: Path) -> Array:
    """The acceleration with which bends of the way ahead are reached at a speed that suits them: float32[A] [m/s^2].

    Off lanes nothing bounds it. A speed that is too high is lost within a second, or by `HARDEST_SLOWING`.
    """
    direction = jnp.arctan2(jnp.diff(path.y), jnp.diff(path.x))
    bend = jnp.abs(wrap_angle(jnp.diff(direction))) / path.spacing[:, None]
    along = path.spacing[:, None] * jnp.arange(1, bend.shape[-1] + 1)
    suited = LATERAL_ACCELERATION / jnp.maximum(bend, 1e-4)  # squares of speeds
    fastest = jnp.sqrt(jnp.min(suited + 2 * SLOWING * (along - path.spacing[:, None]), -1))
    return jnp.where(path.on_lane, jnp.maximum(fastest - motion.speed, -HARDEST_SLOWING), jnp.inf)
