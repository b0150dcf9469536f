"""The policy made to act on reasoning that is not its own: does what it says matter to what it does?"""

import dataclasses

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Observation, Scene
from tether.data.text import TOKEN_ID
from tether.policy.vla import REASONING, VLA
from tether.simulator.world import Params

FELT_MPS2 = 0.1  # a change of acceleration, along or across, smaller than this is none
REASONING_MODES = ("shuffled", "blank")


@dataclasses.dataclass(frozen=True)
class ForcedReasoning:
    """The policy made to act on words that are not its own: does what it says matter to what it does?

    Rows depend on each other when shuffled, as they do nowhere else: it is for evaluation alone.

    Attributes:
      policy: the VLA.
      mode: `shuffled`, at each step the words that it would say in another scene of the batch, drawn anew; `blank`, no
        words, padding in their place.
    """

    policy: VLA
    mode: str

    def reset(self, params: Params, scene: Scene) -> tuple:
        """The policy's own."""
        return self.policy.reset(params, scene)

    def act(self, params: Params, key: jax.Array, observation: Observation, carry: tuple) -> tuple:
        """Extras: changes against acting on its own words here and now, [B]: words_changed, action_changed, and
        acceleration_change [m/s^2]; the decision with the words that were forced, where there are any."""
        meant, _, own = self.policy.act(params, key, observation, carry)
        words = own["decision"].tokens[:, :REASONING]
        given = exchanged(key, words) if self.mode == "shuffled" else jnp.full_like(words, TOKEN_ID["<pad>"])
        done, carry, extras = self.policy.act(params, key, observation, carry, given)
        along = jnp.abs(done.acceleration - meant.acceleration)[:, -1]
        across = jnp.abs(done.curvature - meant.curvature)[:, -1] * observation.ego[:, 0] ** 2
        changes = {
            "words_changed": (given != words).any(-1),
            "action_changed": jnp.maximum(along, across) > FELT_MPS2,
            "acceleration_change": along,
        }
        return done, carry, changes | ({"decision": extras["decision"]} if self.mode == "shuffled" else {})


def exchanged(key: jax.Array, words: Array) -> Array:
    """Every row's words given to another row, in a random ring. key: key[B]; words: int32[B, ...]."""
    order = jnp.argsort(jax.vmap(jax.random.uniform)(key))
    return words.at[order].set(words[jnp.roll(order, 1)])
