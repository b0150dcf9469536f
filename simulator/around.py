"""A World around another one, for Worlds that change little of it."""

import dataclasses

import jax

from tether.data.scene import Array, Observation, Scene
from tether.simulator.world import Action, Outcome, Params, State, World


@dataclasses.dataclass(frozen=True)
class Around:
    """The inner World itself; a subclass changes one of its functions or more.

    Attributes:
      world: any World.
    """

    world: World

    def reset(self, params: Params, key: jax.Array, scene: Scene, start: Array) -> State:
        """See `World.reset`."""
        return self.world.reset(params, key, scene, start)

    def observe(self, params: Params, state: State) -> Observation:
        """See `World.observe`."""
        return self.world.observe(params, state)

    def step(self, params: Params, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """See `World.step`."""
        return self.world.step(params, key, state, action)
