"""The outcome heads of `pixels.py`: reward, cont and costs of a step, from its image and the ego's motion.

The other learned models predict reward and costs from boxes, which a data set of images alone does not have.
Letters: B batch, H transitions, P patches, L latent numbers.
"""

import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array
from tether.simulator.events import PREDICTED
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.heads import Terms
from tether.worldmodel.nets import dense, dense_layer, mlp, mlp_layers, symexp, symlog
from tether.worldmodel.window import EGO_MOTION

OUTCOMES = ("reward", "cont", *PREDICTED)


def outcome_layers(values: int, hidden: int) -> dict:
    """Layers of the heads, for `nets.draw`; values: P * L of an image."""
    return {
        "look": dense_layer(values, hidden),
        "say": mlp_layers((hidden + EGO_MOTION, hidden, len(OUTCOMES)), scale=0.1),
    }


def outcome_logits(params: dict, latent: Array, motion: Array) -> dict[str, Array]:
    """Symlog reward and logits of the others.

    Args: latent: float32[..., P, L], of the image after the step; motion: float32[..., 3], `window.ego_motion`.
    Returns: float32[...] by `OUTCOMES`.
    """
    look = jax.nn.silu(dense(params["look"], latent.reshape(*latent.shape[:-2], -1)))
    outputs = mlp(params["say"], jnp.concatenate([look, motion], -1))
    return {name: outputs[..., i] for i, name in enumerate(OUTCOMES)}


def outcomes_of(logits: dict[str, Array]) -> dict[str, Array]:
    """The reward and the probabilities, from the heads' logits."""
    return {name: symexp(x) if name == "reward" else jax.nn.sigmoid(x) for name, x in logits.items()}


def outcome_terms(logits: dict[str, Array], batch: ModelBatch) -> Terms:
    """Reward by squared symlog error, events by cross-entropy. logits: float32[B, H] by name."""
    outcome = batch.outcome
    happened = {name: outcome.happened(name) for name in PREDICTED}
    targets = {"cont": ~outcome.termination, **happened}
    terms = {name: optax.sigmoid_binary_cross_entropy(logits[name], 1.0 * event) for name, event in targets.items()}
    terms["reward"] = jnp.square(logits["reward"] - symlog(outcome.reward)) / 2
    return {name: (value, batch.alive) for name, value in terms.items()}
