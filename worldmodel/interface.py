"""The interface of world models: Worlds that can be initialised and fitted."""

from typing import Protocol

import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.simulator.world import Params, World
from tether.worldmodel.batch import ModelBatch

MEMBERS = ("sees_images", "init", "loss", "reset", "observe", "step")  # attributes that a `WorldModel` must have


class WorldModel(World, Protocol):
    """A World with parameters. Pure; `params` is a plain pytree, so no other code depends on how it is written.

    Every model keeps these rules, which `worldmodel/conformance` tests:
    - The ego moves by `simulator.transition.advance_state` only.
    - Others at t + 1 never depend on the ego's action at t.
    - Padding, the order of agents and the other rows of a batch change nothing.
    - The same key gives the same result.

    Attributes:
      sees_images: whether `init`, `loss`, `reset` or `step` read images, and so `Scene.map_tile`. Other models are
        fitted on scenes without a drawn map, which saves half of a scene's bytes.
    """

    sees_images: bool

    def init(self, key: jax.Array, batch: ModelBatch) -> Params:
        """Fresh parameters; `batch` gives the sizes. A model that needs no training returns ()."""
        ...

    def loss(self, params: Params, key: jax.Array, batch: ModelBatch) -> tuple[Array, dict[str, Array]]:
        """The scalar to minimise and scalar metrics by name. key: one key for the batch."""
        ...


class NothingToLearn:
    """The methods that a `WorldModel` without parameters adds to a `World`."""

    sees_images = False

    def init(self, key: jax.Array, batch: ModelBatch) -> tuple:
        """No parameters."""
        return ()

    def loss(self, params: tuple, key: jax.Array, batch: ModelBatch) -> tuple[Array, dict[str, Array]]:
        """Nothing to minimise, no metrics."""
        return jnp.zeros(()), {}
