"""Writes scenes as a TensorFlow Datasets (TFDS) data set of ArrayRecord files, readable without TensorFlow."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from data.errors import DataError, read_json
from data.raw import RawScene, localize
from data.storage import ARRAYS, DATASET, REQUEST_FILE, SUMMARY_FILE, TEXTS, VECTORS, encode, is_finished

FORMAT, FILE_FORMAT = "1.1.0", "array_record"
OWN_FILES = (f"{DATASET}-*.array_record*", "dataset_info.json", "features.json", SUMMARY_FILE, f".{REQUEST_FILE}")

Splits = dict[str, Callable[[], Iterable[RawScene]] | Iterable[RawScene]]


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
        return tfds.core.DatasetInfo(
            builder=self,
            features=_features(),
            description="Driving scenes, see data/storage.py.",
            disable_shuffling=not self.SHUFFLED,
        )

    def _example_writer(self) -> ExampleWriter:
        return OrderedWriter(self.info.file_format)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {name: self._generate_examples(name, scenes) for name, scenes in self._scenes.items()}

    def _generate_examples(self, split: str, scenes: Callable[[], Iterable[RawScene]] | Iterable[RawScene]):
        index = -1
        for index, raw in enumerate(scenes() if callable(scenes) else scenes):
            yield index, encode(localize(raw))
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
      write: makes the files below the directory that it is given; returns where they lie and the summary, if any, to
        put beside them.

    Returns: False if the data set was found finished, True if it was written.
    Raises: DataError if `directory` holds another data set or other files.
    """
    target = tfds.core.Path(directory)
    if is_finished(target):
        _check_request(target, request)
        return False
    _remove_remains(target)
    work = target.parent / f".{target.name}.incomplete"
    _remove(work)
    try:
        built, summary = write(work)
        if summary is not None:
            (built / SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n")
        built.rename(target)
        unfinished = target / f".{REQUEST_FILE}"
        unfinished.write_text(json.dumps(request, indent=1, sort_keys=True) + "\n")
        unfinished.rename(target / REQUEST_FILE)
    finally:
        _remove(work)
    return True


def _remove(directory: Any) -> None:
    if directory.exists():
        directory.rmtree()


def _check_request(target: Any, request: dict) -> None:
    found = read_json(target / REQUEST_FILE)
    expected = json.loads(json.dumps(request))
    if found != expected:
        changed = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        reason = f"holds a data set made from another request (different: {changed}); choose another directory"
        raise DataError(reason, file=str(target))


def _remove_remains(target: Any) -> None:
    """Clears a directory without a finished data set, if nothing but a data set's files lies in it."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        return
    foreign = [p.name for p in target.iterdir() if not any(p.match(pattern) for pattern in OWN_FILES)]
    if foreign:
        raise DataError(f"is not empty and holds no data set: {sorted(foreign)[:5]}", file=str(target))
    target.rmtree()
