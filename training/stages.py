"""The stages of a run: each takes the state and gives back the next one, and can be run alone (`--stage`)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tether.data.scene import Record
from tether.training import replay, rounds, tuning
from tether.training.checks import check
from tether.training.config import Config
from tether.training.drivers import Disturbance, disturbance, undisturbed
from tether.training.improvement import cosine, optimiser
from tether.training.loop import Metrics, Run, Unit, steps
from tether.training.mesh import Layout
from tether.training.programs import Programs, join
from tether.training.scenes import batches, seen_by, take
from tether.training.state import Learned, RunState
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.fitting import FitState, start_fit


def begin(config: Config, programs: Programs, layout: Layout, records: Sequence[Record]) -> Learned:
    """Freshly initialised arrays; also the template that checkpoints are restored into.

    Args: records: any scenes of the run's spec; only their shapes are looked at.
    """
    rows = config.rounds.scenes * config.rounds.group
    scene = take(records, [0] * rows)

    def init(key: jax.Array) -> tuple[Any, Any, FitState, ModelBatch]:
        k_policy, k_model = jax.random.split(key)
        policy = programs.vla.init(k_policy)
        driven = jax.eval_shape(programs.drive, policy, scene, jax.random.split(key, rows))[0]
        driven = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), driven)
        fitting = start_fit(programs.model.init(k_model, driven), config.fit.optimizer.build(config.fit.steps))
        learned = layout.keep((policy, optimiser().init(policy), fitting))
        return *learned, driven.replace(scene=())

    policy, optimizer, fitting, driven = jax.jit(init)(jax.random.key(config.seed))
    return Learned(
        policy=policy,
        policy_optimizer=optimizer,
        imitation=policy,
        accepted=policy,
        best=policy,
        model=fitting.params,
        model_optimizer=(fitting.optimizer, fitting.step),
        tracks=replay.empty(driven, config.fit.tracks),
    )


def fit_world_model(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fits the world model on the logs' egos, some of them disturbed so that costs are seen where they happen."""
    config = run.config.fit

    def body(state, step, key, batch):
        k_drive, k_disturb, k_fit = jax.random.split(key, 3)
        rough = disturbance(k_disturb, config.perturbed_scenes)
        disturbed = join(undisturbed(config.scenes - config.perturbed_scenes), rough)
        driven = drive_expert(run, batch[0], disturbed, k_drive)
        # Undisturbed rows are the log itself, which nobody had to drive.
        state = state.charge("fit_world_model", driven.alive & ~driven.dynamics[:, None])
        return fit(run, state, k_fit, driven)

    scenes = run.batches(seen_by(run.programs.model, run.splits.train), config.scenes, unit)
    return steps(run, state, unit, config.steps, scenes, body), {}


def refit(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fits the world model again, half on logs, half on replayed rollouts of the policy as it is now and was before."""
    config = run.config.fit
    half, train = config.scenes // 2, seen_by(run.programs.model, run.splits.train)
    if state.progress.step == 0 and config.refit_steps:
        state = drive_policy(run, state, unit)

    def body(state, step, key, batch):
        k_drive, k_draw, k_fit = jax.random.split(key, 3)
        expert = drive_expert(run, batch[0], undisturbed(half), k_drive)
        indices, tracks = replay.draw(state.learned.tracks, k_draw, half)
        scene = run.layout.assemble(take(train, indices[run.layout.own(half)]))
        replayed = run.layout.place(tracks).replace(scene=scene)
        return fit(run, state, k_fit, run.programs.join(expert, replayed))

    scenes = run.batches(train, half, unit)
    return steps(run, state, unit, config.refit_steps, scenes, body), {}


def drive_policy(run: Run, state: RunState, unit: Unit) -> RunState:
    """Drives the policy in the simulator on training scenes and keeps its tracks for the refits."""
    count = run.config.rounds.scenes * run.config.rounds.group
    rows = run.layout.own(count)
    scene, indices = next(batches(run.splits.train, count, run.data_seed(unit) + 1, rows))
    keys = jax.random.split(run.key(unit, run.config.fit.refit_steps), count)
    track, _, _ = run.programs.drive(state.learned.policy, run.layout.assemble(scene), run.layout.place(keys))
    return state.charge("refit", track.alive).learn(tracks=replay.add(state.learned.tracks, indices, track))


def drive_expert(run: Run, scene: Any, disturbed: Disturbance, key: jax.Array) -> ModelBatch:
    """The expert's drives, more or less disturbed. scene: this process's rows of the batch."""
    keys = jax.random.split(key, disturbed.held.shape[0])
    return run.programs.drive_expert(run.layout.assemble(scene), *run.layout.place((disturbed, keys)))


def fit(run: Run, state: RunState, key: jax.Array, batch: ModelBatch) -> tuple[RunState, Metrics]:
    """One step of the world model."""
    now, metrics = run.programs.fit(FitState(state.learned.model, *state.learned.model_optimizer), key, batch)
    return state.learn(model=now.params, model_optimizer=(now.optimizer, now.step)), metrics


def imitate(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Trains the policy on the logs; the result is the reference of everything after."""
    config = run.config.imitation

    def body(state, step, key, batch):
        now = state.learned
        rate = jnp.float32(cosine(config.learning_rate, step, config.steps))
        scene = run.layout.assemble(batch[0])
        policy, optimizer, metrics = run.programs.imitate(now.policy, now.policy_optimizer, scene, key, rate)
        state = state.learn(policy=policy, policy_optimizer=optimizer)
        if step + 1 in milestones(config.steps, config.checks):
            state, found = check(run, state.note(step=step + 1), unit, policy)
            metrics = {**metrics, **found}
        return state, metrics

    scenes = run.batches(run.splits.train, config.scenes, unit)
    state = steps(run, state, unit, config.steps, scenes, body)
    policy, score = state.learned.policy, state.progress.checks[-1]["score"]
    state = state.note(best_score=score, best_checkpoint=state.progress.closing)
    return state.learn(imitation=policy, accepted=policy, best=policy), {}


def milestones(steps: int, count: int) -> set[int]:
    """So many steps, evenly spread, the last included."""
    return {steps * (index + 1) // count for index in range(count)}


PARTS: dict[str, Callable[[Run, RunState, Unit], tuple[RunState, Metrics]]] = {
    "fit_world_model": fit_world_model,
    "imitate": imitate,
    "cl_sft": tuning.cl_sft,
    "fit_value": rounds.fit_value,
    "refit": refit,
    "improve": rounds.improve,
    "ground": rounds.ground,
}
