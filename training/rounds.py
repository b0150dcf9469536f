"""The rounds: the value's first fit, improvement in imagination, grounding in the simulator, and the decision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.progress import Bar
from tether.data.scene import SceneSpec
from tether.simulator.world import Params
from tether.training import grounding
from tether.training.checks import check
from tether.training.credit import CLIPPED
from tether.training.grounding import Grounded
from tether.training.imagination import Experience, Trust, row_keys
from tether.training.improvement import Rates, cosine
from tether.training.loop import Metrics, Run, Unit, steps
from tether.training.processes import to_host
from tether.training.scenes import chunks, repeat_rows, take
from tether.training.state import RunState
from tether.training.tuning import fresh_optimizer, learn, minibatches, tune

COMPARED = Unit("post_train", "compared", 0)  # names the keys that every grounding and validation shares


def fit_value(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fits the value of the frozen policy on imagined rollouts, and measures how far imagination may be trusted."""
    if state.progress.step == 0:
        state = fresh_optimizer(run, state).note(trust=measure_trust(run, state))
    config = run.config.rounds
    rate = jnp.float32(run.config.value.learning_rate)

    def body(state, step, key, batch):
        k_dream, k_learn = jax.random.split(key)
        state, shown, metrics = practise(run, state, k_dream, batch[0])
        policy, optimizer, errors = state.learned.policy, state.learned.policy_optimizer, []
        for rows in minibatches(k_learn, shown.weight.size, config.minibatch, run.config.value.epochs):
            batch = run.programs.gather(shown, rows)
            policy, optimizer, found = run.programs.fit_value(policy, optimizer, batch, rate)
            errors.append(found["value"])
        return state.learn(policy=policy, policy_optimizer=optimizer), {**metrics, "value": sum(errors) / len(errors)}

    scenes = run.batches(run.splits.train, config.scenes, unit)
    return steps(run, state, unit, run.config.value.steps, scenes, body), {}


def practise(run: Run, state: RunState, key: jax.Array, scene: Any) -> tuple[RunState, Experience, Metrics]:
    """Groups of rollouts from random log steps of the scenes [B], imagined or, for the baseline, driven."""
    config = run.config.rounds
    k_start, k_rows = jax.random.split(key)
    latest = run.config.spec.steps - config.horizon * run.config.simulator.substeps
    start = jax.random.randint(k_start, (config.scenes,), SceneSpec.current, latest)
    start, rows = np.repeat(np.asarray(start), config.group), repeat_rows(scene, config.group)
    keys = row_keys(k_rows, config.scenes, config.group)
    if config.world == "model":
        shown, _, metrics = imagine(run, state, state.learned.policy, rows, start, keys)
        return state, shown, metrics
    certain = Trust(jnp.int32(config.horizon), jnp.float32(jnp.inf), jnp.float32(0))
    drive_on = run.layout.assemble(rows), *run.layout.place((start, keys)), certain
    shown, driven, metrics = run.programs.practise((), state.learned.policy, *drive_on)
    return state.charge("practise", driven.valid), shown, metrics


def imagine(run: Run, state: RunState, policy: Params, scene: Any, start: np.ndarray, keys: tuple) -> tuple:
    """`imagination.imagine` with the run's model and trust. scene: this process's rows of the batch."""
    placed = run.layout.assemble(scene), *run.layout.place((start, keys))
    return run.programs.imagine(state.learned.model, policy, *placed, trusted(state))


def trusted(state: RunState) -> Trust:
    """How far the run believes its imagination now."""
    now = state.progress
    return Trust(jnp.int32(now.horizon), jnp.float32(now.trust), jnp.float32(now.penalty))


def measure_trust(run: Run, state: RunState) -> float:
    """The disagreement that held-out logs show: a quantile over all imagined steps of the validation scenes."""
    if not run.config.rounds.dynamic_horizon:
        return float("inf")
    config, records = run.config.rounds, run.splits.validation
    size, seen = config.scenes * config.group, []
    for rows in chunks(len(records), size):
        start = np.full(size, SceneSpec.current)
        keys = row_keys(run.key(COMPARED, 1), size, 1)
        scene = take(records, rows[run.layout.own(size)])
        found = to_host(imagine(run, state, state.learned.policy, scene, start, keys)[1])
        seen.append(np.where(found.valid, found.disagreement, np.nan))
    return float(np.nanquantile(np.concatenate(seen, axis=1)[:, : len(records)], run.config.fit.trust_quantile))


def improve(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Improves the policy: by imagined rollouts, or by more demonstrations (`cl_sft`)."""
    config = run.config.rounds
    state = fresh_optimizer(run, state)
    if config.objective == "cl_sft":
        scenes = run.batches(run.splits.train, run.config.closed_loop.scenes, unit)
        return steps(run, state, unit, config.iterations, scenes, lambda s, _, key, batch: tune(run, s, key, batch)), {}

    def body(state, step, key, batch):
        k_dream, k_learn = jax.random.split(key)
        state, shown, practised = practise(run, state, k_dream, batch[0])
        done = (unit.round - 1) * config.iterations + step
        rate = cosine(config.learning_rate, done, config.rounds * config.iterations)
        clip = config.clip if config.objective in CLIPPED else 0.0
        rates = (rate, run.config.value.learning_rate, config.kl_weight, config.entropy_weight, clip)
        state, learned = learn(
            run, state, k_learn, shown, config.minibatch, config.epochs, Rates(*map(jnp.float32, rates))
        )
        if config.objective == "dagger":
            del learned["parity"]  # what is learned was not drawn: there is no log-probability to replay
        return state, {**practised, **learned}

    scenes = run.batches(run.splits.train, config.scenes, unit)
    return steps(run, state, unit, config.iterations, scenes, body), {}


def ground(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Drives the grounding scenes for real, measures the gap to imagination, and decides about the policy.

    The first time (round 0) the imitation policy is what fine-tuning is judged against, and is driven as well where
    there was any. Its check on the validation split stands since its last step.
    """
    state, now, gap = drive_grounding(run, state, state.learned.policy)
    if not state.progress.grounded_return:
        before = now
        if run.config.closed_loop.steps:
            state, before, _ = drive_grounding(run, state, state.learned.imitation)
        state = noted(state, before)
    decision = grounding.decide(run.config.rounds, state.progress, now, gap["bias"])
    used = {"horizon": state.progress.horizon, "penalty": state.progress.penalty, "trust": state.progress.trust}
    if not run.config.rounds.dynamic_horizon:
        used["trust"] = None  # all of it: an infinity, which JSON does not have
    state = state.note(horizon=decision.horizon, penalty=decision.penalty)
    score = None
    if decision.accept:
        state, found = check(run, state, unit, state.learned.policy)
        score = found["score"]
        state = keep_best(run, noted(state, now).learn(accepted=state.learned.policy), score)
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
        "spent": state.progress.ledger.settle().spent,
        "wall_s": round(run.wall_s, 1),
    }
    state = state.note(rounds=(*state.progress.rounds, record))
    run.write("decisions.txt", decisions(state))
    return state, {name: value for name, value in record.items() if isinstance(value, float)}


def decisions(state: RunState) -> str:
    """One line per round."""
    return "".join(f"round {one['round']}: {one['reason']}\n" for one in state.progress.rounds)


def noted(state: RunState, grounded: Grounded) -> RunState:
    """Keeps what an accepted policy did: the next round is compared with it."""
    return state.note(grounded_return=tuple(map(float, grounded.returns)), failures=float(grounded.failures.mean()))


def keep_best(run: Run, state: RunState, score: float) -> RunState:
    """Keeps the policy if no earlier one scored higher on the validation split, or if nothing is ever rolled back."""
    if score <= state.progress.best_score and run.config.rounds.roll_back:
        return state
    return state.learn(best=state.learned.policy).note(best_score=score, best_checkpoint=state.progress.closing)


def drive_grounding(run: Run, state: RunState, policy: Params) -> tuple[RunState, Grounded, dict[str, float]]:
    """Drives a policy in the simulator and in imagination from the same starts with the same keys.

    It drives as it is deployed, without chance: exploration fails in ways that nobody would deploy, and a round can
    lower what the exploring policy earns while the deployed one gets better.
    """
    config, records = run.config.rounds, run.splits.grounding
    count, size = min(config.grounding_scenes, len(records)), config.scenes * config.group
    # Spread over the split: neighbours come from one source or road network.
    chosen = np.arange(count) * len(records) // count
    dreams, drives, first = [], [], "ground" not in run.compiled
    run.compiled.add("ground")
    with Bar("ground", -(-count // size), unit="batches", compiles=first) as bar:
        for chunk, rows in bar.over(enumerate(chunks(count, size))):
            scene = run.layout.assemble(take(records, chosen[rows[run.layout.own(size)]]))
            keys = row_keys(run.key(COMPARED, 2 + chunk), size, 1)
            start, placed = run.layout.place((np.full(size, SceneSpec.current), keys))
            dreamt = run.programs.foresee(state.learned.model, policy, scene, start, placed, trusted(state))
            _, score, driven = run.programs.drive_deployed(policy, scene, placed[0])
            dreams.append(to_host(dreamt))
            drives.append(to_host((driven, score)))
    dreamt = rows_of(dreams, 1, count)
    driven, score = rows_of([one[0] for one in drives], 1, count), rows_of([one[1] for one in drives], 0, count)
    state = state.charge("ground", driven["alive"])
    found = grounding.gap(dreamt, driven, state.progress.trust, state.progress.horizon)
    return state, Grounded(driven["own_reward"].sum(0), score["failure"]), found


def rows_of(parts: list[Any], axis: int, count: int) -> Any:
    """The chunks' rows one after another, without those that only filled up the last chunk."""
    return jax.tree.map(lambda *a: np.concatenate(a, axis).take(np.arange(count), axis), *parts)
