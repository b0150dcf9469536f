"""Writes scenes as a TensorFlow Datasets (TFDS) data set of ArrayRecord files, readable without TensorFlow."""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from tether.data.errors import DataError, read_json
from tether.data.inputs import check_reachable
from tether.data.raw import LocalScene
from tether.data.storage import ARRAYS, DATASET, REQUEST_FILE, SUMMARY_FILE, TEXTS, VECTORS, encode, is_finished

FORMAT, FILE_FORMAT = "1.1.0", "array_record"
OWN_FILES = (f"{DATASET}-*.array_record*", "dataset_info.json", "features.json", SUMMARY_FILE, f".{REQUEST_FILE}")

log = logging.getLogger(__name__)

Splits = dict[str, Callable[[], Iterable[LocalScene]] | Iterable[LocalScene]]


def _features() -> tfds.features.FeaturesDict:
    # ArrayRecord compresses each record as a whole, so the arrays are stored as plain bytes.
    planes = tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in TEXTS}
        | {name: planes for name in ARRAYS}
        | {
            name: tfds.features.Tensor(shape=(count,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)
            for name, (dtype, count) in VECTORS.items()
        }
    )


class OrderedWriter(ExampleWriter):
    """Writes each record's fields in one order: as TFDS serialises them it differs from run to run."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        """Args: examples: key and serialised tf.Example."""
        return super().write(path, ((key, _ordered(example)) for key, example in examples))


def _ordered(example: bytes) -> bytes:
    return tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)


class LocalInfo(tfds.core.DatasetInfo):
    """TFDS's description of a data set, without the search for one in Google's bucket, which has none."""

    def initialize_from_bucket(self) -> None:
        """Nothing to do; TFDS would leave an empty folder among the temporary ones each time."""


class TetherScenes(tfds.core.GeneratorBasedBuilder):
    """Scenes in the order given, so that the same input makes the same bytes."""

    name = DATASET
    SHUFFLED = False
    VERSION = tfds.core.Version(FORMAT)
    RELEASE_NOTES = {FORMAT: "Quantised, ragged driving scenes."}  # noqa: RUF012 (TFDS reads it from the class)
    # Nothing is downloaded; looking for checksums would need a package that TFDS does not install.
    url_infos = {}  # noqa: RUF012

    def __init__(self, *, scenes: Splits, **kwargs):
        self._scenes = scenes
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return LocalInfo(
            builder=self,
            features=_features(),
            description="Driving scenes, see data/storage.py.",
            disable_shuffling=not self.SHUFFLED,
        )

    def _example_writer(self) -> ExampleWriter:
        return OrderedWriter(self.info.file_format)

    def _log_download_bytes(self) -> None:
        """Logs nothing: there is no download, and `data.progress` shows the progress."""

    _log_download_done = _log_download_bytes

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {name: self._generate_examples(name, scenes) for name, scenes in self._scenes.items()}

    def _generate_examples(self, split: str, scenes: Callable[[], Iterable[LocalScene]] | Iterable[LocalScene]):
        index = -1
        for index, scene in enumerate(scenes() if callable(scenes) else scenes):
            yield index, encode(scene)
        if index < 0:
            raise DataError("no scenes", f"split {split}")


def write_dataset(
    scenes_by_split: Splits, directory: Any, request: dict, summary: Callable[[], dict] | None = None
) -> bool:
    """Writes a data set, unless the same one is already there.

    Args:
      scenes_by_split: split name to scenes (or a function that yields them, called only when something is written).
      directory: where the files shall lie.
      request: see `put_in_place`.
      summary: called when all is written; its JSON goes beside the records.

    Returns: False if the data set was found finished, True if it was written.
    Raises: DataError if `directory` holds another data set or other files, or if a split turns out to be empty.
    """

    def write(work: Any) -> tuple[Any, dict | None]:
        built = prepare(TetherScenes(scenes=scenes_by_split, data_dir=work, file_format=FILE_FORMAT))
        return built, summary() if summary else None

    return put_in_place(directory, request, write)


def prepare(builder: TetherScenes, **config: Any) -> Any:
    """Has TFDS write a data set. Args: config: of `DownloadConfig`. Returns: the directory in which it lies."""
    tfds.disable_progress_bar()
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**config))
    return builder.data_path


def put_in_place(directory: Any, request: dict, write: Callable[[Any], tuple[Any, dict | None]]) -> bool:
    """Has a data set written beside `directory` and renames it at the end, unless the same one is already there.

    The request is written last: a data set that has one is whole, and what an interrupted build left behind is removed
    and built again.

    Args:
      directory: where the files shall lie; a path of this machine, or of a bucket (`gs://...`).
      request: what the data set was made from (JSON types, no paths of this machine); a finished data set answers
        only the same request.
      write: makes the files below the empty directory that it is given; returns where they lie and the summary, if any,
        to put beside them.

    Returns: False if the data set was found finished, True if it was written.
    Raises: DataError if `directory` holds another data set or other files, or another build is writing there; OSError
      and what `write` raises, and then nothing is left behind.
    """
    target = place_of(directory)
    if is_finished(target):
        _check_request(target, request)
        return False
    _remove_remains(target)
    with _alone(target.parent / f".{target.name}.incomplete") as work:
        built, summary = write(work)
        if summary is not None:
            (built / SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n")
        try:
            built.rename(target)
            unfinished = target / f".{REQUEST_FILE}"
            unfinished.write_text(json.dumps(request, indent=1, sort_keys=True) + "\n")
            unfinished.rename(target / REQUEST_FILE)
        except BaseException:
            _remove(target)
            raise
    return True


def place_of(directory: Any) -> Any:
    """A directory as TFDS takes it, links followed: a data set is put beside the real one and renamed.

    Raises: DataError for a bucket that cannot be reached, or that TFDS cannot write to.
    """
    named = os.fspath(directory)
    if "://" not in named:
        return tfds.core.Path(os.path.realpath(os.path.expanduser(named)))
    check_reachable(named)
    try:
        return tfds.core.Path(named)
    except KeyError as error:
        raise DataError(f"expected a path of this machine or a bucket (gs://...), found {error}", file=named) from error


@contextlib.contextmanager
def _alone(work: Any) -> Iterator[Any]:
    """An empty directory that no other build uses meanwhile; it is removed at the end with all that is in it.

    A lock on the directory itself is held by this process and ends with it, so that what a killed build left is free.
    Buckets have no locks. Raises: DataError if another build holds it.
    """
    work.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if "://" not in os.fspath(work):
            held = os.open(work, os.O_RDONLY)
            stack.callback(os.close, held)
            _lock(held, work)
        stack.callback(_remove, work)
        for remains in work.iterdir():
            remains.rmtree() if remains.is_dir() else remains.unlink()
        yield work


def _lock(held: int, work: Any) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError("another build is writing here; wait for it or choose another place", file=str(work)) from error
    except OSError as error:  # some network file systems have no locks either
        log.warning("%s: cannot be locked (%s): no other build may write there meanwhile", work, error.strerror)


def _remove(directory: Any) -> None:
    """Removes as much as possible; after a failed disk, the earlier error is the one to report."""
    with contextlib.suppress(OSError):
        directory.rmtree()


def _check_request(target: Any, request: dict) -> None:
    stored, expected = read_json(target / REQUEST_FILE), json.loads(json.dumps(request))
    if not isinstance(stored, dict):
        raise DataError(f"expected an object, found {str(stored)[:80]}", file=str(target / REQUEST_FILE))
    changed = sorted(key for key in stored.keys() | expected.keys() if stored.get(key) != expected.get(key))
    if changed:
        reason = f"holds a data set made from another request (different: {changed}); remove it or choose another place"
        raise DataError(reason, file=str(target))


def _remove_remains(target: Any) -> None:
    """Clears a directory without a finished data set, if nothing but a data set's files lies in it."""
    if not target.exists():
        return
    if not target.is_dir():
        raise DataError("expected a directory or nothing, found a file", file=str(target))
    foreign = [p.name for p in target.iterdir() if not any(p.match(pattern) for pattern in OWN_FILES)]
    if foreign:
        raise DataError(f"is not empty and holds no data set: {sorted(foreign)[:5]}", file=str(target))
    target.rmtree()
