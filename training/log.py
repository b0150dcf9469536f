"""What a run writes while it runs: JSON lines, TensorBoard, metrics beside a progress bar."""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


class Logger:
    """Writes each record to `metrics.jsonl` and to TensorBoard in the run directory.

    A resumed run appends; `wall_s` goes on from where the checkpoint stood.
    """

    def __init__(self, directory: pathlib.Path):
        from tensorboardX import SummaryWriter

        self._lines = (directory / "metrics.jsonl").open("a", buffering=1, encoding="utf-8")
        self._board = SummaryWriter(str(directory / "tensorboard"))

    def write(
        self,
        *,
        round_index: int,
        stage: str,
        step: int,
        total: int,
        simulator_steps: int,
        wall_s: float,
        metrics: Mapping[str, Any],
    ) -> None:
        """Appends one record.

        Raises: ValueError for a metric that is not a single number.
        """
        numbers = scalars(metrics)
        record = {"round": round_index, "stage": stage, "step": step, "simulator_steps": simulator_steps}
        self._lines.write(json.dumps({**record, "wall_s": round(wall_s, 3), **numbers}) + "\n")
        # Rounds repeat the same stage: on TensorBoard's axis, the run's own count of steps, they follow each other.
        for name, value in numbers.items():
            self._board.add_scalar(f"{stage}/{name}", math.nan if value is None else value, total)

    def go_on_from(self, directory: pathlib.Path) -> None:
        """Begins with the records of the run that this one starts from, so that every stage has its lines."""
        self._lines.write((directory / "metrics.jsonl").read_text(encoding="utf-8"))

    def close(self) -> None:
        """Flushes both files."""
        self._lines.close()
        self._board.close()


def scalars(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Metrics as numbers for JSON; not-a-number becomes None, which JSON can hold.

    Raises: ValueError for a metric that is not a single number.
    """
    numbers = {}
    for name, value in metrics.items():
        if np.size(value) != 1:
            raise ValueError(f"metric {name} must be one number, found shape {np.shape(value)}")
        number = float(np.asarray(value).reshape(()))
        numbers[name] = number if math.isfinite(number) else None
    return numbers


def postfix(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The first metrics, short enough for a progress bar."""
    return {name: f"{float(value):.3g}" for name, value in list(scalars(metrics).items())[:4] if value is not None}


def read_lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The records of a `metrics.jsonl`; a last line cut by a kill is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.endswith("}"):
            yield json.loads(line)
