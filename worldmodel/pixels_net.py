"""The networks of `pixels.py` as functions of explicit parameters.

A frame is P patch tokens. Each layer lets a patch attend to its own past, with the key-value cache of `tokens_net.py`,
then to the patches of its own frame, so attention is causal in blocks of one frame. A token's inputs are the patch's
noisy latent, and the prediction of the patch by the ego's exact motion alone (`Given`).
Letters: B batch, F new frames, P patches, L latent numbers, D width.
"""

import dataclasses
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.worldmodel.image_latent import PatchSizes, patch_count, tokenizer_layers
from tether.worldmodel.nets import Initial, dense, dense_layer, draw, layer_norm, mlp, mlp_layers
from tether.worldmodel.pixels_heads import outcome_layers
from tether.worldmodel.shortcut import Levels
from tether.worldmodel.tokens_net import Cache, attend_past, past_layers
from tether.worldmodel.window import EGO_MOTION

WAVES = 4  # frequencies that encode a signal level
LEVEL_FEATURES = 2 * WAVES + 1


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the networks.

    Attributes:
      width: D, of the patches' tokens.
      layers, heads: of the transformer; heads divide the width.
      window: frames that a patch attends to, the present one included.
      outcome_hidden: width of the outcome heads.
      dtype: of the transformer's activations and matrix products; all else is float32.
    """

    width: int = 128
    layers: int = 3
    heads: int = 4
    window: int = 4
    outcome_hidden: int = 128
    dtype: Literal["float32", "bfloat16"] = "float32"


@flax.struct.dataclass
class Given:
    """The prediction of frames from the frame before and the ego's motion, before they are drawn.

    Attributes:
      background: float32[B, F, H, W, C] in [0, 1], the frame before as the ego's motion moves it; 0 where not in view.
      expected: float32[B, F, P, L], the background's content: its latent against black.
      seen: float32[B, F, P], fraction of each patch that was in view then.
      motion: float32[B, F, 3], the ego's motion that led here, `window.ego_motion`.
    """

    background: Array
    expected: Array
    seen: Array
    motion: Array


def init_net(key: jax.Array, shape: tuple[int, int, int], tokenizer: PatchSizes, sizes: Sizes) -> dict:
    """Fresh parameters for images [H, W, C] of this shape."""
    patches, width = patch_count(shape, tokenizer), sizes.width
    layers = {
        "tokenizer": tokenizer_layers(shape, tokenizer),
        "embed": dense_layer(2 * tokenizer.latent + 1, width),
        "motion": dense_layer(EGO_MOTION, width),
        "level": mlp_layers((LEVEL_FEATURES, width, width)),
        "place": Initial((patches, width), 0.5),
        **{f"layer_{i}": _layer_weights(sizes) for i in range(sizes.layers)},
        "clean": dense_layer(width, tokenizer.latent, scale=0.1),
        "outcome": outcome_layers(patches * tokenizer.latent, sizes.outcome_hidden),
    }
    return draw(key, layers)


def _layer_weights(sizes: Sizes) -> dict:
    width = sizes.width
    return {
        **past_layers(width, sizes.window, sizes.heads),
        "frame": dense_layer(width, 3 * width),
        "frame_out": dense_layer(width, width, scale=0.5),
        "mlp": mlp_layers((width, 4 * width, width), scale=0.5),
    }


def run(params: dict, sizes: Sizes, noisy: Array, levels: Levels, given: Given, cache: Cache) -> tuple[Array, Cache]:
    """Reads F frames after those in the cache.

    Args: noisy: float32[B, F, P, L]; levels: [B, F].
    Returns: the predicted clean frames float32[B, F, P, L], and the cache after the last frame.
    """
    inputs = jnp.concatenate([noisy, given.expected, given.seen[..., None]], -1)
    frame = dense(params["motion"], given.motion) + mlp(params["level"], level_features(levels))
    x, kept = (dense(params["embed"], inputs) + params["place"] + frame[:, :, None]).astype(sizes.dtype), []
    read = jnp.concatenate([cache.seen, jnp.ones(x.shape[:-1], bool)], 1)
    for i in range(sizes.layers):
        net, past = params[f"layer_{i}"], (cache.keys[:, i], cache.values[:, i])
        attended, past = attend_past(net, sizes, layer_norm(x), past, read)
        x = x + attended
        x = x + attend_frame(net, sizes.heads, layer_norm(x))
        x = x + mlp(net["mlp"], layer_norm(x))
        kept.append(tuple(field[:, x.shape[1] :] for field in past))
    keys, values = (jnp.stack(fields, 1) for fields in zip(*kept, strict=True))
    return dense(params["clean"], layer_norm(x).astype(jnp.float32)), Cache(keys, values, read[:, x.shape[1] :])


def level_features(levels: Levels) -> Array:
    """Encodes signal level and step length for the network. float32[B, F] each -> float32[B, F, features]."""
    phase = levels.tau[..., None] * jnp.pi * 2.0 ** jnp.arange(WAVES)
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase), jnp.log2(levels.step)[..., None] / 2], -1)


def attend_frame(net: dict, heads: int, x: Array) -> Array:
    """Every patch attends to all patches of its frame. float32[B, F, P, D] -> the same."""
    query, key, value = (a.reshape(*a.shape[:-1], heads, -1) for a in jnp.split(dense(net["frame"], x), 3, -1))
    scores = jnp.einsum("bfphd,bfqhd->bfhpq", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5).astype(x.dtype)
    attended = jnp.einsum("bfhpq,bfqhd->bfphd", weights, value)
    return dense(net["frame_out"], attended.reshape(x.shape))
