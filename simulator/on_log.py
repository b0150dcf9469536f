"""A World in which the ego is on its log at the start of every step: it measures the others' motion alone."""

import dataclasses

import jax
import jax.numpy as jnp

from tether.simulator.around import Around
from tether.simulator.dynamics import log_ego
from tether.simulator.transition import log_agents
from tether.simulator.world import Action, Outcome, Params, State


@dataclasses.dataclass(frozen=True)
class OnLog(Around):
    """Another World whose ego is put back on its log after each step. Its rows stay alive after any event.

    Without it, an imagined box that drifts into the ego's way would end the rollout, and the largest errors would not
    be measured. After the log's end the ego stays where the log ends. `route_s` stays as the step left it: the next one
    walks on from there.
    """

    def step(self, params: Params, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """The World's own step; its outcome is that of the ego's action, the next state has the logged ego."""
        after, outcome = self.world.step(params, key, state, action)
        return on_log(after), outcome


def on_log(state: State) -> State:
    """The state with the ego where its log has it, and alive."""
    scene, agents, steps = state.scene, *state.history.x.shape[1:]
    log = log_agents(scene, state.time[:, None] + jnp.arange(1 - steps, 1))
    is_ego = (jnp.arange(agents) == scene.ego[:, None])[..., None]
    history = jax.tree.map(lambda logged, now: jnp.where(is_ego, logged, now), log, state.history)
    return state.replace(ego=log_ego(scene, state.time), history=history, alive=jnp.ones_like(state.alive))
