"""Stage `fit_value`: how far imagination may be trusted, and the value of the policy before it is improved."""

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.scene import SceneSpec
from tether.training.imagination import row_keys
from tether.training.learning import minibatches, transitions, value_step
from tether.training.loop import COMPARED, FOR_TRUST, Metrics, Run, Unit, steps
from tether.training.practice import fresh_moments, imagine, practise
from tether.training.processes import to_host
from tether.training.scenes import chunks, take
from tether.training.stage import Stage
from tether.training.state import RunState


def measure_trust(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Measures the disagreement on held-out logs: a quantile over all imagined steps of the validation scenes."""
    if not run.config.rounds.dynamic_horizon:
        return state.note(trust=float("inf")), {}
    config, records = run.config.rounds, run.splits.validation
    size, disagreement = config.scenes * config.group, []
    for rows in chunks(len(records), size):
        start = np.full(size, SceneSpec.current)
        keys = row_keys(run.key(COMPARED, FOR_TRUST), size, 1)
        scene = take(records, rows[run.layout.own(size)])
        imagined = imagine(run, state, state.learned.policy, scene, start, keys)
        valid, each = to_host((imagined.valid, imagined.disagreement))
        disagreement.append(np.where(valid, each, np.nan))
    believed = np.concatenate(disagreement, axis=1)[:, : len(records)]
    trust = float(np.nanquantile(believed, run.config.fit.trust_quantile))
    return state.note(trust=trust), {"trust": trust}


def fit_value(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fits the value of the frozen policy on imagined rollouts."""
    state = fresh_moments(run, state)
    config, value = run.config.rounds, run.config.value
    rate = jnp.float32(value.learning_rate)

    def body(state: RunState, step: int, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
        k_imagine, k_learn = jax.random.split(key)
        state, experience, metrics = practise(run, state, k_imagine, batch[0])
        policy, optimizer, errors = state.learned.policy, state.learned.policy_optimizer, []
        for rows in minibatches(k_learn, experience.weight.size, config.minibatch, value.epochs):
            some = transitions(run.layout, experience, rows)
            policy, optimizer, error = value_step(run.models.vla, run.layout, policy, optimizer, some, rate)
            errors.append(error["value"])
        return state.learn(policy=policy, policy_optimizer=optimizer), {**metrics, "value": sum(errors) / len(errors)}

    scenes = run.batches(run.splits.train, config.scenes, unit)
    return steps(run, state, unit, value.steps, scenes, body), {}


STAGE = Stage("fit_value", {"measure_trust": measure_trust, "fit_value": fit_value})
