"""Reading what `data.builder` wrote: random access to the records of a split."""

import json
import pathlib
from collections.abc import Sequence

from data.errors import DataError
from data.padding import pad
from data.scene import Record, SceneSpec
from data.storage import DATASET, decode, is_finished

STARTER = pathlib.Path(__file__).parent / "starter"


class RecordSource(Sequence):
    """The records of one split, padded to a `SceneSpec` when read."""

    def __init__(self, examples: Sequence, spec: SceneSpec):
        self._examples = examples
        self._spec = spec

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return pad(decode(self._examples[index % len(self)]), self._spec)


def available_splits(directory: str | pathlib.Path) -> dict[str, int]:
    """Number of records of each split. Raises: DataError without a finished, whole data set."""
    folder = pathlib.Path(directory)
    if not is_finished(folder):
        raise DataError("expected a finished data set (made by `python -m data.build`), found none", file=str(folder))
    splits = {}
    for split in json.loads((folder / "dataset_info.json").read_text())["splits"]:
        shards = split["shardLengths"]
        found = len(list(folder.glob(f"{DATASET}-{split['name']}.array_record-*-of-{len(shards):05d}")))
        if found != len(shards):
            raise DataError(f"expected {len(shards)} files, found {found}", f"split {split['name']}", file=str(folder))
        splits[split["name"]] = sum(int(n) for n in shards)
    return splits


def open_split(directory: str | pathlib.Path, split: str, spec: SceneSpec | None = None) -> RecordSource:
    """Random access to a split: `len(source)`, `source[i] -> Record`.

    Raises: DataError for a missing data set or split.
    """
    splits = available_splits(directory)
    if split not in splits:
        raise DataError(f"expected a split of {sorted(splits)}, found {split!r}", "split", file=str(directory))
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(directory)
    return RecordSource(builder.as_data_source(split=split), spec or SceneSpec())
