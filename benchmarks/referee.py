"""Speed and faithfulness of the referee on this machine, as JSON: `python -m benchmarks.referee [--scenes 48]`.

A policy is rolled out in the first test scenes of the starter set for as long as the log lasts. The expert, the
default, follows the ego's own log, so that every collision is an error of the referee. CPU times are those of SUMO's
processes alone (Linux), so they hold on a loaded machine; `benchmarks/simulator.py` measures the trainer's own part.
"""

import argparse
import functools
import json
import os
import pathlib
import time

import numpy as np

from benchmarks import command
from tether.data.command_line import Parser
from tether.data.scene import Record, SceneSpec
from tether.data.sources import STARTER, open_split
from tether.evaluation.judges import baseline
from tether.simulator.config import SimulatorConfig
from tether.simulator.referee.fleet import Fleet
from tether.simulator.referee.world import Referee
from tether.training.drives import Judge, Scored, drive, row_keys
from tether.training.scenes import PreparedRecords

NEAR_M = 10.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(sessions: set[int]) -> float:
    """CPU-seconds so far of the living processes of some sessions; each network's processes are one."""
    total = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        total += sum(map(int, fields[11:15])) if int(fields[3]) in sessions else 0  # netconvert's included
    return total / TICKS_PER_S


def logged_poses(record: Record, first: int, last: int) -> np.ndarray:
    """The logged ego at log steps first .. last - 1: float32[last - first, 3]."""
    scene, steps = record.scene, slice(first, last)
    return np.stack([getattr(scene, name)[scene.ego, steps] for name in ("x", "y", "heading")], axis=-1)


def speed(records: list[Record], substeps: int) -> dict[str, float]:
    """Times of start-up and of stepping all records together, without JAX."""
    fleet, rows, began = Fleet(records), np.arange(len(records)), time.perf_counter()
    fleet.open(rows)
    opened = time.perf_counter()
    sessions = {town.process.pid for town in fleet.towns.values()}
    opened_cpu = cpu_s(sessions)
    number = fleet.reset(rows, np.zeros(len(rows), np.uint32), np.full(len(rows), SceneSpec.current))
    reset, before = time.perf_counter(), cpu_s(sessions)
    steps = range(SceneSpec.current + 1, SceneSpec.steps, substeps)
    for step in steps:
        poses = np.stack([logged_poses(record, step, step + substeps) for record in records])
        fleet.step(number, np.ones(len(rows), bool), poses)
    ended, after = time.perf_counter(), cpu_s(sessions)
    fleet.close()
    count = len(steps) * substeps * len(rows)
    return {
        "networks": len(sessions),
        "scenes": len(rows),
        "open_s_per_network": (opened - began) / len(sessions),
        "open_cpu_s_per_network": opened_cpu / len(sessions),
        "reset_s_per_scene": (reset - opened) / len(rows),
        "steps_of_0.1_s_per_second": count / (ended - reset),
        "steps_of_0.1_s_per_cpu_second": count / (after - before),
    }


def evaluated(policy: str, records: PreparedRecords, config: SimulatorConfig, batch: int) -> dict[str, float]:
    """Counts of scenes with failures, and the fraction of steps with an agent near the ego that has no row."""
    fleet = Fleet(records)
    unlisted: list[float] = []

    def params_of(rows: np.ndarray) -> np.ndarray:
        unlisted.extend(distance for row in fleet.rollouts for distance in row.unlisted_m)
        return fleet.open(rows)

    judge, steps = Judge(Referee(config, fleet), params_of), SceneSpec().future_steps // config.substeps
    scores, _, _ = drive(
        *(baseline(policy, config), records, judge, Scored(config)),
        steps=steps,
        batch=batch,
        keys=functools.partial(row_keys, 0),
    )
    unlisted.extend(distance for row in fleet.rollouts for distance in row.unlisted_m)
    fleet.close()
    counted = {name: int(scores[name].sum()) for name in ("collision", "at_fault", "failure")}
    near = float(np.mean(np.array(unlisted) < NEAR_M))
    return {
        "policy": policy,
        "scenes": len(records),
        **counted,
        "fraction_of_steps_with_unlisted_agent_within_10_m": near,
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.referee", description=__doc__)
    parser.add_argument("--scenes", type=int, default=48, help="of the test split (default: %(default)s)")
    parser.add_argument("--policy", default="expert", help="a baseline (default: %(default)s)")
    parser.add_argument("--timed", type=int, default=4, help="scenes whose speed is measured (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=24, help="scenes rolled out at once (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measures and prints."""
    options, config = parse(arguments), SimulatorConfig()
    records = PreparedRecords(open_split(STARTER, "test"), config, options.scenes, options.scenes)
    spread = range(0, options.scenes, max(options.scenes // options.timed, 1))  # over networks
    measured = speed([records[row] for row in spread[: options.timed]], config.substeps)
    report = {
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "speed": {name: round(value, 3) for name, value in measured.items()},
        "rollouts": evaluated(options.policy, records, config, min(options.batch, options.scenes)),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    command.run(main)
