"""Damages a run's files and fills its disk, and counts damage that is neither reported nor harmless:

python -m benchmarks.damage [--flips 500] [--disks 50] [--seed 0]

A run of preset `tiny` is made, with two checkpoints of a few numbers, so that nothing is compiled. One bit at a time is
flipped: in the newer checkpoint (half of the time in `meta`, else in a random file), in `config.json`, `rounds.json`
and `metrics.jsonl`; then the run is resumed. After that the size of its files is limited to a number of bytes, drawn
anew each time, while everything is written once more. Prints JSON, per target the numbers of cases that were
- harmless: all arrays, the key, progress and settings are unchanged;
- named: a message names the damaged file or checkpoint, and the run is refused or uses the intact older checkpoint;
- mended: written again from the checkpoint;
- silent, uncaught or lost. The exit status is 1 if there was any of these.
A log has no checksum: each line of `metrics.jsonl`, from which only wall times are read, has to be whole or set aside.
"""

import argparse
import collections
import dataclasses
import json
import logging
import pathlib
import resource
import shutil
import tempfile
from typing import Any

import jax
import numpy as np

from benchmarks import command
from tether.data.command_line import Parser
from tether.data.files import write_text
from tether.training import settings
from tether.training.checkpoint import Checkpoints, checksums
from tether.training.config import Config
from tether.training.directory import check_settings, write_settings
from tether.training.log import Logger, read_lines
from tether.training.loop import write_rounds
from tether.training.presets import tiny
from tether.training.resume import parse_progress
from tether.training.state import Progress

STATE = {"weights": np.arange(512, dtype=np.float32).reshape(16, 32), "count": np.int32(7), "ring": np.ones(3)}
OLD, NEW = 1, 2  # checkpoints
LISTS = ("rounds.json", "metrics.jsonl")
BAD = ("silent", "uncaught", "lost")


@dataclasses.dataclass(frozen=True)
class Files:
    """The part of a run that writes its files; stands in for `loop.Run`."""

    directory: pathlib.Path
    config: Config

    def write(self, name: str, text: str) -> None:
        """See `loop.Run`."""
        write_text(self.directory / name, text)


class Messages(logging.Handler):
    """Keeps logged messages."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one message."""
        self.texts.append(record.getMessage())


def progress(step: int) -> Progress:
    """The run's progress at a checkpoint."""
    rounds = tuple({"round": index, "decision": "accept", "reason": "", "bias": 0.25} for index in range(step))
    done = ("0/imitate", "0/fit_world_model")[:step]
    return Progress(
        finished=done, total=step, horizon=8, penalty=1.0, grounded_return=(1.5, 2.5), rounds=rounds, trust=0.75
    )


def state(step: int) -> dict[str, Any]:
    """The run's arrays at a checkpoint."""
    return jax.tree.map(lambda leaf: leaf + np.asarray(step, leaf.dtype), STATE)


def write(files: Files, steps: tuple[int, ...]) -> None:
    """Writes all files of a run, with these checkpoints."""
    write_settings(files.config, files.directory)
    logger = Logger(files.directory)
    checkpoints = Checkpoints(files.directory / "checkpoints", 2)
    try:
        checkpoints.restore(STATE)
        for step in steps:
            where = {"round_index": 0, "stage": "imitate", "step": step, "total": step, "simulator_steps": 0}
            logger.write(**where, wall_s=1.5 * step, metrics={"loss": 0.5, "gradient_norm": 2.0})
            write_rounds(files, progress(step))
            meta = {"progress": progress(step).to_json(), "settings": dataclasses.asdict(files.config)}
            checkpoints.save(step, state(step), meta)
    finally:
        logger.close()
        checkpoints.close()


def go_on(files: Files) -> int:
    """Resumes a run as `train.py` does.

    Returns: the checkpoint's step. Raises: ValueError where it cannot; AssertionError where anything differs from what
      was written.
    """
    check_settings(files.config, files.directory)
    write_settings(files.config, files.directory)
    logger = Logger(files.directory)
    checkpoints = Checkpoints(files.directory / "checkpoints", 2)
    try:
        restored = checkpoints.restore(STATE, parse_progress)
    finally:
        checkpoints.close()
        logger.close()
    step, arrays, stands = restored or (0, {}, None)
    write_rounds(files, stands)
    assert checksums(arrays) == checksums(state(step)) and stands == progress(step), "other arrays or progress"
    assert json.loads((files.directory / "rounds.json").read_text("utf-8")) == list(progress(step).rounds), "rounds"
    written = settings.read(files.directory / "config.json")
    assert not settings.differences(files.config, written), "other settings"
    return step


def outcome(files: Files, name: str, messages: Messages) -> str:
    """The outcome of resuming a run of which one file, or the newer checkpoint, `name`, was damaged."""
    messages.texts.clear()
    try:
        step, logged = go_on(files), " ".join(messages.texts)
    except (ValueError, OSError) as error:
        return "named" if name in str(error) else "uncaught"
    except AssertionError:
        return "silent"
    except Exception:  # any undocumented error counts
        return "uncaught"
    if step == NEW:
        return "named" if logged else "harmless"
    return "named" if f"checkpoint {NEW} " in logged else "silent"


def flip(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    bit = int(rng.integers(8 * len(data)))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def checkpoint_file(directory: pathlib.Path, rng: np.random.Generator) -> pathlib.Path:
    """One of the newer checkpoint's files that are not empty; half of the time `meta`."""
    folder = directory / "checkpoints" / str(NEW)
    if rng.random() < 0.5:
        return folder / "meta" / "metadata"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return files[rng.integers(len(files))]


def flips(whole: Files, work: Files, target: str, count: int, seed: int, messages: Messages) -> dict[str, int]:
    """Flips bits of one target, each in a copy of the whole run. Returns: counts by outcome."""
    outcomes: collections.Counter[str] = collections.Counter()
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        shutil.rmtree(work.directory, ignore_errors=True)
        shutil.copytree(whole.directory, work.directory)
        of_checkpoint = target == "checkpoint"
        path = checkpoint_file(work.directory, rng) if of_checkpoint else work.directory / target
        flip(path, rng)
        result = outcome(work, f"{NEW}" if of_checkpoint else target, messages)
        if target == "rounds.json" and result == "harmless":
            result = "mended"
        if target == "metrics.jsonl" and len(list(read_lines(path))) + result.count("named") < 2:
            result = "silent"  # a line is neither there nor set aside
        outcomes[result] += 1
    return dict(outcomes)


def full_disks(work: Files, count: int, seed: int, messages: Messages) -> dict[str, int]:
    """Writes everything a second time where no file may grow beyond a size. Returns: counts by outcome."""
    outcomes: collections.Counter[str] = collections.Counter()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for index in range(count):
        most = int(2 ** np.random.default_rng((seed, index)).uniform(0, 14))
        shutil.rmtree(work.directory, ignore_errors=True)
        work.directory.mkdir(parents=True)
        write(work, (OLD,))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        reason = ""
        try:
            write(work, (NEW,))
        except (ValueError, OSError) as error:
            reason = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        messages.texts.clear()
        try:
            step = go_on(work)
        except Exception:  # whatever the error, the run cannot be resumed
            outcomes["lost"] += 1
            continue
        outcomes["named" if str(work.directory) in reason else "harmless" if step == NEW else "silent"] += 1
    return dict(outcomes)


def run(flipped: int, disks: int, seed: int, folder: pathlib.Path) -> dict[str, dict[str, int]]:
    """Flips bits and fills disks. Returns: target to counts by outcome."""
    messages = Messages()
    logger = logging.getLogger("tether.training")
    logger.addHandler(messages)
    propagates, logger.propagate = logger.propagate, False
    try:
        work = Files(folder / "work", dataclasses.replace(tiny(), directory=str(folder / "work")))
        whole = Files(folder / "whole", work.config)
        whole.directory.mkdir(parents=True)
        write(whole, (OLD, NEW))
        counts = {"checkpoint": flipped, "config.json": flipped // 2} | dict.fromkeys(LISTS, flipped // 10)
        outcomes = {name: flips(whole, work, name, count, seed, messages) for name, count in counts.items()}
        return outcomes | {"disk": full_disks(work, disks, seed, messages)}
    finally:
        logger.removeHandler(messages)
        logger.propagate = propagates


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.damage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flips", type=int, default=500, help="of bits of a checkpoint (default: %(default)s)")
    parser.add_argument("--disks", type=int, default=50, help="disks that fill up (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Damages, prints, returns the exit status."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        by_target = run(options.flips, options.disks, options.seed, pathlib.Path(folder))
    bad = sum(outcomes.get(name, 0) for outcomes in by_target.values() for name in BAD)
    print(json.dumps({"seed": options.seed, "outcomes": by_target, "bad": bad}, indent=2))
    return int(bad > 0)


if __name__ == "__main__":
    command.run(main)
