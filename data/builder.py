"""Writes scenes as a TensorFlow Datasets (TFDS) data set of ArrayRecord files, readable without TensorFlow."""

import json
import pathlib
import shutil
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from data.errors import DataError, read_json
from data.raw import RawScene, localize
from data.storage import ARRAYS, DATASET, REQUEST_FILE, TEXTS, VECTORS, encode, is_finished

FORMAT = "1.1.0"
OWN_FILES = (f"{DATASET}-*.array_record*", "dataset_info.json", "features.json")

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


class TetherScenes(tfds.core.GeneratorBasedBuilder):
    """Scenes in the order given, so that the same input makes the same bytes."""

    name = DATASET
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
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {name: self._generate_examples(name, scenes) for name, scenes in self._scenes.items()}

    def _generate_examples(self, split: str, scenes: Callable[[], Iterable[RawScene]] | Iterable[RawScene]):
        index = -1
        for index, raw in enumerate(scenes() if callable(scenes) else scenes):
            yield index, encode(localize(raw))
        if index < 0:
            raise DataError("no scenes", f"split {split}")


def write_dataset(scenes_by_split: Splits, directory: str | pathlib.Path, request: dict) -> bool:
    """Writes a data set, unless the same one is already there.

    It is written beside `directory` and renamed at the end: a data set that is there is whole, and what an
    interrupted build left behind is removed and built again.

    Args:
      scenes_by_split: split name to scenes (or a function that yields them, called only when something is written).
      directory: where the files shall lie.
      request: what the data set was made from (JSON types, no paths of this machine); a finished data set answers
        only the same request.

    Returns: False if the data set was found finished, True if it was written.
    Raises: DataError if `directory` holds another data set or other files, or if a split turns out to be empty.
    """
    target = pathlib.Path(directory)
    if is_finished(target):
        _check_request(target, request)
        return False
    _remove_remains(target)
    work = target.parent / f".{target.name}.incomplete"
    shutil.rmtree(work, ignore_errors=True)
    try:
        built = _build(scenes_by_split, work)
        (built / REQUEST_FILE).write_text(json.dumps(request, indent=1, sort_keys=True) + "\n")
        built.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def _build(scenes_by_split: Splits, work: pathlib.Path) -> pathlib.Path:
    builder = TetherScenes(scenes=scenes_by_split, data_dir=work, file_format="array_record")
    builder.download_and_prepare()
    built = pathlib.Path(builder.data_dir)
    for file in sorted(built.glob("*.array_record*")):
        _order_fields(file)
    return built


def _order_fields(file: pathlib.Path) -> None:
    """Writes a file's records again with their fields in one order: as TFDS writes them it differs from run to run."""
    records, ordered = ArrayRecordDataSource(str(file)), file.with_name(f".{file.name}")
    writer = ArrayRecordWriter(str(ordered), "group_size:1")  # as TFDS does: each record can be read alone
    for index in range(len(records)):
        example = tf_example_pb2.Example.FromString(records[index])
        writer.write(example.SerializeToString(deterministic=True))
    writer.close()
    ordered.replace(file)


def _check_request(target: pathlib.Path, request: dict) -> None:
    found = read_json(target / REQUEST_FILE)
    expected = json.loads(json.dumps(request))
    if found != expected:
        changed = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        reason = f"holds a data set made from another request (different: {changed}); choose another directory"
        raise DataError(reason, file=str(target))


def _remove_remains(target: pathlib.Path) -> None:
    """Clears a directory without a finished data set, if nothing but a data set's files lies in it."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        return
    foreign = [p.name for p in target.iterdir() if not any(p.match(pattern) for pattern in OWN_FILES)]
    if foreign:
        raise DataError(f"is not empty and holds no data set: {sorted(foreign)[:5]}", file=str(target))
    shutil.rmtree(target)
