"""The loss of `rssm.py`: each term is values with weights, reduced in `heads.reduce_terms`; metrics have a leading `_`.

Letters as in `rssm_net.py`, and H transitions.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array
from tether.worldmodel.heads import Terms
from tether.worldmodel.learned_world import Transitions
from tether.worldmodel.rssm_net import Prediction
from tether.worldmodel.window import motion_error

MOVING_SPEED = 0.5  # m/s


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the loss.

    Attributes:
      kl_prior: weight of the KL loss that moves the prior towards the posterior (dyn of DreamerV3).
      kl_posterior: weight of the KL loss that moves the posterior towards the prior (rep of DreamerV3).
      free_nats: KL per agent and step that costs nothing [nats].
      still_weight: weight of a standing agent's motion in the RSSM's loss, where a moving one has 1: parked cars are
        many and easy.
    """

    kl_prior: float = 1.0
    kl_posterior: float = 0.1
    free_nats: float = 1.0
    still_weight: float = 0.1

    @property
    def scales(self) -> dict[str, float]:
        """Factors of those terms whose factor is not 1."""
        return {"kl_prior": self.kl_prior, "kl_posterior": self.kl_posterior}


def motion_terms(predicted: Prediction, transitions: Transitions, still_weight: float) -> Terms:
    """Laplace likelihood of every member's motion, visibility, and the mean motion's error at the step's end [m].

    Args: predicted: `Prediction` [B, H], of each step.
    """
    now, after, others = transitions.start.now, transitions.after, transitions.others
    truth = after[..., None, :]
    errors = jnp.stack(motion_error(now.heading[..., None], predicted.members, truth), -1)
    scale = predicted.scale[..., None, :, :]
    likelihood = jnp.mean(jnp.sum(jnp.abs(errors) / scale + jnp.log(scale), -1), -2)
    moving = jnp.maximum(now.speed, after[..., -1].speed) > MOVING_SPEED
    known = others[..., None] & after.valid
    displacement = jnp.hypot(predicted.mean.x - after.x, predicted.mean.y - after.y)[..., -1]
    return {
        "motion": (likelihood, known * jnp.where(moving, 1.0, still_weight)[..., None]),
        "stay": (optax.sigmoid_binary_cross_entropy(predicted.stay, after.valid[..., -1]), others),
        "_displacement_m": (displacement, known[..., -1] & moving),
    }


def kl_terms(prior: Array, posterior: Array, others: Array, free_nats: float) -> Terms:
    """KL between posterior and prior, each side held in turn (KL balancing).

    Args: prior, posterior: log-probabilities float32[B, H, A, G, C]; others: bool[B, H, A], the agents that count.
    """

    def divergence(left: Array, right: Array) -> Array:
        return jnp.sum(jnp.exp(left) * (left - right), (-2, -1))

    held = jax.lax.stop_gradient
    return {
        "kl_prior": (jnp.maximum(divergence(held(posterior), prior), free_nats), others),
        "kl_posterior": (jnp.maximum(divergence(posterior, held(prior)), free_nats), others),
        "_kl": (divergence(posterior, prior), others),
    }
