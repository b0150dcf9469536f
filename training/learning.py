"""Gradient steps of the policy: one for every objective, one for the value heads alone, one for imitation.

Each is a compiled program; what its static arguments do not say is traced, so that stages share it.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tether.data.scene import Array, Scene, SceneSpec
from tether.data.settings import setting
from tether.policy.imitation import ImitationConfig, imitation_loss, imitation_targets
from tether.policy.language import LabelConfig
from tether.policy.vla import VLA
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Params
from tether.training.experience import Experience
from tether.training.mesh import Layout
from tether.training.returns import masked_mean

VALUE = "value"  # top-level name of the value heads in the policy's parameters


@dataclasses.dataclass(frozen=True)
class ImitateConfig:
    """Imitation of the logs.

    Attributes:
      steps: optimiser steps of imitation.
      scenes: scenes per step of imitation; `scenes` x `starts` examples are the batch.
      starts: random log steps of each scene that examples start from; `scenes` x `starts` examples are the batch.
      learning_rate: peak learning rate of imitation; linear warm-up over the first twentieth of the steps, then cosine
        decay to zero.
      weight_decay: weight decay of AdamW in imitation.
      loss: augmentation and weights of the terms.
      labels: rules that label the reasoning.
      checks: number of times, evenly spread, that the policy is rolled out on the validation split during imitation, in
        open and closed loop (`training/checks.py`).
    """

    steps: int = setting(600, common=True)
    scenes: int = 32
    starts: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    loss: ImitationConfig = setting(ImitationConfig())
    labels: LabelConfig = setting(LabelConfig())
    checks: int = 4


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
    """Learning rate: linear from 0 to `peak` over the fraction `warmup`, then a cosine to 0."""
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


def surrogate(log_prob: Array, drawn: Array, weight: Array, clip: Array) -> Array:
    """What is maximised of each decision, [N].

    weight * log_prob; or, where `clip` is above 0, min(r * weight, clamp(r, 1 - clip, 1 + clip) * weight) of the ratio
    r = p / p_drawn, which stops pushing a decision that has moved by that much already.

    Args: log_prob, drawn: float32[N], now and when it was drawn.   weight: float32[N].   clip: float32.
    Source: PPO, arXiv 1707.06347.
    """
    ratio = jnp.exp(log_prob - drawn)
    clipped = jnp.minimum(ratio * weight, jnp.clip(ratio, 1 - clip, 1 + clip) * weight)
    return jnp.where(clip > 0, clipped, weight * log_prob)


def value_loss(value: Array, returns: Array) -> Array:
    """Huber loss of every head to the same target, mean over heads.

    Args:
      value: float32[..., heads].   returns: float32[...].
    Returns: float32[...].
    """
    error = jnp.abs(value - returns[..., None])
    return jnp.where(error < 1, 0.5 * error**2, error - 0.5).mean(-1)


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
    gain = surrogate(now["log_prob"], batch.log_prob, batch.weight, rates.clip)
    gain += surrogate(now["reasoning_log_prob"], batch.reasoning_log_prob, batch.reasoning_weight, rates.clip)
    terms = {
        "policy": -jnp.mean(gain),
        "kl": masked_mean(vla.kl(now, before), batch.valid),
        "entropy": masked_mean(now["entropy"], batch.valid),
        "value": masked_mean(value_loss(now["value"], batch.returns), batch.valid),
    }
    total = terms["policy"] + rates.kl * terms["kl"] - rates.entropy * terms["entropy"] + terms["value"]
    parity = jnp.max(jnp.where(batch.valid, jnp.abs(now["log_prob"] - batch.log_prob), 0.0))
    return total, {"loss": total, **terms, "parity": parity}


@functools.partial(jax.jit, static_argnames=("vla", "layout"))
def policy_step(
    vla: VLA, layout: Layout, params: Params, state: Any, reference: Params, batch: Experience, rates: Rates
) -> tuple[Params, Any, dict[str, Array]]:
    """One gradient step on a minibatch of experience, for every objective."""
    params, reference = layout.gathered(params), layout.gathered(reference)
    gradients, metrics = jax.grad(lambda p: loss(vla, p, reference, batch, rates), has_aux=True)(params)
    return layout.keep((*descend(params, state, gradients, rates.policy, rates.value), metrics))


@functools.partial(jax.jit, static_argnames=("vla", "layout"))
def value_step(
    vla: VLA, layout: Layout, params: Params, state: Any, batch: Experience, rate: Array
) -> tuple[Params, Any, dict[str, Array]]:
    """One gradient step on the value heads alone; the rest of the policy stays as it is, bit for bit."""
    params = layout.gathered(params)

    def error(heads: Params) -> Array:
        value = vla.value({**params, VALUE: heads}, batch.observation)
        return masked_mean(value_loss(value, batch.returns), batch.valid)

    value, gradient = jax.value_and_grad(error)(params[VALUE])
    still = jax.tree.map(jnp.zeros_like, params)
    moved = descend(params, state, {**still, VALUE: gradient}, jnp.float32(0), rate)
    return layout.keep((*moved, {"value": value}))


@functools.partial(jax.jit, static_argnames=("vla", "simulator", "config", "layout"))
def imitation_step(
    vla: VLA,
    simulator: SimulatorConfig,
    config: ImitateConfig,
    layout: Layout,
    params: Params,
    state: Any,
    scene: Scene,
    key: jax.Array,
    rate: Array,
) -> tuple[Params, Any, dict[str, Array]]:
    """One gradient step of imitation on `starts` random log steps of each scene [B, ...]."""
    params = layout.gathered(params)
    k_start, k_perturb = jax.random.split(key)
    scene = jax.tree.map(lambda a: jnp.repeat(a, config.starts, axis=0), scene)
    rows = scene.ego.shape[0]
    start = jax.random.randint(k_start, (rows,), SceneSpec.current, scene.valid.shape[-1] - vla.config.actions.horizon)
    perturb = jax.random.split(k_perturb, rows)
    batch = imitation_targets(scene, start, perturb, vla, simulator, config.loss, config.labels)
    gradients, metrics = jax.grad(lambda p: imitation_loss(vla, p, batch, config.loss), has_aux=True)(params)
    params, state = descend(params, state, gradients, rate, jnp.float32(0), config.weight_decay)
    return layout.keep((params, state, {name: masked_mean(values, batch.valid) for name, values in metrics.items()}))


@functools.partial(jax.jit, static_argnames="layout")
def fresh_optimizer(layout: Layout, params: Params) -> Any:
    """The optimiser's state before the first step."""
    return layout.keep(optimiser().init(params))


@functools.partial(jax.jit, static_argnames="layout")
def transitions(layout: Layout, experience: Any, numbers: Array) -> Any:
    """Some transitions of arrays [H, R, ...], numbered step by step: arrays [N, ...]."""
    return layout.spread(jax.tree.map(lambda a: a[numbers // a.shape[1], numbers % a.shape[1]], experience))


def minibatches(key: jax.Array, count: int, size: int, epochs: int) -> np.ndarray:
    """Numbers of transitions, a permutation of all of them per epoch: int32[epochs * count / size, size]."""
    orders = [jax.random.permutation(k, count) for k in jax.random.split(key, epochs)]
    return np.concatenate([np.asarray(order).reshape(-1, size) for order in orders])
