"""The loss of `rssm.py`: each term is values with weights, reduced in `heads.reduce_terms`.

Letters as in `rssm_net.py`; H transitions follow the first state, so there are F = context + H + 1 frames.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array
from tether.simulator.world import Agents
from tether.worldmodel import rssm_net
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.heads import Terms, counted_steps, light_terms, reward_terms
from tether.worldmodel.window import Window, motion_error

MOVING_SPEED = 0.5  # m/s


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the loss.

    Attributes:
      kl_prior, kl_posterior: of the KL for either side (DreamerV3's dyn and rep).
      free_nats: KL per agent and step that costs nothing.
      still_weight: of a standing agent's motion against 1 for a moving one: parked cars are many and easy.
    """

    kl_prior: float = 1.0
    kl_posterior: float = 0.1
    free_nats: float = 1.0
    still_weight: float = 0.1

    @property
    def scales(self) -> dict[str, float]:
        """Factors of the terms that do not count once."""
        return {"kl_prior": self.kl_prior, "kl_posterior": self.kl_posterior}


def losses(
    params: dict,
    sizes: rssm_net.Sizes,
    config: LossConfig,
    batch: ModelBatch,
    window: Window,
    uniforms: Array,
    dt: float,
    view: Array | None = None,
) -> Terms:
    """All terms of the loss and, under `_` names, of the metrics.

    Args:
      window: the batch's boxes, context included.
      uniforms: float32[B, A, F - 1, G], the noise of the posterior's draws.
      view: float32[B, F, V], what the ego sees, if the model has an image.
    """
    seen = window.frames.now.valid
    embedded = rssm_net.embed(params, sizes, window.sensed, view, batch.scene.ego[:, None])
    memory, stoch, posterior = rssm_net.filter_frames(params, sizes, embedded, seen, window.evidence, uniforms)
    context = window.after.x.shape[1] - batch.alive.shape[1]
    window, memory, stoch, posterior = jax.tree.map(lambda a: a[:, context:], (window, memory, stoch, posterior))
    start, end = (jax.tree.map(lambda a, cut=cut: a[:, cut], window.frames) for cut in (slice(-1), slice(1, None)))
    counted = counted_steps(batch, window.after.x.shape[-1])
    others = start.now.valid & counted[..., None] & (jnp.arange(seen.shape[-1]) != batch.scene.ego[:, None, None])
    prior = rssm_net.log_probabilities(params["prior"], memory[:, :-1], sizes)
    predicted = rssm_net.decode(params, memory[:, :-1], stoch, start.now, start.before, window.after.x.shape[-1], dt)
    return {
        **_motion_terms(predicted, start.now, window.after, others, config.still_weight),
        **_kl_terms(prior, posterior, others, config.free_nats),
        **light_terms(params, start, end, counted),
        **reward_terms(params, memory, window.ego_senses, window.frames, batch),
    }


def _motion_terms(
    predicted: rssm_net.Prediction, now: Agents, after: Agents, others: Array, still_weight: float
) -> Terms:
    """Laplace likelihood of every member's motion, visibility, and the mean motion's error at the step's end [m]."""
    truth = jax.tree.map(lambda a: a[..., None, :], after)
    errors = jnp.stack(motion_error(now.heading[..., None], predicted.members, truth), -1)
    scale = predicted.scale[..., None, :, :]
    likelihood = jnp.mean(jnp.sum(jnp.abs(errors) / scale + jnp.log(scale), -1), -2)
    fastest = jnp.maximum(jnp.hypot(now.vel_x, now.vel_y), jnp.hypot(after.vel_x[..., -1], after.vel_y[..., -1]))
    moving = fastest > MOVING_SPEED
    known = others[..., None] & after.valid
    displacement = jnp.hypot(predicted.mean.x - after.x, predicted.mean.y - after.y)[..., -1]
    return {
        "motion": (likelihood, known * jnp.where(moving, 1.0, still_weight)[..., None]),
        "stay": (optax.sigmoid_binary_cross_entropy(predicted.stay, after.valid[..., -1]), others),
        "_displacement_m": (displacement, known[..., -1] & moving),
    }


def _kl_terms(prior: Array, posterior: Array, others: Array, free_nats: float) -> Terms:
    """KL between posterior and prior, each side held in turn (KL balancing)."""

    def divergence(left: Array, right: Array) -> Array:
        return jnp.sum(jnp.exp(left) * (left - right), (-2, -1))

    held = jax.lax.stop_gradient
    return {
        "kl_prior": (jnp.maximum(divergence(held(posterior), prior), free_nats), others),
        "kl_posterior": (jnp.maximum(divergence(posterior, held(prior)), free_nats), others),
        "_kl": (divergence(posterior, prior), others),
    }
