"""The loss of `tokens.py`: each term is values with weights, reduced in `heads.reduce_terms`.

Letters as in `tokens_net.py`; H transitions follow the first state, so there are F = context + H + 1 frames.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array
from tether.simulator.world import Agents
from tether.worldmodel import tokens_net
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.features import Frame
from tether.worldmodel.heads import Terms, counted_steps, light_terms, reward_terms
from tether.worldmodel.motion import estimate_motion, move
from tether.worldmodel.motion_tokens import Vocabulary, nearest_token, token_controls, type_rows
from tether.worldmodel.window import Window

MOVING_SPEED = 0.5  # m/s
MOTION_TERMS = ("motion", "stay", "_log_likelihood", "_displacement_m", "_quantisation_m")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the loss.

    Attributes:
      still_weight: of a standing agent's motion against 1 for a moving one: parked cars are many and easy.
      closest_of: K of the closed-loop fine-tuning of `tokens_closest.py`, which is meant for a model that is fitted and
        costs about two more passes; 0 leaves it out.
    """

    still_weight: float = 0.1
    closest_of: int = 0


def losses(
    params: dict,
    sizes: tokens_net.Sizes,
    vocabulary: Vocabulary,
    config: LossConfig,
    batch: ModelBatch,
    window: Window,
    truth: Agents,
    dt: float,
) -> Terms:
    """All terms of the loss and, under `_` names, of the metrics.

    Args:
      window: the boxes that the model reads, context included.
      truth: `Agents` [B, H, A, S], what is to follow each of the window's frames from the first state on.
    """
    seen = window.frames.now.valid
    hidden, _ = tokens_net.run(params, sizes, window.sensed, seen, tokens_net.empty_cache(sizes, *seen.shape[::2]))
    context = window.after.x.shape[1] - batch.alive.shape[1]
    hidden, frames, senses = jax.tree.map(lambda a: a[:, context:], (hidden, window.frames, window.ego_senses))
    start, end = (jax.tree.map(lambda a, cut=cut: a[:, cut], frames) for cut in (slice(-1), slice(1, None)))
    counted = counted_steps(batch, truth.x.shape[-1])
    others = start.now.valid & counted[..., None] & (jnp.arange(seen.shape[-1]) != batch.scene.ego[:, None, None])
    stay = tokens_net.stay_logits(params, hidden[:, :-1])
    return {
        **_motion_terms(params, vocabulary, hidden[:, :-1], start, truth, batch.scene.agent_type, others, config, dt),
        "stay": (optax.sigmoid_binary_cross_entropy(stay, truth.valid[..., -1]), others),
        **light_terms(params, start, end, counted),
        **reward_terms(params, hidden, senses, frames, batch),
    }


def _motion_terms(
    params: dict,
    vocabulary: Vocabulary,
    hidden: Array,
    start: Frame,
    truth: Agents,
    agent_type: Array,
    others: Array,
    config: LossConfig,
    dt: float,
) -> Terms:
    """Cross-entropy of each member with the nearest token; of the mixture its likelihood [nats] and, at the step's end,
    how far its mode and the nearest token are from the truth [m]."""
    substeps, now = truth.x.shape[-1], start.now
    motion = estimate_motion(now, start.before, substeps * dt)
    rows = jnp.broadcast_to(type_rows(agent_type)[:, None], now.x.shape)
    target, nearest = jax.lax.stop_gradient(nearest_token(vocabulary, now, motion, rows, truth, dt))
    members = tokens_net.motion_log_probs(params, vocabulary, hidden, rows)
    said = jnp.take_along_axis(members, target[..., None, None], -1)[..., 0]
    likeliest = jnp.argmax(jnp.exp(members).sum(-2), -1)  # of the mixture; its logarithm would cost half as much again
    acceleration, turn = token_controls(vocabulary, likeliest, rows)
    mode = move(now, motion, acceleration, motion.turn_rate + turn, substeps, dt)
    fastest = jnp.maximum(motion.speed, jnp.hypot(truth.vel_x[..., -1], truth.vel_y[..., -1]))
    moving, known = fastest > MOVING_SPEED, others & truth.valid[..., -1]

    def miss(found: Agents) -> Array:
        return jnp.hypot(found.x - truth.x, found.y - truth.y)[..., -1]

    return {
        "motion": (-said.mean(-1), known * jnp.where(moving, 1.0, config.still_weight)),
        "_log_likelihood": (jax.nn.logsumexp(said, -1) - jnp.log(said.shape[-1]), known & moving),
        "_displacement_m": (miss(mode), known & moving),
        "_quantisation_m": (miss(nearest), known & moving),
    }
