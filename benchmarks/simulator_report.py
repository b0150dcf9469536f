"""Runs every benchmark of the simulator and writes their section of RESULTS.md:

python -m benchmarks.simulator_report --scenario FILE --real DIR --run RUN --out FOLDER [--file RESULTS.md]

FILE: a TFRecord with a WOMD Scenario; DIR: real logs made by `python -m data.build`; RUN: a run of `train.py` on the
starter set, judged in every World. Each benchmark's JSON is kept in FOLDER and not measured again.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys
from typing import Any

from tqdm import tqdm

from benchmarks.results import replace_section
from training.provenance import commit, machine, shown
from training.report import PAIR, TABLE, table, with_interval, write_text

JUDGES = ("log_replay", "reactive", "referee")
SHOWN_METRICS = ("score", "failure", "at_fault")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator_report", description=__doc__)
    for name in ("scenario", "real", "run", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--file", default="RESULTS.md", help="default: %(default)s")
    return parser.parse_args()


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """What is run, by name; everything but `judges` prints JSON."""
    real = ["--data", options.real]
    judges = [word for judge in JUDGES for word in ("--judge", judge)]
    return {
        "simulator": ["-m", "benchmarks.simulator", "--scenario", options.scenario],
        "accuracy": ["-m", "benchmarks.accuracy", *real],
        "dynamics": ["-m", "benchmarks.dynamics", *real],
        "reactive_starter": ["-m", "benchmarks.reactive"],
        "reactive_real": ["-m", "benchmarks.reactive", *real, "--agents", "64"],
        "referee": ["-m", "benchmarks.referee"],
        "judges": ["eval.py", options.run, *judges, "--out", f"{options.out}/judges"],
    }


def measured(name: str, command: list[str], folder: pathlib.Path) -> dict[str, Any]:
    """The result of a benchmark with its origin, from the folder if it is there. Raises: CalledProcessError."""
    path = folder / f"{name}.json"
    if not path.exists():
        done = subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True)
        printed = (folder / "judges" / "report.json").read_text("utf-8") if name == "judges" else done.stdout
        origin = {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": commit(),
            "machine": machine(),
            "command": " ".join(["python", *map(shown, command)]),
        }
        write_text(path, json.dumps({"origin": origin, "result": json.loads(printed)}, indent=1))
    return json.loads(path.read_text("utf-8"))
