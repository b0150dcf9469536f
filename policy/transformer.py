"""The network of the VLA: one pre-LN transformer over [vision][ego][instruction] and, causally, [reasoning][action].

The prefix is read once into a key-value cache; the suffix is run against it one token at a time (acting) or all at
once (teacher-forced evaluation). Both go through the same `Block`, so their log-probabilities agree to rounding.
Vision is patches of a list of images: the BEV, and camera images where the policy is built for them.
Letters: B batch, P prefix tokens, K slots of the suffix, N tokens of one pass, C cache length P + K, D width.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tether.data.scene import Array
from tether.policy.expert import Expert, ExpertShape

MASKED = -1e9  # finite: a fully masked row must not turn into NaN
# Names of parameters that begin otherwise than by their fan-in (`_scaled`); a test holds that parameters have them.
SMALL = {"embedding", "prefix_position", "slot_position", "knot_position", "logits", "plan", "modulate", "leave"}
RESIDUAL = {"merge", "contract"}  # what they give is added up, layer by layer


@dataclasses.dataclass(frozen=True)
class NetworkShape:
    """Static sizes of the network.

    Attributes:
      bev: (height, width, channels) of the image.
      cameras: (number, height, width) of the camera images; number 0 is none.
      width, layers, heads, expansion: of the transformer; `expansion` is the MLP's.
      stem: channels of the stride-2 convolutions that cut the image into patch embeddings.
      ego_features: floats describing the ego's motion.
      text: tokens of the instruction.
      vocabulary: entries of the joint vocabulary of phrases and action bins, which the policy reads and writes.
      words: further entries, which the policy only reads.
      slots: K, positions of the suffix, one past the last token included (it feeds the plan head, or the expert).
      plan: floats that the plan head predicts; 0 for no such head.
      expert: of the flow head; None for no such head.
      value_heads, value_width: heads and hidden units of the value ensemble.
    """

    bev: tuple[int, int, int]
    cameras: tuple[int, int, int]
    width: int
    layers: int
    heads: int
    expansion: int
    stem: tuple[int, ...]
    ego_features: int
    text: int
    vocabulary: int
    words: int
    slots: int
    plan: int
    expert: ExpertShape | None
    value_heads: int
    value_width: int

    @property
    def patches(self) -> int:
        """Vision tokens."""
        number, height, width = self.cameras
        return self._patches(*self.bev[:2]) + number * self._patches(height, width)

    def _patches(self, height: int, width: int) -> int:
        shrink = 2 ** len(self.stem)
        return math.ceil(height / shrink) * math.ceil(width / shrink)

    @property
    def prefix(self) -> int:
        """P: vision patches, one ego token, the instruction."""
        return self.patches + 1 + self.text


class Stem(nnx.Module):
    """Early convolutions in place of one big patch projection: better at equal cost on small data (2106.14881)."""

    def __init__(self, channels_in: int, channels: tuple[int, ...], width: int, rngs: nnx.Rngs):
        sizes = enumerate(zip((channels_in, *channels[:-1]), channels, strict=True))
        # Named, not listed: checkpoints turn the integer keys of a list into strings.
        self.stages = nnx.Dict({f"stage_{i}": nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs) for i, (a, b) in sizes})
        self.project = nnx.Linear(channels[-1], width, rngs=rngs)

    def __call__(self, image: Array) -> Array:
        """uint8[B, H, W, C] -> float32[B, patches, D]."""
        x = image.astype(jnp.float32) / 255.0
        for stage in self.stages.values():
            x = jax.nn.gelu(stage(x))
        return self.project(x.reshape(x.shape[0], -1, x.shape[-1]))


class Block(nnx.Module):
    """Attention over the cache, then an MLP; RMSNorm before each, residuals around each."""

    def __init__(self, shape: NetworkShape, rngs: nnx.Rngs):
        width, hidden = shape.width, shape.expansion * shape.width
        self.heads = shape.heads
        self.norm_attention = nnx.RMSNorm(width, rngs=rngs)
        self.norm_mlp = nnx.RMSNorm(width, rngs=rngs)
        self.query_key_value = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.merge = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.expand = nnx.Linear(width, hidden, rngs=rngs)
        self.contract = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x: Array, cache: tuple[Array, Array], position: Array, mask: Array) -> tuple[Array, tuple]:
        """x: float32[B, N, D]; cache: keys and values [B, C, heads, D / heads]; position: where x starts in the cache;
        mask: bool[B, N, C]. Returns the new x and cache."""
        split = (*x.shape[:2], 3 * self.heads, -1)
        query, key, value = jnp.split(self.query_key_value(self.norm_attention(x)).reshape(split), 3, axis=2)
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=1)
            for old, new in zip(cache, (key, value), strict=True)
        )
        attended = jax.nn.dot_product_attention(query, keys, values, mask=mask[:, None])
        x = x + self.merge(attended.reshape(x.shape))
        return x + self.contract(jax.nn.gelu(self.expand(self.norm_mlp(x)))), (keys, values)


class ValueHeads(nnx.Module):
    """An ensemble of small MLPs with a shared input."""

    def __init__(self, features: int, shape: NetworkShape, rngs: nnx.Rngs):
        heads, width = shape.value_heads, shape.value_width
        self.norm = nnx.RMSNorm(features, rngs=rngs)
        self.hidden = nnx.Param(jnp.zeros((heads, features, width)))
        self.out = nnx.Param(jnp.zeros((heads, width)))
        self.bias = nnx.Param(jnp.zeros((heads,)))

    def __call__(self, features: Array) -> Array:
        """float32[B, F] -> float32[B, heads]."""
        hidden = jax.nn.gelu(jnp.einsum("bf,hfw->bhw", self.norm(features), self.hidden[...]))
        return jnp.einsum("bhw,hw->bh", hidden, self.out[...]) + self.bias[...]


class Network(nnx.Module):
    """The VLA's two passes, `prefix` and `suffix`. `initial` sets the values of its parameters."""

    def __init__(self, shape: NetworkShape, rngs: nnx.Rngs):
        width = shape.width
        self.shape = shape
        self.stem = Stem(shape.bev[2], shape.stem, width, rngs)
        if shape.cameras[0]:
            self.camera_stem = Stem(3, shape.stem, width, rngs)
        self.ego = nnx.Linear(shape.ego_features, width, rngs=rngs)
        self.embedding = nnx.Param(jnp.zeros((shape.vocabulary + shape.words, width)))
        self.prefix_position = nnx.Param(jnp.zeros((shape.prefix, width)))
        self.slot_position = nnx.Param(jnp.zeros((shape.slots, width)))
        self.blocks = nnx.vmap(lambda r: Block(shape, r), in_axes=0, out_axes=0)(rngs.split(shape.layers))
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.logits = nnx.Linear(width, shape.vocabulary, rngs=rngs)
        if shape.plan:
            self.plan = nnx.Linear(width, shape.plan, rngs=rngs)
        if shape.expert:
            self.expert = Expert(shape.expert, rngs)
        self.value = ValueHeads(2 * width + shape.ego_features, shape, rngs)

    def _run(self, x: Array, cache: tuple, position: Array, mask: Array) -> tuple[Array, tuple]:
        """All blocks in one scan (one block to compile). cache: keys and values with a leading layer axis."""
        graph, weights = nnx.split(self.blocks)

        def layer(x, inputs):
            weights, cache = inputs
            return nnx.merge(graph, weights)(x, cache, position, mask)

        x, cache = jax.lax.scan(layer, x, (weights, cache))
        return self.norm(x), cache

    def vision(self, images: tuple[Array, ...]) -> Array:
        """Patches of the BEV uint8[B, H, W, C], then of camera images uint8[B, N, H, W, 3]: float32[B, patches, D].

        `prefix_position` has an entry for every patch of every camera, and so tells the cameras apart.
        """
        bev, *cameras = images
        joined = [camera.reshape(-1, *camera.shape[2:]) for camera in cameras]
        seen = [self.camera_stem(camera).reshape(bev.shape[0], -1, self.shape.width) for camera in joined]
        return jnp.concatenate([self.stem(bev), *seen], axis=1)

    def prefix(self, images: tuple[Array, ...], ego: Array, instruction: Array) -> tuple[Array, tuple, Array]:
        """Reads the policy's inputs, bidirectionally.

        Args: images: see `vision`; ego: float32[B, F]; instruction: int32[B, N], 0 pads.
        Returns: state features float32[B, 2 D + F] (for values), the cache, and visible: bool[B, P].
        """
        shape, batch = self.shape, ego.shape[0]
        vision, motion, words = self.vision(images), self.ego(ego)[:, None], self.embedding[...][instruction]
        x = jnp.concatenate([vision, motion, words], axis=1) + self.prefix_position[...]
        visible = jnp.concatenate([jnp.ones((batch, shape.patches + 1), bool), instruction != 0], axis=1)
        mask = jnp.pad(visible, ((0, 0), (0, shape.slots)))[:, None]
        empty = jnp.zeros(
            (shape.layers, batch, shape.prefix + shape.slots, shape.heads, shape.width // shape.heads), x.dtype
        )
        x, cache = self._run(x, (empty, empty), 0, jnp.broadcast_to(mask, (batch, shape.prefix, mask.shape[-1])))
        seen = x[:, : shape.patches].mean(axis=1)
        return jnp.concatenate([seen, x[:, shape.patches], ego], axis=-1), cache, visible

    def suffix(self, previous: Array, slot: Array, cache: tuple, visible: Array) -> tuple[Array, tuple]:
        """Runs N suffix positions from `slot` on, causally.

        Args: previous: int32[B, N], the token before each position; slot: first position; visible: bool[B, P].
        Returns: hidden float32[B, N, D] and the cache.
        """
        shape, (batch, count) = self.shape, previous.shape
        positions = slot + jnp.arange(count)
        causal = jnp.arange(shape.slots)[None] <= positions[:, None]
        mask = jnp.concatenate(
            [
                jnp.broadcast_to(visible[:, None], (batch, count, shape.prefix)),
                jnp.broadcast_to(causal[None], (batch, count, shape.slots)),
            ],
            axis=-1,
        )
        x = self.embedding[...][previous] + self.slot_position[...][positions]
        return self._run(x, cache, shape.prefix + slot, mask)


def structure(shape: NetworkShape) -> tuple[nnx.GraphDef, dict]:
    """The network's graph, and its parameters as a plain tree of shapes."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Network(shape, nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)


def initial(shape: NetworkShape, key: jax.Array) -> dict:
    """Random parameters, cut from one normal draw: XLA would compile a generator per leaf for ten seconds."""
    leaves, tree = jax.tree.flatten_with_path(structure(shape)[1])
    ends = np.cumsum([leaf.size for _, leaf in leaves])
    draws = jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1])
    values = [_scaled(path, leaf.shape, draw) for (path, leaf), draw in zip(leaves, draws, strict=True)]
    return jax.tree.unflatten(tree, values)


def _scaled(path: tuple, size: tuple[int, ...], draw: Array) -> Array:
    """A leaf's initial value: variance 1 / fan-in, smaller where it feeds the residual stream or a softmax."""
    names = [str(entry.key) for entry in path]
    if names[-1] in ("scale", "bias"):
        return jnp.full(size, float(names[-1] == "scale"))
    if SMALL & set(names):
        return 0.02 * draw.reshape(size)
    if names == ["value", "out"]:
        return 0.1 * draw.reshape(size) / size[-1] ** 0.5
    stacked = names[0] in ("blocks", "value") or "layers" in names
    fan_in = math.prod(size[stacked:-1])
    residual = 2 * size[0] if RESIDUAL & set(names) else 1
    return draw.reshape(size) / (fan_in * residual) ** 0.5
