"""A model without learning whose traffic follows lanes, with some chance: the floor that a learned model has to beat.

Vehicles and cyclists follow the lane that they are on, take one of those it leads to, slow down for bends, stop at red
lights, keep their distance and let pass those that are at a crossing first (`lane_following.py`). Which lanes they take
and how fast they would like to be is drawn when the rollout starts (`guidance.py`); accelerations have noise.
Pedestrians keep their velocity, parked vehicles stand, lights keep their state, no agent appears or vanishes.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import AgentType, Array, Scene
from tether.data.settings import setting
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import Observed
from tether.simulator.transition import advance_state, start_state
from tether.simulator.world import Action, Agents, Outcome, State
from tether.worldmodel.features import Frame
from tether.worldmodel.guidance import NONREACTIVE, SPEED_NOISE, Habits, draw_habits, guide_frames
from tether.worldmodel.interface import NothingToLearn
from tether.worldmodel.motion import estimate_motion, move, standing
from tether.worldmodel.noise import agent_noise, agent_rank


@dataclasses.dataclass(frozen=True)
class LanesConfig:
    """Settings of the model.

    Attributes:
      acceleration_noise: standard deviation of the noise on accelerations [m/s^2], drawn anew in each world step. An
        agent that stands starts by it.
      speed_noise: standard deviation of the logarithm of desired speeds.
      nonreactive: fraction of the imagined agents that drive as if the ego were not there, as replayed ones do.
    """

    acceleration_noise: float = 0.5
    speed_noise: float = SPEED_NOISE
    nonreactive: float = setting(NONREACTIVE, least=0, most=1)

    def build(self, simulator: SimulatorConfig) -> "Lanes":
        """The model for this simulator's step and dynamics."""
        return Lanes(self, simulator)


@flax.struct.dataclass
class Latent:
    """The model's private state. rank: int32[B, A], index of an agent's noise; habits: `Habits` [B, A]."""

    rank: Array
    habits: Habits


@dataclasses.dataclass(frozen=True)
class Lanes(NothingToLearn, Observed):
    """`WorldModel`."""

    config: LanesConfig
    simulator: SimulatorConfig

    def reset(self, params: tuple, key: jax.Array, scene: Scene, start: Array) -> State:
        """Starts from the logged history, and draws the others' habits."""
        state = start_state(scene, start, latent=())
        rank = agent_rank(state.now, scene.ego)
        config = self.config
        habits = draw_habits(key, rank, state, self.simulator, config.nonreactive, config.speed_noise)
        return state.replace(latent=Latent(rank, habits))

    def step(self, params: tuple, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """The model supplies the others and the lights; ego motion and outcome are the simulator's."""
        lights = state.held_lights(self.simulator.substeps)
        others = self._others(state, agent_noise(key, state.latent.rank, ()))
        return advance_state(state, action, others, *lights, state.latent, self.simulator)

    def _others(self, state: State, uniforms: Array) -> Agents:
        """`Agents` [B, A, S], with noise from uniforms float32[B, A]. It must not depend on the ego's action."""
        simulator, now, habits = self.simulator, state.now, state.latent.habits
        before = state.history[..., -1 - simulator.substeps]
        light_age = jnp.zeros(state.light_state.shape)  # not read
        frame = Frame(now, before, state.light_state, state.light_valid, light_age)
        guide = guide_frames(frame[:, None], state.scene, habits[:, None], simulator)[:, 0]
        noise = self.config.acceleration_noise * (uniforms - 0.5) * 12**0.5
        driven = (habits.desired > 0) & (state.scene.agent_type != AgentType.PEDESTRIAN)
        motion = estimate_motion(now, before, simulator.step_s)
        wanted = jnp.minimum(guide.acceleration + jnp.where(driven, noise, 0.0), guide.bound)
        acceleration = jnp.where(driven, standing(motion.speed, wanted), guide.acceleration)
        return move(now, motion, acceleration, guide.turn_rate, simulator.substeps, simulator.dt)
