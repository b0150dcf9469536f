"""Randomness of a learned World: noise that belongs to an agent, whatever row it stands in, and draws from it."""

import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.simulator.world import Agents
from tether.worldmodel.motion import running_sum


def agent_noise(keys: jax.Array, rank: Array, shape: tuple[int, ...]) -> Array:
    """Uniform noise per agent from the row's key and the agent's rank: blind to row order and padding.

    Args: keys: key[B]; rank: int32[B, A]. Returns: float32[B, A, *shape].
    """
    draw = jax.vmap(lambda key, r: jax.random.uniform(jax.random.fold_in(key, r), shape), (None, 0))
    return jax.vmap(draw)(keys, rank)


def agent_rank(now: Agents, ego: Array) -> Array:
    """Order of the agents by distance to the ego, those not seen last. `Agents` [B, A] -> int32[B, A]."""

    def one(now: Agents, ego: Array) -> Array:
        distance_sq = jnp.square(now.x - now.x[ego]) + jnp.square(now.y - now.y[ego])
        return jnp.argsort(jnp.argsort(jnp.where(now.valid, distance_sq, jnp.inf)))

    return jax.vmap(one)(now, ego)


def draw_index(probs: Array, uniforms: Array) -> Array:
    """Draws from categoricals by inverse distribution function. float32[..., C], float32[...] -> int32[...]."""
    passed = running_sum(probs) <= uniforms[..., None] * probs.sum(-1, keepdims=True)
    return jnp.minimum(passed.sum(-1), probs.shape[-1] - 1)
