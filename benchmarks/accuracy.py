"""How often the simulator's decisions differ from exact geometry, as JSON:

python -m benchmarks.accuracy --data DIR [--disturbed 1000]

Every scene of every split is rolled out for 8 s with the log's own actions, then random scenes with disturbed actions.
Each sub-step's decisions, from the road index and in float32, are compared with those of the tests' independent oracle,
which uses the whole map in float64. No case is left out as too close to call; `clear` counts the differences that
rounding cannot explain.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from tether.data.command_line import Parser

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

import oracle
from oracle_cases import CONFIG, Case, simulated_cases

from benchmarks import command
from tether.data.progress import Bar
from tether.data.scene import Scene, SceneSpec
from tether.data.sources import STARTER, available_splits, open_split

DECISIONS = ("collision", "at_fault", "off_road", "wrong_way", "red_light")
SPLITS = ("train", "validation", "grounding", "test")  # another order would change the draws


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--data", default=str(STARTER), help="data set (default: the starter set)")
    parser.add_argument(
        "--disturbed", type=int, default=1000, help="rollouts with disturbed actions (default: %(default)s)"
    )
    parser.add_argument("--agents", type=int, default=64, help="agents kept per scene (default: %(default)s)")
    return parser.parse_args(arguments)


def cases_of(logged: list[Scene], disturbed: int, rng: np.random.Generator) -> list[Case]:
    """Each scene with its own actions, then random ones disturbed."""
    current = SceneSpec.current
    chosen = rng.integers(len(logged), size=disturbed)
    changes = rng.uniform(0.1, 1.2, disturbed), rng.uniform(-2.0, 2.0, disturbed)
    return [Case(scene, current, 0.0) for scene in logged] + [
        Case(logged[i], current, *change) for i, *change in zip(chosen, *changes, strict=True)
    ]


def count(cases: list[Case], rng: np.random.Generator) -> dict[str, dict[str, int]]:
    """Decision to counts of steps, of steps where the oracle says true, and of differences."""
    counts = {name: dict(steps=0, true=0, differ=0, clear=0, missed=0) for name in DECISIONS}
    with Bar("accuracy", len(cases), unit="rollouts", compiles=True) as bar:
        for case, action, (_, outcome, _, _), row in bar.over(simulated_cases(cases, rng)):
            start = oracle.log_start(case.scene, case.start)
            track = oracle.drive(start, action.acceleration[row], action.curvature[row], CONFIG.limits)
            exact, valid = oracle.measure(case.scene, track, case.start, CONFIG), outcome.valid[:, row].reshape(-1)
            for name, entry in counts.items():
                verdict, decided = exact.events[name], getattr(outcome, name)[:, row].reshape(-1)
                differs = (decided != verdict.value) & valid
                entry["steps"] += int(valid.sum())
                entry["true"] += int((verdict.value & valid).sum())
                entry["differ"] += int(differs.sum())
                entry["clear"] += int((differs & verdict.clear).sum())
                entry["missed"] += int((differs & verdict.value).sum())
    return counts


def main(arguments: list[str]) -> None:
    """Compares and prints."""
    options, rng = parse(arguments), np.random.default_rng(0)
    splits = sorted(available_splits(options.data), key=lambda split: (*SPLITS, split).index(split))
    sources = [open_split(options.data, split, SceneSpec(agents=options.agents)) for split in splits]
    logged = [source[i].scene for source in sources for i in range(len(source))]
    counts = count(cases_of(logged, options.disturbed, rng), rng)
    taken = sum(entry["steps"] for entry in counts.values())
    report = {
        "splits": splits,
        "scenes": len(logged),
        "disturbed_rollouts": options.disturbed,
        "decisions": counts,
        "fraction_that_differs": {name: entry["differ"] / entry["steps"] for name, entry in counts.items()},
        "fraction_that_differs_of_all": sum(entry["differ"] for entry in counts.values()) / taken,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    command.run(main)
