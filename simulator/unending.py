"""A World that reports terminating events without ending the rollout."""

import dataclasses

import jax

from tether.simulator.around import Around
from tether.simulator.config import SimulatorConfig
from tether.simulator.route import route_of, walk
from tether.simulator.transition import ego_track_of, replace_row, sweep
from tether.simulator.world import Action, Outcome, Params, State


@dataclasses.dataclass(frozen=True)
class Unending(Around):
    """Another World whose rows continue after a terminating event; only the log's end still ends them.

    So later events are defined for every row, and a policy's actions after a failure do not reveal that there was one:
    a World that stops would show it the same view for the rest of the rollout. After the first termination, outcomes
    are measured from the place where the ego has got to.

    Attributes:
      config: of the inner World's simulator.
    """

    config: SimulatorConfig

    def step(self, params: Params, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """The World's own step; an ego that it stopped amid the step is put where the step would have led."""
        after, outcome = self.world.step(params, key, state, action)
        swept = sweep(state, action, self.config)
        past, recent = after.history[..., : -self.config.substeps], after.history[..., -self.config.substeps :]
        recent = replace_row(recent, state.scene.ego, ego_track_of(swept))
        track = state.ego[:, None].then(swept)
        route_s, _ = jax.vmap(walk)(route_of(state.scene), state.route_s, track.x, track.y)
        going = after.replace(
            ego=swept[:, -1],
            route_s=route_s[:, -1],
            history=past.then(recent),
            alive=state.alive & ~outcome.truncation,
        )
        return going, outcome
