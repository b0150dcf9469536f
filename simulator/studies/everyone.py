"""The outcomes of all agents: each measured by `outcome.measure` as if it were the ego, its logged path its route.

For realism metrics and for looking at data sets; a World needs only the ego's.
"""

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.simulator import geometry
from tether.simulator.config import SimulatorConfig
from tether.simulator.logged_paths import logged_paths
from tether.simulator.outcome import measure
from tether.simulator.road_index import segments_at
from tether.simulator.rollout import ego_motion
from tether.simulator.world import Agents, State

STOP_LATERAL_M = 1.5  # a stop point this close to a path is on it,
STOP_COS = 0.7  # if its lane runs along the path


@flax.struct.dataclass
class Routes:
    """The routes of the agents of one scene.

    Attributes:
      x, y: float32[A, T], the logged paths [m].
      light_s: float32[A, L], arc length of the stop points along them [m]; -1 where not on the path.
    """

    x: Array
    y: Array
    light_s: Array


def logged_routes(scene: Scene, config: SimulatorConfig) -> Routes:
    """The routes of one prepared scene, without batch axis; they never change."""
    paths = logged_paths(scene)
    light_s = jax.vmap(lambda x, y: stops_along(scene, x, y, light_heading(scene, config)))(paths.x, paths.y)
    return Routes(paths.x, paths.y, light_s)


def light_heading(scene: Scene, config: SimulatorConfig) -> Array:
    """Direction of the driving lane nearest to each stop point, float32[L]; nan where the index lists none."""
    lanes = segments_at(scene.road_index, scene.road_index.lanes, config.near_lanes, scene.light_x, scene.light_y)
    nearest = jnp.argmin(geometry.segment_distance(lanes, scene.light_x[:, None], scene.light_y[:, None]), axis=-1)
    ax, ay, bx, by, known = (jnp.take_along_axis(field, nearest[:, None], axis=-1)[:, 0] for field in lanes)
    return jnp.where(known, jnp.arctan2(by - ay, bx - ax), jnp.nan)


def stops_along(scene: Scene, x: Array, y: Array, heading: Array) -> Array:
    """Arc length float32[L] of the stop points along a path [T] that runs over them as their lanes do; else -1.

    Args: heading: float32[L], of their lanes; where it is nan, the arc length is -1.
    """
    path = geometry.segments(x, y, jnp.ones(x.shape, bool))
    dx, dy = path.bx - path.ax, path.by - path.ay
    length = jnp.hypot(dx, dy)
    along = (dx * jnp.cos(heading)[:, None] + dy * jnp.sin(heading)[:, None]) / jnp.maximum(length, 1e-6)
    distance = geometry.segment_distance(path, scene.light_x[:, None], scene.light_y[:, None])
    distance = jnp.where(along > STOP_COS, distance, jnp.inf)
    nearest = jnp.argmin(distance, axis=-1)
    past = (scene.light_x - path.ax[nearest]) * dx[nearest] + (scene.light_y - path.ay[nearest]) * dy[nearest]
    s = jnp.cumsum(length)[nearest] - length[nearest] + past / jnp.maximum(length[nearest], 1e-6)
    return jnp.where(jnp.min(distance, axis=-1) <= STOP_LATERAL_M, s, -1.0)


def place(routes: Routes, time: Array) -> Array:
    """Arc length float32[A] of the agents along their routes at a log step, as logged."""
    way = jnp.cumsum(jnp.hypot(jnp.diff(routes.x), jnp.diff(routes.y)), axis=-1)
    return jnp.pad(way, ((0, 0), (1, 0)))[:, time]


def measure_everyone(
    state: State,
    agents: Agents,
    light_state: Array,
    light_valid: Array,
    routes: Routes,
    route_s: Array,
    config: SimulatorConfig,
) -> dict[str, Array]:
    """All measures of one step of one scene, for each agent.

    Args:
      state: before the step, without batch axis.   agents: fields [A, S], the ego's row as driven.
      light_*: [L, S].   routes: see `logged_routes`.   route_s: float32[A], where the agents are along them.
    Returns: what `outcome.measure` returns, [A, S], and `valid`, bool[A, S]: the agent has been there in every sub-step
      since the one before `state`. An agent that appears counts from the next step on: comfort and places along the
      route are measured from the start of the step.
    """
    tracks = state.history[:, -2:].then(agents)
    motion = ego_motion(tracks, state.scene.length, state.scene.width)
    known = jnp.ones(routes.x.shape[-1:], bool)

    def one(row, ego, x, y, light_s, s):
        scene = state.scene.replace(ego=row, route_x=x, route_y=y, route_valid=known, light_route_s=light_s)
        of_row = state.replace(scene=scene, ego=ego[0], route_s=s)
        return measure(of_row, ego[1:], agents, light_state, light_valid, config)

    rows = jnp.arange(agents.x.shape[0])
    measures = jax.vmap(one)(rows, motion, routes.x, routes.y, routes.light_s, route_s)
    return measures | {"valid": jnp.cumsum(~tracks.valid, axis=-1)[:, 2:] == 0}
