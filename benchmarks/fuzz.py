"""Feeds damaged input to every reader of files, and counts inputs that are not refused with a message:

python -m benchmarks.fuzz [--inputs 20000] [--seed 0] [--target NAME ...] [--scenario FILE]

Inputs are valid ones with a few bytes, numbers or entries changed, drawn from the seed. Prints JSON and writes the
page `fuzz` of the results. It holds for each target the numbers of inputs that were read, refused, uncaught (any error
that the reader does not document) or slow, the CPU-seconds of the slowest, and the growth of the process. Each uncaught
or slow input is kept under --keep; the exit status is 1 if there was any. `scenario` needs the WOMD protos and the
TFRecord FILE, from which it takes a valid message.
"""

import argparse
import contextlib
import copy
import faulthandler
import json
import logging
import pathlib
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from benchmarks import command
from benchmarks.mutate import change_arrays, change_bytes, change_json, change_message
from benchmarks.pages import add_folder, write_page
from tether.data import sources, storage, tfrecord, womd
from tether.data.build import read_manifest
from tether.data.builder import write_dataset
from tether.data.command_line import Parser
from tether.data.errors import DataError
from tether.data.padding import pad
from tether.data.progress import Bar
from tether.data.scene import SceneSpec
from tether.data.text import VOCABULARY
from tether.data.tokenizer import decode, encode, tokens
from tether.data.validation import validate
from tether.evaluation.provenance import made_here, shortened
from tether.evaluation.report import table
from tether.training import settings
from tether.training.checkpoint import Checkpoints, checksums
from tether.training.presets import PRESETS

LIMIT_S = 10.0  # CPU time of one input, which other load of the machine does not change
MEMORY_BYTES = 2 << 30  # that one input may add to the address space
STEP = 3  # of the checkpoint


class Target(NamedTuple):
    """A reader and its damaged inputs.

    Attributes:
      fraction: of all inputs that this target gets.
      make: (rng) -> a damaged input.
      read: (input) -> anything; raises one of `errors` for an input that it refuses.
      errors: that the reader documents.
    """

    fraction: float
    make: Callable[[np.random.Generator], Any]
    read: Callable[[Any], Any]
    errors: tuple[type[Exception], ...] = (DataError,)


class SlowError(Exception):
    """An input took longer than `LIMIT_S`."""


def targets(folder: pathlib.Path, scenario: str | None) -> dict[str, Target]:
    """All targets by name, with valid inputs made in `folder`."""
    examples = starter_examples(3)
    by_name = {
        "tfrecord": tfrecord_target(folder),
        "example": Target(0.15, lambda rng: change_arrays(rng, examples[rng.integers(3)]), read_example),
        **data_set_targets(folder, examples),
        "groups": groups_target(folder),
        "config": config_target(folder),
        "checkpoint": checkpoint_target(folder),
        "instruction": Target(0.1, some_text, read_text),
    }
    return by_name | ({"scenario": scenario_target(scenario)} if scenario else {})


def starter_examples(count: int) -> list[storage.Example]:
    """The first stored test scenes of the starter set."""
    file = next(sources.STARTER.glob("*-test.array_record*"))
    payloads = ArrayRecordDataSource(str(file))
    return [storage.parse_example(payloads[index]) for index in range(count)]


def read_example(example: storage.Example) -> None:
    """Decodes, pads and validates a stored scene, as training does."""
    validate(pad(storage.decode(example), SceneSpec()), SceneSpec())


def tfrecord_target(folder: pathlib.Path) -> Target:
    """A file of three records. The reader yields an error in place of a damaged record and raises nothing."""
    path = folder / "records.tfrecord"
    valid = b"".join(map(tfrecord.frame, (b"first", bytes(300), b"third")))

    def read(damaged: bytes) -> None:
        path.write_bytes(damaged)
        list(tfrecord.read_records(str(path)))

    return Target(0.25, lambda rng: change_bytes(rng, valid), read, ())


def scenario_target(file: str) -> Target:
    """A `Scenario` message with changed bytes or fields, converted, padded and validated."""
    payload = next(tfrecord.read_records(file))
    message = womd.parse_scenario(payload)

    def make(rng: np.random.Generator) -> bytes:
        return change_bytes(rng, payload) if rng.random() < 0.3 else change_message(rng, message)

    def read(damaged: bytes) -> None:
        for scene in womd.convert(womd.parse_scenario(damaged), "group", 2):
            validate(pad(scene, SceneSpec()), SceneSpec())

    return Target(0.1, make, read)


def data_set_targets(folder: pathlib.Path, examples: list[storage.Example]) -> dict[str, Target]:
    """A data set of one file: its records, and its description."""
    whole, work = folder / "whole", folder / "work"
    write_dataset({"train": [storage.decode(example) for example in examples]}, whole, {})

    def changed(*patterns: str) -> Callable[[np.random.Generator], tuple[str, bytes]]:
        files = sorted(file for pattern in patterns for file in whole.glob(pattern))

        def make(rng: np.random.Generator) -> tuple[str, bytes]:
            file = files[rng.integers(len(files))]
            change = change_json if file.suffix == ".json" and rng.random() < 0.7 else change_bytes
            return file.name, change(rng, file.read_bytes())

        return make

    def read(damaged: tuple[str, bytes]) -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(whole, work)
        (work / damaged[0]).write_bytes(damaged[1])
        source = sources.open_split(work, "train")
        for index in range(min(len(source), len(examples))):
            validate(source[index], SceneSpec())

    return {
        "array_record": Target(0.1, changed("*.array_record*"), read),
        "description": Target(0.1, changed("*.json"), read),
    }


def groups_target(folder: pathlib.Path) -> Target:
    """A manifest of location groups."""
    path = folder / "groups.json"
    valid = json.dumps([{"scenario_id": f"{i:x}", "location_group": "here"} for i in range(5)]).encode()

    def read(damaged: bytes) -> None:
        path.write_bytes(damaged)
        read_manifest(path, "location_group")

    return Target(0.1, lambda rng: either(rng, valid), read)


def config_target(folder: pathlib.Path) -> Target:
    """The settings of a run."""
    path = folder / "config.json"
    settings.write(PRESETS["tiny"](), path)
    valid = path.read_bytes()

    def read(damaged: bytes) -> None:
        path.write_bytes(damaged)
        settings.read(path)

    return Target(0.1, lambda rng: either(rng, valid), read, (ValueError,))


def checkpoint_target(folder: pathlib.Path) -> Target:
    """A checkpoint with one damaged file: refused, or read with the values that were saved."""
    whole, work = folder / "checkpoints", folder / "damaged"
    state = {"weights": np.arange(64, dtype=np.float32), "count": np.int32(7)}
    checkpoints = Checkpoints(whole, 2)
    meta = {"stage": "imitate", "penalty": 1.0, "finished": ["0/imitate"]}
    checkpoints.save(STEP, state, meta)
    checkpoints.close()
    files = sorted(file.relative_to(whole) for file in whole.rglob("*") if file.is_file())

    def make(rng: np.random.Generator) -> tuple[pathlib.Path, bytes]:
        file = files[rng.integers(len(files))]
        return file, change_bytes(rng, (whole / file).read_bytes())

    def read(damaged: tuple[pathlib.Path, bytes]) -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(whole, work)
        (work / damaged[0]).write_bytes(damaged[1])
        reopened = Checkpoints(work, 2)
        try:
            restored = reopened.restore(state)
        finally:
            reopened.close()
        if restored is not None and (checksums(restored.state), restored.progress) != (checksums(state), meta):
            raise AssertionError("other values than were saved")

    return Target(0.02, make, read, (ValueError,))


def some_text(rng: np.random.Generator) -> str:
    """An instruction of words, phrases' tokens, and characters of any kind, half of a surrogate pair among them."""
    known = ("turn left in 30 m", "<pad>", "<stop>", "", "\x00", "9" * 100, "\u202e", "\ud800", "\U0001f6a6", "$|\n")
    drawn = (chr(rng.integers(0xD7FF)) for _ in range(3))
    return " ".join([*(known[i] for i in rng.integers(len(known), size=rng.integers(16))), *drawn])


def read_text(text: str) -> None:
    """Refuses a text, or checks its tokens: the number asked for, none of a phrase, and decoded to the same text."""
    ids, cut = tokens(text), encode(text, SceneSpec.text)
    if len(cut) != SceneSpec.text or any(index < len(VOCABULARY) for index in ids) or decode(ids) != text:
        raise AssertionError(f"{text!r} became {ids}")


def either(rng: np.random.Generator, valid: bytes) -> bytes:
    """JSON with its values or its bytes changed."""
    return change_json(rng, valid) if rng.random() < 0.7 else change_bytes(rng, valid)


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Interrupts a reader that takes too long. One that cannot be interrupted ends the process."""

    def stop(*_: Any) -> None:
        raise SlowError(f"took more than {LIMIT_S} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    faulthandler.dump_traceback_later(30 * LIMIT_S, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, before)


def run(name: str, target: Target, count: int, seed: int, keep: pathlib.Path | None = None) -> dict[str, Any]:
    """Feeds `count` damaged inputs to a target. Returns: counts by outcome, and the slowest CPU time [s]."""
    counts: dict[str, Any] = {"inputs": count, "read": 0, "refused": 0, "uncaught": 0, "slow": 0, "slowest_s": 0.0}
    with Bar(name, count, unit="inputs") as bar:
        for index in bar.over(range(count)):
            damaged, started = target.make(np.random.default_rng((seed, index))), time.process_time()
            try:
                with limits():
                    target.read(damaged)
                counts["read"] += 1
            except target.errors as error:
                counts["refused"] += 1
                if not str(error):
                    raise AssertionError(f"{name} {index}: refused without a message") from error
            except SlowError:
                counts["slow"] += 1
                remember(keep, name, index, damaged)
            except Exception:  # any undocumented error counts
                counts["uncaught"] += 1
                remember(keep, name, index, damaged)
            counts["slowest_s"] = round(max(counts["slowest_s"], time.process_time() - started), 3)
    return counts


def remember(keep: pathlib.Path | None, name: str, index: int, damaged: Any) -> None:
    """Writes an input and the present traceback to a file."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{name}-{index}.txt").write_text(f"{traceback.format_exc()}\n{copy.copy(damaged)!r}\n")


def address_space() -> int:
    """Size of this process's address space [bytes]."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def section(result: dict[str, Any]) -> str:
    """The page."""
    facts = made_here()
    facts["command"] = shlex.join(["python", "-m", "benchmarks.fuzz", *map(shortened, sys.argv[1:])])
    facts["inputs"] = f"{sum(one['inputs'] for one in result['targets'].values()):,}"
    facts["largest growth of the process"] = f"{result['peak_memory_grew_mb']} MB"
    about = (
        "Damaged inputs, drawn from a seed, to every reader of files or text. Uncaught: any error that the reader does "
        f"not document. Slow: more than {LIMIT_S:g} CPU-seconds. The process may grow by {MEMORY_BYTES >> 30} GiB at "
        "most."
    )
    header = ["reader", *next(iter(result["targets"].values()))]
    rows = [[name, *map(str, one.values())] for name, one in result["targets"].items()]
    return "\n\n".join(["# Hostile input", about, table(["", ""], facts.items()), table(header, rows)])


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="only this one (repeatable)")
    parser.add_argument("--scenario", help="a TFRecord file with a WOMD Scenario")
    parser.add_argument("--keep", type=pathlib.Path, default=pathlib.Path("out/fuzz"))
    add_folder(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Runs the targets; prints and writes the counts."""
    options = parse(arguments)
    logging.disable(logging.CRITICAL)  # thousands of damaged checkpoints would be logged
    with tempfile.TemporaryDirectory() as folder:
        every = targets(pathlib.Path(folder), options.scenario)
        chosen = {name: target for name, target in every.items() if name in (options.target or every)}
        total, before = sum(target.fraction for target in chosen.values()), resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + MEMORY_BYTES, resource.RLIM_INFINITY))
        counts = {name: round(options.inputs * target.fraction / total) for name, target in chosen.items()}
        results = {name: run(name, chosen[name], count, options.seed, options.keep) for name, count in counts.items()}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss
    bad = sum(row["uncaught"] + row["slow"] for row in results.values())
    result = {"seed": options.seed, "targets": results, "bad": bad, "peak_memory_grew_mb": grown // 1024}
    print(json.dumps(result, indent=2))
    write_page(options.results, "fuzz", section(result))
    return int(bad > 0)


if __name__ == "__main__":
    command.run(main)
