"""The networks of `rssm.py` and their inputs, as functions of explicit parameters.

Letters: B batch, F frames (one per world step, history included), A agents, S sub-steps, D memory, G x C latent groups
and classes, E ensemble members, L lights.
"""

import dataclasses
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.data.settings import setting
from tether.simulator.world import Agents
from tether.worldmodel.features import Sensed
from tether.worldmodel.guidance import Guide
from tether.worldmodel.heads import HOLD_LOGIT, head_layers, sense_layers
from tether.worldmodel.motion import estimate_motion, move, standing
from tether.worldmodel.nets import cast, dense, dense_layer, gru, layer_norm, mlp, mlp_layers, pool
from tether.worldmodel.noise import draw_index
from tether.worldmodel.window import MOTION_ERRORS, Window

MAX_ACCELERATION, MAX_TURN = 8.0, 1.0  # m/s^2 and rad/s, bounds of the decoder's corrections
SCALE_FLOOR = 0.03  # m and rad, smallest Laplace scale: smaller errors are annotation noise


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the networks.

    Attributes:
      deter: D, width of each agent's memory, the deterministic part of its state.
      groups: G, categorical latents of each agent.
      classes: C, classes of each categorical latent.
      hidden: width of the RSSM's hidden layers.
      tokens: width of the embeddings of what is around an agent.
      outcome_hidden: width of the RSSM's heads for reward, costs and cont, which only the ego has.
      ensemble: E, motion heads of the RSSM, whose disagreement is its uncertainty.
      unimix: fraction of a uniform distribution in every categorical latent.
      dtype: type of the RSSM's activations and matrix products; parameters, norms, distributions, heads and losses are
        float32.
    """

    deter: int = 64
    groups: int = 4
    classes: int = 8
    hidden: int = 64
    tokens: int = 32
    outcome_hidden: int = 256
    ensemble: int = 3
    unimix: float = setting(0.01, most=1)
    dtype: Literal["float32", "bfloat16"] = "float32"


@flax.struct.dataclass
class Prediction:
    """The decoder's prediction of one world step; leading axes [...].

    Attributes:
      members: `Agents` [..., A, E, S], the motion by each ensemble member.
      mean: `Agents` [..., A, S], the motion by the members' mean acceleration and turn rate.
      scale: float32[..., A, S, 3], Laplace scales along and across the heading [m] and of the heading [rad].
      stay: float32[..., A], logit of still being seen after the step.
    """

    members: Agents
    mean: Agents
    scale: Array
    stay: Array


def layers(sizes: Sizes, window: Window) -> dict:
    """The weights, for `nets.draw`; the window gives the widths of the inputs."""
    sensed, latent = window.sensed, sizes.groups * sizes.classes
    senses = sensed.own.shape[-1] + 3 * sizes.tokens
    return {
        **sense_layers(window, sizes.tokens),
        "embed": mlp_layers((senses, sizes.hidden, sizes.hidden)),
        "memory": dense_layer(sizes.deter + latent + sizes.hidden, 3 * sizes.deter),
        "prior": mlp_layers((sizes.deter, sizes.hidden, latent)),
        "posterior": mlp_layers((sizes.deter + window.evidence.shape[-1], sizes.hidden, latent)),
        "trunk": mlp_layers((sizes.deter + latent, sizes.hidden, sizes.hidden)),
        "motion": mlp_layers((sizes.hidden, sizes.hidden // 2, 2), scale=0.1, copies=(sizes.ensemble,)),
        "spread": dense_layer(sizes.hidden, MOTION_ERRORS + 1, scale=0.1),
        **head_layers(sizes.deter, window, sizes.tokens, sizes.outcome_hidden),
    }


def embed(params: dict, sizes: Sizes, sensed: Sensed) -> Array:
    """`Sensed` [..., A] -> float[..., A, hidden]."""
    sensed = cast(sensed, sizes.dtype)
    pooled = [
        pool(params["lanes"], sensed.lanes, sensed.lanes_mask),
        pool(params["neighbours"], sensed.neighbours, sensed.neighbours_mask),
        pool(params["lights"], sensed.lights, sensed.lights_mask),
    ]
    return layer_norm(mlp(params["embed"], jnp.concatenate([sensed.own, *pooled], -1)))


def remember(params: dict, memory: Array, stoch: Array, embedded: Array, seen: Array) -> Array:
    """The next memory; an agent's memory starts when it is first seen. All [..., A, ...]; seen: bool[..., A]."""
    return jnp.where(seen[..., None], gru(params["memory"], memory, jnp.concatenate([stoch, embedded], -1)), 0.0)


def log_probabilities(net: list, inputs: Array, sizes: Sizes) -> Array:
    """Latent distributions mixed with a uniform one. Returns: float32[..., G, C]."""
    logits = mlp(net, inputs).astype(jnp.float32).reshape(*inputs.shape[:-1], sizes.groups, sizes.classes)
    return jnp.log((1 - sizes.unimix) * jax.nn.softmax(logits) + sizes.unimix / sizes.classes)


def sample(log_probs: Array, uniforms: Array) -> Array:
    """One-hot samples by inverse distribution function, with straight-through gradients.

    Args: log_probs: float32[..., G, C]; uniforms: float32[..., G]. Returns: float32[..., G * C].
    """
    probs = jnp.exp(log_probs)
    chosen = jax.nn.one_hot(draw_index(probs, uniforms), probs.shape[-1])
    through = jax.lax.stop_gradient(chosen - probs) + probs
    return through.reshape(*through.shape[:-2], -1)


def filter_frames(
    params: dict, sizes: Sizes, embedded: Array, seen: Array, evidence: Array, uniforms: Array
) -> tuple[Array, Array, Array]:
    """Runs the memory over frames that were observed, drawing each step's intention from the posterior.

    Args:
      embedded: float32[B, F, A, hidden]; seen: bool[B, F, A].
      evidence: float32[B, F - 1, A, 3 S + 1]; uniforms: float32[B, A, F - 1, G].
    Returns: memory float32[B, F, A, D]; stoch float32[B, F - 1, A, G * C] and posterior log-probabilities
      float32[B, F - 1, A, G, C] of the step that follows each frame but the last.
    """
    memory, nothing = (
        jnp.zeros((*seen[:, 0].shape, width), embedded.dtype) for width in (sizes.deter, sizes.groups * sizes.classes)
    )
    memory = remember(params, memory, nothing, embedded[:, 0], seen[:, 0])

    def advance(memory: Array, inputs: tuple) -> tuple[Array, tuple]:
        embedded, seen, evidence, uniforms = inputs
        log_probs = log_probabilities(params["posterior"], jnp.concatenate([memory, evidence], -1), sizes)
        stoch = sample(log_probs, uniforms)
        following = remember(params, memory, stoch, embedded, seen)
        return following, (following, stoch, log_probs)

    inputs = (embedded[:, 1:], seen[:, 1:], cast(evidence, sizes.dtype), jnp.moveaxis(uniforms, 2, 1))
    time_major = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), inputs)
    # To recompute the inside of a step costs less time and memory than to keep it.
    _, outputs = jax.lax.scan(jax.checkpoint(advance, prevent_cse=False), memory, time_major)
    following, stoch, log_probs = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), outputs)
    return jnp.concatenate([memory[:, None], following], 1), stoch, log_probs


def decode(
    params: dict,
    memory: Array,
    stoch: Array,
    now: Agents,
    before: Agents,
    guide: Guide,
    substeps: int,
    dt: float,
) -> Prediction:
    """The motion of the coming world step.

    Args: memory: float32[..., A, D]; stoch: float32[..., A, G * C]; now, before: `Agents` [..., A];
      guide: `Guide` [..., A]: its turn rate and acceleration are corrected, its bound is kept.
    """
    motion = estimate_motion(now, before, substeps * dt)
    trunk = jax.nn.silu(layer_norm(mlp(params["trunk"], jnp.concatenate([memory, stoch.astype(memory.dtype)], -1))))
    raw = jax.vmap(mlp, (0, None), -2)(params["motion"], trunk).astype(jnp.float32)
    acceleration = guide.acceleration[..., None] + MAX_ACCELERATION * jnp.tanh(raw[..., 0] / 4)
    turn_rate = guide.turn_rate[..., None] + MAX_TURN * jnp.tanh(raw[..., 1] / 4)
    acceleration = jnp.minimum(acceleration, guide.bound[..., None])
    spread = dense(params["spread"], trunk).astype(jnp.float32)
    grown = jax.nn.softplus(spread[..., None, :-1] - 2) * (jnp.arange(1, substeps + 1) / substeps)[:, None]
    return Prediction(
        members=move(now[..., None], motion[..., None], acceleration, turn_rate, substeps, dt),
        mean=move(now, motion, standing(motion.speed, acceleration.mean(-1)), turn_rate.mean(-1), substeps, dt),
        scale=grown + SCALE_FLOOR,
        stay=spread[..., -1] + HOLD_LOGIT,
    )
