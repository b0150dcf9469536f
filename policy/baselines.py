"""Policies without learning, under the same Policy protocol; their params are ().

`GoStraight` and `ConstantSpeed` show how much of a score needs no skill, `IDM` how much rules achieve, `LogExpert` how
much the log and the vehicle model allow.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Observation, Scene
from tether.policy.action_space import ramp
from tether.policy.hazards import FollowerConfig, Path, hazards, path_of, point_at
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import action_towards, limited, move, track_log
from tether.simulator.observe import ego_of
from tether.simulator.route import walk
from tether.simulator.world import Action, EgoState, Params

PURSUIT_S = 0.9
PURSUIT_M = (3.5, 15.0)


@dataclasses.dataclass(frozen=True)
class Memoryless:
    """A policy whose action depends on the observation alone.

    Attributes:
      config: of the simulator.
    """

    config: SimulatorConfig = dataclasses.field(default_factory=SimulatorConfig)

    def reset(self, params: Params, scene: Scene) -> tuple[()]:
        """The carry, which is empty."""
        return ()


@dataclasses.dataclass(frozen=True)
class GoStraight(Memoryless):
    """Keeps the heading and the current speed."""

    def act(self, params: Params, key: jax.Array, observation: Observation, carry: tuple) -> tuple:
        """No acceleration, no curvature."""
        nothing = jnp.zeros((observation.time.shape[0], self.config.substeps))
        return Action(acceleration=nothing, curvature=nothing), carry, {}


@dataclasses.dataclass(frozen=True)
class ConstantSpeed(Memoryless):
    """Follows the route at the current speed; reacts to nothing."""

    def act(self, params: Params, key: jax.Array, observation: Observation, carry: tuple) -> tuple:
        """No acceleration; pure pursuit of the route."""
        acceleration = jnp.zeros((observation.time.shape[0], self.config.substeps))
        return follow_route(self.config, observation, acceleration), carry, {}


@dataclasses.dataclass(frozen=True)
class IDM(Memoryless):
    """A car follower on the route: keeps the speed limit and its distance, slows for curves, stops at red lights.

    It reacts to all that is in the corridor along the route, but does not predict that an agent will enter it.

    Attributes:
      follower: parameters of the car-following model, the intelligent driver model.
    """

    follower: FollowerConfig = dataclasses.field(default_factory=lambda: FollowerConfig(foresight_s=0.0))

    def act(self, params: Params, key: jax.Array, observation: Observation, carry: tuple) -> tuple:
        """The acceleration that the most restrictive cause allows; pure pursuit of the route."""
        target = jnp.min(hazards(self.follower, observation).acceleration, axis=-1)
        acceleration = ramp(observation.ego[:, 1], target, self.config.substeps, self.config.substeps)
        return follow_route(self.config, observation, acceleration), carry, {}


@dataclasses.dataclass(frozen=True)
class LogExpert:
    """Drives where the logged ego drove. Privileged: its carry is the logged scene."""

    config: SimulatorConfig = dataclasses.field(default_factory=SimulatorConfig)

    def reset(self, params: Params, scene: Scene) -> Scene:
        """The scene, for its log; without the map tile, too large for a loop's carry."""
        return scene.replace(map_tile=(), road_index=())

    def act(self, params: Params, key: jax.Array, observation: Observation, carry: Scene) -> tuple:
        """Feedback towards the log, anew in each sub-step."""
        action = track_log(ego_of(observation), carry, observation.time, self.config.substeps, self.config)
        return action, carry, {}


def follow_route(config: SimulatorConfig, observation: Observation, acceleration: Array) -> Action:
    """Steers along the route at given accelerations float32[B, S]: pure pursuit, anew in each sub-step."""

    def of_scene(observation: Observation, acceleration: Array) -> Array:
        path = path_of(observation)
        ego = ego_of(observation.replace(pose=jnp.zeros(3)))

        def body(carry: tuple[EgoState, Array], acceleration: Array) -> tuple[tuple[EgoState, Array], Array]:
            ego, route_s = carry
            _, curvature = limited(ego.speed, acceleration, _pursue(path, ego, route_s), config.limits)
            after = move(ego, acceleration, curvature, config.limits, config.dt)
            places, _ = walk(path.route, route_s, jnp.stack([ego.x, after.x]), jnp.stack([ego.y, after.y]))
            return (after, places[0]), curvature

        return jax.lax.scan(body, (ego, observation.route_s), acceleration)[1]

    return Action(acceleration=acceleration, curvature=jax.vmap(of_scene)(observation, acceleration))


def _pursue(path: Path, ego: EgoState, route_s: Array) -> Array:
    """Curvature that leads the box centre to the point of the route about a second ahead."""
    x, y = point_at(path, route_s + jnp.clip(PURSUIT_S * ego.speed, *PURSUIT_M))
    return action_towards(ego, x, y, 1.0)[1]
