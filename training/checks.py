"""Checks a policy on the validation split, in closed loop and, beside it, in open loop."""

import functools

import numpy as np

from tether.simulator.log_replay import LogReplay
from tether.simulator.world import Params
from tether.training.drives import Judge, NamedPolicy, Scored, drive, row_keys
from tether.training.loop import Run, Unit
from tether.training.open_loop import HORIZONS_S, open_loop
from tether.training.processes import to_host
from tether.training.scenes import chunks, take
from tether.training.state import RunState

BATCH = 32  # scenes asked at once
CHECKED = ("score", "failure", *(f"ade_{horizon_s:g}s_m" for horizon_s in HORIZONS_S))


def check(run: Run, state: RunState, unit: Unit, policy: Params) -> tuple[RunState, dict[str, float]]:
    """Drives a policy over the validation split, greedily as the evaluation will, and asks it along the log.

    Returns: the state with the check noted and its steps added to the ledger, and means over the scenes: `CHECKED`.
    """
    named = NamedPolicy("validation", run.models.deployed, policy, run.models.labels)
    state, scores = validate(run, state, named)
    measured = {**scores, **along_logs(run, policy)}
    means = {name: float(np.mean(measured[name])) for name in CHECKED}
    where = {"stage": unit.part, "round": unit.round, "step": state.progress.step}
    return state.note(checks=(*state.progress.checks, {**where, **means})), means


def validate(run: Run, state: RunState, policy: NamedPolicy) -> tuple[RunState, dict[str, np.ndarray]]:
    """Drives a policy over the validation split. Returns: the state with its steps counted, and the scores [N]."""
    config, records = run.config, run.splits.validation
    scores = drive(
        *(policy, records, Judge(LogReplay(config.simulator)), Scored(config.simulator, policy.labels)),
        steps=config.rollout_steps,
        batch=min(config.evaluation.batch, len(records)),
        keys=functools.partial(row_keys, config.seed),
        layout=run.layout,
        fetch=lambda kept: kept[0],
    )
    return state.add_steps("validate", scores["steps"]), scores


def along_logs(run: Run, policy: Params) -> dict[str, np.ndarray]:
    """`open_loop` on the validation split, float32[N]."""
    records, layout = run.splits.validation, run.layout
    size = min(BATCH, len(records)) + -min(BATCH, len(records)) % layout.row_parts
    parts = []
    for rows in chunks(len(records), size):
        scene = layout.assemble(take(records, rows[layout.own(size)]))
        parts.append(to_host(open_loop(run.models.deployed, run.config.simulator, run.layout, policy, scene)))
    return {name: np.concatenate([part[name] for part in parts])[: len(records)] for name in parts[0]}
