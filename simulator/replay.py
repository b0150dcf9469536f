"""Actions that are known beforehand, repeated in a World."""

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Observation, Scene
from tether.simulator.rollout import rollout
from tether.simulator.world import Action, Params, Rollout, World


class Replay:
    """A policy that repeats actions, whatever it sees. Its params are `Action` [B, H, S], its carry the next step."""

    def reset(self, params: Action, scene: Scene) -> Array:
        """The first step, int32[B]."""
        return jnp.zeros(params.acceleration.shape[0], jnp.int32)

    def act(self, params: Action, key: jax.Array, observation: Observation, carry: Array) -> tuple[Action, Array, dict]:
        """The action of the step; after the last one, the last again."""
        index = jnp.minimum(carry, params.acceleration.shape[1] - 1)[:, None, None]
        return jax.tree.map(lambda a: jnp.take_along_axis(a, index, axis=1)[:, 0], params), carry + 1, {}


def replay_actions(
    world: World, world_params: Params, key: jax.Array, scene: Scene, start: Array, action: Action
) -> Rollout:
    """Repeats actions in a World. Nothing is rendered unless the caller returns an observation, see `rollout`.

    Args: key: key[B], the World's.   scene: `Scene` [B, ...].   start: int32[B], log step.   action: fields [B, H, S].
    """
    horizon = action.acceleration.shape[1]
    return rollout(world, world_params, Replay(), action, scene, horizon, key, key, start)
