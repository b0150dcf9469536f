"""`python -m data.sumo`: makes driving scenes with SUMO, or checks that a data set can be made again."""

import dataclasses
import sys
from pathlib import Path

import tyro

from data.errors import DataError
from data.sumo.generate import verify, write_scenes
from data.sumo.install import SumoError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Makes driving scenes with SUMO; the defaults make the starter set again, byte for byte.

    Attributes:
      seed: of networks, traffic and choice of scenes.
      networks: road networks; grid, random, spider and highway in turn. 60 % of them go to train, 20 % to test.
      scenes_per_network: most scenes taken from one network.
      processes: simulations at a time.
      out: directory of the data set.
      verify: instead of making scenes: how many networks of the data set in `out` to make again and compare.
    """

    seed: int = 0
    networks: int = 80
    scenes_per_network: int = 12
    processes: int = 2
    out: Path = Path("sumo_scenes")
    verify: int = 0


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, prog="python -m data.sumo")
    try:
        run(arguments)
    except (SumoError, DataError) as error:
        sys.exit(f"error: {error}")


def run(arguments: Arguments) -> None:
    """Makes or checks a data set."""
    if arguments.verify:
        verify(arguments.out, arguments.verify, arguments.processes)
        print(f"{arguments.out}: hashes match, {arguments.verify} networks made again with the same bytes")
        return
    sizes = arguments.networks, arguments.scenes_per_network
    written = write_scenes(arguments.seed, *sizes, arguments.processes, arguments.out)
    print(f"{arguments.out}: {'written' if written else 'already there'}")


if __name__ == "__main__":
    main()
