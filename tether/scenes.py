"""The scenes of a split, prepared for rollouts."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import overload

import numpy as np

from tether.data.scene import Record, SceneSpec
from tether.data.sources import STARTER
from tether.data.sources import open_split as open_records
from tether.simulator.config import SimulatorConfig
from tether.training.scenes import DataConfig, PreparedRecords


@dataclasses.dataclass(frozen=True, eq=False)
class Scenes(Sequence[Record]):
    """Logged scenes, prepared for rollouts: a split of a data set, or some of its rows.

    `scenes[6]` is a `Record`. `scenes[:4]`, `scenes[[3, 17]]` and `scenes[rollouts.scores["failure"]]` are the scenes
    of these rows, as in NumPy. Scenes are read and prepared when they are first used.

    Attributes:
      name: of the split.
      records: of the whole split, prepared (`simulator/prepare.py`).
      rows: int[N], rows of `records`.
      spec: sizes of the scenes.
      simulator: the config that they are prepared for; Worlds given by name use it too.
    """

    name: str
    records: Sequence[Record]
    rows: np.ndarray
    spec: SceneSpec
    simulator: SimulatorConfig

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> "Scenes": ...

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Record | Scenes":
        """Raises: IndexError past the end; DataError for a damaged record."""
        rows = self.rows[index]
        return dataclasses.replace(self, rows=rows) if np.ndim(rows) else self.records[int(rows)]

    @property
    def steps(self) -> int:
        """Steps of a World from the current log step to the log's end."""
        return self.spec.future_steps // self.simulator.substeps

    def __repr__(self) -> str:
        return f"<{len(self)} of {len(self.records)} scenes of {self.name}>"


def open_split(
    split: str,
    directory: str | pathlib.Path = STARTER,
    *,
    spec: SceneSpec | None = None,
    simulator: SimulatorConfig | None = None,
) -> Scenes:
    """Opens the scenes of a split; nothing is read yet.

    Args:
      split: train, grounding, validation or test, if the data set has it.
      directory: a finished data set; the starter set, which comes with the package, by default.
      spec: the sizes that scenes are padded or cut to.
      simulator: the config that they are prepared for.
    Raises: DataError, a ValueError, for a missing or damaged data set, or a split that it does not have.
    """
    spec, simulator = spec or SceneSpec(), simulator or SimulatorConfig()
    records = PreparedRecords(open_records(directory, split, spec), simulator, None, DataConfig.cached_scenes)
    name = f"split {split!r} of {pathlib.Path(directory)}"
    return Scenes(name, records, np.arange(len(records)), spec, simulator)


def check_scenes(scenes: Scenes) -> None:
    """Raises: ValueError for an object that is not `Scenes`, and for no scene at all."""
    if not isinstance(scenes, Scenes) or not len(scenes):
        given = scenes if isinstance(scenes, Scenes) else type(scenes).__name__
        raise ValueError(f"scenes: expected some, such as tether.open_split('test')[:4], found {given}")
