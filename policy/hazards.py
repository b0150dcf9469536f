"""The causes on the route ahead that limit the ego, and their limits; for reasoning labels and scripted policies.

Each cause of `data.text.CAUSES` gets the acceleration that a car follower (IDM) would allow because of it and
its distance. Only the `Observation` is read: the present and the observed past. Agents are placed in route
coordinates (arc length, lateral offset), where straight-line prediction follows the bend of the road.
Everything is in the ego's frame; letters as in `data/scene.py`, C causes.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.geometry import rotate, wrap_angle
from tether.data.scene import RED_STATES, YELLOW_STATES, AgentType, Array, Observation, is_type
from tether.data.settings import setting
from tether.data.text import CAUSES
from tether.simulator.car_following import CarFollowing, idm
from tether.simulator.route import Route, first_place

CAUSE = {name: index for index, name in enumerate(CAUSES)}
FAR_M = 200.0
BEHIND_M = 15.0  # agents on the route count from this far behind the ego on
REACHED_M = 3.0  # the ego meets a thing at the first place on the route, unless a later one is nearer by more than this
CLOSING_MPS = 0.3  # an agent outside the corridor that comes nearer more slowly does not enter it
MOVING_MPS = 0.5  # a slower agent crosses nothing
ACROSS_SIN = 0.5  # an agent turned by more than 30 degrees from the route is across it
CURVE_STEP_M, CURVE_WINDOW_M = 2.0, 6.0  # curvature is sampled this often, each time averaged over the window
STRAIGHT = 1e-4  # curvature [1/m] below which no curve limits the speed
CURVE_BEGINS = 0.5  # a curve begins at this fraction of its largest curvature
COMFORTABLE = 3.0  # a yellow light that asks for harder braking than this [m/s^2] is no reason to stop


@dataclasses.dataclass(frozen=True)
class FollowerConfig(CarFollowing):
    """A car follower and its perception, beyond the car-following model's own parameters.

    Attributes:
      default_speed_mps: desired speed where no speed limit is known [m/s].
      lateral_acceleration: lateral acceleration that is comfortable in curves [m/s^2]; it sets the speed through them.
      corridor_margin_m: free space wanted on each side of the ego's body [m].
      foresight_s: time within which an agent that will enter the ego's corridor counts as if it were in it [s]; 0 for
        present agents only.
      curve_horizon_m: distance ahead within which curves matter [m].
    """

    default_speed_mps: float = setting(13.9, above=0)
    lateral_acceleration: float = 2.5
    corridor_margin_m: float = 0.3
    foresight_s: float = 3.0
    curve_horizon_m: float = setting(50.0, above=0)


@flax.struct.dataclass
class Hazards:
    """Per cause: the acceleration that it allows, and its place.

    Attributes:
      acceleration: float32[..., C], allowed by the cause alone [m/s^2].
      distance: float32[..., C], from the ego's front to it [m]; 0 for causes without a place.
    """

    acceleration: Array
    distance: Array


@flax.struct.dataclass
class Path:
    """The route of one scene as segments; float32[R - 1] except arc.

    Attributes:
      x, y: start of each segment.  heading: of the segment.
      arc: float32[R - 1], arc length at the start of each segment.  valid: bool[R - 1].
      route: the points, for `simulator.route`.
    """

    x: Array
    y: Array
    heading: Array
    arc: Array
    valid: Array
    route: Route


@flax.struct.dataclass
class RoutePosition:
    """Arc length [m], lateral offset (left positive) [m] and route heading there [rad] of points; float32[N]."""

    arc: Array
    offset: Array
    heading: Array


def path_of(observation: Observation) -> Path:
    """The route's segments, for one scene."""
    dx, dy = jnp.diff(observation.route_x), jnp.diff(observation.route_y)
    valid = observation.route_valid[1:] & observation.route_valid[:-1]
    length = jnp.where(valid, jnp.hypot(dx, dy), 0.0)
    arc = jnp.cumsum(length) - length
    heading = jnp.where(valid, jnp.arctan2(dy, dx), 0.0)
    route = Route(observation.route_x, observation.route_y, observation.route_valid)
    return Path(observation.route_x[:-1], observation.route_y[:-1], heading, arc, valid, route)


def where_first(path: Path, x: Array, y: Array, from_arc: Array) -> RoutePosition:
    """The first place at which the route passes points float32[N], from an arc length on."""
    places = jax.vmap(lambda x, y: first_place(path.route, x, y, None, from_arc, REACHED_M))
    arc, offset = places(x, y)
    return RoutePosition(arc, offset, heading_at(path, arc))


def _segment_at(path: Path, arc: Array) -> Array:
    """Index of the segment at arc lengths; the first or last one beyond the ends."""
    last = jnp.maximum(path.valid.sum() - 1, 0)
    return jnp.clip(jnp.searchsorted(path.arc, arc, side="right") - 1, 0, last)


def point_at(path: Path, arc: Array) -> tuple[Array, Array]:
    """The route's x and y at arc lengths, extrapolated along the last segment."""
    index = _segment_at(path, arc)
    ahead = arc - path.arc[index]
    return path.x[index] + ahead * jnp.cos(path.heading[index]), path.y[index] + ahead * jnp.sin(path.heading[index])


def heading_at(path: Path, arc: Array) -> Array:
    """Route heading at arc lengths, held before the first and past the last segment."""
    return path.heading[_segment_at(path, arc)]


def curvature_ahead(path: Path, arc: Array) -> Array:
    """Mean route curvature [1/m] centred at each arc length [N]: single corners are noise."""
    half = CURVE_WINDOW_M / 2
    return wrap_angle(heading_at(path, arc + half) - heading_at(path, arc - half)) / CURVE_WINDOW_M


def _agents(config: FollowerConfig, o: Observation, path: Path, ego_arc: Array, desired: Array) -> dict:
    """Allowed acceleration and gap [A] of every agent in, or about to enter, the corridor along the route."""
    ego_length, ego_width = o.ego_size
    place = where_first(path, o.agent_x, o.agent_y, ego_arc - BEHIND_M)
    turned = o.agent_heading - place.heading
    speed_along, speed_across = rotate(o.agent_vel_x, o.agent_vel_y, -place.heading)
    half_across = (jnp.abs(jnp.cos(turned)) * o.agent_width + jnp.abs(jnp.sin(turned)) * o.agent_length) / 2
    half_along = (jnp.abs(jnp.cos(turned)) * o.agent_length + jnp.abs(jnp.sin(turned)) * o.agent_width) / 2
    outside = jnp.abs(place.offset) - half_across - ego_width / 2 - config.corridor_margin_m
    closing = -jnp.sign(place.offset) * speed_across
    until = jnp.where(closing > CLOSING_MPS, outside / jnp.maximum(closing, CLOSING_MPS), jnp.inf)
    enters_in = jnp.where(outside <= 0, 0.0, until)
    arc_then = place.arc + speed_along * jnp.minimum(enters_in, config.foresight_s)
    gap = arc_then - ego_arc - half_along - ego_length / 2
    relevant = o.agent_valid & (enters_in <= config.foresight_s) & (place.arc > ego_arc) & (gap < FAR_M)
    allowed = idm(config, o.ego[0], desired, gap, jnp.maximum(speed_along, 0.0))
    # A vehicle that enters along the route will be a lead vehicle; one that stands across it does not cross.
    across = (jnp.abs(jnp.sin(turned)) > ACROSS_SIN) | (jnp.cos(turned) < 0)
    return {
        "allowed": jnp.where(relevant, allowed, jnp.inf),
        "gap": jnp.maximum(gap, 0.0),
        "crossing": across & (jnp.hypot(o.agent_vel_x, o.agent_vel_y) > MOVING_MPS),
    }


def _curve(config: FollowerConfig, speed: Array, path: Path, ego_arc: Array) -> tuple[Array, Array]:
    """Allowed acceleration in the curves ahead, and the distance to where the sharpest of them begins."""
    ahead = jnp.arange(0.0, config.curve_horizon_m, CURVE_STEP_M)
    curvature = curvature_ahead(path, ego_arc + ahead)
    allowed_speed = jnp.sqrt(config.lateral_acceleration / jnp.maximum(jnp.abs(curvature), STRAIGHT))
    # The speed is met a second early, and already inside a curve within about a second.
    room = jnp.maximum(ahead - speed, jnp.maximum(speed, 1.0))
    needed = jnp.clip((allowed_speed**2 - speed**2) / (2 * room), -config.strongest_braking, config.acceleration)
    worst = jnp.argmin(needed)
    begins = jnp.argmax(jnp.abs(curvature) >= CURVE_BEGINS * jnp.max(jnp.abs(curvature)))
    return needed[worst], ahead[begins]


def _lights(config: FollowerConfig, o: Observation, desired: Array) -> tuple[Array, Array, Array, Array]:
    """Allowed acceleration by and distance of the nearest red and yellow light; yellow only where stopping is mild."""
    speed = o.ego[0]

    def nearest(states: tuple) -> tuple[Array, Array]:
        showing = is_type(o.light_state, states)
        distance = jnp.min(jnp.where(showing, o.light_distance, jnp.inf))
        allowed = idm(config, speed, desired, distance + config.gap_m / 2, jnp.zeros(()))
        return jnp.where(distance < FAR_M, allowed, jnp.inf), distance

    red, red_m = nearest(RED_STATES)
    yellow, yellow_m = nearest(YELLOW_STATES)
    comfortable = speed**2 / (2 * jnp.maximum(yellow_m, 0.1)) < COMFORTABLE
    return red, red_m, jnp.where(comfortable, yellow, jnp.inf), yellow_m


def _hazards(config: FollowerConfig, o: Observation) -> Hazards:
    path = path_of(o)
    ego_arc = o.route_s
    speed, limit = o.ego[0], o.ego[3]
    desired = jnp.where(limit > 0, limit, config.default_speed_mps)
    agents = _agents(config, o, path, ego_arc, desired)
    curve, curve_m = _curve(config, speed, path, ego_arc)
    red, red_m, yellow, yellow_m = _lights(config, o, desired)
    free = config.acceleration * (1 - (speed / desired) ** config.exponent)

    def worst(mask: Array) -> tuple[Array, Array]:
        allowed = jnp.where(mask, agents["allowed"], jnp.inf)
        index = jnp.argmin(allowed)
        return allowed[index], jnp.where(jnp.isfinite(allowed[index]), agents["gap"][index], 0.0)

    person, cyclist = o.agent_type == AgentType.PEDESTRIAN, o.agent_type == AgentType.CYCLIST
    by_cause = {
        "free road": (jnp.asarray(config.acceleration), jnp.zeros(())),
        "lead vehicle": worst(~person & ~cyclist & ~agents["crossing"]),
        "crossing vehicle": worst(~person & ~cyclist & agents["crossing"]),
        "pedestrian": worst(person),
        "cyclist": worst(cyclist),
        "red light": (red, red_m),
        "yellow light": (yellow, yellow_m),
        "curve": (curve, curve_m),
        "speed limit": (free, jnp.zeros(())),
        "route": (jnp.asarray(config.acceleration), jnp.zeros(())),
        "unseen cause": (jnp.asarray(config.acceleration), jnp.zeros(())),
    }
    allowed, distance = zip(*(by_cause[name] for name in CAUSES), strict=True)
    clipped = jnp.clip(jnp.stack(allowed), -config.strongest_braking, config.acceleration)
    return Hazards(clipped, jnp.minimum(jnp.stack(distance), FAR_M))


def hazards(config: FollowerConfig, observation: Observation) -> Hazards:
    """The limits of the ego, by cause. observation: [B, ...]; returns [B, C]."""
    return jax.vmap(lambda o: _hazards(config, o))(observation)
