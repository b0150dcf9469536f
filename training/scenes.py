"""The scenes of a run: every split, prepared once and kept in memory as far as a limit allows."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from tether.data.pipeline import SceneBatches, stack
from tether.data.scene import Record, Scene, SceneSpec
from tether.data.settings import setting
from tether.data.sources import STARTER, open_split
from tether.simulator.config import SimulatorConfig
from tether.simulator.prepare import prepare
from tether.worldmodel.interface import WorldModel


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the scenes come from.

    Attributes:
      directory: folder of a finished data set, the starter set if None; it has the splits train, grounding, validation
        and test.
      train_scenes: most scenes used, from the beginning of the split train; all if None.
      grounding_scenes: most scenes used, from the beginning of the split grounding; all if None.
      validation_scenes: most scenes used, from the beginning of the split validation; all if None.
      test_scenes: most scenes used, from the beginning of the split test; all if None.
      cached_scenes: number of prepared scenes per split that are kept in memory, about 0.8 MB each; 0 for none.
    """

    directory: str | None = setting(None, common=True)
    train_scenes: int | None = None
    grounding_scenes: int | None = None
    validation_scenes: int | None = None
    test_scenes: int | None = None
    cached_scenes: int = setting(4096, least=0)

    def count(self, split: str, available: int) -> int:
        """Number of scenes used of a split that has so many."""
        most = getattr(self, f"{split}_scenes", None)
        return available if most is None else min(most, available)


class PreparedRecords(Sequence):
    """A split whose scenes carry their map tile; the first `limit` read stay in memory.

    Args:
      source: `Record`s.   count: use the first so many; all if None.   limit: records kept.
    Raises: ValueError where `count` exceeds the split.
    """

    def __init__(self, source: Sequence[Record], simulator: SimulatorConfig, count: int | None, limit: int):
        if count is not None and not 0 < count <= len(source):
            raise ValueError(f"expected 1 to {len(source)} scenes of this split, found {count}")
        self._source, self._simulator = source, simulator
        self._count, self._limit = len(source) if count is None else count, limit
        self._kept: dict[int, Record] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self._count:
            raise IndexError(f"record {index} of {self._count}")
        if index in self._kept:
            return self._kept[index]
        record = self._source[index]
        record = dataclasses.replace(record, scene=prepare(record.scene, self._simulator))
        if len(self._kept) < self._limit:
            self._kept[index] = record
        return record


class WithoutTiles(Sequence):
    """The same records with an empty map tile, half of a scene's bytes: for rollouts without images."""

    def __init__(self, records: Sequence[Record]):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        return dataclasses.replace(record, scene=record.scene.replace(map_tile=np.zeros((1, 1, 4), np.uint8)))


def seen_by(model: WorldModel, records: Sequence[Record]) -> Sequence[Record]:
    """The records as a model is fitted on them: without the map's image where it does not look at any."""
    return records if model.sees_images else WithoutTiles(records)


@dataclasses.dataclass(frozen=True)
class Splits:
    """What training may read. The test split is not among them.

    Attributes:
      train, grounding, validation: `Record`s with prepared scenes.
    """

    train: Sequence[Record]
    grounding: Sequence[Record]
    validation: Sequence[Record]


def open_splits(config: DataConfig, spec: SceneSpec, simulator: SimulatorConfig) -> Splits:
    """Opens the data set that the config names, or the starter set."""

    def opened(split: str) -> PreparedRecords:
        source = open_split(data_directory(config), split, spec)
        return PreparedRecords(source, simulator, config.count(split, len(source)), config.cached_scenes)

    return Splits(opened("train"), opened("grounding"), opened("validation"))


def data_directory(config: DataConfig) -> pathlib.Path:
    """The data set's folder."""
    return pathlib.Path(config.directory) if config.directory else STARTER


def batches(records: Sequence[Record], size: int, seed: int, rows: Sequence[int] | None = None) -> SceneBatches:
    """Endless shuffled batches of `size` prepared scenes, of which this process reads its `rows`, or all of them."""
    return SceneBatches(records, size, seed, rows)


def take(records: Sequence[Record], indices: Sequence[int]) -> Scene:
    """The scenes of the given records, stacked: `Scene` [B, ...]."""
    return stack([records[int(i)].scene for i in indices])


def repeat_rows(scene: Scene, times: int) -> Scene:
    """Each row `times` times, copies next to each other: the rows of a group."""
    return jax.tree.map(lambda a: np.repeat(a, times, axis=0), scene)


def chunks(count: int, size: int) -> list[np.ndarray]:
    """Row indices 0..count - 1 in arrays of exactly `size`; the last one is filled up by repeating its last row."""
    return [np.minimum(np.arange(first, first + size), count - 1) for first in range(0, count, size)]
