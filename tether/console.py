"""Entry points of `train.py` and `eval.py`; an installed package has them as `tether-train` and `tether-eval`."""

import importlib
import os
import sys
from typing import NoReturn

from tether.training import stop


def train() -> NoReturn:
    """Runs the main job, `tether/train.py`."""
    _run("tether.train")


def evaluate() -> NoReturn:
    """Runs the evaluation, `tether/eval.py`."""
    _run("tether.eval")


def _run(program: str) -> NoReturn:
    """Runs a program's `main`, and ends the process with its status."""
    stop.at_once()  # before all else: the imports take seconds
    # XLA logs an error whenever it reads back a program that it cached itself (a tuning hint counts as a missing CPU
    # feature). This can be silenced only before JAX is imported; exceptions are still raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main = importlib.import_module(program).main
    stop.run(lambda: main(sys.argv[1:]))
