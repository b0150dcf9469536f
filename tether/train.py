"""The main job: `python train.py [preset] [--field value ...]`. Resumes by default; `--help` lists every field."""

import contextlib
import logging
import pathlib
import sys
import time
from typing import NamedTuple

import jax

from tether.data.progress import Bar, log_above_bars
from tether.evaluation.policies import Request, evaluate_run
from tether.training import loop, mesh, models, presets, processes, stages, stop
from tether.training.checkpoint import Checkpoints
from tether.training.config import Config
from tether.training.directory import claim, write_settings
from tether.training.log import Logger
from tether.training.loop import Run
from tether.training.mesh import Layout
from tether.training.models import Models
from tether.training.processes import is_first
from tether.training.resume import resume
from tether.training.scenes import Splits, open_splits
from tether.training.state import RunState
from tether.training.validation import check_rows
from tether.training.watch import AlarmError

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """A run that can begin.

    Attributes:
      config: the resolved config.   splits: its scenes.   models: to train.   layout: of the devices.
      began: monotonic time [s].
    """

    config: Config
    splits: Splits
    models: Models
    layout: Layout
    began: float


def main(arguments: list[str]) -> int:
    """Runs the job that the command line names. Returns the exit status."""
    log_above_bars()
    config = presets.parse(arguments)
    try:
        processes.join(config.distributed)
        job = prepare(config)
        with claim(config) as directory:
            train(job, directory)
            processes.leave()
            if config.stage == "all" and is_first():
                evaluate(directory, config.world_model)
    except stop.Interrupted as stopped:
        print(f"{stopped}. The same command goes on from there.")
        return stop.INTERRUPTED
    except AlarmError as alarm:
        print(f"{alarm}; {directory} keeps its last checkpoint", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def prepare(config: Config) -> Job:
    """Opens and builds everything on which the settings can be wrong, and writes nothing.

    Raises: ValueError for a device, a data set, a world model or an objective that is not there, and for sizes that do
      not fit.
    """
    began = time.monotonic()
    processes.devices()
    layout = mesh.make(config.mesh)
    check_rows(config, layout.row_parts)
    splits = open_splits(config.data, config.spec, config.simulator)
    built = models.build(config)
    models.practice(config, built)  # refuses an objective that is not there
    return Job(config, splits, built, layout, began)


def train(job: Job, directory: pathlib.Path) -> RunState:
    """Runs the stages that are not finished yet, in a directory that is claimed, and returns the final state."""
    config, splits, built, layout, began = job
    if config.compilation_cache:
        processes.cache_programs(directory)
    describe(job, directory)
    with Bar("initial state", 1, unit="parts", compiles=True) as bar:
        fresh = models.begin(config, built, splits.train, layout)
        bar.advance()
    write_settings(config, directory)
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(directory / "checkpoints", config.keep_checkpoints)
        stack.callback(checkpoints.close)
        logger = Logger(directory) if is_first() else None
        if logger is not None:
            stack.callback(logger.close)
        run = Run(config, directory, splits, built, checkpoints, logger, stop.Stop(), layout, began)
        state = resume(run, fresh)
        with run.stop:
            return execute(run.since(state.progress.wall_s), state)


def execute(run: Run, state: RunState) -> RunState:
    """Runs one unit after another; each is saved when it is done."""
    units = stages.pending(run.config, state.progress.finished)
    if not units and is_first():
        print("finished already" + ("; evaluating again" if run.config.stage == "all" else ""))
    for unit in units:
        if is_first():
            log.info(stages.title(unit, run.config))
        state, metrics = stages.part(unit)(run, state, unit)
        state = loop.finish(run, state, unit, metrics)
    return state


def describe(job: Job, directory: pathlib.Path) -> None:
    """Prints directory, preset, seed, device and numbers of scenes; all settings are in `config.json`."""
    sizes = ", ".join(f"{name} {len(getattr(job.splits, name))}" for name in ("train", "grounding", "validation"))
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    if is_first():
        print(f"{directory}: preset {job.config.name}, seed {job.config.seed}, on {device}; scenes: {sizes}")


def evaluate(directory: pathlib.Path, world_model: str) -> None:
    """Evaluates on the test split, writes the report, prints its headline. Args: world_model: that the user named."""
    print(evaluate_run(directory, Request(trusted=(world_model,))))
