"""The end of a round: a policy that learned in imagination is grounded, and accepted or rolled back by rule."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.simulator.log_replay import LogReplay
from tether.simulator.world import Params, Policy
from tether.training import grounding
from tether.training.checks import check, validate
from tether.training.drives import Judge, NamedPolicy, Scored, Steps, drive, steps_of
from tether.training.grounding import Grounded
from tether.training.imagination import row_keys
from tether.training.loop import COMPARED, FOR_GROUNDING, Metrics, Run, Unit
from tether.training.state import RunState, Standing


@dataclasses.dataclass(frozen=True)
class Learner:
    """A policy that learns in rounds.

    Attributes:
      name: of the field of `Progress` where it stands; empty for the policy that is the run's result.
      policy: as it is deployed, without chance.   horizon: most world steps that it is imagined for.
      now, accepted, best: fields of `Learned` that hold its parameters, see there.
      before: the field that it is compared with when it is grounded for the first time.
    """

    name: str
    policy: Policy
    horizon: int
    now: str
    accepted: str
    best: str
    before: str

    def standing(self, state: RunState) -> Standing:
        """Where it stands."""
        return getattr(state.progress, self.name) if self.name else state.progress

    def note(self, state: RunState, **changes: Any) -> RunState:
        """The state with some of that replaced."""
        if not self.name:
            return state.note(**changes)
        return state.note(**{self.name: dataclasses.replace(self.standing(state), **changes)})

    def file(self, name: str) -> str:
        """The name of a file of the run that is about it."""
        return f"{self.name}_{name}" if self.name else name


def ground_and_decide(run: Run, state: RunState, unit: Unit, learner: Learner) -> tuple[RunState, Metrics]:
    """Drives the grounding scenes in the simulator, measures the gap to imagination, and decides about the policy.

    The first time (round 0) there is nothing accepted to compare with but `Learner.before`.
    """
    learned = state.learned
    params = getattr(learned, learner.now)
    state, now, gap = drive_grounding(run, state, learner, params)
    if not learner.standing(state).grounded_return:
        before = now
        if learner.before != learner.now:
            state, before, _ = drive_grounding(run, state, learner, getattr(learned, learner.before))
        state = noted(state, learner, before)
    standing = learner.standing(state)
    decision = grounding.decide(run.config, standing, now, gap["bias"])
    used = {"horizon": standing.horizon, "penalty": standing.penalty, "trust": state.progress.trust}
    if not run.config.rounds.dynamic_horizon:
        used["trust"] = None  # all of it: an infinity, which JSON does not have
    state = learner.note(state, horizon=decision.horizon, penalty=decision.penalty)
    score = None
    if decision.accept:
        state, score = validated(run, state, unit, learner, params)
        state = keep_best(run, noted(state, learner, now).learn(**{learner.accepted: params}), learner, score)
    else:
        state = state.learn(**{learner.now: getattr(learned, learner.accepted)})
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
    state = learner.note(state, rounds=(*standing.rounds, record))
    run.write(learner.file("decisions.txt"), decisions(learner.standing(state)))
    return state, {name: value for name, value in record.items() if isinstance(value, float)}


def decisions(standing: Standing) -> str:
    """One line per round."""
    return "".join(f"round {one['round']}: {one['reason']}\n" for one in standing.rounds)


def noted(state: RunState, learner: Learner, grounded: Grounded) -> RunState:
    """Keeps what an accepted policy did: the next round is compared with it."""
    returns, failures = tuple(map(float, grounded.returns)), float(grounded.failures.mean())
    return learner.note(state, grounded_return=returns, failures=failures)


def validated(run: Run, state: RunState, unit: Unit, learner: Learner, params: Params) -> tuple[RunState, float]:
    """The driving score on the validation split; for the run's result with the other numbers of a check."""
    if not learner.name:
        state, means = check(run, state, unit, params)
        return state, means["score"]
    state, scores = validate(run, state, NamedPolicy("validation", learner.policy, params))
    return state, float(np.mean(scores["score"]))


def keep_best(run: Run, state: RunState, learner: Learner, score: float) -> RunState:
    """Keeps the policy if no earlier one scored higher on the validation split, or if nothing is ever rolled back."""
    if score <= learner.standing(state).best_score and run.config.grounding.roll_back:
        return state
    if not learner.name:
        state = state.note(best_checkpoint=state.progress.closing)
    return learner.note(state, best_score=score).learn(**{learner.best: getattr(state.learned, learner.now)})


def drive_grounding(
    run: Run, state: RunState, learner: Learner, params: Params
) -> tuple[RunState, Grounded, dict[str, float]]:
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
        *(NamedPolicy("ground, imagined", learner.policy, params), records, model, steps_of),
        steps=learner.horizon,
        batch=size,
        **shared,
    )
    scores, driven = drive(
        *(NamedPolicy("ground", learner.policy, params), records, Judge(LogReplay(config.simulator))),
        Scored(config.simulator, labels),
        steps=config.rollout_steps,
        batch=min(config.evaluation.batch, count),  # as in checks and evaluations, whose program it shares
        fetch=lambda kept: kept[:2],
        **shared,
    )
    imagined, driven = time_major(imagined), time_major(driven)
    state = state.add_steps("ground", driven.alive)
    gap = grounding.gap(imagined, driven, state.progress.trust, learner.standing(state).horizon)
    return state, Grounded(driven.own_reward.sum(0), scores["failure"]), gap


def grounding_keys(run: Run, rows: np.ndarray, size: int, chosen: np.ndarray) -> Any:
    """Keys of grounding scenes, the same in every round. Args: rows: all of them.   size: of a batch of keys."""
    batches = [row_keys(run.key(COMPARED, FOR_GROUNDING + index), size, 1) for index in range(-(-len(rows) // size))]
    places = np.searchsorted(rows, chosen)
    return jax.tree.map(lambda *keys: jnp.concatenate(keys)[places], *batches)


def time_major(steps: Steps) -> Steps:
    """[R, H] -> [H, R]."""
    return jax.tree.map(lambda field: np.ascontiguousarray(np.swapaxes(field, 0, 1)), steps)
