"""The loss of `tokens.py`: each term is values with weights, reduced in `heads.reduce_terms`.

Metrics have a leading `_`. Letters as in `tokens_net.py`, and H transitions.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array
from tether.simulator.world import Agents
from tether.worldmodel import tokens_net
from tether.worldmodel.heads import Terms
from tether.worldmodel.learned_world import Transitions
from tether.worldmodel.motion import estimate_motion, move
from tether.worldmodel.motion_tokens import Vocabulary, nearest_token, token_controls, type_rows

MOVING_SPEED = 0.5  # m/s


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the loss.

    Attributes:
      still_weight: weight of a standing agent's motion in the transformer's loss, where a moving one has 1: parked cars
        are many and easy.
    """

    still_weight: float = 0.1


def motion_terms(
    params: dict, vocabulary: Vocabulary, config: LossConfig, hidden: Array, transitions: Transitions, dt: float
) -> Terms:
    """Cross-entropy of each member with the nearest token, and visibility; as metrics the mixture's likelihood [nats]
    and, at the step's end, how far its mode and the nearest token are from the truth [m].

    Args: hidden: float[B, H, A, D], before each step.
    """
    now, truth, others, guide = transitions.start.now, transitions.after, transitions.others, transitions.guide
    substeps = truth.x.shape[-1]
    motion = estimate_motion(now, transitions.start.before, substeps * dt)
    rows = jnp.broadcast_to(type_rows(transitions.agent_type)[:, None], now.x.shape)
    target, nearest = jax.lax.stop_gradient(nearest_token(vocabulary, now, motion, guide, rows, truth, dt))
    members = tokens_net.motion_log_probs(params, vocabulary, hidden, rows)
    log_probs = jnp.take_along_axis(members, target[..., None, None], -1)[..., 0]
    likeliest = jnp.argmax(jnp.exp(members).sum(-2), -1)  # the mixture's mode; logarithms would take 1.5 times as long
    acceleration, turn = token_controls(vocabulary, likeliest, rows)
    mode = move(now, motion, guide.acceleration + acceleration, guide.turn_rate + turn, substeps, dt)
    moving = jnp.maximum(motion.speed, truth[..., -1].speed) > MOVING_SPEED
    known = others & truth.valid[..., -1]

    def displacement(boxes: Agents) -> Array:
        return jnp.hypot(boxes.x - truth.x, boxes.y - truth.y)[..., -1]

    stay = tokens_net.stay_logits(params, hidden)
    return {
        "motion": (-log_probs.mean(-1), known * jnp.where(moving, 1.0, config.still_weight)),
        "_log_likelihood": (jax.nn.logsumexp(log_probs, -1) - jnp.log(log_probs.shape[-1]), known & moving),
        "_displacement_m": (displacement(mode), known & moving),
        "_quantisation_m": (displacement(nearest), known & moving),
        "stay": (optax.sigmoid_binary_cross_entropy(stay, truth.valid[..., -1]), others),
    }
