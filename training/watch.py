"""Notices what goes wrong while a run learns: numbers that are not finite, a policy that collapses or runs away, data
that does not come.

A step whose result is not finite is undone on the device, at once and without waiting. The host reads what happened one
step late, when the next one is under way.
"""

import contextlib
import dataclasses
import json
import logging
import math
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Record
from tether.data.settings import setting
from tether.training.log import scalars
from tether.training.processes import is_first
from tether.training.state import Learned

log = logging.getLogger(__name__)
FILE = "alarms.jsonl"
# What steps change, except the tracks.
LEARNED = ("policy", "policy_optimizer", "model", "model_optimizer", "coach", "coach_moments")
# By these names the stages report what they descend.
LOSSES = ("loss", "policy", "value", "action_cross_entropy", "action_error", "imitation")


class AlarmError(Exception):
    """The run was ended because something is wrong with it; the last checkpoint stands."""


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """What counts as going wrong with a run, and what follows (`training.watch`).

    Attributes:
      not_finite: what follows a step whose loss or result is not finite; `skip` leaves the step out, `stop` ends the
        run.
      most_skipped: number of consecutive steps that may be left out; one more ends the run.
      least_entropy: entropy of the policy's actions below which the policy has collapsed and the run ends [nats].
      most_kl: KL between the policy and the imitation policy beyond which the run ends [nats].
      stall_s: time spent waiting for a batch after which a warning is logged, and logged again each time as much has
        passed [s].
    """

    not_finite: Literal["skip", "stop"] = "skip"
    most_skipped: int = setting(10, least=0)
    least_entropy: float = setting(0.01, least=-math.inf)
    most_kl: float = 50.0
    stall_s: float = setting(60.0, above=0)


class Watch:
    """Of one unit of work.

    Args: unit: its name; directory: the run's; records: what batches are made of.
    """

    def __init__(self, config: WatchConfig, unit: str, directory: pathlib.Path, records: Sequence[Record]):
        self._config, self._unit, self._path, self._records = config, unit, directory / FILE, records
        self._last: tuple[int, Array, Array, dict[str, Any]] | None = None
        self._skipped = 0

    def guard(self, step: int, rows: Array, before: Learned, after: Learned, metrics: dict[str, Any]) -> Learned:
        """What the run goes on with: the step's result, or what was there before where that is not finite.

        Args: rows: int[B], of the batch's records.   before, after: the step.   metrics: of it.
        Raises: AlarmError for the step before this one.
        """
        changed = [name for name in LEARNED if getattr(after, name) is not getattr(before, name)]
        old, new = ({name: getattr(learned, name) for name in changed} for learned in (before, after))
        losses = {name: metrics[name] for name in LOSSES if name in metrics}
        kept, good = finite_or_before(old, new, losses)
        self.check_last()
        self._last = step, rows, good, metrics
        return after.replace(**kept)

    def check_last(self) -> None:
        """Checks the last step. Raises: AlarmError where it ends the run."""
        if self._last is None:
            return
        (step, rows, good, metrics), self._last = self._last, None
        if not good:
            self._skipped += 1
            losses = scalars({name: metrics[name] for name in LOSSES if name in metrics})
            self._report(step, rows, "not finite", {**losses, "in_a_row": self._skipped})
            if self._config.not_finite == "stop" or self._skipped >= self._config.most_skipped:
                raise AlarmError(f"{self._where(step)}: {self._skipped} step(s) in a row not finite, losses {losses}")
            return
        self._skipped = 0
        if {"entropy", "kl"} <= metrics.keys():  # a world model has a KL as well, of its latents, but no entropy
            entropy, kl = float(metrics["entropy"]), float(metrics["kl"])
            if entropy < self._config.least_entropy or kl > self._config.most_kl:
                self._report(step, rows, "collapsed or ran away", {"entropy": entropy, "kl": kl})
                expected = f"entropy of at least {self._config.least_entropy:g}, kl of at most {self._config.most_kl:g}"
                raise AlarmError(f"{self._where(step)}: expected {expected}, found {entropy:.4g} and {kl:.4g}")

    @contextlib.contextmanager
    def waiting(self, step: int) -> Iterator[None]:
        """While a batch is waited for."""
        done, began = threading.Event(), time.monotonic()

        def report() -> None:
            while not done.wait(self._config.stall_s):
                self._report(step, (), "no batch", {"waited_s": round(time.monotonic() - began, 1)})

        thread = threading.Thread(target=report, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _where(self, step: int) -> str:
        return f"{self._unit}, step {step + 1}; scenes in {self._path}"

    def _report(self, step: int, rows: Any, what: str, values: dict[str, Any]) -> None:
        scenes = [self._records[int(row)].scenario_id for row in rows]
        line = {"unit": self._unit, "step": step + 1, "what": what, **values, "scenes": scenes}
        if is_first():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        log.warning("%s, step %d: %s %s", self._unit, step + 1, what, values)


@jax.jit
def finite_or_before(before: Any, after: Any, losses: Any) -> tuple[Any, Array]:
    """The second tree if all of it and of the losses is finite, else the first; and which, bool."""
    floats = [leaf for leaf in jax.tree.leaves((after, losses)) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    good = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats])) if floats else jnp.bool(True)
    return jax.tree.map(lambda old, new: jnp.where(good, new, old), before, after), good
