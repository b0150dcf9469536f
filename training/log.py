"""What a run writes while it runs: JSON lines, TensorBoard, metrics beside a progress bar."""

import contextlib
import datetime
import json
import logging
import math
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from tether.data.files import write_bytes
from tether.data.tfrecord import frame

log = logging.getLogger(__name__)


def now() -> str:
    """The time as reports show it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


class Logger:
    """Writes each record to `metrics.jsonl` and to TensorBoard in the run directory.

    A resumed run appends; `wall_s` goes on from where the checkpoint stood. Lines that a full disk or a power cut left
    damaged are set aside.

    Attributes:
      path: of `metrics.jsonl`.
      lines_before: whether there were any.
    """

    def __init__(self, directory: pathlib.Path):
        self.path = directory / "metrics.jsonl"
        set_damaged_aside(self.path)
        self.lines_before = self.path.exists() and self.path.stat().st_size > 0
        self._lines = self.path.open("a", buffering=1, encoding="utf-8")
        board = directory / "tensorboard"
        board.mkdir(exist_ok=True)
        # The library's own writer does this in a thread, which a full disk ends: the next records would wait for ever.
        self._board = (board / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}").open("wb")
        self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))

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
        self._append(json.dumps({**record, "wall_s": round(wall_s, 3), **numbers}) + "\n")
        values = {f"{stage}/{name}": math.nan if value is None else value for name, value in numbers.items()}
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        # Rounds repeat the same stage: on TensorBoard's axis, the run's own count of steps, they follow each other.
        self._put(Event(wall_time=time.time(), step=total, summary=summary))

    def _append(self, text: str) -> None:
        with _named(self.path):
            self._lines.write(text)

    def _put(self, event: Event) -> None:
        with _named(self.path.parent / "tensorboard"):
            self._board.write(frame(event.SerializeToString()))
            self._board.flush()

    def go_on_from(self, directory: pathlib.Path) -> None:
        """Begins with the records of the run that this one starts from, so that every stage has its lines."""
        source = directory / "metrics.jsonl"
        for line in read_lines(source) if source.exists() and not self.lines_before else ():
            self._append(json.dumps(line) + "\n")

    def close(self) -> None:
        """Closes both files."""
        for file in (self._lines, self._board):
            with contextlib.suppress(OSError):  # of what is still to be flushed: that write has raised it before
                file.close()


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Puts the file's name into an error of the disk, which writing to an open file does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


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
    """The records of a `metrics.jsonl`; damaged lines are left out, with a warning that names file and line."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        record = _record(line)
        if record is None:
            log.warning("%s, line %d: expected a record, found %.60r: it is left out", path, number, line)
        else:
            yield record


def set_damaged_aside(path: pathlib.Path) -> None:
    """Moves damaged lines of a `metrics.jsonl` to `<name>.damaged`, and says so; the next record begins a line."""
    text = path.read_bytes() if path.exists() else b""
    lines = text.splitlines()
    damaged = [line for line in lines if _record(line) is None]
    if damaged:
        aside = path.with_name(f"{path.name}.damaged")
        before = aside.read_bytes() if aside.exists() else b""
        write_bytes(aside, before + b"".join(line + b"\n" for line in damaged))
        log.warning("%s: %d damaged lines are set aside in %s", path, len(damaged), aside)
    whole = b"".join(line + b"\n" for line in lines if _record(line) is not None)
    if whole != text:
        write_bytes(path, whole)


def _record(line: bytes) -> dict[str, Any] | None:
    """A line's record; None where the line is not one, whole."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kinds = {"round": int, "stage": str, "step": int, "wall_s": int | float}
    whole = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in kinds.items())
    return record if whole and math.isfinite(record["wall_s"]) else None
