"""Probes of settings by units of work: what the stages give their programs under a config, for `test_settings.py`."""

import dataclasses
import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings_base import at_start, digest, filled, opened

from tether.simulator.events import EVENTS
from tether.training import checks, loop, mesh, models, practice, rounds, stages
from tether.training.drives import Steps, steps_of
from tether.training.state import Progress, RunState


class Differs(Exception):
    """A call differs from that under the settings of the comparison."""


# Programs of the stages, by module and name. A probe replaces each of them by one that notes its arguments.
PROGRAMS = [
    *((practice, name) for name in ("roll_out", "policy_step", "transitions", "fresh_optimizer")),
    *((stages.world_model, name) for name in ("roll_out", "drive_expert", "model_step", "joined")),
    *((stages.value, name) for name in ("value_step", "transitions")),
    (stages.imitate, "imitation_step"),
    (stages.closed_loop, "roll_out"),
    *((stages.coach, name) for name in ("imitation_step", "coaching_step")),
    (checks, "open_loop"),
]
RETURNED: dict[tuple, Any] = {}


def is_arrays(argument: Any) -> bool:
    """Whether an argument of a program is traced, rather than a part of it."""
    return all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(argument))


def output(name: str, real: Any, args: tuple) -> Any:
    """What a program returns. It is traced once for all settings, because a difference ends the probe before."""
    fixed = [argument for argument in args if not is_arrays(argument)]
    given = [argument for argument in args if is_arrays(argument)]
    kinds = tuple(getattr(one, "__name__", type(one).__name__) for one in fixed)
    key = name, kinds, str(jax.tree.map(jnp.shape, given))
    if key not in RETURNED:

        def call(*arrays: Any) -> Any:
            arrays = iter(arrays)
            return real(*(next(arrays) if is_arrays(argument) else argument for argument in args))

        RETURNED[key] = filled(jax.eval_shape(call, *given))
    return RETURNED[key]


class Notes(list):
    """What happens in some units of work.

    Args: expected: what happened with another config; the first difference raises `Differs`.
    """

    def __init__(self, expected: list | None):
        super().__init__()
        self.expected = expected

    def note(self, *what: Any) -> None:
        self.append(what)
        if self.expected is not None and self != self.expected[: len(self)]:
            raise Differs

    def noting(self, name: str, real: Any) -> Any:
        """A program that notes the arrays that it is given, and returns arrays of the right shapes."""

        def call(*args: Any) -> Any:
            sizes = [argument for argument in args if isinstance(argument, int)]
            self.note(name, sizes, digest([argument for argument in args if is_arrays(argument)]))
            return output(name, real, args)

        return call

    def drive(self, policy: Any, records: Any, judge: Any, keep: Any, **settings: Any) -> Any:
        """Stands for `drives.drive`."""
        rows = settings.get("rows", np.arange(len(records)))
        self.note("drive", len(rows), settings["batch"], settings["steps"], digest(settings["keys"](np.asarray(rows))))
        scores = {name: np.ones(len(rows)) for name in (*checks.CHECKED, "steps")}
        ones = np.ones((len(rows), settings["steps"]), np.float32)
        happened = {event.name: ones > 0 for event in EVENTS}
        steps = Steps(ones > 0, ones < 0, ones, ones, 0.5 * ones, happened, {})
        if keep is steps_of:
            return steps
        return scores if policy.name == "validation" else (scores, steps)


def units(*names: str) -> Any:
    """A probe: what the programs are given in some units, and how often a log line or a checkpoint is written."""

    def probe(config: Any, expected: list | None = None) -> list:
        notes = Notes(expected)
        splits = opened(config.data, config.spec, config.simulator)
        folder, built = pathlib.Path(tempfile.mkdtemp()), models.build(config)
        run = RunNoting(config, folder, splits, built, None, None, loop.Stop(), mesh.ALONE, time.monotonic())
        object.__setattr__(run, "notes", notes)
        progress = Progress(horizon=config.rounds.horizon, penalty=config.rounds.penalty, grounded_return=(1.0,) * 4)
        with pytest.MonkeyPatch.context() as patch:
            for module, name in PROGRAMS:
                patch.setattr(module, name, notes.noting(name, getattr(module, name)))
            for module in (checks, rounds):
                patch.setattr(module, "drive", notes.drive)
            for unit in stages.schedule(
                dataclasses.replace(config, rounds=dataclasses.replace(config.rounds, rounds=1))
            ):
                if unit.name not in names:
                    continue
                state, _ = stages.part(unit)(run, RunState(at_start(), progress), unit)
                now = {
                    name: value
                    for name, value in state.progress.to_json().items()
                    if name not in ("iterator", "wall_s")
                }
                for record in (*now["rounds"], *now["coach"]["rounds"]):
                    record.pop("wall_s")
                notes.note("progress", str(now))
        return list(notes)

    return probe


class RunNoting(loop.Run):
    """Notes lines and checkpoints among the calls."""

    def record(self, state, unit, metrics):
        self.notes.note("line", unit.name, state.progress.step)

    def save(self, state):
        self.notes.note("save", state.progress.step)
        return state
