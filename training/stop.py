"""SIGTERM and Ctrl-C, from a program's first line to its last: status 130, for which SLURM's recipe queues it again.

Three ways, by what the program does: nothing yet (`at_once`), work that is not saved step by step (`run`), and training
(`Stop`). This file imports nothing of ours or JAX's, so that a program can call `at_once` before it imports them.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

INTERRUPTED = 130  # exit status
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """The program was asked to stop. No `Exception`: what walks past damaged files must not walk past this."""


def at_once() -> None:
    """From now on both signals end the process on the spot: an exception inside an import could be lost."""
    for number in SIGNALS:
        signal.signal(number, _end)
    os.register_at_fork(after_in_child=_default)


def run(main: Callable[[], int]) -> NoReturn:
    """Ends the process with the status that `main` returns. Meanwhile both signals raise `Interrupted` in `main`.

    Where `main` lets that pass, one line says so and the status is 130.
    """
    for number in SIGNALS:
        signal.signal(number, _raise)
    try:
        status = main()
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        status = INTERRUPTED
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # nothing is left to do
    sys.exit(status)


class Stop:
    """Within it, SIGTERM and the first Ctrl-C are a request that training reacts to between two steps.

    Attributes:
      requested: whether to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        self._previous = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: object) -> None:
        if self.requested and number == signal.SIGINT:
            raise Interrupted("stopped at once, without saving")
        self.requested = True
        import logging  # not sooner: until `at_once` is called, each import is time in which a signal is not honoured

        logging.getLogger(__name__).warning("stopping after this step; a second Ctrl-C stops at once, without saving")


def _end(number: int, _: object) -> NoReturn:
    os.write(2, b"stopped before anything began\n")
    os._exit(INTERRUPTED)


def _raise(number: int, _: object) -> NoReturn:
    raise Interrupted(f"stopped by {signal.Signals(number).name}")


def _default() -> None:
    """A forked child is ended by its parent, or with it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
