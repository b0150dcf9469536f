"""The lower floor of every model metric, and the template of a one-file world model: copy it and change `_others`.

All others keep their turn rate and speed, lights keep their state, no agent appears or vanishes. Nothing is learned.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import Observed
from tether.simulator.transition import advance_state, start_state
from tether.simulator.world import Action, Agents, Outcome, State
from tether.worldmodel.interface import NothingToLearn
from tether.worldmodel.motion import estimate_motion, move


@dataclasses.dataclass(frozen=True)
class KinematicConfig:
    """Settings of the model: there are none."""

    def build(self, simulator: SimulatorConfig) -> "Kinematic":
        """The model for this simulator's step and dynamics."""
        return Kinematic(self, simulator)


@dataclasses.dataclass(frozen=True)
class Kinematic(NothingToLearn, Observed):
    """`WorldModel`."""

    config: KinematicConfig
    simulator: SimulatorConfig

    def reset(self, params: tuple, key: jax.Array, scene: Scene, start: Array) -> State:
        """Starts from the logged history."""
        return start_state(scene, start, latent=())

    def step(self, params: tuple, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """The model supplies the others and the lights; ego motion and outcome are the simulator's."""
        lights = state.held_lights(self.simulator.substeps)
        return advance_state(state, action, self._others(state.history), *lights, (), self.simulator)

    def _others(self, history: Agents) -> Agents:
        """`Agents` [B, A, K] -> [B, A, S]. It must not depend on the ego's action."""
        substeps = self.simulator.substeps
        now, before = history[..., -1], history[..., -1 - substeps]
        motion = estimate_motion(now, before, self.simulator.step_s)
        return move(now, motion, jnp.zeros_like(motion.speed), motion.turn_rate, substeps, self.simulator.dt)
