"""`python -m tether.data.sumo`: makes driving scenes with SUMO, or checks that a data set can be made again."""

import dataclasses
import sys
from pathlib import Path

import tyro

from tether.data.errors import DataError
from tether.data.progress import log_above_bars
from tether.data.sumo.generate import verify, write_scenes


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
    networks: int = 280
    scenes_per_network: int = 12
    processes: int = 2
    out: Path = Path("sumo_scenes")
    verify: int = 0


def parse(arguments: list[str]) -> Arguments:
    """The settings that a command line gives, not yet validated."""
    return tyro.cli(Arguments, prog="python -m tether.data.sumo", args=arguments)


def main(arguments: list[str]) -> int:
    """Runs the command line. Returns the exit status."""
    log_above_bars()
    try:
        run(parse(arguments))
    except (RuntimeError, ValueError, OSError) as error:  # SUMO's are RuntimeErrors, and TFDS's of a full disk
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing is left behind", file=sys.stderr)
        return 130
    return 0


def run(arguments: Arguments) -> None:
    """Makes or checks a data set. Raises: DataError for numbers that cannot work; as `write_scenes` and `verify`."""
    for name in ("networks", "scenes_per_network", "processes"):
        if getattr(arguments, name) < 1:
            raise DataError(f"expected at least 1, found {getattr(arguments, name)}", name)
    if arguments.verify:
        verify(arguments.out, arguments.verify, arguments.processes)
        print(f"{arguments.out}: hashes match, {arguments.verify} networks made again with the same bytes")
        return
    sizes = arguments.networks, arguments.scenes_per_network
    written = write_scenes(arguments.seed, *sizes, arguments.processes, arguments.out)
    print(f"{arguments.out}: {'written' if written else 'already there'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
