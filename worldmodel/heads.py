"""Heads that all learned Worlds share: lights, reward and disagreement, with their losses.

The heads of costs and cont are in `costs.py`.

Letters: B batch, H transitions, A agents, S sub-steps, D memory, L lights, E ensemble members.
"""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array, LightState
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Agents, State
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.costs import cost_layers, cost_probabilities
from tether.worldmodel.features import Frame
from tether.worldmodel.nets import dense_layer, mlp, mlp_layers, symexp, symlog
from tether.worldmodel.noise import draw_index
from tether.worldmodel.window import EGO_MOTION, Window, ego_motion, ego_row

LIGHT_STATES = len(LightState)
HOLD_LOGIT = 4.0  # logit of a light that keeps its state, before any fitting
LIGHT_STREAM = 0x7FFFFFFF  # index of the lights' noise, beyond the rank of any agent
Terms = dict[str, tuple[Array, Array]]  # values and weights of one shape, B leading
NEAR_M = 50.0  # the others this near the ego count for the disagreement


def head_layers(memory: int, window: Window, light_hidden: int, outcome_hidden: int) -> dict:
    """Layers of the light, reward and cost heads, for `nets.draw`; `memory` is D."""
    reward_inputs = memory + 2 * window.ego_senses.shape[-1] + EGO_MOTION
    return {
        "light_change": mlp_layers((LIGHT_STATES + 1, light_hidden, LIGHT_STATES), scale=0.1),
        "reward": mlp_layers((reward_inputs, outcome_hidden, outcome_hidden, 1), scale=0.1),
        **cost_layers(),
    }


def sense_layers(window: Window, width: int) -> dict:
    """Layers that embed each kind of thing that an agent senses, for `nets.draw`."""
    kinds = ("lanes", "neighbours", "lights")
    return {kind: dense_layer(getattr(window.sensed, kind).shape[-1], width) for kind in kinds}


def light_logits(params: dict, light_state: Array, age: Array) -> Array:
    """Logits of the state one world step later. int32[..., L], float32[..., L] -> float32[..., L, states]."""
    present = jax.nn.one_hot(light_state, LIGHT_STATES)
    inputs = jnp.concatenate([present, symlog(age)[..., None]], -1)
    return mlp(params["light_change"], inputs) + HOLD_LOGIT * present


def next_lights(
    params: dict, key: jax.Array, state: State, age: Array, simulator: SimulatorConfig
) -> tuple[tuple[Array, Array], Array]:
    """State and validity [B, L, S] of the lights, which change amid the step, and their age after it.

    One draw serves all lights of a row: lights that have shown the same state for equally long switch together.

    Args: key: key[B]; age: float32[B, L], seconds since each changed.
    """
    probs = jax.nn.softmax(light_logits(params, state.light_state, age))
    uniforms = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, LIGHT_STREAM)))(key)
    drawn = draw_index(probs, uniforms[:, None])
    changed = state.light_valid & (drawn != state.light_state)
    late = jnp.arange(simulator.substeps) >= simulator.substeps // 2
    after = jnp.where(changed, drawn, state.light_state)
    light_state = jnp.where(late, after[..., None], state.light_state[..., None])
    valid = jnp.broadcast_to(state.light_valid[..., None], light_state.shape)
    return (light_state, valid), jnp.where(changed, 0.0, age + simulator.step_s)


def symlog_reward(params: dict, memory: Array, senses: Array, next_senses: Array, motion: Array) -> Array:
    """The reward head, float32[...].

    Args: memory: float32[..., D], the ego's after the step; senses, next_senses: float32[..., F];
      motion: float32[..., 3], see `window.ego_motion`.
    """
    return mlp(params["reward"], jnp.concatenate([memory, senses, next_senses, motion], -1))[..., 0]


def predict_outcome(
    params: dict,
    ego: Array,
    memory: Array,
    boxes: tuple[Agents, Agents],
    ego_senses: tuple[Array, Array],
    margins: Array,
) -> dict[str, Array]:
    """The heads' predictions for a step: the reward and probabilities, float32[B].

    Args: ego: int32[B]; memory: float32[B, A, D], after the step; boxes [B, A] and ego_senses [B, F], before and after;
      margins: see `costs.margins`.
    """
    motion = ego_motion(*(ego_row(agents, ego, -1) for agents in boxes))
    reward = symexp(symlog_reward(params, ego_row(memory, ego, -2), *ego_senses, motion))
    return {"reward": reward, **cost_probabilities(params, margins)}


@flax.struct.dataclass
class Drift:
    """The place of each agent by each ensemble member, relative to the members' mean.

    All arrays float32[B, A, E]; 0 when imagination starts and where an agent is not seen.

    Attributes:
      x, y: [m].
      vel_x, vel_y: [m/s].
    """

    x: Array
    y: Array
    vel_x: Array
    vel_y: Array


def no_drift(rows: int, agents: int, ensemble: int) -> Drift:
    """Drift before the first imagined step."""
    return Drift(*[jnp.zeros((rows, agents, ensemble))] * 4)


def advance_drift(drift: Drift, members: Agents, now: Agents, span_s: float) -> Drift:
    """The drift after a step: each member moves on at the velocity that it would have, and departs a little more.

    To first order this equals a rollout of every member by itself, at the cost of one rollout.

    Args: members: `Agents` [B, A, E, S], the step as each member has it; now: `Agents` [B, A], before it.
    """

    def apart(field: Array) -> Array:
        return jnp.where(now.valid[..., None], field[..., -1] - field[..., -1].mean(-1, keepdims=True), 0.0)

    return Drift(
        x=drift.x + span_s * drift.vel_x + apart(members.x),
        y=drift.y + span_s * drift.vel_y + apart(members.y),
        vel_x=drift.vel_x + apart(members.vel_x),
        vel_y=drift.vel_y + apart(members.vel_y),
    )


def disagreement(drift: Drift, now: Agents, ego: Array) -> Array:
    """The disagreement: how far the members have diverged [m], the mean over the others near the ego.

    Args: now: `Agents` [B, A]; ego: int32[B]. Returns: float32[B], the standard deviation of the place.
    """
    apart = jnp.sqrt(jnp.mean(jnp.square(drift.x) + jnp.square(drift.y), -1))
    own = ego_row(now, ego, -1)
    near = jnp.hypot(now.x - own.x[:, None], now.y - own.y[:, None]) < NEAR_M
    counted = now.valid & near & (jnp.arange(now.x.shape[1]) != ego[:, None])
    return jnp.sum(apart * counted, -1) / jnp.maximum(counted.sum(-1), 1)


def counted_steps(batch: ModelBatch, substeps: int) -> Array:
    """Transitions that count for the others' motion: uniform log data, alive, wholly inside the log. bool[B, H]."""
    end = batch.start[:, None] + substeps * jnp.arange(1, batch.alive.shape[1] + 1)
    return batch.dynamics[:, None] & batch.alive & (end < batch.scene.valid.shape[-1])


def light_terms(params: dict, start: Frame, end: Frame, counted: Array) -> Terms:
    """Cross-entropy of each light's next state. Args: frames [B, H]; counted: bool[B, H]."""
    logits = light_logits(params, start.light_state, start.light_age)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, end.light_state)
    return {"light": (value, start.light_valid & end.light_valid & counted[..., None])}


def reward_terms(params: dict, memory: Array, ego_senses: Array, frames: Frame, batch: ModelBatch) -> Terms:
    """Squared symlog error.

    Args: memory: float32[B, H + 1, A, D], ego_senses: float32[B, H + 1, F] and frames [B, H + 1], from the first
      state on.
    """
    ego = batch.scene.ego
    own = ego_row(frames.now, ego, -1)
    memory = ego_row(memory[:, 1:], ego, -2)
    motion = ego_motion(own[:, :-1], own[:, 1:])
    predicted = symlog_reward(params, memory, ego_senses[:, :-1], ego_senses[:, 1:], motion)
    return {"reward": (jnp.square(predicted - symlog(batch.outcome.reward)) / 2, batch.alive)}


def reduce_terms(terms: Terms, scales: dict[str, float]) -> tuple[Array, dict[str, Array]]:
    """The weighted mean of each term, and the sum of those that are losses: those without a leading `_`.

    Args: scales: factors of some of the terms, 1 for the others. Returns: the loss and all means by name.
    """
    means = {name: _total(v * w) / jnp.maximum(_total(w), 1.0) for name, (v, w) in terms.items()}
    total = sum(scales.get(name, 1.0) * mean for name, mean in means.items() if not name.startswith("_"))
    return total, {**{name.lstrip("_"): mean for name, mean in means.items()}, "loss": total}


def _total(values: Array) -> Array:
    """The sum over all axes, within the rows first.

    One sum over some 10^4 numbers would have a relative rounding error of 1e-5, another one on every mesh. The barrier
    keeps XLA from merging the two sums.
    """
    return jnp.sum(jax.lax.optimization_barrier(jnp.sum(values, tuple(range(1, values.ndim)))))
