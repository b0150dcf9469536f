"""Feeds WOMD scenarios with changed structure to the conversion, and counts the outcomes:

python -m benchmarks.scenario_fuzz [--records 2000] [--seed 0] [--scenario FILE] [--keep DIR]

A valid scenario (a synthetic one, or the first of a TFRecord FILE) has parts cut, emptied, doubled, swapped, or set to
NaN or huge, drawn from the seed. Each is converted to scenes as by `data.build`, and to a history as for a Sim Agents
submission. Prints JSON: how many became scenes, how many were refused and for which reasons, and counts that should be
0: errors that were not caught (uncaught), that were caught without a message of their own (unforeseen), records without
scene and reason, slow records, and scenes that cannot be stored and read again. The exit status is 1 if any of these is
not 0. Needs the WOMD protos.
"""

import argparse
import collections
import contextlib
import io
import json
import pathlib
import resource
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.fuzz import SlowError, limits, remember
from benchmarks.mutate import change_structure
from tests.raw_scenes import scenario
from tether.data.command_line import Parser
from tether.data.errors import DataError, SkipLedger
from tether.data.padding import pad
from tether.data.progress import Bar
from tether.data.recordings import Recordings
from tether.data.records import Fractions, Rules, kept_scenes
from tether.data.scene import LightState, SceneSpec
from tether.data.sim_agents import read_sim_agents
from tether.data.statistics import Statistics, reason
from tether.data.storage import decode, encode
from tether.data.tfrecord import frame, read_records
from tether.data.validation import validate
from tether.data.womd import LogOptions, parse_scenario
from tether.data.womd_history import history_scene

SPEC = SceneSpec()
BAD = ("uncaught", "unforeseen", "without_reason", "slow", "not_stored", "submission_uncaught")
OPTIONS = (LogOptions(), LogOptions(resample=True, derive_velocities=True, windows=True))


def base() -> Any:
    """A scenario with five kinds of agent, all kinds of map features and two lights."""
    made = scenario("base", vehicles=6)
    for row, kind in ((2, 2), (3, 3), (4, 4), (5, 0)):
        made.tracks[row].object_type = kind
    made.tracks_to_predict.add(track_index=1)
    lane = made.map_features.add(id=14).lane
    lane.CopyFrom(made.map_features[0].lane)
    lane.exit_lanes.append(7)
    lane.left_neighbors.add(feature_id=7)
    for point in lane.polyline:
        point.y += 3.5
    made.map_features.add(id=15).road_edge.polyline.extend(made.map_features[2].road_edge.polyline[::-1])
    for dynamic in made.dynamic_map_states:
        stop = dynamic.lane_states.add(lane=14, state=LightState.ARROW_GO).stop_point
        stop.x, stop.y = 50.0, 4.0
    return made


def run(records: int, seed: int, valid: Any, folder: pathlib.Path, keep: pathlib.Path | None = None) -> dict[str, Any]:
    """Converts so many changed scenarios and counts the outcomes. Args: folder: for their files."""
    counts: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    notes: collections.Counter[str] = collections.Counter()
    slowest, before = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Bar("scenarios", records, unit="records") as bar:
        for index in bar.over(range(records)):
            damaged = change_structure(np.random.default_rng((seed, index)), valid)
            started = time.process_time()
            try:
                with limits():
                    results = _converted(damaged, OPTIONS[index % len(OPTIONS)], folder, reasons, notes)
                    results.append(_submitted(damaged))
            except SlowError:
                results = ["slow"]
                remember(keep, "slow", index, damaged)
            except Exception:  # any error that gets through counts
                results = ["uncaught"]
                remember(keep, "uncaught", index, damaged)
            counts.update(results)
            slowest = max(slowest, time.process_time() - started)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    names = ("converted", "refused", "submission_read", "submission_refused", *BAD)
    result = {"records": records, "seed": seed} | {name: counts[name] for name in names}
    result |= {"slowest_s": round(slowest, 3), "peak_memory_grew_mb": grown // 1024}
    return result | {"refused_by_reason": dict(reasons.most_common()), "noted": dict(sorted(notes.items()))}


def _converted(
    damaged: bytes, options: LogOptions, folder: pathlib.Path, reasons: collections.Counter, notes: collections.Counter
) -> list[str]:
    """Converts one scenario to scenes. Returns: names of `run`'s counts that go up by one."""
    path = folder / "one.tfrecord"
    path.write_bytes(frame(damaged))
    ledger, rules = SkipLedger(max_skipped=1.0), Rules(2, None, 0, Fractions(), options=options)
    with contextlib.redirect_stderr(io.StringIO()):  # the ledger prints each
        scenes = list(Statistics().counted(kept_scenes([str(path)], rules, ledger), Recordings()))
    results = ["unforeseen" for error in ledger.errors if error.reason.startswith("unexpected")]
    for kept in scenes:
        try:
            validate(pad(decode(encode(kept.scene)), SPEC), SPEC)
        except DataError:
            results.append("not_stored")
    if scenes:
        notes.update(ledger.notes.keys())
        return [*results, "converted"]
    reasons.update(map(reason, ledger.errors))
    return [*results, "refused" if ledger.errors else "without_reason"]


def _submitted(damaged: bytes) -> str:
    try:
        made = parse_scenario(damaged)
        validate(pad(history_scene(made, SPEC.steps, SPEC.dt), SPEC), SPEC)
        sim = read_sim_agents(made)
    except DataError:
        return "submission_refused"
    now = [getattr(sim, name)[:, sim.current] for name in ("x", "y", "z", "heading")]
    boxes = [sim.length, sim.width, sim.height + 1]  # a height may be 0
    sound = all(np.isfinite(values).all() for values in now) and all((size > 0).all() for size in boxes)
    return "submission_read" if sound else "submission_uncaught"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.scenario_fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenario", help="a TFRecord file with a WOMD Scenario; a synthetic one by default")
    parser.add_argument("--keep", type=pathlib.Path, default=pathlib.Path("out/scenario_fuzz"))
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Runs the scenarios and prints the counts."""
    options = parse(arguments)
    valid = parse_scenario(next(iter(read_records(options.scenario)))) if options.scenario else base()
    with tempfile.TemporaryDirectory() as folder:
        result = run(options.records, options.seed, valid, pathlib.Path(folder), options.keep)
    print(json.dumps(result, indent=2))
    return int(any(result[name] for name in BAD))


if __name__ == "__main__":
    command.run(main)
