"""Learning from experience, and closed-loop supervised fine-tuning (`cl_sft`)."""

import jax
import jax.numpy as jnp
import numpy as np

from tether.training import replay
from tether.training.imagination import Experience
from tether.training.improvement import Rates
from tether.training.loop import Metrics, Run, Unit, steps
from tether.training.state import RunState


def cl_sft(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Closed-loop supervised fine-tuning: rollouts near the log become demonstrations."""
    config = run.config.closed_loop
    state = fresh_optimizer(run, state)
    scenes = run.batches(run.splits.train, config.scenes, unit)

    def body(state, step, key, batch):
        return tune(run, state, key, batch)

    return steps(run, state, unit, config.steps, scenes, body), {}


def tune(run: Run, state: RunState, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
    """One batch of demonstrations: driven, kept for refits, learned from."""
    config, (scene, indices) = run.config.closed_loop, batch
    k_drive, k_learn = jax.random.split(key)
    keys = jax.random.split(k_drive, len(indices))
    placed = run.layout.assemble(scene), run.layout.place(keys)
    shown, track, metrics = run.programs.demonstrate(state.learned.policy, *placed)
    state = state.charge("cl_sft", track.alive).learn(tracks=replay.add(state.learned.tracks, indices, track))
    rates = Rates(*map(jnp.float32, (config.learning_rate, 0.0, 0.0, 0.0, 0.0)))
    state, learned = learn(run, state, k_learn, shown, config.minibatch, 1, rates)
    return state, {**metrics, **{name: learned[name] for name in ("policy", "kl", "entropy")}}


def fresh_optimizer(run: Run, state: RunState) -> RunState:
    """Forgets the moments of an earlier stage, unless this one has begun already."""
    if state.progress.step > 0:
        return state
    return state.learn(policy_optimizer=run.programs.fresh_optimizer(state.learned.policy))


def learn(
    run: Run, state: RunState, key: jax.Array, shown: Experience, size: int, epochs: int, rates: Rates
) -> tuple[RunState, Metrics]:
    """Gradient steps on all of the experience, a permutation of it per epoch.

    Returns: metrics averaged over the minibatches, but `parity` of the first one: later ones have moved on.
    """
    policy, optimizer, found = state.learned.policy, state.learned.policy_optimizer, []
    for rows in minibatches(key, shown.weight.size, size, epochs):
        batch = run.programs.gather(shown, rows)
        policy, optimizer, metrics = run.programs.improve(policy, optimizer, state.learned.imitation, batch, rates)
        found.append(metrics)
    means = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    return state.learn(policy=policy, policy_optimizer=optimizer), {**means, "parity": found[0]["parity"]}


def minibatches(key: jax.Array, count: int, size: int, epochs: int) -> np.ndarray:
    """Rows int32[epochs * count / size, size]."""
    orders = [jax.random.permutation(k, count) for k in jax.random.split(key, epochs)]
    return np.concatenate([np.asarray(order).reshape(-1, size) for order in orders])
