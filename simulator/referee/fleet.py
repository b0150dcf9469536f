"""The referee's simulations of a list of records, and the rollout in progress: arrays in, arrays out."""

import concurrent.futures
import os
import pathlib
import tempfile
import weakref
from collections.abc import Sequence

import numpy as np

from tether.data.scene import Record, SceneSpec
from tether.data.sumo.generate import NetworkJob
from tether.data.sumo.install import SumoError, sumo_home
from tether.simulator.referee.frame import window_of
from tether.simulator.referee.messages import Part, TownRequest
from tether.simulator.referee.origin import origin_of
from tether.simulator.referee.processes import Simulation, Town, open_town
from tether.simulator.referee.row import Boxes, RowRollout


class Fleet:
    """Simulations of the default data set's scenes; one rollout of a batch at a time.

    Letters as in `simulator/world.py`; R records. Processes start when they are first needed, stay, and end with
    `close`, with this object, or with the process that holds it, however that ends.

    Args: records: R, of scenes made by `data.sumo`.
    Raises: SumoError where SUMO is missing or this process may use one processor alone; ValueError for a record from
      elsewhere.
    """

    def __init__(self, records: Sequence[Record]):
        sumo_home()
        if processors() < 2:  # a callback and the XLA thread behind it would wait for each other forever
            raise SumoError("the referee needs two processors, this process may use 1 (taskset? a container's limit?)")
        self._records = records
        self._origins = [origin_of(record) for record in records]
        self._folder = tempfile.TemporaryDirectory(prefix="tether-referee-")
        self.towns: dict[NetworkJob, Town] = {}
        self.rollouts: list[RowRollout] = []
        self._rollout = 0
        self.close = weakref.finalize(self, close, self.rollouts, self.towns, self._folder)

    def open(self, rows: np.ndarray) -> np.ndarray:
        """Gets the simulations of the records int[B] ready, as many at a time as there are processors.

        Returns: int32[B], the World's params.
        Raises: SumoError naming the scenes whose simulation fails.
        """
        jobs = dict.fromkeys(self._origins[row][0] for row in rows if self._origins[row][0] not in self.towns)
        with concurrent.futures.ThreadPoolExecutor(processors()) as threads:
            futures = {job: threads.submit(open_town, self._request(job)) for job in jobs}
        for job, future in futures.items():
            if future.exception() is None:
                self.towns[job] = future.result()
        for future in futures.values():
            future.result()  # raises an error of the first; `close` already knows of the others
        return np.asarray(rows, np.int32)

    def _request(self, job: NetworkJob) -> TownRequest:
        rows = [row for row, (made_by, _) in enumerate(self._origins) if made_by == job]
        windows = [window_of(self._records[row], self._origins[row][1], SceneSpec.current) for row in rows]
        return TownRequest(job, tuple(windows), pathlib.Path(self._folder.name) / job.name)

    def reset(self, rows: np.ndarray, seeds: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Begins a rollout, and ends the one before.

        Args: rows: int32[B], records that are open.  seeds: uint32[B], of the drivers.  start: int32[B], log steps.
        Returns: int32[B], the rollout's number.
        Raises: ValueError for a log step other than the current one.
        """
        if (start != SceneSpec.current).any():
            raise ValueError(f"the referee takes over at log step {SceneSpec.current}, found {start.tolist()}")
        end_all(self.rollouts)
        self.rollouts.extend(self._row_rollout(int(row), int(seed)) for row, seed in zip(rows, seeds, strict=True))
        for row in self.rollouts:
            row.begin()
        self._rollout += 1
        return np.full(len(rows), self._rollout, np.int32)

    def _row_rollout(self, row: int, seed: int) -> RowRollout:
        record, (job, first) = self._records[row], self._origins[row]
        cast = self.towns[job].casts[record.scenario_id]
        part = Part(cast, cast.names[int(record.scene.ego)], f"{record.scenario_id} {seed}")
        return RowRollout(record, Simulation(self.towns[job], record.scenario_id, first + SceneSpec.current, part))

    def step(self, rollout: np.ndarray, alive: np.ndarray, poses: np.ndarray) -> tuple[Boxes, np.ndarray]:
        """Drives S steps of 0.1 s in the simulations of all rows that are alive, at the same time; the others end.

        Args: rollout: int32[B], from `reset`.  alive: bool[B].  poses: float32[B, S, 3], the swept ego x, y, heading.
        Returns: boxes, fields [B, A, S], and the light states int32[B, L, S]; zeros where a row is over.
        Raises: SumoError naming the scene whose simulation dies; ValueError for a rollout that is over.
        """
        if (rollout != self._rollout).any():
            raise ValueError(f"rollout {rollout.tolist()} is over: the referee drives one at a time")
        for row, running, pose in zip(self.rollouts, alive, poses, strict=True):
            if running:
                row.send(pose)
            else:
                row.end()
        answers = [
            row.receive() if running else row.nothing(poses.shape[1])
            for row, running in zip(self.rollouts, alive, strict=True)
        ]
        boxes, lights = zip(*answers, strict=True)
        return {name: np.stack([one[name] for one in boxes]) for name in boxes[0]}, np.stack(lights)


def processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_all(rollouts: list[RowRollout]) -> None:
    """Ends the rollouts and empties the list."""
    while rollouts:
        rollouts.pop().end()


def close(rollouts: list[RowRollout], towns: dict[NetworkJob, Town], folder: tempfile.TemporaryDirectory) -> None:
    """Ends all processes of a fleet and removes its files."""
    end_all(rollouts)
    while towns:
        towns.popitem()[1].close()
    folder.cleanup()
