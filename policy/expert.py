"""The network of the flow head: small transformer layers over noisy knots that read the backbone's key-value cache.

Layer by layer: each reads the keys and values of one of the backbone's last layers beside its own. Letters as in
`policy/transformer.py`; M noisy chunks per row, each with a time of its own, of N knots; W the expert's width.
Source: pi0's action expert, arXiv 2410.24164; time enters by scale and shift of the norms as in pi0.5, 2504.16054.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tether.data.scene import Array

CLOCK = np.pi / 2 * 2.0 ** np.arange(6)  # [rad], frequencies that encode a time in [0, 1]


@dataclasses.dataclass(frozen=True)
class ExpertShape:
    """Static sizes.

    Attributes:
      width, layers, expansion: W, layers, MLP.
      knots: N, most knots of a chunk.
      heads, head_width: those of the backbone, whose keys are read.
    """

    width: int
    layers: int
    expansion: int
    knots: int
    heads: int
    head_width: int


class Layer(nnx.Module):
    """Attention over the backbone's cache and the chunk's own knots, then an MLP."""

    def __init__(self, shape: ExpertShape, rngs: nnx.Rngs):
        width, inner = shape.width, shape.heads * shape.head_width
        self.heads = shape.heads
        self.norm = nnx.RMSNorm(width, use_scale=False, rngs=rngs)
        self.modulate = nnx.Linear(width, 4 * width, rngs=rngs)
        self.query_key_value = nnx.Linear(width, 3 * inner, use_bias=False, rngs=rngs)
        self.merge = nnx.Linear(inner, width, use_bias=False, rngs=rngs)
        self.expand = nnx.Linear(width, shape.expansion * width, rngs=rngs)
        self.contract = nnx.Linear(shape.expansion * width, width, rngs=rngs)

    def __call__(self, x: Array, clock: Array, cache: tuple[Array, Array], mask: Array) -> Array:
        """x: float32[B, Q, W], Q = M * N; clock: float32[B, M, W]; cache: keys and values [B, C, heads, head];
        mask: bool[B, Q, C + Q]."""
        modulation = jnp.repeat(self.modulate(clock), x.shape[1] // clock.shape[1], axis=1)
        scale, shift, scale_mlp, shift_mlp = jnp.split(modulation, 4, axis=-1)
        split = (*x.shape[:2], 3 * self.heads, -1)
        own = self.query_key_value(self.norm(x) * (1 + scale) + shift).reshape(split)
        query, key, value = jnp.split(own, 3, axis=2)
        keys, values = (jnp.concatenate(pair, axis=1) for pair in zip(cache, (key, value), strict=True))
        attended = jax.nn.dot_product_attention(query, keys, values, mask=mask[:, None])
        x = x + self.merge(attended.reshape(*x.shape[:2], -1))
        return x + self.contract(jax.nn.gelu(self.expand(self.norm(x) * (1 + scale_mlp) + shift_mlp)))


class Expert(nnx.Module):
    """The velocity field of the flow."""

    def __init__(self, shape: ExpertShape, rngs: nnx.Rngs):
        self.shape = shape
        self.enter = nnx.Linear(2, shape.width, rngs=rngs)
        self.clock = nnx.Linear(2 * CLOCK.size, shape.width, rngs=rngs)
        self.knot_position = nnx.Param(jnp.zeros((shape.knots, shape.width)))
        self.layers = nnx.vmap(lambda r: Layer(shape, r), in_axes=0, out_axes=0)(rngs.split(shape.layers))
        self.norm = nnx.RMSNorm(shape.width, rngs=rngs)
        self.leave = nnx.Linear(shape.width, 2, rngs=rngs)

    def __call__(self, x: Array, time: Array, cache: tuple[Array, Array], visible: Array) -> Array:
        """The velocity at noisy chunks, causal over knots: a knot attends to those before it and to none after it.

        So the committed knot's flow does not depend on the plan: it is drawn and scored alone, and the plan's noise
        gets no credit for rewards on which it has no influence.

        Args: x: float32[B, M, N, 2]; time: float32[B, M] in [0, 1], 1 is noise; cache: of all layers of the backbone;
          visible: bool[B, C].
        Returns: float32[B, M, N, 2].
        """
        batch, chunks, knots, _ = x.shape
        phase = time[..., None] * CLOCK
        clock = jax.nn.gelu(self.clock(jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)))
        own = np.kron(np.eye(chunks), np.tril(np.ones((knots, knots)))).astype(bool)  # no attention between chunks
        mask = jnp.concatenate([jnp.repeat(visible[:, None], chunks * knots, 1), jnp.repeat(own[None], batch, 0)], -1)
        graph, weights = nnx.split(self.layers)

        def layer(hidden, inputs):
            weights, cache = inputs
            return nnx.merge(graph, weights)(hidden, clock, cache, mask), None

        tokens = (self.enter(x) + self.knot_position[...][:knots]).reshape(batch, chunks * knots, -1)
        read = jax.tree.map(lambda each: each[-self.shape.layers :], cache)
        hidden, _ = jax.lax.scan(layer, tokens, (weights, read))
        return self.leave(self.norm(hidden)).reshape(x.shape)
