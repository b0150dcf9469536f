"""What learned Worlds share besides the others' motion: lights, outcome heads and disagreement, with their losses.

Letters: B batch, H transitions, A agents, S sub-steps, D memory, L lights, E ensemble members.
"""

import jax
import jax.numpy as jnp
import optax

from data.scene import Array, LightState
from simulator.world import Agents, State
from worldmodel.batch import ModelBatch
from worldmodel.features import Frame
from worldmodel.nets import dense_layer, mlp, mlp_layers, symexp, symlog
from worldmodel.noise import draw_index
from worldmodel.window import DRIVEN, Window, driven, ego_row

OUTCOMES = ("reward", "cont", "at_fault", "off_road", "red_light")
LIGHT_STATES = len(LightState)
HOLD_LOGIT = 4.0  # belief in what is seen staying as it is before any fitting
LIGHT_STREAM = 0x7FFFFFFF  # beyond the rank of any agent: the lights' own noise
NEAR_M = 50.0  # the others this near the ego count for the disagreement
Terms = dict[str, tuple[Array, Array]]  # values and weights of one shape, B leading


def head_layers(memory: int, window: Window, light_hidden: int, outcome_hidden: int) -> dict:
    """Layers of the light and outcome heads, for `nets.draw`; `memory` is D."""
    outcome_inputs = memory + 2 * window.ego_senses.shape[-1] + DRIVEN
    return {
        "light_change": mlp_layers((LIGHT_STATES + 1, light_hidden, LIGHT_STATES), scale=0.1),
        "outcome": mlp_layers((outcome_inputs, outcome_hidden, outcome_hidden, len(OUTCOMES)), scale=0.1),
    }


def sense_layers(window: Window, width: int) -> dict:
    """Layers that embed each kind of thing that an agent senses, for `nets.draw`."""
    kinds = ("lanes", "neighbours", "lights")
    return {kind: dense_layer(getattr(window.sensed, kind).shape[-1], width) for kind in kinds}


def light_logits(params: dict, light_state: Array, age: Array) -> Array:
    """Logits of the state one world step later. int32[..., L], float32[..., L] -> float32[..., L, states]."""
    shown = jax.nn.one_hot(light_state, LIGHT_STATES)
    inputs = jnp.concatenate([shown, symlog(age)[..., None]], -1)
    return mlp(params["light_change"], inputs) + HOLD_LOGIT * shown


def next_lights(
    params: dict, key: jax.Array, state: State, age: Array, substeps: int, span_s: float
) -> tuple[tuple[Array, Array], Array]:
    """State and validity [B, L, S] of the lights, which change amid the step, and their age after it.

    One draw serves all lights of a row: those that show the same for as long switch together.

    Args: key: key[B]; age: float32[B, L], seconds since each changed; span_s: length of the step [s].
    """
    probs = jax.nn.softmax(light_logits(params, state.light_state, age))
    uniforms = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, LIGHT_STREAM)))(key)
    drawn = draw_index(probs, uniforms[:, None])
    changed = state.light_valid & (drawn != state.light_state)
    late = jnp.arange(substeps) >= substeps // 2
    after = jnp.where(changed, drawn, state.light_state)
    shown = jnp.where(late, after[..., None], state.light_state[..., None])
    valid = jnp.broadcast_to(state.light_valid[..., None], shown.shape)
    return (shown, valid), jnp.where(changed, 0.0, age + span_s)


def outcome_logits(params: dict, memory: Array, senses: Array, next_senses: Array, driven: Array) -> dict[str, Array]:
    """The outcome heads: symlog reward and logits of the others.

    Args: memory: float32[..., D], the ego's after the step; senses, next_senses: float32[..., F]; driven: [..., 3].
    Returns: dict of float32[...] by `OUTCOMES`.
    """
    return by_name(mlp(params["outcome"], jnp.concatenate([memory, senses, next_senses, driven], -1)))


def by_name(outputs: Array) -> dict[str, Array]:
    """Outputs of the outcome heads float32[..., heads], in the order of `OUTCOMES`, as float32[...] by name."""
    return {name: outputs[..., i] for i, name in enumerate(OUTCOMES)}


def judge(
    params: dict, ego: Array, memory: Array, boxes: tuple[Agents, Agents], ego_senses: tuple[Array, Array]
) -> dict[str, Array]:
    """What the heads say of a step: the reward and probabilities, float32[B].

    Args: ego: int32[B]; memory: float32[B, A, D], after the step; boxes [B, A] and ego_senses [B, F], before and after.
    """
    motion = driven(*(ego_row(agents, ego, -1) for agents in boxes))
    return said(outcome_logits(params, ego_row(memory, ego, -2), *ego_senses, motion))


def said(heads: dict[str, Array]) -> dict[str, Array]:
    """What the outcome heads' outputs mean: the reward and probabilities."""
    return {name: symexp(x) if name == "reward" else jax.nn.sigmoid(x) for name, x in heads.items()}


def spread(members: Agents, now: Agents, ego: Array) -> Array:
    """How far apart the ensemble's members put an agent after the step [m], the mean over the others near the ego.

    Args: members: `Agents` [B, A, E, S]; now: `Agents` [B, A]; ego: int32[B]. Returns: float32[B].
    """
    apart = jnp.sqrt(jnp.var(members.x[..., -1], -1) + jnp.var(members.y[..., -1], -1))
    own = ego_row(now, ego, -1)
    near = jnp.hypot(now.x - own.x[:, None], now.y - own.y[:, None]) < NEAR_M
    counted = now.valid & near & (jnp.arange(now.x.shape[1]) != ego[:, None])
    return jnp.sum(apart * counted, -1) / jnp.maximum(counted.sum(-1), 1)


def counted_steps(batch: ModelBatch, substeps: int) -> Array:
    """Transitions that tell about the others: uniform log data, alive, wholly inside the log. bool[B, H]."""
    end = batch.start[:, None] + substeps * jnp.arange(1, batch.alive.shape[1] + 1)
    return batch.dynamics[:, None] & batch.alive & (end < batch.scene.valid.shape[-1])


def light_terms(params: dict, start: Frame, end: Frame, counted: Array) -> Terms:
    """Cross-entropy of each light's next state. Args: frames [B, H]; counted: bool[B, H]."""
    logits = light_logits(params, start.light_state, start.light_age)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, end.light_state)
    return {"light": (value, start.light_valid & end.light_valid & counted[..., None])}


def outcome_terms(params: dict, memory: Array, ego_senses: Array, frames: Frame, batch: ModelBatch) -> Terms:
    """What the outcome heads read, and their losses.

    Args: memory: float32[B, H + 1, A, D], ego_senses: float32[B, H + 1, F] and frames [B, H + 1], from the first
      state on.
    """
    ego = batch.scene.ego
    own = ego_row(frames.now, ego, -1)
    motion = driven(*(jax.tree.map(lambda a, cut=cut: a[:, cut], own) for cut in (slice(-1), slice(1, None))))
    memory = ego_row(memory[:, 1:], ego, -2)
    return outcome_errors(outcome_logits(params, memory, ego_senses[:, :-1], ego_senses[:, 1:], motion), batch)


def outcome_errors(heads: dict[str, Array], batch: ModelBatch) -> Terms:
    """Reward by squared symlog error, events by cross-entropy. heads: float32[B, H] by `OUTCOMES`."""
    targets = outcome_targets(batch)
    terms = {name: optax.sigmoid_binary_cross_entropy(heads[name], targets[name]) for name in OUTCOMES[1:]}
    terms["reward"] = jnp.square(heads["reward"] - symlog(targets["reward"])) / 2
    return {name: (value, batch.alive) for name, value in terms.items()}


def outcome_targets(batch: ModelBatch) -> dict[str, Array]:
    """What the outcome heads are to say: float32[B, H] each."""
    outcome = batch.outcome
    events = {name: getattr(outcome, name) for name in ("at_fault", "off_road", "red_light")}
    return {
        "reward": outcome.reward,
        "cont": 1.0 - outcome.termination,
        **{name: jnp.any(event & outcome.valid, -1).astype(jnp.float32) for name, event in events.items()},
    }


def reduce_terms(terms: Terms, scales: dict[str, float]) -> tuple[Array, dict[str, Array]]:
    """The weighted mean of each term, and the sum of those that are losses: those without a leading `_`.

    Args: scales: factors of some of the terms, 1 for the others. Returns: the loss and all means by name.
    """
    means = {name: jnp.sum(v * w) / jnp.maximum(jnp.sum(w), 1.0) for name, (v, w) in terms.items()}
    total = sum(scales.get(name, 1.0) * mean for name, mean in means.items() if not name.startswith("_"))
    return total, {**{name.lstrip("_"): mean for name, mean in means.items()}, "loss": total}
