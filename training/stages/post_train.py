"""Stage `post_train`: rounds of refitting, improvement in imagination, grounding in the simulator, and the decision."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.simulator.log_replay import LogReplay
from tether.simulator.world import Params
from tether.training import grounding, models
from tether.training.checks import check
from tether.training.config import Config
from tether.training.drives import Judge, NamedPolicy, Scored, Steps, drive, steps_of
from tether.training.grounding import Grounded
from tether.training.imagination import row_keys
from tether.training.learning import Rates, cosine
from tether.training.loop import COMPARED, FOR_GROUNDING, Metrics, Run, Unit, steps
from tether.training.practice import fresh_moments, learn, practise
from tether.training.stage import Stage
from tether.training.stages.closed_loop import tune
from tether.training.stages.world_model import refit
from tether.training.state import RunState


def improve(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Improves the policy: by imagined rollouts, or by more demonstrations."""
    config, objective = run.config.rounds, models.practice(run.config, run.models).objective
    state = fresh_moments(run, state)
    if not objective.imagines:
        scenes = run.batches(run.splits.train, run.config.closed_loop.scenes, unit)
        return steps(run, state, unit, config.iterations, scenes, lambda s, _, key, batch: tune(run, s, key, batch)), {}

    def body(state: RunState, step: int, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
        k_imagine, k_learn = jax.random.split(key)
        state, experience, practised = practise(run, state, k_imagine, batch[0])
        done = (unit.round - 1) * config.iterations + step
        rate = cosine(config.learning_rate, done, config.rounds * config.iterations)
        weights = (rate, run.config.value.learning_rate, config.kl_weight, config.entropy_weight, objective.clip)
        rates = Rates(*map(jnp.float32, weights))
        state, learned = learn(run, state, k_learn, experience, config.minibatch, config.epochs, rates)
        if not objective.learns_drawn:
            del learned["parity"]  # there is no log-probability to replay
        return state, {**practised, **learned}

    scenes = run.batches(run.splits.train, config.scenes, unit)
    return steps(run, state, unit, config.iterations, scenes, body), {}


def ground(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Drives the grounding scenes in the simulator, measures the gap to imagination, and decides about the policy.

    The first time (round 0) the imitation policy is what fine-tuning is compared with, and is driven as well where
    there was any. Its check on the validation split stands since its last step.
    """
    state, now, gap = drive_grounding(run, state, state.learned.policy)
    if not state.progress.grounded_return:
        before = now
        if run.config.closed_loop.steps:
            state, before, _ = drive_grounding(run, state, state.learned.imitation)
        state = noted(state, before)
    decision = grounding.decide(run.config, state.progress, now, gap["bias"])
    used = {"horizon": state.progress.horizon, "penalty": state.progress.penalty, "trust": state.progress.trust}
    if not run.config.rounds.dynamic_horizon:
        used["trust"] = None  # all of it: an infinity, which JSON does not have
    state = state.note(horizon=decision.horizon, penalty=decision.penalty)
    score = None
    if decision.accept:
        state, means = check(run, state, unit, state.learned.policy)
        score = means["score"]
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
        "spent": state.progress.ledger.count().spent,
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
    if score <= state.progress.best_score and run.config.grounding.roll_back:
        return state
    return state.learn(best=state.learned.policy).note(best_score=score, best_checkpoint=state.progress.closing)


def drive_grounding(run: Run, state: RunState, policy: Params) -> tuple[RunState, Grounded, dict[str, float]]:
    """Drives a policy in the simulator and in imagination from the same starts with the same keys.

    It drives as it is deployed, without chance: exploration fails in ways that nobody would deploy, and a round can
    lower what the exploring policy earns while the deployed one gets better.
    """
    config, records, labels = run.config, run.splits.grounding, run.models.labels
    count = min(config.grounding.scenes, len(records))
    # Spread over the split: neighbours come from one source or road network.
    rows = np.arange(count) * len(records) // count
    size = config.rounds.scenes * config.rounds.group
    shared = {"rows": rows, "keys": functools.partial(grounding_keys, run, rows, size), "layout": run.layout}
    model = Judge(run.models.world_model, lambda rows: state.learned.model)
    imagined = drive(
        *(NamedPolicy("ground, imagined", run.models.deployed, policy), records, model, steps_of),
        steps=config.rounds.horizon,
        batch=size,
        **shared,
    )
    scores, driven = drive(
        *(NamedPolicy("ground", run.models.deployed, policy), records, Judge(LogReplay(config.simulator))),
        Scored(config.simulator, labels),
        steps=config.rollout_steps,
        batch=min(config.evaluation.batch, count),  # as in checks and evaluations, whose program it shares
        fetch=lambda kept: kept[:2],
        **shared,
    )
    imagined, driven = time_major(imagined), time_major(driven)
    state = state.add_steps("ground", driven.alive)
    gap = grounding.gap(imagined, driven, state.progress.trust, state.progress.horizon)
    return state, Grounded(driven.own_reward.sum(0), scores["failure"]), gap


def grounding_keys(run: Run, rows: np.ndarray, size: int, chosen: np.ndarray) -> Any:
    """Keys of grounding scenes, the same in every round. Args: rows: all of them.   size: of a batch of keys."""
    batches = [row_keys(run.key(COMPARED, FOR_GROUNDING + index), size, 1) for index in range(-(-len(rows) // size))]
    places = np.searchsorted(rows, chosen)
    return jax.tree.map(lambda *keys: jnp.concatenate(keys)[places], *batches)


def time_major(steps: Steps) -> Steps:
    """[R, H] -> [H, R]."""
    return jax.tree.map(lambda field: np.ascontiguousarray(np.swapaxes(field, 0, 1)), steps)


def order(config: Config) -> Sequence[tuple[str, int]]:
    """The imitation policy is grounded first, then the policy of each round."""
    rounds = range(1, config.rounds.rounds + 1)
    return [("ground", 0), *((part, index) for index in rounds for part in ("refit", "improve", "ground"))]


STAGE = Stage("post_train", {"refit": refit, "improve": improve, "ground": ground}, order)
