"""Going on: from the newest checkpoint, from what another run has finished, or from the beginning."""

import logging
import pathlib
from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from tether.training.checkpoint import Checkpoints
from tether.training.directory import read_settings
from tether.training.loop import Run, write_rounds
from tether.training.settings import differences
from tether.training.stages import STAGES
from tether.training.state import Learned, Progress, RunState

log = logging.getLogger(__name__)


def resume(run: Run, fresh: Learned) -> RunState:
    """The state to go on from: the newest undamaged checkpoint, of whatever mesh, or the beginning.

    `rounds.json` is made what the checkpoint says.

    Raises: ValueError where several processes do not see the same checkpoints.
    """
    checkpoint = run.checkpoints.restore(fresh, parse_progress)
    seen = np.unique(multihost_utils.process_allgather(np.int32(-1 if checkpoint is None else checkpoint.step)))
    if len(seen) > 1:
        raise ValueError(f"{run.directory}: expected all processes to see it, but they found checkpoints {seen}")
    if checkpoint is None and run.config.start_from is not None:
        return shared_start(run, fresh)
    if checkpoint is None:
        rounds = run.config.rounds
        return RunState(fresh, Progress(horizon=rounds.horizon, penalty=rounds.penalty))
    step, learned, progress = checkpoint
    log.info("resuming from step %d: %s finished", step, ", ".join(progress.finished) or "no unit")
    if run.logger is not None and not run.logger.lines_before:
        log.warning("%s has no line of the steps before: its times in reports begin now", run.logger.path)
    write_rounds(run, progress)
    return placed(run, learned, progress)


def parse_progress(meta: dict[str, Any]) -> Progress:
    """Where a run stood, by what stands beside a checkpoint's arrays. Raises: ValueError, KeyError."""
    return Progress.from_json(meta["progress"])


def shared_start(run: Run, fresh: Learned) -> RunState:
    """The state that another run, `start_from`, was left in after the stages that need nothing else.

    Raises: ValueError where there is no such run, its settings of these stages differ, or it has done nothing or more.
    """
    source = pathlib.Path(run.config.start_from)
    settings = read_settings(source)
    if settings is None:
        raise ValueError(f"start_from: {source} is not a run: expected a config.json in it")
    changed = differences(run.config, settings, later=False)
    if changed:
        raise ValueError(f"start_from: {source} has other settings:\n  " + "\n  ".join(changed))
    checkpoints = Checkpoints(source / "checkpoints", run.config.keep_checkpoints)
    try:
        checkpoint = checkpoints.restore(fresh, parse_progress, repair=False)
    finally:
        checkpoints.close()
    done = checkpoint.progress.finished if checkpoint else ()
    shared = tuple(unit.name for stage in STAGES if stage.shared for unit in stage.units(run.config))
    if not done or not set(done) <= set(shared):
        raise ValueError(
            f"start_from: expected {source} to have finished some of {shared} and nothing else, found {done}"
        )
    if run.logger:
        run.logger.go_on_from(source)
    rounds = run.config.rounds
    return placed(run, checkpoint.state, checkpoint.progress).note(horizon=rounds.horizon, penalty=rounds.penalty)


def placed(run: Run, learned: Learned, progress: Progress) -> RunState:
    """The state that a checkpoint holds. The tracks stay on the host: rows of them are written and drawn at random."""
    parameters = run.layout.place_parameters(learned.replace(tracks=()))
    return RunState(parameters.replace(tracks=learned.tracks), progress)
