"""Makes the run that ships with the repository (`evaluation/shipped.py`) from a finished run of preset cpu:

python train.py cpu
python -m tether.evaluation.ship runs/cpu-seed0
"""

import argparse
import dataclasses
import pathlib
import sys

from tether.data.command_line import Parser, status_of
from tether.data.sources import STARTER, open_split
from tether.evaluation.restore import read_run, restore
from tether.evaluation.shipped import FOLDER, write_shipped
from tether.evaluation.trained import learned_policies, unfinished
from tether.training import stop
from tether.training.config import Config
from tether.training.models import build
from tether.training.scenes import PreparedRecords

OF_THE_MACHINE = ("directory", "start_from", "fresh", "stage", "mesh", "distributed")  # settings of no interest later


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m tether.evaluation.ship",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=pathlib.Path, help="directory of a finished run on the starter set")
    parser.add_argument("--out", type=pathlib.Path, default=FOLDER, help="another folder than the one that ships")
    return parser.parse_args(arguments)


def ship(run: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the shipped files of a run, and prints their size.

    Raises: ValueError for a run that is not finished, has no post-trained policy, was trained on other data than the
      starter set or has a world model that is not built in; and as `write_shipped`.
    """
    config = read_run(run)
    if config.data.directory is not None:
        raise ValueError(
            f"{run}: expected a run on the starter set, found {config.data.directory}: its terms may differ"
        )
    records = PreparedRecords(open_split(STARTER, "test", config.spec), config.simulator, 1, 1)
    learned, progress = restore(run, config, build(config), records)
    if missing := unfinished(config, progress):
        raise ValueError(f"{run}: {missing}")
    learned_policies(run, config, progress, ("imitation", "post_trained"))
    usual = Config()
    settings = dataclasses.replace(config, **{name: getattr(usual, name) for name in OF_THE_MACHINE})
    size = write_shipped(settings, learned, progress, folder)
    print(f"{folder}: {size / 2**20:.2f} MiB")


def main(arguments: list[str]) -> int:
    """Ships, and returns the exit status."""
    options = parse(arguments)
    return status_of(lambda: ship(options.run, options.out))


if __name__ == "__main__":
    stop.run(lambda: main(sys.argv[1:]))
