"""Kills a run at random moments, starts it again each time, and compares its end with that of an uninterrupted run:

python -m benchmarks.kills --out out/kills [--kills 30] [--signal KILL TERM] [--seed 0] [--preset tiny]

A checkpoint is written after every step, so that many of the moments lie within a save. Runs follow each other until
the kills are used up, and the last one is left to end. Runs are also killed during their evaluation, which then begins
anew. Every kill is noted in `kills.json`, so that the same command continues where it was stopped. At the end it writes
a page of `results/` and prints JSON: kills by stage, kills that left an unfinished checkpoint, runs compared and runs
lost. A run is lost if it does not continue, or if its end differs by a bit in anything but times: arrays, meta,
`config.json`, `rounds.json`, the log, the report, every scene's score. The exit status is 1 if any run was lost. Files
left by a killed process are never repaired by hand.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from benchmarks import command
from benchmarks.pages import add_folder, write_page
from tether.data.command_line import Parser
from tether.data.files import write_text
from tether.evaluation.provenance import made_here
from tether.evaluation.report import table
from tether.training.checkpoint import read_meta
from tether.training.stop import INTERRUPTED

ROOT = pathlib.Path(__file__).parents[1]
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}
LIMIT_S = 1800.0  # of one process that is not killed
POLL_S = 0.05
AFTERWARDS = "evaluation"  # after the last stage of training
FINISHED = b"finished already"  # what train.py prints before it evaluates a run again


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the runs are made")
    parser.add_argument("--kills", type=int, default=30, help="of each signal (default: %(default)s)")
    parser.add_argument("--signal", nargs="+", choices=SIGNALS, default=list(SIGNALS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--preset", default="tiny")
    add_folder(parser)
    return parser.parse_args(arguments)


def start(preset: str, directory: pathlib.Path) -> subprocess.Popen:
    """Starts the main job. All runs share the compiled programs that it keeps beside them."""
    words = [preset, "--directory", str(directory), "--checkpoint_every_s", "0"]
    # JAX has set the second in this process, and the main job sets its own only where there is none.
    ours = ("JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL")
    elsewhere = {name: value for name, value in os.environ.items() if name not in ours}
    with (directory.parent / f"{directory.name}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *words], stdout=log, stderr=log, env=elsewhere)


def lines(directory: pathlib.Path) -> list[str]:
    """Lines of the run's log without an unfinished last one."""
    path = directory / "metrics.jsonl"
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []


def begun(directory: pathlib.Path) -> int:
    """Number of log lines and of repeated evaluations so far."""
    output = directory.parent / f"{directory.name}.log"
    return len(lines(directory)) + (output.read_bytes().count(FINISHED) if output.exists() else 0)


def wait_for_work(process: subprocess.Popen, directory: pathlib.Path, before: int) -> None:
    """Waits until the process has done a step, evaluates, or has ended. Raises: TimeoutError."""
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None and begun(directory) <= before:
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(f"{directory}: no step in {LIMIT_S:.0f} s")
        time.sleep(POLL_S)


def interrupt(
    preset: str, directory: pathlib.Path, number: signal.Signals, mean_s: float, rng: random.Random
) -> tuple[int, dict[str, Any] | None]:
    """Starts or resumes a run, and ends it a random time after its first step.

    Returns: its exit status, and its stage and whether a checkpoint was left unfinished; None in their place where the
      signal did not end it.
    """
    before = begun(directory)
    process = start(preset, directory)
    wait_for_work(process, directory, before)
    try:
        return process.wait(rng.expovariate(1 / mean_s)), None
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        code = process.wait(LIMIT_S)
    expected = INTERRUPTED if number == signal.SIGTERM else -number
    return code, {"stage": stage(directory), "unfinished": unfinished(directory)} if code == expected else None


def stage(directory: pathlib.Path) -> str:
    """The stage of a run by its last log line."""
    last = json.loads(lines(directory)[-1])
    rounds = json.loads((directory / "config.json").read_text("utf-8"))["rounds"]["rounds"]
    return AFTERWARDS if (last["stage"], last["round"]) == ("ground", rounds) else last["stage"]


def unfinished(directory: pathlib.Path) -> bool:
    """Whether a checkpoint was being written."""
    return any((directory / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def ending(directory: pathlib.Path) -> dict[str, Any]:
    """The content of a finished run without times and its directory."""
    folder = directory / "checkpoints"
    newest = folder / str(max(int(path.name) for path in folder.iterdir() if path.name.isdigit()))
    report = json.loads((directory / "report.json").read_text("utf-8"))
    records = [json.loads(line) for line in lines(directory)]
    return timeless(
        {
            "arrays": ocp.StandardCheckpointer().restore(newest.absolute() / "state"),
            "meta": read_meta(newest),
            "config": json.loads((directory / "config.json").read_text("utf-8")),
            "rounds": json.loads((directory / "rounds.json").read_text("utf-8")),
            # A resumed run repeats the lines that came after its checkpoint.
            "log": {f"{one['round']}/{one['stage']}/{one['step']}": one for one in records},
            "report": {name: report[name] for name in ("headline", "judges", "world_model", "rounds", "checks")},
            "scenes": json.loads((directory / "scenes.json").read_text("utf-8")),
        }
    )


def timeless(tree: Any) -> Any:
    """A tree without the entries that differ between two equal runs."""
    if isinstance(tree, dict):
        return {name: timeless(value) for name, value in tree.items() if name not in ("wall_s", "directory")}
    return [timeless(value) for value in tree] if isinstance(tree, list) else tree


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Paths at which two trees differ by any bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [place for key in one for place in differences(one[key], other[key], f"{name}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = zip(one, other, strict=True)
        return [place for i, pair in enumerate(pairs) for place in differences(*pair, f"{name}/{i}")]
    same = np.asarray(one).tobytes() == np.asarray(other).tobytes() if hasattr(one, "dtype") else one == other
    return [] if same else [name]


def verdict(directory: pathlib.Path, code: int, whole: dict[str, Any]) -> str | None:
    """Why a run that has ended is lost; None where it is not."""
    if code:
        return f"{directory.name}: ended with {code}"
    differs = differences(whole, ending(directory))
    return f"{directory.name}: differs in {differs[:5]}" if differs else None


def try_signal(options: argparse.Namespace, name: str, whole: dict[str, Any], notes: dict[str, Any]) -> None:
    """Makes all kills by one signal that the notes do not hold yet."""
    of_signal = notes["signals"].setdefault(name, {"kills": [], "runs": []})
    while True:
        directory = options.out / f"{name.lower()}-{len(of_signal['runs'])}"
        if len(of_signal["kills"]) == options.kills and not directory.exists():
            return
        if len(of_signal["kills"]) == options.kills:
            of_signal["runs"].append(verdict(directory, start(options.preset, directory).wait(LIMIT_S), whole))
        else:
            rng = random.Random(f"{options.seed}/{name}/{len(of_signal['kills'])}/{len(of_signal['runs'])}")
            code, kill = interrupt(options.preset, directory, SIGNALS[name], notes["mean_s"], rng)
            if kill is None:
                of_signal["runs"].append(verdict(directory, code, whole))
            else:
                of_signal["kills"].append(kill)
            print(
                f"{name} {len(of_signal['kills'])} of {options.kills}: {kill or of_signal['runs'][-1]}",
                file=sys.stderr,
                flush=True,
            )
        write_notes(options, notes)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings with which the notes must agree."""
    return {"preset": options.preset, "seed": options.seed, "kills": options.kills}


def write_notes(options: argparse.Namespace, notes: dict[str, Any]) -> None:
    """Writes the notes whole or not at all."""
    write_text(options.out / "kills.json", json.dumps(notes, indent=1) + "\n")


def begin(options: argparse.Namespace) -> dict[str, Any]:
    """Earlier notes, or new ones. Raises: ValueError for notes of other settings, or where two whole runs differ."""
    path = options.out / "kills.json"
    if path.exists():
        notes = json.loads(path.read_text("utf-8"))
        if notes["settings"] != settings(options):
            raise ValueError(f"{path} is of {notes['settings']}, not {settings(options)}: choose another --out")
        return notes
    options.out.mkdir(parents=True, exist_ok=True)
    leave_alone(options, "first")  # compiles everything
    seconds = leave_alone(options, "alone")
    if differs := differences(ending(options.out / "first"), ending(options.out / "alone")):
        raise ValueError(f"two uninterrupted runs differ in {differs[:5]}")
    # A run without pauses for restarts would then see about all of the kills.
    notes = {"settings": settings(options), "mean_s": seconds / options.kills, "signals": {}}
    write_notes(options, notes)
    return notes


def leave_alone(options: argparse.Namespace, name: str) -> float:
    """Makes an uninterrupted run. Returns: its training time [s]. Raises: ValueError if it fails."""
    directory = options.out / name
    shutil.rmtree(directory, ignore_errors=True)
    process = start(options.preset, directory)
    wait_for_work(process, directory, 0)
    if process.wait(LIMIT_S):
        raise ValueError(f"an uninterrupted run failed, see {directory}.log")
    times = [json.loads(line)["wall_s"] for line in lines(directory)]
    return times[-1] - times[0]


def summary(of_signal: dict[str, Any]) -> dict[str, Any]:
    """Counts of one signal's kills and runs."""
    return {
        "kills": len(of_signal["kills"]),
        "kills_by_stage": dict(collections.Counter(kill["stage"] for kill in of_signal["kills"])),
        "unfinished_saves": sum(kill["unfinished"] for kill in of_signal["kills"]),
        "runs_compared": len(of_signal["runs"]),
        "lost": [reason for reason in of_signal["runs"] if reason],
    }


def section(options: argparse.Namespace, summaries: dict[str, dict[str, Any]]) -> str:
    """The page."""
    facts = made_here()
    facts["command"] = f"python -m benchmarks.kills --kills {options.kills} --seed {options.seed} --out DIRECTORY"
    stages = list(dict.fromkeys(name for one in summaries.values() for name in one["kills_by_stage"]))
    header = ["signal", "kills", *stages, "within a save", "runs compared", "runs lost"]
    rows = []
    for name, one in summaries.items():
        by_stage = (one["kills_by_stage"].get(stage, 0) for stage in stages)
        last = (one["unfinished_saves"], one["runs_compared"], len(one["lost"]))
        rows.append([f"SIG{name}", *map(str, (one["kills"], *by_stage, *last))])
    about = (
        f"Preset `{options.preset}`, killed at random moments and started again by the same command; a checkpoint "
        "after every step. A run is lost if it does not continue, or if anything but times differs by a bit from an "
        "uninterrupted run: arrays and meta of its last checkpoint, settings, rounds, log, report, every scene's "
        "score. Under the stages: kills in each."
    )
    return "\n\n".join(["# Killed runs", about, table(["", ""], facts.items()), table(header, rows)])


def main(arguments: list[str]) -> int:
    """Makes uninterrupted runs, then runs with kills; prints and writes the counts. Returns: the exit status."""
    options = parse(arguments)
    notes = begin(options)
    whole = ending(options.out / "alone")
    for name in options.signal:
        try_signal(options, name, whole, notes)
    summaries = {name: summary(notes["signals"][name]) for name in options.signal}
    lost = sum(len(one["lost"]) for one in summaries.values())
    print(json.dumps({**notes["settings"], "signals": summaries, "runs_lost": lost}, indent=2))
    write_page(options.results, "kills", section(options, summaries))
    return int(lost > 0)


if __name__ == "__main__":
    command.run(main)
