"""The main job: `python train.py [preset] [--field value ...]`. Resumes by default; `--help` lists every field."""

import os
import pathlib
import sys
import time

# XLA calls it an error whenever it reads back a program that it cached itself (a tuning hint counts as a missing CPU
# feature). Only before JAX is imported can that be silenced; exceptions are raised as ever.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax

from data.progress import log_above_bars
from training import loop, mesh, presets, processes, stages
from training.checkpoint import Checkpoints
from training.config import Config
from training.log import Logger
from training.loop import Interrupted, Run, Stop
from training.processes import is_first
from training.programs import build, build_model
from training.scenes import open_splits
from training.state import RunState
from training.watch import AlarmError


def main(arguments: list[str]) -> int:
    """Runs what the command line asks for. Returns the exit status."""
    log_above_bars()
    config = presets.parse(arguments)
    try:
        processes.join(config.distributed)
        # A name that stands for no model ends here, before it has taken the directory.
        build_model(config)
        directory = loop.claim_directory(config)
        train(config, directory)
    except Interrupted as stopped:
        print(f"{stopped}; saved in {directory}. The same command goes on from there.")
        return 130
    except AlarmError as alarm:
        print(f"{alarm}; {directory} keeps its last checkpoint", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    processes.leave()
    if config.stage == "all" and is_first():
        evaluate(directory, config.world_model)
    return 0


def train(config: Config, directory: pathlib.Path) -> RunState:
    """Runs the stages that are not finished yet and returns the final state."""
    began = time.monotonic()
    cache_programs(config, directory)
    layout = mesh.make(config.mesh)
    mesh.check_rows(config, layout)
    splits = open_splits(config.data, config.spec, config.simulator)
    checkpoints = Checkpoints(directory / "checkpoints", config.keep_checkpoints)
    logger = Logger(directory) if is_first() else None
    run = Run(config, directory, splits, build(config, layout), checkpoints, logger, Stop(), layout, began)
    describe(run)
    try:
        with run.stop:
            state = loop.resume(run, stages.begin(run))
            return execute(run.since(state.progress.wall_s), state)
    finally:
        checkpoints.close()
        if logger is not None:
            logger.close()


def execute(run: Run, state: RunState) -> RunState:
    """One unit after another; each is saved when it is done."""
    for unit in loop.pending(run.config, state.progress.finished):
        loop.announce(run, unit)
        state, metrics = stages.PARTS[unit.part](run, state, unit)
        state = loop.finish(run, state, unit, metrics)
    return state


def cache_programs(config: Config, directory: pathlib.Path) -> None:
    """Keeps compiled programs beside the runs, unless the user has named a place for them."""
    if config.compilation_cache and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(directory.absolute().parent / ".compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def describe(run: Run) -> None:
    """Says once what is about to run; all settings stand in `config.json`."""
    sizes = ", ".join(f"{name} {len(getattr(run.splits, name))}" for name in ("train", "grounding", "validation"))
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    if is_first():
        print(f"{run.directory}: preset {run.config.name}, seed {run.config.seed}, on {device}; scenes: {sizes}")


def evaluate(directory: pathlib.Path, world_model: str) -> None:
    """Drives the test split, writes the report, prints its headline. The world model is the one that the user named."""
    from training.evaluation import Request, evaluate_run

    print(evaluate_run(directory, Request(trusted=(world_model,))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
