"""`train.py` and `eval.py`, which an installed package calls `tether-train` and `tether-eval`."""

import importlib
import os
import sys
from typing import NoReturn

from tether.training import stop


def train() -> NoReturn:
    """The main job, `tether/train.py`."""
    _run("tether.train")


def evaluate() -> NoReturn:
    """The evaluation, `tether/eval.py`."""
    _run("tether.eval")


def _run(program: str) -> NoReturn:
    """Runs a program's `main`, and ends the process with its status."""
    stop.at_once()  # before all else: the imports take seconds
    # XLA calls it an error whenever it reads back a program that it cached itself (a tuning hint counts as a missing
    # CPU feature). Only before JAX is imported can that be silenced; exceptions are raised as ever.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main = importlib.import_module(program).main
    stop.run(lambda: main(sys.argv[1:]))
