"""Reads a run, evaluates its policies on held-out scenes, and prints the gain with its interval.

    python -m examples.read_run runs/cpu-seed0 --scenes 48

A run is data: nothing in its directory is executed, and nothing is written into it. `run.world_model` is a World too:
`tether.drive(run.policies["imitation"], scenes, run.world_model)` rolls out the policy in imagination.
"""

import argparse
import sys

import tether
from tether.evaluation.statistics import paired_difference, recordings


def gain(run: tether.Run, scenes: tether.Scenes) -> dict[str, dict[str, float]]:
    """Driving score and failure: post-trained minus imitation, `{mean, low, high, n, groups}` each.

    Both use the same scenes and keys, so that the differences are paired. Intervals resample recordings.

    Raises: KeyError where no round of the run was accepted.
    """
    after, before = (tether.drive(run.policies[name], scenes).scores for name in ("post_trained", "imitation"))
    groups = recordings(scenes)
    return {name: paired_difference(after[name], before[name], groups) for name in ("score", "failure")}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.read_run", description=__doc__.partition("\n")[0])
    parser.add_argument("run", nargs="?", help="directory of a run; the one that ships by default")
    parser.add_argument("--scenes", type=int, default=192, help="of the test split (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Reads the run, evaluates its policies and prints the gain."""
    options = parse(arguments)
    run = tether.load_run(options.run)
    progress = run.progress
    print(f"seed {run.config.seed}, {len(progress.rounds)} rounds, {progress.ledger.total} simulator steps")
    scenes = run.open_split("test")[: options.scenes]
    for name, change in gain(run, scenes).items():
        print(f"{name}: {change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}] on {change['n']} scenes")


if __name__ == "__main__":
    main(sys.argv[1:])
