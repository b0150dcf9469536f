"""The study: the scenes, policies, keys and sizes on which all world models are compared alike."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tether.data.scene import Record, Scene
from tether.data.sources import available_splits
from tether.evaluation.judges import BASELINES, baseline, unfitted
from tether.evaluation.policies import learned_policy, open_records, with_data
from tether.evaluation.report import Interval
from tether.evaluation.restore import read_run, restore
from tether.evaluation.statistics import recordings
from tether.evaluation.trained import learned_policies, require, unfinished
from tether.evaluation.world_models.draws import Draws, Logged, imagine_draws, log_drive, logged
from tether.evaluation.world_models.one_run import FLOORS
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Params, World
from tether.training import stages
from tether.training.config import Config
from tether.training.drives import NamedPolicy
from tether.training.models import Models
from tether.training.models import build as build_models
from tether.training.processes import cache_programs
from tether.training.scenes import chunks, data_directory, take
from tether.training.stage import Stage
from tether.training.state import Learned, Progress
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.registry import WORLD_MODELS
from tether.worldmodel.registry import build as build_model

CEILING = "oracle"  # stands in every table, as the floors do


@dataclasses.dataclass(frozen=True)
class Subject:
    """A world model to evaluate.

    Attributes:
      name: as in the tables.   world: see `simulator.world.World`.   params: its parameters.
      remark: a sentence about the run that it is from, where that is not finished.
    """

    name: str
    world: World
    params: Params
    remark: str = ""


class NotMeasurable(ValueError):
    """The scenes lack what a measure needs. The other measures go on."""


class Finding(NamedTuple):
    """The result of a measure.

    Attributes:
      title: heading.   about: what was measured, how, in which units.
      columns: key to heading.
      rows: subject to column to interval; a column that a subject cannot have is left out.
      paired: title of a difference to a floor, see `against_floors`, to column to its interval, scene by scene; a
        column without a value per scene is left out.
      details: what the figure draws, JSON.
    """

    title: str
    about: str
    columns: dict[str, str]
    rows: dict[str, dict[str, Interval]]
    paired: dict[str, dict[str, Interval]]
    details: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Study:
    """The comparison.

    Attributes:
      config: its spec, simulator, data set and seed hold for all subjects.
      subjects: ceiling and floors among them.
      records: of the split, prepared.
      policies: by name, for measures that roll out policies.
      split: the split's name.
      scenes: number of scenes of a split, the first ones; the config's number if None.
      draws: K, rollouts of each scene where a distribution is evaluated.
      batch: scenes per batch.
    """

    config: Config
    subjects: tuple[Subject, ...]
    records: Sequence[Record]
    policies: dict[str, NamedPolicy]
    split: str
    scenes: int | None = None
    draws: int = 32
    batch: int = 32

    def __post_init__(self):
        for name in ("draws", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")

    @property
    def simulator(self) -> SimulatorConfig:
        """The simulator's settings, the same for all subjects."""
        return self.config.simulator

    @property
    def steps(self) -> int:
        """H, world steps of a whole rollout."""
        return self.config.rollout_steps

    def on(self, split: str) -> "Study":
        """The same subjects and policies on another split: `scenes` of it, or all if it has fewer.

        Raises: DataError where the data set lacks the split.
        """
        there = available_splits(data_directory(self.config.data)).get(split, self.scenes)
        scenes = None if self.scenes is None else min(self.scenes, there)
        return dataclasses.replace(self, records=open_records(self.config, split, scenes), split=split)

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """Names [N] of the recordings: scenes of one recording are resampled together."""
        return np.array(recordings(self.records))

    @functools.cached_property
    def scenarios(self) -> np.ndarray:
        """Names [N] of the scenarios: scenes of one name are different egos of the same traffic."""
        return np.array([record.scenario_id for record in self.records])

    def chunks(self) -> Iterator[tuple[np.ndarray, int, Scene]]:
        """Rows int[B] of the records, how many of them are new, and their scenes [B, ...]; always B of them."""
        for rows in chunks(len(self.records), min(self.batch, len(self.records))):
            yield rows, len(np.unique(rows)), take(self.records, rows)

    def keys(self, rows: np.ndarray) -> jax.Array:
        """key[B]: each depends on the seed and the scene's row alone."""
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.config.seed), rows)

    @functools.cached_property
    def logged(self) -> Logged:
        """The log of all scenes."""
        return logged(self.records, self.config.spec)

    @functools.cached_property
    def imagined(self) -> dict[str, Draws]:
        """Each subject's draws of the scenes, the ego being on its log; made once, for several measures."""
        return {
            subject.name: imagine_draws(
                *(subject.world, subject.params, self.drive_log, self.chunks(), self.keys),
                *(self.draws, self.simulator.dt, subject.name),
            )
            for subject in self.subjects
        }

    @functools.cached_property
    def drive_log(self) -> Callable[[Scene, jax.Array], ModelBatch]:
        """`log_drive`, compiled."""
        return jax.jit(log_drive(self.simulator, self.steps))


def against_floors(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The differences that a table shows, by title: of each subject and each floor that is below it."""
    names = list(names)
    floors = [floor for floor in FLOORS if floor in names]
    return {
        f"{name} - {floor}": (name, floor)
        for rank, floor in enumerate(floors)
        for name in names
        if name not in floors[: rank + 1]
    }


def open_study(
    models: Sequence[str],
    policies_of: Sequence[str] = (),
    *,
    data: str | None = None,
    split: str = "test",
    scenes: int | None = None,
    trusted: Sequence[str] = (),
    **sizes: int,
) -> Study:
    """The study of some models.

    Args:
      models: `[NAME=]RUN`, run directories, or names and import paths of models that need no fitting.
      policies_of: run directories whose policies are rolled out, beside the baselines.
      data: a data set in place of the runs'.   split, scenes, sizes: as in `Study`.
      trusted: modules or import paths of world models that a run may name, beside those among `models`.
    Raises: ValueError for a run that is none, runs of different simulators or sizes of scenes, two models of one name,
      a model that needs fitting but is given without a run, a run whose stage is not finished, and two policies of one
      name.
    """
    named = [model.rpartition("=")[::2] for model in models]
    paths = (*(path for _, path in named if is_run(path)), *policies_of)
    asked = [path for _, path in named if not is_run(path)]
    runs = {path: read_run(pathlib.Path(path), (*trusted, *asked)) for path in paths}
    for path in asked:
        WORLD_MODELS.check_source(path, [pathlib.Path(run) for run in runs])
    config = with_data(common(runs), data)
    cache_programs(pathlib.Path(next(iter(runs), config.run_directory)))
    records = open_records(config, split, scenes)
    policies = {name: baseline(name, config.simulator) for name in BASELINES}
    for path in policies_of:
        learned = policies_in(path, runs[path], records)
        if twice := learned.keys() & policies.keys():
            raise ValueError(f"{path}: policies called {sorted(twice)} are there already: rename the run's directory")
        policies |= learned
    subjects = [untrained(name, config, records) for name in (CEILING, *FLOORS)]
    for name, path in named:
        if path in runs:
            subjects.append(fitted(name, path, runs[path], records))
        elif path not in (CEILING, *FLOORS):
            subjects.append(untrained(path, config, records))
    names = [subject.name for subject in subjects]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several models are called {twice}: tell them apart with NAME=RUN")
    return Study(config, tuple(subjects), records, policies, split, scenes, **sizes)


def is_run(path: str) -> bool:
    """Whether a model is named by a directory: a path, or a folder that exists."""
    return "/" in path or pathlib.Path(path).is_dir()


def common(runs: dict[str, Config]) -> Config:
    """The first run's config, or the default one. Raises: ValueError where runs could not drive the same scenes."""
    configs = list(runs.values()) or [Config(name="models")]
    for path, config in runs.items():
        for field in ("spec", "simulator"):
            if getattr(config, field) != getattr(configs[0], field):
                raise ValueError(f"{path}: its {field} is not that of {next(iter(runs))}: they cannot be compared")
    return configs[0]


def learned_in(
    path: str, config: Config, records: Sequence[Record], stage: Stage, what: str
) -> tuple[Models, Learned, Progress]:
    """What a run has learned. Raises: ValueError where the stage that it is read for is not finished, see `require`."""
    models = build_models(config)
    learned, progress = restore(pathlib.Path(path), config, models, records)
    require(path, config, progress, stage, what)
    return models, learned, progress


def fitted(name: str, path: str, config: Config, records: Sequence[Record]) -> Subject:
    """The world model of a run, under its own name if none is given."""
    models, learned, progress = learned_in(path, config, records, stages.world_model.STAGE, "its world model")
    missing = unfinished(config, progress)
    return Subject(name or config.world_model, models.world_model, learned.model, missing and f"{path}: {missing}")


def untrained(name: str, config: Config, records: Sequence[Record]) -> Subject:
    """A model that needs no fitting. Raises: ValueError for one that has parameters."""
    world = build_model(name, None, config.simulator)
    return Subject(name, world, unfitted(name, world, config.simulator, records))


def policies_in(path: str, config: Config, records: Sequence[Record]) -> dict[str, NamedPolicy]:
    """The learned policies of a run by name, those that differ."""
    models, learned, progress = learned_in(path, config, records, stages.imitate.STAGE, "its policy")
    names = learned_policies(path, config, progress)
    named = {f"{name} ({pathlib.Path(path).name})": name for name in names}
    policies = {title: learned_policy(name, models, learned, 0.0) for title, name in named.items()}
    return {title: dataclasses.replace(policy, name=title) for title, policy in policies.items()}
