"""Kills a run at random moments, starts it again each time, and compares its end with that of a run left alone:

python -m benchmarks.kills --out out/kills [--kills 30] [--signal KILL TERM] [--seed 0] [--preset tiny]

A checkpoint is written after every step, so that many of the moments lie within a save. Runs follow each other until
the kills are used up, and the last one is left to end. Prints JSON: kills by stage, how many left an unfinished
checkpoint behind, runs compared, and runs lost (not going on, or ending with any array, score or decision that differs
by a bit). Exit status 1 if any was lost. What a killed process leaves is looked at, nothing of it is repaired by hand.
"""

import argparse
import collections
import json
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

ROOT = pathlib.Path(__file__).parents[1]
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}
INTERRUPTED = 130  # how train.py ends when it was asked to stop
LIMIT_S = 1800.0  # of one process that nobody kills
POLL_S = 0.05


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the runs are made; emptied first")
    parser.add_argument("--kills", type=int, default=30, help="of each signal (default: %(default)s)")
    parser.add_argument("--signal", nargs="+", choices=SIGNALS, default=list(SIGNALS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--preset", default="tiny")
    return parser.parse_args()


def start(preset: str, directory: pathlib.Path) -> subprocess.Popen:
    """The main job."""
    words = [preset, "--directory", str(directory), "--checkpoint_every_s", "0"]
    with (directory.parent / f"{directory.name}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *words], stdout=log, stderr=log)


def lines(directory: pathlib.Path) -> list[str]:
    """Of the run's log, the unfinished last one left out."""
    path = directory / "metrics.jsonl"
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []


def wait_for_work(process: subprocess.Popen, directory: pathlib.Path, before: int) -> None:
    """Until the process has done a step or ended. Raises: TimeoutError."""
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None and len(lines(directory)) <= before:
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(f"{directory}: no step in {LIMIT_S:.0f} s")
        time.sleep(POLL_S)


def interrupt(
    preset: str, directory: pathlib.Path, number: signal.Signals, mean_s: float, rng: random.Random
) -> dict[str, Any] | None:
    """Starts a run or goes on with it, and ends it a random time after its first step.

    Returns: where it was, and whether a checkpoint was left unfinished; None where it had ended by itself.
    Raises: ValueError where it ended otherwise than it says it would.
    """
    before = len(lines(directory))
    process = start(preset, directory)
    wait_for_work(process, directory, before)
    try:
        code = process.wait(rng.expovariate(1 / mean_s))
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        code = process.wait(LIMIT_S)
    if code == 0:
        return None
    expected = -signal.SIGKILL if number == signal.SIGKILL else INTERRUPTED
    if code not in (expected, -number):  # SIGTERM takes a process that does not train any more
        raise ValueError(f"{directory}: ended with {code}, see {directory.name}.log")
    last = json.loads(lines(directory)[-1])
    unfinished = any((directory / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    return {"stage": last["stage"], "unfinished": unfinished}


def ending(directory: pathlib.Path) -> dict[str, Any]:
    """What a finished run holds, but for times: the arrays of its last checkpoint, its report, its scenes' scores."""
    folder = directory / "checkpoints"
    newest = folder / str(max(int(path.name) for path in folder.iterdir() if path.name.isdigit()))
    report = json.loads((directory / "report.json").read_text("utf-8"))
    rounds = [{name: value for name, value in one.items() if name != "wall_s"} for one in report["rounds"]]
    return {
        "arrays": ocp.StandardCheckpointer().restore(newest.absolute() / "state"),
        "report": {name: report[name] for name in ("headline", "judges", "world_model")} | {"rounds": rounds},
        "scenes": json.loads((directory / "scenes.json").read_text("utf-8")),
    }


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """The places at which two trees differ by any bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [place for key in one for place in differences(one[key], other[key], f"{name}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = zip(one, other, strict=True)
        return [place for i, pair in enumerate(pairs) for place in differences(*pair, f"{name}/{i}")]
    same = np.asarray(one).tobytes() == np.asarray(other).tobytes() if hasattr(one, "dtype") else one == other
    return [] if same else [name]


def try_signal(options: argparse.Namespace, name: str, whole: dict[str, Any], mean_s: float) -> dict[str, Any]:
    """All kills by one signal."""
    rng, stages, unfinished = random.Random(f"{options.seed}/{name}"), collections.Counter(), 0
    compared, lost = 0, []
    while (left := options.kills - stages.total()) > 0:
        directory = options.out / f"{name.lower()}-{compared}"
        for _ in range(left):
            found = interrupt(options.preset, directory, SIGNALS[name], mean_s, rng)
            if found is None:
                break
            stages[found["stage"]] += 1
            unfinished += found["unfinished"]
            print(f"{name} {stages.total()} of {options.kills}: in {found['stage']}", file=sys.stderr, flush=True)
        process = start(options.preset, directory)
        if process.wait(LIMIT_S):
            lost.append(f"{directory.name}: does not go on")
        elif differs := differences(whole, ending(directory)):
            lost.append(f"{directory.name}: differs in {differs[:5]}")
        compared += 1
    return {"kills_by_stage": dict(stages), "unfinished_saves": unfinished, "runs_compared": compared, "lost": lost}


def main() -> int:
    """Runs once to the end, then with kills, and prints what became of it."""
    options = parse()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    alone = options.out / "alone"
    process = start(options.preset, alone)
    wait_for_work(process, alone, 0)
    began = time.monotonic()
    if process.wait(LIMIT_S):
        raise ValueError(f"the run that nobody kills failed, see {alone}.log")
    mean_s = (time.monotonic() - began) / options.kills  # so that a run sees about all of them
    whole = ending(alone)
    found = {name: try_signal(options, name, whole, mean_s) for name in options.signal}
    lost = sum(len(one["lost"]) for one in found.values())
    print(json.dumps({"preset": options.preset, "seed": options.seed, "signals": found, "runs_lost": lost}, indent=2))
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
