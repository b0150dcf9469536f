"""A World in which some of the others follow the log: practice among imagined and logged traffic at once.

Imagined traffic reacts and differs from rollout to rollout, but does not do all that logged traffic does. Logged
traffic is the same in every rollout, and a policy learns it by heart. Here each rollout draws anew which agents follow
the log.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.simulator.around import Around
from tether.simulator.config import SimulatorConfig
from tether.simulator.transition import advance_state, log_agents, log_lights
from tether.simulator.world import Action, Outcome, Params, State
from tether.worldmodel.noise import agent_noise, agent_rank

REPLAY_STREAM = 0x7FFFFFFD  # of the draw's noise, beyond the rank of any agent


@flax.struct.dataclass
class Latent:
    """The private state. world: the inner World's; follows: bool[B, A], the agents that follow the log."""

    world: Any
    follows: Array


@dataclasses.dataclass(frozen=True)
class Replayed(Around):
    """Another World, in which a fraction of its agents, those that appear later, and the lights follow the log.

    It reads the log's future: policies may practise in it, but no model is measured by it. After the log's end all are
    the inner World's. That World reads what it predicted of the agents for one step longer than it is driven by it.

    Attributes:
      simulator: step and outcome, as of the inner World.
      fraction: of the agents that follow the log, drawn for each rollout.
    """

    simulator: SimulatorConfig
    fraction: float

    def reset(self, params: Params, key: jax.Array, scene: Scene, start: Array) -> State:
        """Starts the inner World, and draws which agents follow the log."""
        state = self.world.reset(params, key, scene, start)
        keys = jax.vmap(lambda one: jax.random.fold_in(one, REPLAY_STREAM))(key)
        drawn = agent_noise(keys, agent_rank(state.now, scene.ego), ()) < self.fraction
        return state.replace(latent=Latent(state.latent, drawn | ~state.now.valid))

    def step(self, params: Params, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """The inner World's step with the logged agents and lights in place of its own, measured anew."""
        scene, substeps, follows = state.scene, action.acceleration.shape[-1], state.latent.follows
        after, outcome = self.world.step(params, key, state.replace(latent=state.latent.world), action)
        steps = state.time[:, None] + 1 + jnp.arange(substeps)
        within = (steps[:, -1] < scene.x.shape[-1])[:, None, None]
        imagined, logged = after.history[..., -substeps:], log_agents(scene, steps)
        others = jax.tree.map(lambda log, own: jnp.where(within & follows[..., None], log, own), logged, imagined)
        held = after.held_lights(substeps)
        lights = (jnp.where(within, log, own) for log, own in zip(log_lights(scene, steps), held, strict=True))
        latent = Latent(after.latent, follows)
        kept = outcome.disagreement, outcome.predicted
        return advance_state(state, action, others, *lights, latent, self.simulator, *kept)
