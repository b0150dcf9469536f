"""The log-replay World: the others follow the log, the ego drives by exact dynamics."""

import dataclasses

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import last_valid_step
from tether.simulator.observe import Observed
from tether.simulator.transition import advance_state, log_agents, log_lights, start_state
from tether.simulator.world import Action, Outcome, State


@dataclasses.dataclass(frozen=True)
class LogReplay(Observed):
    """A World without parameters: `params` is () everywhere. It ends with the ego's log."""

    simulator: SimulatorConfig = dataclasses.field(default_factory=SimulatorConfig)

    def reset(self, params: tuple, key: jax.Array, scene: Scene, start: Array) -> State:
        """See `World.reset`."""
        return start_state(scene, start, ())

    def step(self, params: tuple, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """See `World.step`."""
        steps = state.time[:, None] + 1 + jnp.arange(action.acceleration.shape[-1])
        light_state, light_valid = log_lights(state.scene, steps)
        return advance_state(
            state,
            action,
            log_agents(state.scene, steps),
            light_state,
            light_valid,
            latent=(),
            config=self.simulator,
            log_valid=steps <= last_valid_step(state.scene)[:, None],
        )
