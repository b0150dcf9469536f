"""The networks of `tokens.py` as functions of explicit parameters.

Every agent has one token per world step. In each layer it attends to its own past, then to the things around it at that
moment, in its own frame: lanes, lights, and neighbours with their places and hidden states. So attention is causal in
blocks of one world step. A cache keeps keys and values of the past: fitting, which reads a whole window, and
imagination, which reads one step at a time, run the same function.
Letters: B batch, F new steps, C cached and new steps, W steps that an agent attends to, A agents, N things around it,
D width, E ensemble members, V vocabulary.
"""

import dataclasses
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.worldmodel.features import Sensed
from tether.worldmodel.heads import HOLD_LOGIT, head_layers, sense_layers
from tether.worldmodel.motion_tokens import Vocabulary, prior_logits
from tether.worldmodel.nets import Initial, cast, dense, dense_layer, layer_norm, mlp, mlp_layers
from tether.worldmodel.noise import draw_index
from tether.worldmodel.window import Window

NEVER = -1e30  # logit of what is masked: finite, so that rows without anything stay finite


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the networks.

    Attributes:
      width: D, width of the agents' tokens.
      layers: layers of the agent-token transformer.
      heads: attention heads of the agent-token transformer; they divide `width` and `things`.
      things: width of the embeddings of what is around an agent, and of the attention to them.
      window: W, world steps that an agent attends to, the present one included.
      outcome_hidden: width of the transformer's heads for reward, costs and cont, which only the ego has.
      ensemble: E, heads of motion logits on one trunk, whose disagreement is the model's uncertainty.
      dtype: type of the transformer's activations and matrix products; parameters, norms, softmaxes, logits and losses
        are float32.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    things: int = 32
    window: int = 8
    outcome_hidden: int = 256
    ensemble: int = 3
    dtype: Literal["float32", "bfloat16"] = "float32"


@flax.struct.dataclass
class Cache:
    """The layers' keys and values of the last W - 1 steps, the newest last.

    Attributes:
      keys, values: float[B, layers, W - 1, A, D], in the networks' type.
      seen: bool[B, W - 1, A].
    """

    keys: Array
    values: Array
    seen: Array


def layers(sizes: Sizes, vocabulary: Vocabulary, window: Window) -> dict:
    """The weights, for `nets.draw`; the window gives the widths of the inputs."""
    motion = (sizes.width, sizes.width // 2, vocabulary.size)
    return {
        **sense_layers(window, sizes.things),
        "embed": mlp_layers((window.sensed.own.shape[-1], sizes.width, sizes.width)),
        **{_layer(i): _layer_weights(sizes) for i in range(sizes.layers)},
        "motion": mlp_layers(motion, scale=0.1, copies=(sizes.ensemble,)),
        "stay": dense_layer(sizes.width, 1, scale=0.1),
        **head_layers(sizes.width, window, sizes.things, sizes.outcome_hidden),
    }


def _layer(index: int) -> str:
    return f"layer_{index}"


def _layer_weights(sizes: Sizes) -> dict:
    width = sizes.width
    return {
        **past_layers(width, sizes.window, sizes.heads),
        "around_query": dense_layer(width, sizes.things),
        "around": dense_layer(sizes.things, 2 * sizes.things),
        "around_agents": dense_layer(width, 2 * sizes.things),
        "around_out": dense_layer(sizes.things, width, scale=0.5),
        "mlp": mlp_layers((width, 2 * width, width), scale=0.5),
    }


def past_layers(width: int, window: int, heads: int) -> dict:
    """Layers of `attend_past`, for `nets.draw`."""
    return {
        "past": dense_layer(width, 3 * width),
        "past_age": Initial((window, heads), 0.0),
        "past_out": dense_layer(width, width, scale=0.5),
    }


def empty_cache(sizes: Sizes, rows: int, agents: int) -> Cache:
    """A cache in which no agent has been seen."""
    past = jnp.zeros((rows, sizes.layers, sizes.window - 1, agents, sizes.width), sizes.dtype)
    return Cache(past, past, jnp.zeros((rows, sizes.window - 1, agents), bool))


def run(params: dict, sizes: Sizes, sensed: Sensed, seen: Array, cache: Cache) -> tuple[Array, Cache]:
    """Reads F steps after those in the cache.

    Args: sensed: `Sensed` [B, F, A, ...]; seen: bool[B, F, A].
    Returns: float[B, F, A, D], 0 where not seen, and the cache after the last step.
    """
    sensed = cast(sensed, sizes.dtype)
    things, mask = embed_things(params, sensed)
    x, kept = mlp(params["embed"], sensed.own), []
    all_seen = jnp.concatenate([cache.seen, seen], 1)
    for i in range(sizes.layers):
        net, past = params[_layer(i)], (cache.keys[:, i], cache.values[:, i])
        attended, past = attend_past(net, sizes, layer_norm(x), past, all_seen)
        x = x + attended
        x = x + attend_around(net, sizes, layer_norm(x), things, mask, sensed.neighbours_index)
        x = x + mlp(net["mlp"], layer_norm(x))
        kept.append(tuple(field[:, x.shape[1] :] for field in past))
    keys, values = (jnp.stack(fields, 1) for fields in zip(*kept, strict=True))
    return jnp.where(seen[..., None], layer_norm(x), 0.0), Cache(keys, values, all_seen[:, x.shape[1] :])


def embed_things(params: dict, sensed: Sensed) -> tuple[Array, Array]:
    """Lanes, lights and neighbours, these last. Returns: float32[..., A, N, things] and mask bool[..., A, N]."""
    kinds = ("lanes", "lights", "neighbours")
    embedded = [jax.nn.silu(dense(params[kind], getattr(sensed, kind))) for kind in kinds]
    return jnp.concatenate(embedded, -2), jnp.concatenate([getattr(sensed, f"{kind}_mask") for kind in kinds], -1)


def attend_past(
    net: dict, sizes: Sizes, x: Array, past: tuple[Array, Array], seen: Array
) -> tuple[Array, tuple[Array, Array]]:
    """Attention of each agent to its last W steps, by their content and their age.

    Args: x: float32[B, F, A, D]; past: keys and values [B, C - F, A, D]; seen: bool[B, C, A].
    Returns: float32[B, F, A, D], and keys and values [B, C, A, D].
    """
    query, *new = jnp.split(dense(net["past"], x), 3, -1)
    key, value = (jnp.concatenate(pair, 1) for pair in zip(past, new, strict=True))
    age = jnp.arange(x.shape[1])[:, None] + key.shape[1] - x.shape[1] - jnp.arange(key.shape[1])
    near = (age >= 0) & (age < sizes.window)
    query, key_heads, value_heads = (a.reshape(*a.shape[:-1], sizes.heads, -1) for a in (query, key, value))
    scores = jnp.einsum("bfahd,bcahd->bahfc", query, key_heads, preferred_element_type=jnp.float32)
    scores *= query.shape[-1] ** -0.5
    scores += jnp.moveaxis(net["past_age"][jnp.clip(age, 0, sizes.window - 1)], -1, 0)
    visible = near & jnp.swapaxes(seen, 1, 2)[:, :, None, None]
    weights = jax.nn.softmax(jnp.where(visible, scores, NEVER)).astype(x.dtype)
    attended = jnp.einsum("bahfc,bcahd->bfahd", weights, value_heads)
    return dense(net["past_out"], attended.reshape(x.shape)), (key, value)


def attend_around(net: dict, sizes: Sizes, x: Array, things: Array, mask: Array, neighbours: Array) -> Array:
    """Attention of each agent to the things around it. The last ones are neighbours, with their own hidden states.

    Args: x: float32[B, F, A, D]; things: float32[B, F, A, N, things], mask: bool[B, F, A, N];
      neighbours: int32[B, F, A, n], rows.
    Returns: float32[B, F, A, D], 0 where there is nothing.
    """
    theirs = jax.vmap(jax.vmap(lambda held, rows: held[rows]))(dense(net["around_agents"], x), neighbours)
    places, near = jnp.split(dense(net["around"], things), [things.shape[-2] - neighbours.shape[-1]], -2)
    both = jnp.concatenate([places, near + theirs], -2)
    key, value = (half.reshape(*mask.shape, sizes.heads, -1) for half in jnp.split(both, 2, -1))
    query = dense(net["around_query"], x).reshape(*x.shape[:-1], 1, sizes.heads, -1)
    scores = jnp.sum(query * key, -1, dtype=jnp.float32) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(mask[..., None], scores, NEVER), -2) * mask[..., None]
    attended = jnp.sum(weights[..., None].astype(x.dtype) * value, -3)
    return dense(net["around_out"], attended.reshape(*x.shape[:-1], -1))


def motion_log_probs(params: dict, vocabulary: Vocabulary, hidden: Array, rows: Array) -> Array:
    """Each member's log-probabilities of the motion. float32[..., A, D], int32[..., A] -> float32[..., A, E, V]."""
    logits = jax.vmap(mlp, (0, None), -2)(params["motion"], hidden).astype(jnp.float32)
    return jax.nn.log_softmax(logits + prior_logits(vocabulary, rows)[..., None, :])


def mixture(members: Array) -> Array:
    """The mean of the members' probabilities, in logarithms. float32[..., E, V] -> float32[..., V]."""
    return jax.nn.logsumexp(members, -2) - jnp.log(members.shape[-2])


def stay_logits(params: dict, hidden: Array) -> Array:
    """Logit of still being seen after the step. float32[..., A, D] -> float32[..., A]."""
    return dense(params["stay"], hidden)[..., 0].astype(jnp.float32) + HOLD_LOGIT


def draw_tokens(vocabulary: Vocabulary, log_probs: Array, uniforms: Array, temperature: float, min_p: float) -> Array:
    """Draws motions: first the acceleration, then the turn given it. At temperature 0, the likeliest token.

    Args: log_probs: float32[..., V]; uniforms: float32[..., 2]; temperature, min_p: see `TokensConfig`.
    Returns: int32[...].
    """
    if temperature == 0:
        return jnp.argmax(log_probs, -1)
    probs = jax.nn.softmax(log_probs / temperature)
    probs = jnp.where(probs >= min_p * probs.max(-1, keepdims=True), probs, 0.0)
    probs = probs.reshape(*probs.shape[:-1], -1, vocabulary.turns)
    acceleration = draw_index(probs.sum(-1), uniforms[..., 0])
    given = jnp.take_along_axis(probs, acceleration[..., None, None], -2)[..., 0, :]
    return acceleration * vocabulary.turns + draw_index(given, uniforms[..., 1])
