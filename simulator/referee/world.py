"""The referee: SUMO, which made the default logs, live. The policy drives the ego, and all others really react to it.

An independent judge: nothing is ever trained in it, and its drivers are not those of the logs (`manners.py`). It keeps
a scene's map, route and agents; from the current step on, SUMO moves all others and switches the lights. A rollout ends
with the ego's log, as in the other judges, so that their numbers are comparable.

An agent without a row in the scene (a log keeps the 32 agents nearest to the ego) takes part, but the ego neither sees
nor hits it: a scene's boxes have fixed sizes. `benchmarks/referee.py` counts how often such an agent is within 10 m of
the ego: never for the expert, constant speed and going straight; in under 1 % of the steps of an ego that brakes to a
standstill.

A rollout happens in processes outside of JAX (`fleet.py`), which is why this World is not pure: `reset` begins one
rollout and ends the one before, and each state must be stepped once. Everything else of the protocol holds: a row
depends on its key and its record alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

from tether.data.scene import Array, LightState, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import last_valid_step
from tether.simulator.observe import Observed
from tether.simulator.referee.fleet import Fleet
from tether.simulator.transition import advance_state, start_state, sweep
from tether.simulator.world import Action, Agents, Outcome, State


@dataclasses.dataclass(frozen=True)
class Referee(Observed):
    """A World for a list of records.

    Its params are int32[B], the record of each row of the batch, as `Fleet.open` returns them: jitted code has scenes
    without their names. The latent is the rollout's number, int32[B].

    Attributes:
      fleet: the simulations.
    """

    simulator: SimulatorConfig
    fleet: Fleet

    def reset(self, params: Array, key: jax.Array, scene: Scene, start: Array) -> State:
        """See `World.reset`; the key draws the drivers, `start` must be the current step."""
        seeds = jax.vmap(jax.random.bits)(key)
        number = jax.ShapeDtypeStruct(start.shape, jnp.int32)
        return start_state(scene, start, io_callback(self.fleet.reset, number, params, seeds, start, ordered=True))

    def step(self, params: Array, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """See `World.step`; SUMO continues with its own random numbers."""
        substeps = action.acceleration.shape[-1]
        boxes, light_state = self._others(state, action)
        steps = state.time[:, None] + 1 + jnp.arange(substeps)
        return advance_state(
            state,
            action,
            Agents(**boxes),
            light_state,
            light_state != LightState.UNKNOWN,
            latent=state.latent,
            config=self.simulator,
            log_valid=steps <= last_valid_step(state.scene)[:, None],
        )

    def _others(self, state: State, action: Action) -> tuple[dict[str, Array], Array]:
        """The others' boxes, fields [B, A, S], and the light states [B, L, S]."""
        swept, substeps = sweep(state, action, self.simulator), action.acceleration.shape[-1]
        poses = jnp.stack([swept.x, swept.y, swept.heading], axis=-1)
        field = jax.ShapeDtypeStruct((*state.scene.x.shape[:2], substeps), jnp.float32)
        boxes = dict.fromkeys(("x", "y", "heading", "vel_x", "vel_y"), field)
        boxes["valid"] = jax.ShapeDtypeStruct(field.shape, bool)
        lights = jax.ShapeDtypeStruct((*state.light_state.shape, substeps), jnp.int32)
        return io_callback(self.fleet.step, (boxes, lights), state.latent, state.alive, poses, ordered=True)
