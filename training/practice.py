"""A batch of practice: rollouts that the policy learns from, and the gradient steps on them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.scene import SceneSpec
from tether.simulator.log_replay import LogReplay
from tether.simulator.world import Params
from tether.training import models
from tether.training.drives import roll_out
from tether.training.experience import Experience
from tether.training.imagination import Imagined, Trust, row_keys
from tether.training.learning import Rates, fresh_optimizer, minibatches, policy_step, transitions
from tether.training.loop import Metrics, Run
from tether.training.scenes import repeat_rows
from tether.training.state import RunState


def practise(run: Run, state: RunState, key: jax.Array, scene: Any) -> tuple[RunState, Experience, Metrics]:
    """Groups of rollouts from random log steps of the scenes [B], imagined or, for the baseline, driven."""
    config = run.config.rounds
    k_start, k_rows = jax.random.split(key)
    latest = run.config.spec.steps - config.horizon * run.config.simulator.substeps
    start = jax.random.randint(k_start, (config.scenes,), SceneSpec.current, latest)
    start, rows = np.repeat(np.asarray(start), config.group), repeat_rows(scene, config.group)
    keys = row_keys(k_rows, config.scenes, config.group)
    if config.world == "model":
        imagined = imagine(run, state, state.learned.policy, rows, start, keys)
        return state, imagined.experience, imagined.metrics
    certain = Trust(jnp.int32(config.horizon), jnp.float32(jnp.inf), jnp.float32(0))
    simulator, policy = LogReplay(run.config.simulator), state.learned.policy
    imagined = roll_out_from(run, state, simulator, (), policy, rows, start, keys, certain)
    return state.add_steps("practise", imagined.valid), imagined.experience, imagined.metrics


def imagine(run: Run, state: RunState, policy: Params, scene: Any, start: np.ndarray, keys: tuple) -> Imagined:
    """Rollouts in the world model, as far as the run believes it. scene: this process's rows of the batch."""
    model = run.models.world_model, state.learned.model
    return roll_out_from(run, state, *model, policy, scene, start, keys, trusted(state))


def roll_out_from(
    run: Run,
    state: RunState,
    world: Any,
    world_params: Params,
    policy: Params,
    scene: Any,
    start: np.ndarray,
    keys: tuple,
    trust: Trust,
) -> Imagined:
    """Rollouts of the exploring policy from log steps, kept as the objective learns from them."""
    keep = models.practice(run.config, run.models)
    start, keys = run.layout.place((start, keys))
    program = world, run.models.vla, keep, run.config.rounds.horizon, run.layout
    taught_by = models.teacher_params(run.config, state.learned)
    arrays = world_params, policy, run.layout.assemble(scene), keys, start, keys[0], trust, taught_by
    return roll_out(*program, *arrays)


def trusted(state: RunState) -> Trust:
    """How far the run believes its imagination now."""
    now = state.progress
    return Trust(jnp.int32(now.horizon), jnp.float32(now.trust), jnp.float32(now.penalty))


def fresh_moments(run: Run, state: RunState) -> RunState:
    """Forgets the optimiser's moments of an earlier stage, unless this one has begun already."""
    if state.progress.step > 0:
        return state
    return state.learn(policy_optimizer=fresh_optimizer(run.layout, state.learned.policy))


def learn(
    run: Run, state: RunState, key: jax.Array, experience: Experience, size: int, epochs: int, rates: Rates
) -> tuple[RunState, Metrics]:
    """Gradient steps on all of the experience, a permutation of it per epoch.

    Returns: metrics averaged over the minibatches, but `parity` of the first one: later ones have moved on.
    """
    policy, optimizer, each = state.learned.policy, state.learned.policy_optimizer, []
    for rows in minibatches(key, experience.weight.size, size, epochs):
        batch = transitions(run.layout, experience, rows)
        arrays = policy, optimizer, state.learned.imitation, batch, rates
        policy, optimizer, metrics = policy_step(run.models.vla, run.layout, *arrays)
        each.append(metrics)
    means = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
    return state.learn(policy=policy, policy_optimizer=optimizer), {**means, "parity": each[0]["parity"]}
