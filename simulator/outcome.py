"""The outcome of a step: events, distances and comfort, from replayed and imagined boxes alike, and the map.

Decisions, where the field differs:
- Only a contact that *begins* is a collision: the boxes overlap, and were apart when the other was last seen. Boxes
  that already overlap (label noise, a trailer) are ignored until they are seen apart, also if the other is unseen for a
  while. A box that appears inside the ego's is ignored likewise; an agent without history in the step appears.
- At fault (nuPlan's classes, AlpaSim's rule): the ego moves and the other stands, or the contact is in front or at
  the side. Not at fault: a standing ego, and contact from behind (the other's centre within 30 degrees of straight
  back). Of several contacts in one sub-step, one at-fault contact suffices.
- A collision that is not at fault costs reward but does not terminate: replayed traffic cannot brake.
- Off the road: any corner beyond the nearest road edge, by segments and not by points; never where a scene has no road
  edge. An ego that starts off the road is caught at its first sub-step.
- Wrong way: within `lane_range_m` a driving lane or the route runs against the ego (by more than 120 degrees), and no
  lane that runs with the ego (within 90 degrees) is less than `lane_margin_m` farther away. The route counts as a lane,
  because few maps have a lane for every turn out of a driveway. Does not terminate.
- Red light: the ego's front crosses the stop point between two sub-steps while the light is red. The state is that of
  the ego's own lane, so a turn on red is a violation unless its lane shows something else.
- Jerk and yaw acceleration are the change since the step began over the time since then, `ComfortBounds.window_s` at
  least: raw 10 Hz differences are noise.
"""

import jax
import jax.numpy as jnp

from tether.data.scene import RED_STATES, Array, RoadIndex, Scene, is_type
from tether.simulator import geometry
from tether.simulator.config import ComfortBounds, SimulatorConfig
from tether.simulator.geometry import Box, Segments
from tether.simulator.road_index import segments_at
from tether.simulator.route import route_of, walk
from tether.simulator.world import Agents, EgoState, State

STANDING_MPS = 0.05  # nuPlan's threshold of a stopped vehicle
BEHIND_COS = -0.866  # cos 150 degrees
WITH_COS, AGAINST_COS = 0.0, -0.5  # a lane that runs with the ego; one against it


def ego_box(ego: EgoState) -> Box:
    """The ego's box; fields as in `ego`."""
    return Box(x=ego.x, y=ego.y, heading=ego.heading, length=ego.length, width=ego.width)


def contacts(state: State, swept: EgoState, agents: Agents) -> dict[str, Array]:
    """Contacts that begin, and time to collision, of one scene.

    Args: state: before the step, without batch axis.  swept: fields [S].  agents: fields [A, S].
    Returns: collision, at_fault: bool[S]; overlap_m, ttc_s (uncapped): float32[S].
    """
    ego = swept[:, None]
    # Agents last: that axis is long enough for a CPU's vector units.
    agents = agents.T
    other = boxes_of(agents, state.scene)
    present = agents.valid & (jnp.arange(agents.x.shape[1]) != state.scene.ego)
    depth = jax.lax.optimization_barrier(jnp.where(present, geometry.penetration(ego_box(ego), other), 0.0))
    begun = (depth > 0) & _apart_when_last_seen(_apart_before(state), depth <= 0, present)
    moving = jnp.maximum(swept.speed, jnp.concatenate([state.ego.speed[None], swept.speed[:-1]])) > STANDING_MPS
    seen = geometry.relative(ego_box(ego), other)
    behind = seen.x <= BEHIND_COS * jnp.sqrt(seen.x**2 + seen.y**2)
    stands = agents.speed <= STANDING_MPS
    at_fault = begun & moving[:, None] & (stands | ~behind)
    ttc = geometry.time_to_collision(ego_box(ego), ego.speed, other, agents.vel_x, agents.vel_y)
    looked_at = present & (depth <= 0) & (seen.x > 0) & (ego.speed > STANDING_MPS)
    return {
        "collision": jnp.any(begun, axis=-1),
        "at_fault": jnp.any(at_fault, axis=-1),
        "overlap_m": jnp.max(jnp.where(begun, depth, 0.0), axis=-1),
        "ttc_s": jnp.min(jnp.where(looked_at, ttc, jnp.inf), axis=-1),
    }


def boxes_of(agents: Agents, scene: Scene) -> Box:
    """The boxes of agents [..., A]."""
    return Box(x=agents.x, y=agents.y, heading=agents.heading, length=scene.length, width=scene.width)


def _apart_before(state: State) -> Array:
    """bool[A]: the box and the ego's were apart when last seen together before the step; False if they never were."""
    history, ego, scene = state.history, state.scene.ego, state.scene
    seen = history.valid & history.valid[ego]
    last = history.x.shape[-1] - 1 - jnp.argmax(seen[:, ::-1], axis=-1)
    others = jax.tree.map(lambda field: jnp.take_along_axis(field, last[:, None], axis=-1)[:, 0], history)
    own = Box(
        x=history.x[ego][last],
        y=history.y[ego][last],
        heading=history.heading[ego][last],
        length=state.ego.length,
        width=state.ego.width,
    )
    return jnp.any(seen, axis=-1) & (geometry.penetration(own, boxes_of(others, scene)) <= 0)


def _apart_when_last_seen(before: Array, apart: Array, seen: Array) -> Array:
    """Whether boxes were apart at the sub-step before each one at which they were seen.

    Args: before: bool[A], at the step's start.  apart, seen: bool[S, A], after each sub-step.
    """
    known = jnp.concatenate([jnp.ones_like(before)[None], seen[:-1]])
    rows = jnp.arange(known.shape[0])[:, None]
    last = jax.lax.cummax(jnp.where(known, rows, 0), axis=0)
    return jnp.take_along_axis(jnp.concatenate([before[None], apart[:-1]]), last, axis=0)


def map_events(scene: Scene, swept: EgoState, config: SimulatorConfig) -> dict[str, Array]:
    """off_road, wrong_way: bool[S] of one prepared scene."""
    corners, index = geometry.corners(ego_box(swept)), scene.road_index
    if not isinstance(index, RoadIndex):
        raise ValueError(f"expected a scene with a road index (simulator.prepare makes it), found {index!r}")
    edges = segments_at(index, index.edges, config.near_edges, *corners)
    lanes = segments_at(index, index.lanes, config.near_lanes, swept.x, swept.y)
    route = geometry.segments(scene.route_x, scene.route_y, scene.route_valid)
    pose = swept.x, swept.y, swept.heading
    against, along = map(jnp.minimum, lane_distances(lanes, *pose), lane_distances(route, *pose))
    return {
        "off_road": jnp.any(geometry.signed_edge_distance(edges, *corners) > 0, axis=-1),
        "wrong_way": (against < config.lane_range_m) & (against + config.lane_margin_m < along),
    }


def lane_distances(lanes: Segments, x: Array, y: Array, heading: Array) -> tuple[Array, Array]:
    """Distance [...] of poses [...] to the nearest lane against them and to the nearest that runs with them.

    Args: lanes: fields [K] or [..., K].
    """
    dx, dy = lanes.bx - lanes.ax, lanes.by - lanes.ay
    x, y, forward_x, forward_y = (field[..., None] for field in (x, y, jnp.cos(heading), jnp.sin(heading)))
    along = (dx * forward_x + dy * forward_y) / jnp.maximum(jnp.hypot(dx, dy), 1e-6)
    distance = geometry.segment_distance(lanes, x, y)
    against = jnp.min(jnp.where(along < AGAINST_COS, distance, jnp.inf), axis=-1)
    return against, jnp.min(jnp.where(along > WITH_COS, distance, jnp.inf), axis=-1)


def route_progress(state: State, swept: EgoState) -> dict[str, Array]:
    """Arc length, its gain and the lateral offset, float32[S] of one scene."""
    x, y = (jnp.concatenate([getattr(state.ego, name)[None], getattr(swept, name)]) for name in ("x", "y"))
    route_s, offset = walk(route_of(state.scene), state.route_s, x, y)
    before = jnp.concatenate([state.route_s[None], route_s[:-1]])
    return {"route_s": route_s, "progress_m": route_s - before, "route_offset_m": offset}


def runs_red(scene: Scene, route_s: Array, progress_m: Array, light_state: Array, light_valid: Array) -> Array:
    """bool[S]: the front crosses a red light's stop point. light_*: [L, S]."""
    front = route_s + scene.length[scene.ego] / 2
    stop = scene.light_route_s[:, None]
    crossed = (front - progress_m < stop) & (stop <= front) & (stop >= 0)
    return jnp.any(crossed & light_valid & is_type(light_state, RED_STATES), axis=0)


def motion(before: EgoState, swept: EgoState, dt: float, window_s: float) -> dict[str, Array]:
    """Quantities of comfort, float32[S] of one scene: SI units."""
    steps = jnp.arange(1, swept.speed.shape[0] + 1) * dt
    span = jnp.maximum(steps, window_s)
    lateral = swept.curvature * swept.speed**2
    yaw_rate = swept.curvature * swept.speed
    jerk = (swept.acceleration - before.acceleration) / span
    lateral_jerk = (lateral - before.curvature * before.speed**2) / span
    return {
        "acceleration": swept.acceleration,
        "lateral_acceleration": lateral,
        "longitudinal_jerk": jerk,
        "jerk": jnp.hypot(jerk, lateral_jerk),
        "yaw_rate": yaw_rate,
        "yaw_acceleration": (yaw_rate - before.curvature * before.speed) / span,
    }


def uncomfortable(quantities: dict[str, Array], bounds: ComfortBounds) -> Array:
    """bool[S]: any of nuPlan's bounds is exceeded."""
    acceleration = quantities["acceleration"]
    beyond = (acceleration < bounds.acceleration_min) | (acceleration > bounds.acceleration_max)
    for name in ("lateral_acceleration", "longitudinal_jerk", "jerk", "yaw_rate", "yaw_acceleration"):
        beyond |= jnp.abs(quantities[name]) > getattr(bounds, name)
    return beyond


def measure(
    state: State, swept: EgoState, agents: Agents, light_state: Array, light_valid: Array, config: SimulatorConfig
) -> dict[str, Array]:
    """All measures of one step of one scene at 10 Hz, not yet masked.

    Args: state: without batch axis.  swept: fields [S].  agents: fields [A, S].  light_*: [L, S].
    Returns: dict of [S]; the names of `Outcome`, and route_s, longitudinal_jerk.
    """
    route = route_progress(state, swept)
    quantities = motion(state.ego, swept, config.dt, config.comfort.window_s)
    hit = contacts(state, swept, agents)
    return {
        **hit,
        **map_events(state.scene, swept, config),
        **route,
        "ttc_s": jnp.minimum(hit["ttc_s"], config.ttc_cap_s),
        "red_light": runs_red(state.scene, route["route_s"], route["progress_m"], light_state, light_valid),
        "corridor": jnp.abs(route["route_offset_m"]) > config.corridor_m,
        "uncomfortable": uncomfortable(quantities, config.comfort),
        "longitudinal_jerk": quantities["longitudinal_jerk"],
    }
