"""Small networks as pure functions over plain dicts of arrays.

The same RSSM networks as `flax.nnx` modules, which `policy/` uses, compile their gradient in 1.8 to 2.0 CPU-seconds
instead of 1.7 and take 9.8 CPU-ms per gradient step instead of 8.7 (67 k parameters, 1,792 rows, float32, 2 CPU cores),
so that dicts stay: a port would rename all stored parameters and gain nothing.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tether.data.scene import Array


class Initial(NamedTuple):
    """A weight before it is drawn: its shape and the standard deviation of its normal distribution."""

    shape: tuple[int, ...]
    deviation: float


def dense_layer(inputs: int, outputs: int, scale: float = 1.0, copies: tuple[int, ...] = ()) -> dict[str, Initial]:
    """A linear layer with unit gain times `scale`; `copies` are leading axes, for ensembles."""
    return {
        "weight": Initial((*copies, inputs, outputs), scale / inputs**0.5),
        "bias": Initial((*copies, outputs), 0.0),
    }


def mlp_layers(widths: tuple[int, ...], scale: float = 1.0, copies: tuple[int, ...] = ()) -> list[dict[str, Initial]]:
    """Layers from widths[0] to widths[-1]; `scale` is that of the last one."""
    scales = [1.0] * (len(widths) - 2) + [scale]
    return [dense_layer(i, o, s, copies) for i, o, s in zip(widths[:-1], widths[1:], scales, strict=True)]


def draw(key: jax.Array, layers: Any) -> Any:
    """Draws a pytree of `Initial`. One draw for all: each call of the generator costs 0.4 s of compilation on CPU."""
    initials, structure = jax.tree.flatten(layers, is_leaf=lambda leaf: isinstance(leaf, Initial))
    sizes = [math.prod(initial.shape) for initial in initials]
    pieces = jnp.split(jax.random.normal(key, (sum(sizes),)), list(itertools.accumulate(sizes[:-1])))
    drawn = [piece.reshape(i.shape) * i.deviation for piece, i in zip(pieces, initials, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def cast(tree: Any, dtype: str) -> Any:
    """The tree with its floating-point arrays in another type."""
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def dense(net: dict[str, Array], x: Array) -> Array:
    """float[..., inputs] -> float[..., outputs], in the type of x: parameters and their gradients stay float32.

    One leading axis: the weight's gradient over several is three times slower on CPU.
    """
    flat = x.reshape(-1, x.shape[-1]) @ net["weight"].astype(x.dtype)
    return flat.reshape(*x.shape[:-1], -1) + net["bias"].astype(x.dtype)


def layer_norm(x: Array) -> Array:
    """Zero mean and unit variance along the last axis, in float32; without learned scale, the next layer has one."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-3)).astype(x.dtype)


def mlp(net: list[dict[str, Array]], x: Array) -> Array:
    """Linear layers with layer norm and SiLU between them. float32[..., sizes[0]] -> float32[..., sizes[-1]]."""
    for layer in net[:-1]:
        x = jax.nn.silu(layer_norm(dense(layer, x)))
    return dense(net[-1], x)


def gru(net: dict[str, Array], memory: Array, x: Array) -> Array:
    """Gated recurrent unit with layer norm, update gate biased to keep (DreamerV2, arXiv 2010.02193).

    Args: net: `dense_layer(D + inputs, 3 * D)`; memory: float32[..., D]; x: float32[..., inputs].
    Returns: float32[..., D].
    """
    parts = layer_norm(dense(net, jnp.concatenate([memory, x.astype(memory.dtype)], -1)))
    reset, candidate, update = jnp.split(parts, 3, -1)
    update = jax.nn.sigmoid(update - 1)
    return update * jnp.tanh(jax.nn.sigmoid(reset) * candidate) + (1 - update) * memory


def pool(net: dict[str, Array], tokens: Array, mask: Array) -> Array:
    """Embeds each token and takes the maximum over the valid ones; 0 where there is none.

    Args: tokens: float32[..., N, inputs]; mask: bool[..., N]. Returns: float32[..., D].
    """
    return jnp.max(dense(net, tokens), -2, where=mask[..., None], initial=0.0)


def symlog(x: Array) -> Array:
    """Linear near 0, logarithmic far out (DreamerV3, arXiv 2301.04104)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Array) -> Array:
    """The inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))
