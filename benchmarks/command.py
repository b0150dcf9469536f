"""Runs a benchmark as a program."""

import sys
from collections.abc import Callable
from typing import NoReturn

from tether.data.command_line import status_of
from tether.data.progress import log_above_bars
from tether.data.sumo.install import SumoError


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Ends the process with the status that `main` returns for the command line.

    Input or settings that cannot work give one message and status 2, as in every command of the project.
    """
    log_above_bars()
    sys.exit(status_of(lambda: main(sys.argv[1:]), SumoError))
