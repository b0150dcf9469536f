"""Reading what `data.builder` wrote: random access to the scenes of a split."""

import contextlib
import difflib
import pathlib
import re
import shlex
from collections.abc import Iterator, Sequence

from array_record.python.array_record_data_source import ArrayRecordDataSource

from tether.data.errors import DataError, read_json
from tether.data.inputs import RECORD_FILES
from tether.data.padding import pad
from tether.data.raw import LocalScene
from tether.data.scene import Record, SceneSpec
from tether.data.storage import DATASET, decode, is_finished, parse_example

SPLIT_NAME = r"\w{1,64}"  # a split's name is part of file names
STARTER = pathlib.Path(__file__).parent / "starter"


class RecordSource(Sequence):
    """The records of one split, padded to a `SceneSpec` when read.

    The files are read as they are, and not through what describes them to TFDS: such a description names Python
    classes, and loading them would run code that a data set names.
    """

    def __init__(self, files: Sequence[pathlib.Path], spec: SceneSpec):
        self._name = f"{files[0]} ({len(files)} files)" if len(files) > 1 else str(files[0])
        self._spec = spec
        try:
            self._payloads = ArrayRecordDataSource([str(file) for file in files])
        except (RuntimeError, ValueError) as error:
            raise DataError(f"expected ArrayRecord files ({_first_line(error)})", file=self._name) from error

    def __len__(self) -> int:
        return len(self._payloads)

    def __getitem__(self, index: int) -> Record:
        """Raises: IndexError past the end; DataError for a damaged record."""
        with self._located(index):
            return pad(self.scene(index), self._spec)

    def scene(self, index: int) -> LocalScene:
        """A scene as it is stored, not padded. Raises: as `[]`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        with self._located(index):
            return decode(parse_example(self._payloads[index % len(self)]))

    @contextlib.contextmanager
    def _located(self, index: int) -> Iterator[None]:
        """Names the record in what goes wrong with it."""
        try:
            yield
        except DataError as error:
            raise error.located(self._name, str(index % len(self))) from error
        except (RuntimeError, ValueError) as error:  # raised by the ArrayRecord reader
            raise DataError(f"damaged record ({_first_line(error)})", "", str(index % len(self)), self._name) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def available_splits(directory: str | pathlib.Path) -> dict[str, int]:
    """Number of records of each split. Raises: DataError without a finished, whole data set."""
    return {name: sum(shards) for name, shards in _described(pathlib.Path(directory)).items()}


def _described(folder: pathlib.Path) -> dict[str, list[int]]:
    """Records in each file of each split, as `dataset_info.json` has it, all files being there."""
    if not is_finished(folder):
        logs = any(folder.glob(RECORD_FILES))
        command = (
            f"python -m tether.data.build --womd {shlex.quote(str(folder))} --out DIR"
            if logs
            else "python -m tether.data.build"
        )
        content = "logs" if logs else "none"
        raise DataError(f"expected a finished data set (made by `{command}`), found {content}", file=str(folder))
    path, splits = folder / "dataset_info.json", {}
    try:
        for split in read_json(path)["splits"]:
            splits[str(split["name"])] = [int(count) for count in split["shardLengths"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"expected splits with name and shardLengths ({error!r})", "splits", file=str(path)) from error
    for name, shards in splits.items():
        if not re.fullmatch(SPLIT_NAME, name):
            raise DataError(f"expected a split's name, found {name[:80]!r}", "splits", file=str(path))
        count = len(_files(folder, name, len(shards)))
        if count != len(shards) or not shards:
            raise DataError(f"expected {len(shards)} files, found {count}", f"split {name}", file=str(folder))
    return splits


def _files(folder: pathlib.Path, split: str, count: int) -> list[pathlib.Path]:
    names = (f"{DATASET}-{split}.array_record-{index:05d}-of-{count:05d}" for index in range(count))
    return [folder / name for name in names if (folder / name).is_file()]


def open_split(directory: str | pathlib.Path, split: str, spec: SceneSpec | None = None) -> RecordSource:
    """Random access to a split: `len(source)`, `source[i] -> Record`.

    Raises: DataError for a missing or damaged data set or split.
    """
    folder = pathlib.Path(directory)
    splits = _described(folder)
    if split not in splits:
        near = difflib.get_close_matches(split, splits, n=1)
        reason = f"expected a split of {sorted(splits)}, found {split!r}" + (
            f"; did you mean {near[0]!r}?" if near else ""
        )
        raise DataError(reason, "split", file=str(directory))
    source = RecordSource(_files(folder, split, len(splits[split])), spec or SceneSpec())
    if len(source) != sum(splits[split]):
        reason = f"expected {sum(splits[split])} records, found {len(source)}"
        raise DataError(reason, f"split {split}", file=str(directory))
    return source
