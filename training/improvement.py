"""Gradient steps: one for every objective, one for the value heads alone, one for imitation."""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array, Scene, SceneSpec
from tether.policy.imitation import imitation_loss, imitation_targets
from tether.policy.vla import VLA
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Params
from tether.training.config import ImitateConfig
from tether.training.imagination import Experience
from tether.training.objectives import masked_mean, surrogate, value_loss

VALUE = "value"  # top-level name of the value heads in the policy's parameters


@flax.struct.dataclass
class Rates:
    """What an update weighs, float32 scalars: traced, so that stages with other values share one compiled program.

    Attributes:
      policy, value: learning rates of everything but the value heads, and of these.
      kl: weight of KL(policy || reference).   entropy: weight of the action entropy.
      clip: of the ratio in the surrogate; 0 for none.
    """

    policy: Array
    value: Array
    kl: Array
    entropy: Array
    clip: Array


def cosine(peak: float, step: int, count: int, warmup: float = 0.05) -> float:
    """Learning rate: linear from 0 to `peak` over the share `warmup`, then a cosine to 0."""
    done = (step + 1) / count
    if done < warmup:
        return peak * done / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def optimiser() -> optax.GradientTransformation:
    """Adam directions; learning rates are applied in `descend`, so every stage shares one optimiser state.

    Policy and value are clipped apart: the value's gradients are large when rewards are.
    """

    def adam() -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))

    def labels(params: Params) -> Any:
        kinds = {name: VALUE if name == VALUE else "policy" for name in params}
        return {name: jax.tree.map(lambda _, k=kinds[name]: k, branch) for name, branch in params.items()}

    return optax.partition({"policy": adam(), VALUE: adam()}, labels)


def descend(
    params: Params, state: Any, gradients: Params, policy_rate: Array, value_rate: Array, decay: float = 0.0
) -> tuple[Params, Any]:
    """One AdamW step with the two learning rates; biases and norms decay too, which at these sizes does not matter."""
    directions, state = optimiser().update(gradients, state, params)
    rates = {name: value_rate if name == VALUE else policy_rate for name in params}
    moved = {
        name: jax.tree.map(lambda p, d, r=rates[name]: p - r * (d + decay * p), params[name], directions[name])
        for name in params
    }
    return moved, state


def loss(
    vla: VLA, params: Params, reference: Params, batch: Experience, rates: Rates
) -> tuple[Array, dict[str, Array]]:
    """Weighted log-probabilities, KL to the reference, entropy and value error on a minibatch.

    Returns: the scalar, and scalar metrics: itself, its terms, and `parity`, the largest difference between a
      log-probability now and when it was drawn: before the first update it is rounding, or the update does not score
      what was driven.
    """
    now = vla.evaluate(params, batch.observation, batch.decision)
    before = vla.evaluate(reference, batch.observation, batch.decision)
    worth = surrogate(now["log_prob"], batch.log_prob, batch.weight, rates.clip)
    worth += surrogate(now["reasoning_log_prob"], batch.reasoning_log_prob, batch.reasoning_weight, rates.clip)
    terms = {
        "policy": -jnp.mean(worth),
        "kl": masked_mean(vla.kl(now, before), batch.valid),
        "entropy": masked_mean(now["entropy"], batch.valid),
        "value": masked_mean(value_loss(now["value"], batch.returns), batch.valid),
    }
    total = terms["policy"] + rates.kl * terms["kl"] - rates.entropy * terms["entropy"] + terms["value"]
    parity = jnp.max(jnp.where(batch.valid, jnp.abs(now["log_prob"] - batch.log_prob), 0.0))
    return total, {"loss": total, **terms, "parity": parity}


def improve(
    vla: VLA, params: Params, state: Any, reference: Params, batch: Experience, rates: Rates
) -> tuple[Params, Any, dict[str, Array]]:
    """One gradient step on a minibatch of experience, for every objective."""
    gradients, metrics = jax.grad(lambda p: loss(vla, p, reference, batch, rates), has_aux=True)(params)
    return *descend(params, state, gradients, rates.policy, rates.value), metrics


def fit_value(
    vla: VLA, params: Params, state: Any, batch: Experience, rate: Array
) -> tuple[Params, Any, dict[str, Array]]:
    """One gradient step on the value heads alone; the rest of the policy stays as it is, bit for bit."""

    def error(heads: Params) -> Array:
        value = vla.value({**params, VALUE: heads}, batch.observation)
        return masked_mean(value_loss(value, batch.returns), batch.valid)

    value, gradient = jax.value_and_grad(error)(params[VALUE])
    still = jax.tree.map(jnp.zeros_like, params)
    return *descend(params, state, {**still, VALUE: gradient}, jnp.float32(0), rate), {"value": value}


def imitate(
    vla: VLA,
    simulator: SimulatorConfig,
    config: ImitateConfig,
    params: Params,
    state: Any,
    scene: Scene,
    key: jax.Array,
    rate: Array,
) -> tuple[Params, Any, dict[str, Array]]:
    """One gradient step of imitation on `starts` random log steps of each scene [B, ...]."""
    k_start, k_perturb = jax.random.split(key)
    scene = jax.tree.map(lambda a: jnp.repeat(a, config.starts, axis=0), scene)
    rows = scene.ego.shape[0]
    start = jax.random.randint(k_start, (rows,), SceneSpec.current, scene.valid.shape[-1] - vla.config.actions.horizon)
    perturb = jax.random.split(k_perturb, rows)
    batch = imitation_targets(scene, start, perturb, vla, simulator, config.loss, config.labels)
    gradients, metrics = jax.grad(lambda p: imitation_loss(vla, p, batch, config.loss), has_aux=True)(params)
    params, state = descend(params, state, gradients, rate, jnp.float32(0), config.weight_decay)
    return params, state, {name: masked_mean(values, batch.valid) for name, values in metrics.items()}
