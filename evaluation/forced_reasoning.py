"""A policy on forced reasoning, not its own, which measures whether reasoning affects actions."""

import dataclasses

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Observation, Scene
from tether.data.text import TOKEN_ID
from tether.policy.vla import REASONING, VLA
from tether.simulator.world import Params

FELT_MPS2 = 0.1  # smaller changes of acceleration, longitudinal or lateral, do not count
REASONING_MODES = ("shuffled", "blank")


@dataclasses.dataclass(frozen=True)
class ForcedReasoning:
    """The policy on reasoning that is not its own, for evaluation only: in mode `shuffled` rows depend on each other.

    Attributes:
      policy: the VLA.
      mode: `shuffled`, at each step the policy's reasoning in another scene of the batch, drawn anew; `blank`, padding
        in place of the reasoning.
    """

    policy: VLA
    mode: str

    def reset(self, params: Params, scene: Scene) -> tuple:
        """The policy's own carry."""
        return self.policy.reset(params, scene)

    def act(self, params: Params, key: jax.Array, observation: Observation, carry: tuple) -> tuple:
        """Acts on the forced reasoning.

        Extras: changes against acting on the policy's own reasoning, [B]: reasoning_changed, action_changed and
        acceleration_change [m/s^2]; in mode `shuffled` also the decision with the forced reasoning.
        """
        meant, _, own = self.policy.act(params, key, observation, carry)
        words = own["decision"].tokens[:, :REASONING]
        given = exchanged(key, words) if self.mode == "shuffled" else jnp.full_like(words, TOKEN_ID["<pad>"])
        done, carry, extras = self.policy.act(params, key, observation, carry, given)
        along = jnp.abs(done.acceleration - meant.acceleration)[:, -1]
        across = jnp.abs(done.curvature - meant.curvature)[:, -1] * observation.ego[:, 0] ** 2
        changes = {
            "reasoning_changed": (given != words).any(-1),
            "action_changed": jnp.maximum(along, across) > FELT_MPS2,
            "acceleration_change": along,
        }
        return done, carry, changes | ({"decision": extras["decision"]} if self.mode == "shuffled" else {})


def exchanged(key: jax.Array, words: Array) -> Array:
    """Gives every row's words to another row, in a random ring. key: key[B]; words: int32[B, ...]."""
    order = jnp.argsort(jax.vmap(jax.random.uniform)(key))
    return words.at[order].set(words[jnp.roll(order, 1)])
