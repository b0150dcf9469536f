"""Probes of settings by a run as a whole: its units, files, processes and reports, for `test_settings.py`."""

import dataclasses
import pathlib
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings_base import at_start, opened

from tether import train
from tether.evaluation import policies as evaluation
from tether.evaluation.policies import open_records
from tether.evaluation.report import Results
from tether.training import grounding, mesh, models, processes, stages, watch
from tether.training.checkpoint import Kept
from tether.training.directory import claim, write_settings
from tether.training.grounding import Grounded
from tether.training.resume import resume
from tether.training.scenes import data_directory
from tether.training.state import Progress


def planned(config):
    """Which units there are, which are run now, and in which directory."""
    directories = str(config.run_directory)
    finished = tuple(unit.name for unit in stages.schedule(config)[:5])
    return [unit.name for unit in stages.pending(config, finished)], directories


def decided(config):
    """The decisions on rounds that went well, badly, or differently from imagination."""
    far, near = (
        Progress(horizon=horizon, penalty=config.rounds.penalty, grounded_return=(0.0, 0.0), failures=0.0)
        for horizon in (12, 6)
    )
    cases = [(0.0, 0.0, 0.0), (-0.2, 0.0, 0.0), (-9.0, 0.0, 1.5), (-9.0, 0.0, 9.0), (0.0, 0.015, 0.0), (0.0, 1.0, 0.0)]
    return [
        dataclasses.astuple(grounding.decide(config, progress, Grounded(np.full(2, r), np.full(2, f)), bias))
        for progress in (far, near)
        for r, f, bias in cases
    ]


def kept(config):
    """Which of eight checkpoints pruning leaves."""
    written = [types.SimpleNamespace(step=step) for step in range(8)]
    return Kept(config.keep_checkpoints).should_preserve(written, context=None)


def claimed(config):
    """What happens to an earlier run in the same directory."""
    folder = pathlib.Path(tempfile.mkdtemp())
    here = dataclasses.replace(config, directory=str(folder / "run"))
    for _ in range(2):
        with claim(here) as directory:
            write_settings(here, directory)
    return sorted(path.name for path in folder.iterdir())


def animated(config):
    """The scenes that are drawn."""
    scores = {"score": np.zeros(4), "failure": np.ones(4), "return": -np.arange(4.0)}
    results = Results(tuple("abcd"), tuple("abcd"), (False,) * 4, {"log_replay": {"idm": scores}})
    evaluated = types.SimpleNamespace(judges=("log_replay",), policies={"idm": None})
    return [name for name, *_ in evaluation.showcases(evaluated, results, config.evaluation.animations)]


def reading(config):
    """Which scenes are read, and how many of them stay in memory."""
    if config.data.directory:
        return data_directory(config.data)
    records = {split: open_records(config, split) for split in ("train", "grounding", "validation", "test")}
    return {split: (len(each), each._limit) for split, each in records.items()}


def beginning(config):
    """The arrays of a run."""
    splits = opened(config.data, config.spec, config.simulator)
    built = models.build(config)
    return str(jax.eval_shape(lambda: models.begin(config, built, splits.train)))


def going_on(config):
    """Where a new run begins."""
    run = types.SimpleNamespace(config=config, checkpoints=types.SimpleNamespace(restore=lambda *args: None))
    try:
        return resume(run, None)
    except ValueError as error:
        return str(error)


def meshed(config):
    """The layout on four devices, or why there is none."""
    devices = types.SimpleNamespace(device_count=lambda: 4, make_mesh=lambda *args, **kwargs: args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "jax", devices)
        try:
            return mesh.make(config.mesh)
        except ValueError as error:
            return str(error)


def joined(config):
    """How a process joins the others."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
        processes.join(config.distributed)
    return calls


def watched(config):
    """What happens on steps that are not finite, a policy that collapses or runs away, and slow data."""
    events = []
    for steps in ([{"loss": jnp.nan}] * 12, [{"entropy": 0.007, "kl": 1.0}], [{"entropy": 1.0, "kl": 40.0}]):
        unit = watch.Watch(config.watch, "unit", pathlib.Path(tempfile.mkdtemp()), ())
        try:
            for step, metrics in enumerate(steps):
                unit.guard(step, (), at_start(), at_start(), {name: jnp.float32(v) for name, v in metrics.items()})
            unit.check_last()
            events.append("goes on")
        except watch.AlarmError as alarm:
            events.append(str(alarm).split(";")[0])

    def thread(target, daemon):
        return types.SimpleNamespace(start=target, join=lambda: None)

    with pytest.MonkeyPatch.context() as patch:
        waits = types.SimpleNamespace(wait=lambda seconds: events.append(seconds) or True, set=lambda: None)
        patch.setattr(watch.threading, "Event", lambda: waits)
        patch.setattr(watch.threading, "Thread", thread)
        with unit.waiting(0):
            pass
    return events


def cached(config):
    """Whether compiled programs are kept."""
    places = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "cache_programs", places.append)
        with pytest.raises(AttributeError):  # of a job without scenes, which comes next
            train.train(train.Job(config, None, None, mesh.ALONE, 0.0), pathlib.Path("run"))
    return places
