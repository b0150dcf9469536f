"""Stage `fit_world_model`: the world model is fitted on the logs' egos, and the refit of each round."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from tether.simulator.log_replay import LogReplay
from tether.simulator.world import Params, Policy
from tether.training import tracks
from tether.training.disturbed_expert import Disturbance, disturbance, drive_expert, undisturbed
from tether.training.drives import roll_out
from tether.training.imagination import track
from tether.training.loop import Metrics, Run, Unit, steps
from tether.training.mesh import ALONE, Layout
from tether.training.scenes import batches, seen_by, take
from tether.training.stage import Stage
from tether.training.state import RunState
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.fitting import FitState, FittingConfig, fit_step
from tether.worldmodel.interface import WorldModel


def fit_world_model(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fits the world model on the logs' egos, some of them disturbed so that costs are seen where they happen."""
    config = run.config.fit

    def body(state: RunState, step: int, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
        k_drive, k_disturb, k_fit = jax.random.split(key, 3)
        rough = disturbance(k_disturb, config.perturbed_scenes)
        disturbed = joined(ALONE, undisturbed(config.scenes - config.perturbed_scenes), rough)
        driven = expert_rollouts(run, batch[0], disturbed, k_drive)
        # Undisturbed rows are the log itself, which costs no steps.
        state = state.add_steps("fit_world_model", driven.alive & ~driven.dynamics[:, None])
        return fit(run, state, k_fit, driven)

    scenes = run.batches(seen_by(run.models.world_model, run.splits.train), config.scenes, unit)
    return steps(run, state, unit, config.steps, scenes, body), {}


def refit(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fits the world model again, half on logs, half on replayed rollouts of the policy as it is now and was before."""
    return refit_on(run, state, unit, run.models.vla, state.learned.policy)


def refit_on(run: Run, state: RunState, unit: Unit, policy: Policy, params: Params) -> tuple[RunState, Metrics]:
    """`refit`, on rollouts of any policy beside those that are kept."""
    config = run.config.fit
    half, train = config.scenes // 2, seen_by(run.models.world_model, run.splits.train)
    if state.progress.step == 0 and config.refit_steps:
        state = drive_policy(run, state, unit, policy, params)

    def body(state: RunState, step: int, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
        k_drive, k_draw, k_fit = jax.random.split(key, 3)
        expert = expert_rollouts(run, batch[0], undisturbed(half), k_drive)
        indices, drawn = tracks.draw(state.learned.tracks, k_draw, half)
        scene = run.layout.assemble(take(train, indices[run.layout.own(half)]))
        replayed = run.layout.place(drawn).replace(scene=scene)
        return fit(run, state, k_fit, joined(run.layout, expert, replayed))

    scenes = run.batches(train, half, unit)
    return steps(run, state, unit, config.refit_steps, scenes, body), {}


def drive_policy(run: Run, state: RunState, unit: Unit, policy: Policy, params: Params) -> RunState:
    """Drives a policy in the simulator on training scenes and keeps its tracks for the refits."""
    count = run.config.rounds.scenes * run.config.rounds.group
    rows = run.layout.own(count)
    # Neither the shuffling nor the key is that of a step of the refit: the next seed, and the step after the last.
    scene, indices = next(batches(run.splits.train, count, run.data_seed(unit) + 1, rows))
    key = run.layout.place(jax.random.split(run.key(unit, run.config.fit.refit_steps), count))
    program = LogReplay(run.config.simulator), policy, track, run.config.rollout_steps, run.layout
    driven = roll_out(*program, (), params, run.layout.assemble(scene), (key, key))
    return state.add_steps("refit", driven.alive).learn(tracks=tracks.add(state.learned.tracks, indices, driven))


def expert_rollouts(run: Run, scene: Any, disturbed: Disturbance, key: jax.Array) -> ModelBatch:
    """The expert's rollouts, more or less disturbed. scene: this process's rows of the batch."""
    keys = jax.random.split(key, disturbed.held.shape[0])
    scene, placed = run.layout.assemble(scene), run.layout.place((disturbed, keys))
    return drive_expert(run.config.simulator, run.config.rollout_steps, scene, *placed)


def fit(run: Run, state: RunState, key: jax.Array, batch: ModelBatch) -> tuple[RunState, Metrics]:
    """One step of the world model."""
    config, before = run.config.fit, FitState(state.learned.model, *state.learned.model_optimizer)
    now, metrics = model_step(run.models.world_model, config.optimizer, config.steps, run.layout, before, key, batch)
    return state.learn(model=now.params, model_optimizer=(now.optimizer, now.step)), metrics


@functools.partial(jax.jit, static_argnames=("model", "config", "steps", "layout"))
def model_step(
    model: WorldModel,
    config: FittingConfig,
    steps: int,
    layout: Layout,
    state: FitState,
    key: jax.Array,
    batch: ModelBatch,
) -> tuple[FitState, Metrics]:
    """See `worldmodel.fitting.fit_step`. Args: steps: of the whole fit."""
    step = fit_step(model, config.build(steps))
    return layout.keep(step(state.replace(params=layout.gathered(state.params)), key, batch))


@functools.partial(jax.jit, static_argnames="layout")
def joined(layout: Layout, first: Any, second: Any) -> Any:
    """The rows of two trees of arrays."""
    return layout.spread(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second))


STAGE = Stage("fit_world_model", {"fit_world_model": fit_world_model}, shared=True)
