"""The stages of a run: each takes the state and gives back the next one, and can be run alone (`--stage`)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.scene import SceneSpec
from simulator.log_replay import LogReplay
from simulator.world import Params
from training import grounding, replay
from training.drivers import Disturbance, disturbance
from training.grounding import Grounded
from training.imagination import Experience, Imagined, Trust, row_keys
from training.improvement import Rates, optimiser
from training.judge import Driver, drive
from training.loop import Metrics, Run, Unit, steps
from training.scenes import batches, chunks, repeat_rows, take
from training.state import Learned, RunState
from worldmodel.batch import ModelBatch
from worldmodel.fitting import FitState, start_fit

COMPARED = Unit("post_train", "compared", 0)  # names the keys that every grounding and validation shares


def begin(run: Run) -> Learned:
    """Freshly initialised arrays; also the template that checkpoints are restored into."""
    config, programs = run.config, run.programs
    rows = config.rounds.scenes * config.rounds.group
    scene = take(run.splits.train, [0] * rows)

    def init(key: jax.Array) -> tuple[Params, Params, ModelBatch]:
        k_policy, k_model = jax.random.split(key)
        policy = programs.vla.init(k_policy)
        driven = jax.eval_shape(programs.drive, policy, scene, jax.random.split(key, rows))[0]
        driven = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), driven)
        return policy, programs.model.init(k_model, driven), driven.replace(scene=())

    policy, model, driven = jax.jit(init)(jax.random.key(config.seed))
    fitting = start_fit(model, config.fit.optimizer.build())
    return Learned(
        policy=policy,
        policy_optimizer=optimiser().init(policy),
        imitation=policy,
        accepted=policy,
        best=policy,
        model=model,
        model_optimizer=(fitting.optimizer, fitting.step),
        tracks=replay.empty(driven, config.fit.tracks),
    )


def fit_world_model(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fits the world model on the logs' egos, half of them disturbed so that costs are seen where they happen."""
    config = run.config.fit

    def body(state, step, key, batch):
        k_drive, k_disturb, k_fit = jax.random.split(key, 3)
        clean, rough = halves(batch[0])
        keys = jax.random.split(k_drive, config.scenes)
        expert = drive_expert(run, clean, None, keys[: config.scenes // 2])
        disturbed = drive_expert(run, rough, disturbance(k_disturb, config.scenes // 2), keys[config.scenes // 2 :])
        state = state.charge("fit_world_model", expert.alive).charge("fit_world_model", disturbed.alive)
        return fit(run, state, k_fit, join(expert, disturbed))

    scenes = batches(run.splits.train, config.scenes, run.data_seed(unit))
    return steps(run, state, unit, config.steps, scenes, body), {}


def refit(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fits the world model again, half on logs, half on replayed rollouts of the policy."""
    config = run.config.fit
    half = config.scenes // 2

    def body(state, step, key, batch):
        k_drive, k_draw, k_fit = jax.random.split(key, 3)
        expert = drive_expert(run, batch[0], None, jax.random.split(k_drive, half))
        indices, tracks = replay.draw(state.learned.tracks, k_draw, half)
        replayed = tracks.replace(scene=run.place(take(run.splits.train, indices)))
        state = state.charge("refit", expert.alive)
        return fit(run, state, k_fit, join(expert, replayed))

    scenes = batches(run.splits.train, half, run.data_seed(unit))
    return steps(run, state, unit, config.refit_steps, scenes, body), {}


def halves(scene: Any) -> tuple[Any, Any]:
    """The first and the second half of the rows."""
    middle = scene.ego.shape[0] // 2
    return jax.tree.map(lambda a: a[:middle], scene), jax.tree.map(lambda a: a[middle:], scene)


def join(first: ModelBatch, second: ModelBatch) -> ModelBatch:
    """The rows of both."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


def drive_expert(run: Run, scene: Any, disturbed: Disturbance | None, keys: jax.Array) -> ModelBatch:
    """The expert's drives; undisturbed where `disturbed` is None."""
    still = jnp.zeros(keys.shape)
    return run.programs.drive_expert(run.place(scene), disturbed or Disturbance(still, still), run.place(keys))


def fit(run: Run, state: RunState, key: jax.Array, batch: ModelBatch) -> tuple[RunState, Metrics]:
    """One step of the world model."""
    now, metrics = run.programs.fit(FitState(state.learned.model, *state.learned.model_optimizer), key, batch)
    return state.learn(model=now.params, model_optimizer=(now.optimizer, now.step)), metrics


def cosine(peak: float, step: int, count: int, warmup: float = 0.05) -> float:
    """Learning rate: linear from 0 to `peak` over the share `warmup`, then a cosine to 0."""
    done = (step + 1) / count
    if done < warmup:
        return peak * done / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def imitate(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Trains the policy on the logs; the result is the reference of everything after."""
    config = run.config.imitation

    def body(state, step, key, batch):
        now = state.learned
        rate = jnp.float32(cosine(config.learning_rate, step, config.steps))
        policy, optimizer, metrics = run.programs.imitate(
            now.policy, now.policy_optimizer, run.place(batch[0]), key, rate
        )
        return state.learn(policy=policy, policy_optimizer=optimizer), metrics

    scenes = batches(run.splits.train, config.scenes, run.data_seed(unit))
    state = steps(run, state, unit, config.steps, scenes, body)
    policy = state.learned.policy
    return state.learn(imitation=policy, accepted=policy, best=policy), {}


def cl_sft(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Closed-loop supervised fine-tuning: rollouts near the log become demonstrations."""
    config = run.config.closed_loop
    state = fresh_optimizer(run, state)
    scenes = batches(run.splits.train, config.scenes, run.data_seed(unit))

    def body(state, step, key, batch):
        return tune(run, state, key, batch)

    return steps(run, state, unit, config.steps, scenes, body), {}


def tune(run: Run, state: RunState, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
    """One batch of demonstrations: driven, kept for refits, learned from."""
    config, (scene, indices) = run.config.closed_loop, batch
    k_drive, k_learn = jax.random.split(key)
    keys = jax.random.split(k_drive, len(indices))
    shown, track, metrics = run.programs.demonstrate(state.learned.policy, run.place(scene), run.place(keys))
    state = state.charge("cl_sft", track.alive).learn(tracks=replay.add(state.learned.tracks, indices, track))
    rates = Rates(*map(jnp.float32, (config.learning_rate, 0.0, 0.0, 0.0)))
    state, learned = learn(run, state, k_learn, shown, config.minibatch, 1, rates)
    return state, {**metrics, **{name: learned[name] for name in ("policy", "kl", "entropy")}}


def fresh_optimizer(run: Run, state: RunState) -> RunState:
    """Forgets the moments of an earlier stage, unless this one has begun already."""
    if state.progress.step > 0:
        return state
    return state.learn(policy_optimizer=run.copy(optimiser().init(state.learned.policy)))


def learn(
    run: Run, state: RunState, key: jax.Array, shown: Experience, size: int, epochs: int, rates: Rates
) -> tuple[RunState, Metrics]:
    """Gradient steps on all of the experience, a permutation of it per epoch.

    Returns: metrics averaged over the minibatches, but `parity` of the first one: later ones have moved on.
    """
    policy, optimizer, found = state.learned.policy, state.learned.policy_optimizer, []
    for rows in minibatches(key, shown.weight.shape[0], size, epochs):
        batch = run.programs.gather(shown, rows)
        policy, optimizer, metrics = run.programs.improve(policy, optimizer, state.learned.imitation, batch, rates)
        found.append(metrics)
    means = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    return state.learn(policy=policy, policy_optimizer=optimizer), {**means, "parity": found[0]["parity"]}


def minibatches(key: jax.Array, count: int, size: int, epochs: int) -> np.ndarray:
    """Rows int32[epochs * count / size, size]."""
    orders = [jax.random.permutation(k, count) for k in jax.random.split(key, epochs)]
    return np.concatenate([np.asarray(order).reshape(-1, size) for order in orders])


def fit_value(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fits the value of the frozen policy on imagined rollouts, and measures how far imagination may be trusted."""
    if state.progress.step == 0:
        state = fresh_optimizer(run, state).note(trust=measure_trust(run, state))
    config = run.config.rounds
    rate = jnp.float32(run.config.value.learning_rate)

    def body(state, step, key, batch):
        k_dream, k_learn = jax.random.split(key)
        shown, _, metrics = dream(run, state, k_dream, batch[0])
        policy, optimizer, errors = state.learned.policy, state.learned.policy_optimizer, []
        for rows in minibatches(k_learn, shown.weight.shape[0], config.minibatch, run.config.value.epochs):
            batch = run.programs.gather(shown, rows)
            policy, optimizer, found = run.programs.fit_value(policy, optimizer, batch, rate)
            errors.append(found["value"])
        return state.learn(policy=policy, policy_optimizer=optimizer), {**metrics, "value": sum(errors) / len(errors)}

    scenes = batches(run.splits.train, config.scenes, run.data_seed(unit))
    return steps(run, state, unit, run.config.value.steps, scenes, body), {}


def dream(run: Run, state: RunState, key: jax.Array, scene: Any) -> tuple[Experience, Imagined, Metrics]:
    """Imagines groups of rollouts from random log steps of the scenes [B]."""
    config = run.config.rounds
    k_start, k_rows = jax.random.split(key)
    latest = run.config.spec.steps - config.horizon * run.config.simulator.substeps
    start = jax.random.randint(k_start, scene.ego.shape, SceneSpec.current, latest)
    start, rows = np.repeat(np.asarray(start), config.group), repeat_rows(scene, config.group)
    return imagine(run, state, state.learned.policy, rows, start, row_keys(k_rows, scene.ego.shape[0], config.group))


def imagine(run: Run, state: RunState, policy: Params, scene: Any, start: np.ndarray, keys: tuple) -> tuple:
    """`imagination.imagine` with the run's model and trust."""
    now = state.progress
    trust = Trust(jnp.int32(now.horizon), jnp.float32(now.trust), jnp.float32(now.penalty))
    placed = run.place((scene, start, keys))
    return run.programs.imagine(state.learned.model, policy, *placed, trust)


def measure_trust(run: Run, state: RunState) -> float:
    """The disagreement that held-out logs show: a quantile over the first imagined steps of the validation scenes."""
    config, records = run.config.rounds, run.splits.validation
    size, seen = config.scenes * config.group, []
    for rows in chunks(len(records), size):
        start = np.full(size, SceneSpec.current)
        keys = row_keys(run.key(COMPARED, 1), size, 1)
        _, found, _ = imagine(run, state, state.learned.policy, take(records, rows), start, keys)
        seen.append(np.asarray(found.disagreement[0]))
    return float(np.quantile(np.concatenate(seen)[: len(records)], run.config.fit.trust_quantile))


def improve(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Improves the policy: by imagined rollouts (`pmpo`), or by more demonstrations (`cl_sft`)."""
    config = run.config.rounds
    state = fresh_optimizer(run, state)
    if config.objective == "cl_sft":
        scenes = batches(run.splits.train, run.config.closed_loop.scenes, run.data_seed(unit))
        return steps(run, state, unit, config.iterations, scenes, lambda s, _, key, batch: tune(run, s, key, batch)), {}
    rates = (config.learning_rate, run.config.value.learning_rate, config.kl_weight, config.entropy_weight)

    def body(state, step, key, batch):
        k_dream, k_learn = jax.random.split(key)
        shown, _, dreamt = dream(run, state, k_dream, batch[0])
        state, learned = learn(
            run, state, k_learn, shown, config.minibatch, config.epochs, Rates(*map(jnp.float32, rates))
        )
        return state, {**dreamt, **learned}

    scenes = batches(run.splits.train, config.scenes, run.data_seed(unit))
    return steps(run, state, unit, config.iterations, scenes, body), {}


def ground(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Drives the grounding scenes for real, measures the gap to imagination, and decides about the policy.

    The first time (round 0) the imitation policy is driven as well: it is what fine-tuning is judged against.
    """
    if not state.progress.grounded_return:
        state, before, _ = drive_grounding(run, state, state.learned.imitation)
        state, score = validation_score(run, state, state.learned.imitation)
        state = noted(state, before).note(best_score=score)
    state, now, gap = drive_grounding(run, state, state.learned.policy)
    decision = grounding.decide(run.config.rounds, state.progress, now, gap["bias"])
    used = {"horizon": state.progress.horizon, "penalty": state.progress.penalty, "trust": state.progress.trust}
    state = state.note(horizon=decision.horizon, penalty=decision.penalty)
    score = None
    if decision.accept:
        state, score = validation_score(run, state, state.learned.policy)
        state = keep_best(noted(state, now).learn(accepted=state.learned.policy), score)
    else:
        state = state.learn(policy=state.learned.accepted)
    record = {
        "round": unit.round,
        **gap,
        "failure": float(now.failures.mean()),
        **used,
        "decision": "accept" if decision.accept else "roll_back",
        "reason": decision.reason,
        "validation_score": score,
        "simulator_steps": state.progress.ledger.total,
        "wall_s": round(run.wall_s, 1),
    }
    state = state.note(rounds=(*state.progress.rounds, record))
    (run.directory / "decisions.txt").write_text(decisions(state), encoding="utf-8")
    return state, {name: value for name, value in record.items() if isinstance(value, float)}


def decisions(state: RunState) -> str:
    """One line per round."""
    return "".join(f"round {one['round']}: {one['reason']}\n" for one in state.progress.rounds)


def noted(state: RunState, grounded: Grounded) -> RunState:
    """Keeps what an accepted policy did: the next round is compared with it."""
    return state.note(grounded_return=tuple(map(float, grounded.returns)), failures=float(grounded.failures.mean()))


def keep_best(state: RunState, score: float) -> RunState:
    """Keeps the policy if no earlier one scored higher on the validation split."""
    if score <= state.progress.best_score:
        return state
    return state.learn(best=state.learned.policy).note(best_score=score)


def drive_grounding(run: Run, state: RunState, policy: Params) -> tuple[RunState, Grounded, dict[str, float]]:
    """Drives a policy in the simulator and in imagination from the same starts with the same keys."""
    config, records = run.config.rounds, run.splits.grounding
    count, size = min(config.grounding_scenes, len(records)), config.scenes * config.group
    dreams, drives = [], []
    for chunk, rows in enumerate(chunks(count, size)):
        scene, keys = take(records, rows), row_keys(run.key(COMPARED, 2 + chunk), size, 1)
        _, dreamt, _ = imagine(run, state, policy, scene, np.full(size, SceneSpec.current), keys)
        _, score, driven = run.programs.drive(policy, *run.place((scene, keys[0])))
        dreams.append(jax.device_get(dreamt))
        drives.append(jax.device_get((driven, score)))
    dreamt = rows_of(dreams, 1, count)
    driven, score = rows_of([one[0] for one in drives], 1, count), rows_of([one[1] for one in drives], 0, count)
    state = state.charge("ground", driven["alive"])
    found = grounding.gap(dreamt, driven, state.progress.trust, state.progress.horizon)
    return state, Grounded(score["return"], score["failure"]), found


def rows_of(parts: list[Any], axis: int, count: int) -> Any:
    """The chunks' rows one after another, without those that only filled up the last chunk."""
    return jax.tree.map(lambda *a: np.concatenate(a, axis).take(np.arange(count), axis), *parts)


def validation_score(run: Run, state: RunState, policy: Params) -> tuple[RunState, float]:
    """Mean driving score on the validation split, as the evaluation will drive: greedily."""
    config, records = run.config, run.splits.validation
    driver = Driver("validation", run.programs.vla.with_temperature(0.0), policy)
    sizes = {"batch": min(config.evaluation.batch, len(records)), "steps": config.rollout_steps, "seed": config.seed}
    scores, _ = drive(driver, records, LogReplay(config.simulator), config.simulator, **sizes)
    # The judge does not say when a rollout ended: whole drives are charged.
    state = state.charge("validate", np.ones((config.rollout_steps, len(records))))
    return state, float(scores["score"].mean())


PARTS: dict[str, Callable[[Run, RunState, Unit], tuple[RunState, Metrics]]] = {
    "fit_world_model": fit_world_model,
    "imitate": imitate,
    "cl_sft": cl_sft,
    "fit_value": fit_value,
    "refit": refit,
    "improve": improve,
    "ground": ground,
}
