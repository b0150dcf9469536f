"""What the coach sees: the `Observation` as lists of numbers, geometry and kinematics only, in route coordinates.

No rule says what to do with them: there are places, speeds and the decelerations that would stop in time, but no
acceleration or curvature that a driver would choose. All functions are of one scene; batch with `jax.vmap`.
Letters: E numbers about the ego, the route and the lights, K agents, F numbers about each.
"""

import flax.struct
import jax.numpy as jnp

from tether.data.geometry import rotate
from tether.data.scene import RED_STATES, YELLOW_STATES, AgentType, Array, Indexed, Observation, is_type
from tether.policy.action_space import ActionSpace
from tether.policy.hazards import Path, curvature_ahead, heading_at, path_of, point_at, where_first
from tether.simulator.config import RenderConfig

AHEAD_M = (3.0, 6.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0)  # along the route, where its bends are looked at
LATER_S = (1.0, 2.0, 3.0)  # times at which agents are looked at, extrapolated
BEHIND_M = 20.0  # an agent's place on the route is looked for from this far behind the ego on
DEFAULT_SPEED = 13.9  # [m/s], where no speed limit is known
BENDS_AT = 2.5  # lateral acceleration [m/s^2] at which the speed through a bend is given
SOONEST_M = 0.5  # distances below count as this much where they divide
CAP = 5.0  # no number is larger
EGO_NUMBERS, AGENT_NUMBERS = 13 + 5 * len(AHEAD_M) + 12, 22 + 2 * len(LATER_S)  # E and F


@flax.struct.dataclass
class Sight(Indexed):
    """What is seen; leading axes as of the observations.

    Attributes:
      ego: float32[..., E].
      agents: float32[..., K, F], those that are nearest in time and space first.
      exists: bool[..., K], there is such an agent.   seen: bool[..., K], and the coach sees it.
    """

    ego: Array
    agents: Array
    exists: Array
    seen: Array


def sight_of(observation: Observation, space: ActionSpace, count: int, render: RenderConfig | None) -> Sight:
    """What is seen in one scene.

    Args:
      count: K.
      render: of the image to whose range the coach's eyes are limited; None for all agents that there are.
    """
    path = path_of(observation)
    agents, exists, place = _agents(observation, path, count)
    seen = exists if render is None else exists & _in_image(*place, render)
    ego = jnp.concatenate([_ego(observation, path), _route(observation, path, space), _lights(observation)])
    return Sight(jnp.clip(ego, -CAP, CAP), agents, exists, seen)


def _ego(o: Observation, path: Path) -> Array:
    speed, acceleration, curvature, limit = o.ego
    wanted = jnp.where(limit > 0, limit, DEFAULT_SPEED)
    length = jnp.sum(jnp.where(path.valid, jnp.hypot(jnp.diff(o.route_x), jnp.diff(o.route_y)), 0.0))
    heading = heading_at(path, o.route_s)
    return jnp.stack(
        [
            speed / 10,
            jnp.exp(-speed),
            speed / wanted,
            (wanted - speed) / 10,
            wanted / 15,
            limit > 0,
            acceleration / 4,
            curvature * speed**2 / 4,
            curvature * 10,
            o.route_offset,
            jnp.sin(heading) * 4,
            jnp.clip(length - o.route_s, 0.0, 100.0) / 50,
            o.ego_size[0] / 5,
        ]
    )


def _route(o: Observation, path: Path, space: ActionSpace) -> Array:
    """The bends of the route ahead, and the arcs that lead to it."""
    speed = o.ego[0]
    arc = o.route_s + jnp.array(AHEAD_M)
    x, y = point_at(path, arc)
    fraction = 2 * y / jnp.maximum(x**2 + y**2, 1.0) / space.max_curvature_at(speed)
    bend = curvature_ahead(path, arc)
    through = jnp.sqrt(BENDS_AT / jnp.maximum(jnp.abs(bend), 1e-3))
    # Bins are finer near straight ahead, and so are these.
    arcs = jnp.sign(fraction) * jnp.abs(fraction) ** (1 / space.finesse)
    return jnp.concatenate([arcs, y / 5, jnp.sin(heading_at(path, arc)), bend * 10, (through - speed) / 10])


def _lights(o: Observation) -> Array:
    """Distance of the nearest red and yellow light, and the braking that stops before it."""
    speed = o.ego[0]

    def nearest(states: tuple) -> Array:
        distance = jnp.min(jnp.where(is_type(o.light_state, states), o.light_distance, jnp.inf))
        there = jnp.isfinite(distance)
        braking = speed**2 / (2 * jnp.maximum(distance, SOONEST_M))
        near = jnp.exp(-distance / jnp.array([3.0, 10.0, 30.0, 90.0]))
        return jnp.concatenate([near, jnp.stack([there, jnp.clip(braking, 0.0, 10.0) / 5])])

    return jnp.concatenate([nearest(RED_STATES), nearest(YELLOW_STATES)])


def _agents(o: Observation, path: Path, count: int) -> tuple[Array, Array, tuple[Array, Array]]:
    """The numbers [K, F] about the agents that are nearest, which exist, and where they are in the ego's frame."""
    speed, distance = o.ego[0], jnp.hypot(o.agent_x, o.agent_y)
    # Those ahead count as nearer: the ego is going there.
    urgency = jnp.where(o.agent_valid, distance - 0.5 * o.agent_x, jnp.inf)
    nearest = jnp.argsort(urgency)[:count]
    names = ("x", "y", "heading", "vel_x", "vel_y", "length", "width", "type", "valid")
    x, y, heading, vel_x, vel_y, length, width, kind, exists = (getattr(o, f"agent_{n}")[nearest] for n in names)
    place = where_first(path, x, y, o.route_s - BEHIND_M)
    turned = heading - place.heading
    cos, sin = jnp.abs(jnp.cos(turned)), jnp.abs(jnp.sin(turned))
    along, across = rotate(vel_x, vel_y, -place.heading)
    half_along, half_across = (cos * length + sin * width) / 2, (cos * width + sin * length) / 2
    gap = jnp.abs(place.arc - o.route_s) - half_along - o.ego_size[0] / 2
    gap = jnp.where(place.arc >= o.route_s, gap, -gap)
    outside = jnp.abs(place.offset) - half_across - o.ego_size[1] / 2
    towards = -jnp.sign(place.offset) * across
    closing = speed - along
    enters = jnp.where(outside <= 0, 0.0, jnp.where(towards > 0.1, outside / jnp.maximum(towards, 0.1), 20.0))
    reached = gap / jnp.maximum(closing, 0.5)
    # At these times from now, if all keep their speeds along the route and across it.
    gaps = [jnp.clip((gap - closing * t) / 10, -2.0, 3.0) for t in LATER_S]
    asides = [jnp.abs(place.offset + across * t) - half_across - o.ego_size[1] / 2 for t in LATER_S]
    numbers = [
        *gaps,
        *(jnp.clip(aside / 2, -1.0, 3.0) for aside in asides),
        gap / 20,
        jnp.clip(gap / 5, -2.0, 3.0),
        place.offset / 5,
        outside / 5,
        jnp.clip(outside, -1.0, 2.0),
        along / 10,
        across / 5,
        closing / 10,
        jnp.cos(turned),
        jnp.sin(turned),
        half_along / 3,
        half_across / 2,
        jnp.clip(enters / 4, 0.0, 2.0),
        jnp.clip(reached / 5, -1.0, 2.0),
        jnp.clip(jnp.where(gap > 0, closing * jnp.abs(closing) / (2 * jnp.maximum(gap, SOONEST_M)), 0.0), -5, 10) / 5,
        x / 20,
        y / 20,
        vel_x / 10,
        vel_y / 10,
        jnp.hypot(vel_x, vel_y) < 0.3,
        kind == AgentType.PEDESTRIAN,
        kind == AgentType.CYCLIST,
    ]
    numbers = jnp.clip(jnp.stack(jnp.broadcast_arrays(*numbers), -1).astype(jnp.float32), -CAP, CAP)
    return jnp.where(exists[:, None], numbers, 0.0), exists, (x, y)


def _in_image(x: Array, y: Array, render: RenderConfig) -> Array:
    """Whether points of the ego's frame lie in the image."""
    ahead = render.height * render.resolution - render.behind
    return (x >= -render.behind) & (x <= ahead) & (jnp.abs(y) <= render.width * render.resolution / 2)
