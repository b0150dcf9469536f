"""Time lost to checkpoints at a preset's interval, for the state that it trains:

python -m benchmarks.checkpoint_overhead [--preset cpu h200] [--saves 5]

Random numbers of the state's shapes, which do not compress, are saved as a run saves them. Counted per save: seconds
until training goes on (`blocked_s`), and CPU-seconds until everything is on the disk (`cpu_s`). The CPU time of the
background threads is lost too where all cores compute, and free elsewhere. Prints JSON; `fraction_blocked` and
`fraction_cpu` are fractions of the interval, medians over the saves. The exit status is 1 if `fraction_cpu` exceeds the
goal.
"""

import argparse
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks import command
from tether.data.command_line import Parser
from tether.evaluation.provenance import made_here
from tether.training import models
from tether.training.checkpoint import Checkpoints
from tether.training.presets import PRESETS
from tether.training.scenes import open_splits
from tether.training.state import Learned

GOAL = 0.03


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.checkpoint_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", nargs="+", choices=PRESETS, default=["cpu", "h200"])
    parser.add_argument("--saves", type=int, default=5, help="after one that does not count (default: %(default)s)")
    return parser.parse_args(arguments)


def random_state(preset: str) -> Learned:
    """Random arrays of the shapes that the preset trains."""
    config = PRESETS[preset]()
    splits = open_splits(config.data, config.spec, config.simulator)
    shapes = jax.eval_shape(lambda: models.begin(config, models.build(config), splits.train))
    rng = np.random.default_rng(0)

    def filled(leaf: Any) -> np.ndarray:
        if leaf.dtype == bool:  # a byte of it holds 0 or 1
            return rng.integers(2, size=leaf.shape).astype(bool)
        return np.frombuffer(rng.bytes(leaf.size * leaf.dtype.itemsize), leaf.dtype).reshape(leaf.shape)

    return jax.device_put(jax.tree.map(filled, shapes))


def measure(checkpoints: Checkpoints, step: int, state: Any) -> tuple[float, float]:
    """One save. Returns: seconds until it returns, CPU-seconds until it is written."""
    began, began_cpu = time.perf_counter(), time.process_time()
    checkpoints.save(step, state, {})
    blocked = time.perf_counter() - began
    checkpoints.wait()
    return blocked, time.process_time() - began_cpu


def overhead(preset: str, saves: int) -> dict[str, float]:
    """Times and fractions of the interval that checkpoints of one preset cost."""
    state, config = random_state(preset), PRESETS[preset]()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(pathlib.Path(folder) / "checkpoints", config.keep_checkpoints)
        try:
            times = [measure(checkpoints, step, state) for step in range(1, saves + 2)][1:]
        finally:
            checkpoints.close()
    blocked, cpu = (float(np.median(column)) for column in zip(*times, strict=True))
    every = config.checkpoint_every_s
    return {
        "megabytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6,
        "interval_s": every,
        "blocked_s": blocked,
        "cpu_s": cpu,
        "fraction_blocked": blocked / every,
        "fraction_cpu": cpu / every,
    }


def main(arguments: list[str]) -> int:
    """Measures, prints, returns the exit status."""
    options = parse(arguments)
    by_preset = {preset: overhead(preset, options.saves) for preset in options.preset}
    facts = {**made_here(), "goal": GOAL}
    print(json.dumps(facts | {"presets": by_preset}, indent=2))
    return int(max(one["fraction_cpu"] for one in by_preset.values()) > GOAL)


if __name__ == "__main__":
    command.run(main)
