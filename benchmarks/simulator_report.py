"""Runs every benchmark of the simulator and writes their page of `results/`:

python -m benchmarks.simulator_report --scenario FILE --real DIR --run RUN --out FOLDER [--results results]

FILE: a TFRecord with a WOMD Scenario; DIR: real logs made by `python -m tether.data.build`; RUN: a run of `train.py` on
the starter set, evaluated in every judge. Each benchmark's JSON is kept in FOLDER and not measured again.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

from benchmarks import command
from benchmarks.pages import add_folder, write_page
from tether.data.command_line import Parser
from tether.data.files import write_text
from tether.data.progress import Bar
from tether.evaluation.provenance import made_here, shortened
from tether.evaluation.report import PAIR_NAME, TABLE, signed, table, with_interval

JUDGES = ("log_replay", "reactive", "referee")
METRICS = ("score", "failure", "at_fault")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.simulator_report", description=__doc__)
    for name in ("scenario", "real", "run", "out"):
        parser.add_argument(f"--{name}", required=True)
    add_folder(parser)
    return parser.parse_args(arguments)


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """Commands by name; all but `judges` print JSON."""
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
            **made_here(),
            "command": " ".join(["python", *map(shortened, command)]),
        }
        write_text(path, json.dumps({"origin": origin, "result": json.loads(printed)}, indent=1))
    return json.loads(path.read_text("utf-8"))


def first_rate(rates: dict[str, float]) -> float:
    """The rate of `timed`, per CPU-second or per second."""
    return rates.get("per_cpu_second", rates.get("per_second"))


def speed_table(result: dict[str, Any]) -> str:
    """A row for each batch size and step length."""
    rows = []
    for size, kinds_of in result["batch"].items():
        for steps in kinds_of["ego_outcomes"]:
            kinds = ("motion_alone", "ego_outcomes", "all_outcomes", "whole_map_baseline")
            rates = [first_rate(kinds_of[kind][steps]) for kind in kinds]
            ratio = f"{rates[1] / rates[3]:.0f}"
            rows.append([size, steps.split("_")[0], *(f"{rate:,}" for rate in rates), ratio])
    header = [
        "batch",
        "steps at a time",
        "motion alone",
        "ego outcomes",
        "outcomes of all agents",
        "whole map",
        "ratio",
    ]
    return table(header, rows)


def frames_line(result: dict[str, Any]) -> str:
    """The rates of BEV frames, and the cost of the work done once per scene."""
    frames = ", ".join(f"{first_rate(rates['bev_frames']):,} at {size}" for size, rates in result["batch"].items())
    once = result["once_per_scene"]
    return (
        f"BEV observations by batch size: {frames}. Once per scene: road index {once['road_index_cpu_ms']} ms, map "
        f"tile {once['map_tile_cpu_ms']} ms of CPU time; a prepared scene takes {once['scene_bytes'] / 1e6:.1f} MB."
    )


def speed(result: dict[str, Any]) -> str:
    """The part on speed."""
    unit = "second" if "per_second" in next(iter(result["batch"].values()))["bev_frames"] else "CPU-second, on one core"
    about = (
        f"Steps of 0.1 s per {unit}, on {result['scene']} with {result['agents']} agents in 128 rows and "
        f"{result['map_points']:,} map points, 80 steps as one scan. The baseline `whole map` computes only off road "
        "and wrong way of the ego, from every segment; the ratio is that of the ego's full outcomes to it."
    )
    return "\n\n".join([about, speed_table(result), frames_line(result)])


def accuracy(result: dict[str, Any]) -> str:
    """The part on decisions that differ from exact geometry."""
    names = ("steps", "true", "differ", "missed")
    rows = [[name, *(f"{counts[key]:,}" for key in names)] for name, counts in result["decisions"].items()]
    about = (
        f"Decisions against the oracle over the whole map in float64, on {result['scenes']} real scenes with their "
        f"own actions and {result['disturbed_rollouts']:,} rollouts with disturbed actions; "
        f"{100 * result['fraction_that_differs_of_all']:.4f} % differ."
    )
    return "\n\n".join([about, table(["decision", *names], rows)])


def dynamics(result: dict[str, Any]) -> str:
    """The part on the distance of the egos from the log."""
    every = result["egos"]["all"]
    ways = {name: row for name, row in every.items() if isinstance(row, dict) and "within_0.1_m" in row}
    rows = [[name, *map(str, row.values())] for name, row in ways.items()]
    quantiles = [f"{name} [m]" for name in next(iter(ways.values())) if name.startswith("q")]
    about = f"Largest distance to the log over 8 s, {every['moving_egos']} moving real egos, limits on."
    return "\n\n".join([about, table(["actions, open loop", "within 0.1 m", *quantiles], rows)])


def probes(result: dict[str, Any]) -> str:
    """Table of the signs of the reactions."""
    rows = [
        [
            kind,
            f"{outcome['right_sign']} of {outcome['cases']}",
            f"{outcome['hits_under_log_replay']} -> {outcome['hits']}",
            str(outcome["mean_hardest_braking_beyond_log_mps2"]),
        ]
        for kind, outcome in result["probes"].items()
    ]
    header = ["the ego ...", "right sign", "hit, log replay -> reactive", "mean hardest braking beyond the log [m/s^2]"]
    return table(header, rows)


def rear_ends(results: dict[str, dict[str, Any]]) -> str:
    """Table of hits on a braking ego by data set."""
    rows = [
        [
            f"{name}, {result['data']['scenes']} scenes",
            str(braking["acceleration_mps2"]),
            f"{braking['rear_ends']['log_replay']} -> {braking['rear_ends']['reactive']}",
            f"{braking['fall_percent']} %",
        ]
        for name, result in results.items()
        for braking in result["data"]["braking"]
    ]
    return table(["test scenes", "ego brakes at [m/s^2]", "rear ends, log replay -> reactive", "fall"], rows)


def referee(result: dict[str, Any]) -> str:
    """The part on speed and faithfulness of the referee."""
    measured_speed, rollouts = result["speed"], result["rollouts"]
    return (
        f"Referee: {measured_speed['steps_of_0.1_s_per_cpu_second']:.0f} closed-loop steps of 0.1 s per second and "
        f"process; opening a network {measured_speed['open_cpu_s_per_network']:.1f} CPU-s once, a reset "
        f"{1e3 * measured_speed['reset_s_per_scene']:.0f} ms. The log's own ego in {rollouts['scenes']} scenes: "
        f"{rollouts['collision']} collisions; agents without a row within 10 m in "
        f"{100 * rollouts['fraction_of_steps_with_unlisted_agent_within_10_m']:.2f} % of the steps."
    )


def evaluated(result: dict[str, Any]) -> str:
    """Table of every policy under every judge."""
    judges = result["judges"]
    columns = [(metric, judge) for metric in METRICS for judge in JUDGES]
    rows = [
        [name, *(with_interval(judges[judge]["policies"][name][metric]) for metric, judge in columns)]
        for name in judges[JUDGES[0]]["policies"]
    ]
    if PAIR_NAME in judges[JUDGES[0]]["paired"]:  # some round of the run was accepted
        change = [signed(judges[judge]["paired"][PAIR_NAME][metric]) for metric, judge in columns]
        rows.append([f"**{PAIR_NAME}**", *change])
    return table(["policy", *(f"{TABLE[metric]}, {judge}" for metric, judge in columns)], rows)


def section(results: dict[str, dict[str, Any]]) -> str:
    """The section's text."""
    result = {name: one["result"] for name, one in results.items()}
    origin = [[name, *(one["origin"][key] for key in ("date", "commit", "command"))] for name, one in results.items()]
    return "\n\n".join(
        [
            "# The simulator",
            speed(result["simulator"]),
            accuracy(result["accuracy"]),
            dynamics(result["dynamics"]),
            "Reactive traffic, probes and data sets:",
            probes(result["reactive_starter"]),
            rear_ends({"starter": result["reactive_starter"], "real": result["reactive_real"]}),
            referee(result["referee"]),
            f"One run (seed {result['judges']['provenance']['seed']}) under every judge, starter test scenes:",
            evaluated(result["judges"]),
            f"Machine: {results['simulator']['origin']['machine']}.",
            table(["measured by", "date", "commit", "command"], origin),
        ]
    )


def main(arguments: list[str]) -> int:
    """Measures the missing parts, writes the section, and returns the exit status."""
    options = parse(arguments)
    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    words = commands(options)
    try:
        with Bar("measured", len(words), unit="commands") as bar:
            results = {name: measured(name, words[name], folder) for name in bar.over(words)}
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(map(str, error.cmd))} ended with status {error.returncode}; finished measurements are kept")
        return 2
    write_page(options.results, "simulator", section(results))
    return 0


if __name__ == "__main__":
    command.run(main)
