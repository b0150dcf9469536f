"""The image tokenizer: an autoencoder of patches with a bounded continuous latent for each.

An image [H, W, C] is a BEV or a camera's frame; several cameras stand side by side along W. It is cut into P patches,
in reading order. Small networks, the same for all patches, encode each patch as L numbers in (-1, 1) and decode it.
Both networks get a background: what is known of the image without the latent, which is the frame before, or black. The
latent encodes the difference from it, as in a video codec; a latent of 0 means no difference. So what stands still
costs nothing and does not fade when frames are drawn one after the other. In Dreamer 4 (arXiv 2509.24527) a transformer
that attends to past frames achieves the same. The model uses these functions alone, so such a tokenizer can replace
them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array
from tether.worldmodel.nets import dense, dense_layer, mlp, mlp_layers

BLACK = -5.0  # logit of a brightness of 0.7 %


@dataclasses.dataclass(frozen=True)
class PatchSizes:
    """Sizes of the tokenizer.

    Attributes:
      patch: side of a patch in pixels; it divides the image's height and width.
      latent: L, numbers per patch.
      hidden: width of the networks.
    """

    patch: int = 8
    latent: int = 32
    hidden: int = 256


def patch_count(shape: tuple[int, int, int], sizes: PatchSizes) -> int:
    """P of an image of this shape [H, W, C]. Raises: ValueError where patches do not fill it."""
    height, width, _ = shape
    if height % sizes.patch or width % sizes.patch:
        raise ValueError(f"expected an image of whole patches of {sizes.patch} pixels, found {height} x {width}")
    return height * width // sizes.patch**2


def tokenizer_layers(shape: tuple[int, int, int], sizes: PatchSizes) -> dict:
    """Layers for `nets.draw` and images [H, W, C] of this shape."""
    values = sizes.patch**2 * shape[-1]
    return {
        "encode": mlp_layers((2 * values, sizes.hidden, sizes.latent)),
        "encode_linear": dense_layer(values, sizes.latent),
        "decode": mlp_layers((sizes.latent + values + 1, sizes.hidden, values), scale=0.1),
        "decode_linear": dense_layer(sizes.latent, values, scale=0.1),
    }


def to_patches(image: Array, patch: int) -> Array:
    """[..., H, W, C] -> [..., P, patch * patch * C]."""
    *lead, height, width, channels = image.shape
    cut = image.reshape(*lead, height // patch, patch, width // patch, patch, channels)
    return jnp.swapaxes(cut, -4, -3).reshape(*lead, -1, patch * patch * channels)


def from_patches(patches: Array, shape: tuple[int, int, int], patch: int) -> Array:
    """The inverse of `to_patches`; shape: of the image, [H, W, C]."""
    height, width, channels = shape
    cut = patches.reshape(*patches.shape[:-2], height // patch, width // patch, patch, patch, channels)
    return jnp.swapaxes(cut, -4, -3).reshape(*patches.shape[:-2], *shape)


def brightness(image: Array) -> Array:
    """uint8 to float32 in [0, 1]."""
    return image.astype(jnp.float32) / 255


def encode(params: dict, image: Array, background: Array, sizes: PatchSizes) -> Array:
    """Encodes the difference of an image from its background.

    Args: image, background: float32[..., H, W, C] in [0, 1].
    Returns: float32[..., P, L] in (-1, 1), 0 where the two are alike.
    """
    own, known = (to_patches(a, sizes.patch) for a in (image, background))

    def code(patches: Array) -> Array:
        return mlp(params["encode"], jnp.concatenate([patches, known], -1)) + dense(params["encode_linear"], patches)

    return jnp.tanh(code(own) - code(known))


def decode_logits(params: dict, latent: Array, background: Array, known: Array, sizes: PatchSizes) -> Array:
    """Logits of the brightness float32[..., H, W, C]; where the latent is 0, those of the background.

    Args:
      latent: float32[..., P, L].
      background: float32[..., H, W, C] in [0, 1].
      known: float32[..., P], fraction of each patch whose background is known.
    """
    odds = log_odds(background)
    patches = to_patches(odds, sizes.patch) / BLACK

    def change(latent: Array) -> Array:
        inputs = jnp.concatenate([latent, patches, known[..., None]], -1)
        return mlp(params["decode"], inputs) + dense(params["decode_linear"], latent)

    return odds + from_patches(change(latent) - change(jnp.zeros_like(latent)), background.shape[-3:], sizes.patch)


def log_odds(image: Array) -> Array:
    """Logits of a brightness in [0, 1], bounded."""
    return jnp.clip(jax.scipy.special.logit(image), BLACK, -BLACK)


def image_loss(logits: Array, image: Array) -> Array:
    """Divergence of the decoded from the true brightness as if both were probabilities [nats per channel and pixel].

    For a BEV they are: its channels are the fraction of a pixel that something covers. For camera images it is a proper
    loss too, with its minimum where the decoded brightness is the mean. The entropy of the image has no gradient, but
    makes the minimum 0.

    Args: float32[..., H, W, C]. Returns: float32[...].
    """
    entropy = jax.scipy.special.entr(image) + jax.scipy.special.entr(1 - image)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, image) - entropy, (-3, -2, -1))
