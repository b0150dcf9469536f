"""A model without learning whose traffic follows lanes, with noise: the higher floor of every model metric.

Vehicles and cyclists follow the lane that they are on, take one of those that it leads to, slow down for bends, stop at
red lights, keep their distance and yield to an agent that is first at a crossing (`lane_following.py`); off lanes they
keep their turn rate and speed. Each has a desired speed and a choice of route, drawn when the rollout starts;
accelerations have noise. Pedestrians keep their velocity, parked vehicles stand, lights keep their state, no agent
appears or vanishes.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import AgentType, Array, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import Observed
from tether.simulator.transition import advance_state, start_state
from tether.simulator.world import Action, Agents, Outcome, State
from tether.worldmodel.interface import NothingToLearn
from tether.worldmodel.lane_following import highest_acceleration, steering
from tether.worldmodel.lane_paths import paths_ahead
from tether.worldmodel.motion import STILL_SPEED, estimate_motion, move, standing
from tether.worldmodel.noise import agent_noise, agent_rank

USUAL_SPEED, CYCLIST_SPEED = 8.0, 4.0  # m/s; the least that vehicles and cyclists desire on average
PERSISTENCE = 0.7  # fraction of an acceleration that lasts from one world step to the next
LASTING = (-3.0, 2.0)  # m/s^2; stronger accelerations do not last
EXPONENT = 4.0  # of speed over desired speed, as in the intelligent driver model
SLOWING = -1.0  # m/s^2, of an agent that is faster than it desires


@dataclasses.dataclass(frozen=True)
class LanesConfig:
    """Settings of the model.

    Attributes:
      acceleration: acceleration on a free road from standstill [m/s^2].
      acceleration_noise: standard deviation of the noise on accelerations [m/s^2], drawn anew in each world step. An
        agent that stands starts by it: at the default acceleration none starts without noise.
      speed_noise: standard deviation of the logarithm of desired speeds.
    """

    acceleration: float = 1.5
    acceleration_noise: float = 0.5
    speed_noise: float = 0.1

    def build(self, simulator: SimulatorConfig) -> "Lanes":
        """The model for this simulator's step and dynamics."""
        return Lanes(self, simulator)


@flax.struct.dataclass
class Habits:
    """What each agent does alike throughout a rollout; fields [B, A].

    Attributes:
      rank: int32, of its noise, see `noise.py`.   choice: float32, of its route, in [0, 1), see `lane_paths.py`.
      desired: float32, speed on a free road [m/s].   drives: bool, it is not parked.
    """

    rank: Array
    choice: Array
    desired: Array
    drives: Array


@dataclasses.dataclass(frozen=True)
class Lanes(NothingToLearn, Observed):
    """`WorldModel`."""

    config: LanesConfig
    simulator: SimulatorConfig

    def reset(self, params: tuple, key: jax.Array, scene: Scene, start: Array) -> State:
        """Starts from the logged history, and draws the others' habits.

        A vehicle that stood throughout the history is parked, unless it is on a lane and has something to wait for.
        """
        state = start_state(scene, start, latent=())
        rank = agent_rank(state.now, scene.ego)
        drawn = agent_noise(key, rank, (2,))
        fastest = jnp.max(jnp.where(state.history.valid, state.history.speed, 0.0), -1)
        usual = jnp.where(scene.agent_type == AgentType.CYCLIST, CYCLIST_SPEED, USUAL_SPEED)
        desired = jnp.maximum(fastest, usual) * jnp.exp(self.config.speed_noise * centred(drawn[..., 1]))
        waits = jax.vmap(self._waits)(state, drawn[..., 0])
        return state.replace(latent=Habits(rank, drawn[..., 0], desired, (fastest > STILL_SPEED) | waits))

    def step(self, params: tuple, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """The model supplies the others and the lights; ego motion and outcome are the simulator's."""
        lights = state.held_lights(self.simulator.substeps)
        noise = self.config.acceleration_noise * centred(agent_noise(key, state.latent.rank, ()))
        others = jax.vmap(self._others)(state, noise)
        return advance_state(state, action, others, *lights, state.latent, self.simulator)

    def _waits(self, state: State, choice: Array) -> Array:
        """Whether agents of one scene are on a lane and have something to wait for: bool[A]."""
        scene, now, before = state.scene, *self._boxes(state)
        motion = estimate_motion(now, before, self.simulator.step_s)
        path = paths_ahead(now, motion, scene, choice, self.simulator)
        _, waits = highest_acceleration(now, motion, scene, state.light_state, state.light_valid, path)
        return waits & path.on_lane

    def _others(self, state: State, noise: Array) -> Agents:
        """`Agents` [A, S] of one scene, from noise float32[A] [m/s^2]. It must not depend on the ego's action."""
        scene, habits, now, before = state.scene, state.latent, *self._boxes(state)
        motion = estimate_motion(now, before, self.simulator.step_s)
        path = paths_ahead(now, motion, scene, habits.choice, self.simulator)
        bound, _ = highest_acceleration(now, motion, scene, state.light_state, state.light_valid, path)
        free = self.config.acceleration * (1 - jnp.power(motion.speed / habits.desired, EXPONENT))
        lasting = jnp.clip(acceleration_between(before, now, self.simulator.step_s), *LASTING)
        smooth = PERSISTENCE * lasting + (1 - PERSISTENCE) * jnp.maximum(free, SLOWING)
        wanted = jnp.where(path.on_lane, smooth, 0.0) + noise
        on_foot = scene.agent_type == AgentType.PEDESTRIAN
        acceleration = jnp.where(on_foot, 0.0, standing(motion.speed, jnp.minimum(wanted, bound)))
        acceleration = jnp.where(habits.drives, acceleration, -motion.speed)
        turn_rate = steering(now, motion, scene, path)
        return move(now, motion, acceleration, turn_rate, self.simulator.substeps, self.simulator.dt)

    def _boxes(self, state: State) -> tuple[Agents, Agents]:
        """The boxes of one scene now and a world step ago, fields [A]."""
        return state.history[..., -1], state.history[..., -1 - self.simulator.substeps]


def acceleration_between(before: Agents, now: Agents, span_s: float) -> Array:
    """The mean acceleration [m/s^2] over the span between boxes, float32[...]; 0 where an agent was not seen before."""
    return jnp.where(now.valid & before.valid, now.speed - before.speed, 0.0) / span_s


def centred(uniforms: Array) -> Array:
    """Noise of mean 0 and standard deviation 1 from noise that is uniform in [0, 1)."""
    return (uniforms - 0.5) * 12**0.5
