"""The machinery of a run: units of work in order, steps, logging, checkpoints, stopping and going on."""

import dataclasses
import json
import logging
import pathlib
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from tether.data.files import write_text
from tether.data.pipeline import SceneBatches
from tether.data.progress import Bar
from tether.data.scene import Record
from tether.training.checkpoint import Checkpoints
from tether.training.config import Config
from tether.training.log import Logger, postfix
from tether.training.mesh import Layout
from tether.training.models import Models
from tether.training.processes import Votes, is_first
from tether.training.scenes import Splits, batches
from tether.training.state import Progress, RunState
from tether.training.stop import Interrupted, Stop
from tether.training.watch import Watch

log = logging.getLogger(__name__)
Metrics = dict[str, Any]
Body = Callable[[RunState, int, jax.Array, Any], tuple[RunState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Unit:
    """A piece of work that is finished or not.

    Attributes:
      stage: the name of its stage.   part: the name of a function of that stage.   round: 0 before the rounds.
    """

    stage: str
    part: str
    round: int

    @property
    def name(self) -> str:
        """As `Progress.finished` holds it."""
        return f"{self.round}/{self.part}"


COMPARED = Unit("", "compared", 0)  # names the keys that every round shares, by these steps:
FOR_TRUST, FOR_GROUNDING = 1, 2  # one for the trust; one for each batch of grounding, from this one on


@dataclasses.dataclass(frozen=True)
class Run:
    """What every stage shares.

    Attributes:
      config: the resolved config.   directory: the run's.
      splits: the scenes.   models: what is trained.
      checkpoints, logger, stop: see there; `logger` is None for the processes that write nothing.
      layout: of rows and parameters on the devices.
      compiled: parts whose steps this process has compiled.
      started: monotonic time at which this process began, less the time spent by earlier ones [s].
    """

    config: Config
    directory: pathlib.Path
    splits: Splits
    models: Models
    checkpoints: Checkpoints
    logger: Logger | None
    stop: Stop
    layout: Layout
    started: float
    compiled: set[str] = dataclasses.field(default_factory=set)

    def key(self, unit: Unit, step: int) -> jax.Array:
        """The key of a step: a function of the seed and of where the run stands, so that a resumed run draws alike."""
        named = jax.random.fold_in(jax.random.key(self.config.seed), zlib.crc32(unit.name.encode()))
        return jax.random.fold_in(named, step)

    def data_seed(self, unit: Unit) -> int:
        """The seed of a unit's shuffling."""
        return zlib.crc32(f"{self.config.seed}/{unit.name}".encode())

    def batches(self, records: Sequence[Record], size: int, unit: Unit) -> SceneBatches:
        """A unit's batches of `size` scenes, of which this process reads its own rows."""
        return batches(records, size, self.data_seed(unit), self.layout.own(size))

    def write(self, name: str, text: str) -> None:
        """Writes a file of the run, once for all processes."""
        if is_first():
            write_text(self.directory / name, text)

    @property
    def wall_s(self) -> float:
        """Wall time of the run so far, earlier processes included [s]."""
        return time.monotonic() - self.started

    def since(self, earlier_s: float) -> "Run":
        """The same run, counting the wall time of earlier processes [s] in."""
        return dataclasses.replace(self, started=self.started - earlier_s)

    def record(self, state: RunState, unit: Unit, metrics: Metrics) -> None:
        """Writes a log line."""
        line = {
            "round_index": unit.round,
            "stage": unit.part,
            "step": state.progress.step,
            "total": state.progress.total,
            "simulator_steps": state.progress.ledger.total,  # which all processes have to count
            "wall_s": self.wall_s,
        }
        if self.logger is not None:
            self.logger.write(**line, metrics=metrics)

    def save(self, state: RunState) -> RunState:
        """Writes a checkpoint of the state and returns it with the time noted."""
        state = state.count_steps().note(wall_s=self.wall_s)
        now = state.progress
        meta = {"progress": now.to_json(), "settings": dataclasses.asdict(self.config)}
        self.checkpoints.save(now.total, state.learned, meta, now.best_checkpoint)
        return state

    def interrupted(self, where: str) -> Interrupted:
        """What ends a run that was asked to stop, once it is saved."""
        return Interrupted(f"stopped {where}; saved in {self.directory}")


def steps(run: Run, state: RunState, unit: Unit, count: int, batches: SceneBatches, body: Body) -> RunState:
    """Repeats `body` on batch after batch, from where the state stands.

    Args:
      body: (state, step, key, (scene, indices)) -> state, metrics.
    Raises: Interrupted between two steps, after saving; AlarmError where something is wrong, see `watch`.
    """
    if state.progress.iterator is not None:
        batches.set_state(state.progress.iterator)
    saved, first = time.monotonic(), unit.part not in run.compiled
    run.compiled.add(unit.part)
    watch, votes = Watch(run.config.watch, unit.name, run.directory, run.splits.train), Votes()
    with Bar(unit.part, count, state.progress.step, compiles=first) as bar:
        for step in bar.over(range(state.progress.step, count)):
            with watch.waiting(step):
                batch = next(batches)
            after, metrics = body(state, step, run.key(unit, step), batch)
            learned = watch.guard(step, batch[1], state.learned, after.learned, metrics)
            state = dataclasses.replace(after, learned=learned)
            state = state.note(step=step + 1, total=state.progress.total + 1)
            if (step + 1) % run.config.log_every == 0 or step + 1 == count:
                # Only here does the host wait for the device: between two lines it runs ahead with the next batches.
                state = state.count_steps()
                run.record(state, unit, metrics)
                bar.show(postfix(metrics))
            due, stop = votes.cast(time.monotonic() - saved > run.config.checkpoint_every_s, run.stop.requested)
            if due or stop or step + 1 == count:
                watch.check_last()  # nothing is saved that was not checked
            if due or stop:
                state, saved = run.save(state.note(iterator=batches.get_state())), time.monotonic()
                votes = Votes()  # the wish of this step has come true
            if stop:
                raise run.interrupted(f"in {unit.name} at step {step + 1} of {count}")
    return state


def finish(run: Run, state: RunState, unit: Unit, metrics: Metrics) -> RunState:
    """Marks a unit as done, logs its summary, saves, and writes `rounds.json`.

    Raises: Interrupted where any process was asked to stop.
    """
    now = state.progress
    if metrics:
        run.record(state, unit, metrics)
    state = state.note(finished=(*now.finished, unit.name), step=0, iterator=None, total=now.closing)
    write_rounds(run, state.progress)
    state = run.save(state)
    if np.any(multihost_utils.process_allgather(np.bool_(run.stop.requested))):
        raise run.interrupted(f"after {unit.name}")
    return state


def write_rounds(run: Run, progress: Progress) -> None:
    """Writes `rounds.json`, and `coach_rounds.json` where there is a coach."""
    run.write("rounds.json", json.dumps(list(progress.rounds), indent=2) + "\n")
    if run.config.coaching.rounds:
        run.write("coach_rounds.json", json.dumps(list(progress.coach.rounds), indent=2) + "\n")
