"""The observation of a State, the same in every World."""

import jax
import jax.numpy as jnp

from tether.data.geometry import rotate, to_frame, wrap_angle
from tether.data.scene import Array, Observation
from tether.simulator.config import SimulatorConfig
from tether.simulator.render import render
from tether.simulator.route import SLACK_M, project, route_of
from tether.simulator.transition import speed_limit_at
from tether.simulator.world import EgoState, Params, State


def observe(state: State, config: SimulatorConfig) -> Observation:
    """The observation [B, ...] in the ego's frame now."""
    scene, ego = state.scene, state.ego
    now = state.now
    frame = (ego.x[:, None], ego.y[:, None], ego.heading[:, None])
    agent_x, agent_y = to_frame(now.x, now.y, *frame)
    vel_x, vel_y = rotate(now.vel_x, now.vel_y, -ego.heading[:, None])
    route_x, route_y = to_frame(scene.route_x, scene.route_y, *frame)
    _, offset = jax.vmap(project, (0, 0, 0, 0, None))(route_of(scene), ego.x, ego.y, state.route_s, SLACK_M)
    limit = speed_limit_at(scene, state.route_s)
    return Observation(
        bev=render(state, config),
        ego=jnp.stack([ego.speed, ego.acceleration, ego.curvature, limit], axis=-1),
        ego_size=jnp.stack([ego.length, ego.width], axis=-1),
        instruction=scene.instruction,
        pose=jnp.stack([ego.x, ego.y, ego.heading], axis=-1),
        time=state.time,
        agent_x=agent_x,
        agent_y=agent_y,
        agent_heading=wrap_angle(now.heading - ego.heading[:, None]),
        agent_vel_x=vel_x,
        agent_vel_y=vel_y,
        agent_length=scene.length,
        agent_width=scene.width,
        agent_type=scene.agent_type,
        agent_valid=now.valid & (jnp.arange(now.x.shape[1]) != scene.ego[:, None]),
        route_x=route_x,
        route_y=route_y,
        route_valid=scene.route_valid,
        route_s=state.route_s,
        route_offset=offset,
        light_distance=light_distance(state),
        light_state=state.light_state,
    )


class Observed:
    """A World whose policies see the simulator's view of its state."""

    simulator: SimulatorConfig

    def observe(self, params: Params, state: State) -> Observation:
        """See `World.observe`."""
        return observe(state, self.simulator)


def ego_of(observation: Observation) -> EgoState:
    """The ego [...] in the scene's frame, as an observation shows it: the inverse of `observe`."""
    motion = observation.ego[..., :3]
    fields = jnp.concatenate([observation.pose, motion, observation.ego_size], axis=-1)
    return EgoState(*jnp.moveaxis(fields, -1, 0))


def light_distance(state: State) -> Array:
    """float32[B, L], along the route from the ego's front to each stop point [m]; see `Observation`."""
    ahead = state.scene.light_route_s - (state.route_s + state.ego.length / 2)[:, None]
    seen = state.light_valid & (state.scene.light_route_s >= 0) & (ahead >= 0)
    return jnp.where(seen, ahead, jnp.inf)
