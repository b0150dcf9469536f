"""The build as an Apache Beam pipeline: one file of records is one piece of work, whichever worker does it.

Only this module imports Beam, when asked. Scenes are shuffled by a hash of their place (file, number), so that records
and shards are the same for any number of workers.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from tether.data.builder import TetherScenes
from tether.data.errors import DataError, SkipLedger
from tether.data.recordings import SPLIT_ORDER, Recordings, places
from tether.data.records import Rules, kept_scenes
from tether.data.statistics import Split, Statistics
from tether.data.storage import DATASET, encode

INSTALL = 'Apache Beam is missing: pip install -e ".[beam]"'
STATISTICS, EGOS, SCENES = "statistics", "egos", "scenes"  # outputs of the conversion


def options(words: Sequence[str]) -> Any:
    """Beam's pipeline options, as on its command line but without the dashes. Raises: DataError without Beam."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise DataError(INSTALL) from error
    return PipelineOptions([f"--{word}" for word in words])


class Scenes(TetherScenes, skip_registration=True):
    """Scenes of files, converted by a pipeline.

    Args:
      files: TFRecord files of WOMD Scenario protos, that every worker can read.
      rules: the way from records to scenes.
      statistics: where the pipeline writes the `Statistics`' JSON.
    """

    name = DATASET  # the data set's name, not the class's
    SHUFFLED = True

    def __init__(self, *, files: Sequence[str], rules: Rules, statistics: str, **kwargs):
        self._files, self._rules, self._statistics = tuple(files), rules, statistics
        super().__init__(scenes={}, **kwargs)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager, pipeline: Any) -> dict[str, Any]:
        import apache_beam as beam

        read = (
            pipeline
            | "Files" >> beam.Create(list(enumerate(self._files)))
            | "Spread" >> beam.Reshuffle()
            | "Convert" >> beam.FlatMap(convert, self._rules).with_outputs(EGOS, SCENES, main=STATISTICS)
        )
        left_out = read[EGOS] | "By group" >> beam.GroupByKey() | "Compare" >> beam.FlatMap(left_out_of)
        kept = read[SCENES] | "Keep" >> beam.FlatMap(sort_out, beam.pvalue.AsDict(left_out)).with_outputs(
            *self._rules.splits, main=STATISTICS
        )
        _ = (
            (read[STATISTICS], kept[STATISTICS])
            | "All" >> beam.Flatten()
            | "Add up" >> beam.CombineGlobally(total)
            | "Summarise" >> beam.Map(write_statistics, self._statistics)
        )
        return {name: kept[name] for name in self._rules.splits}


class EncodedScene(NamedTuple):
    """A converted scene, on its way to its split.

    Attributes:
      place: index of the file, and number in it.   split: where it goes.   example: as stored.   counts: of this scene.
    """

    place: tuple[int, int]
    split: str
    example: dict[str, Any]
    counts: Split


def convert(entry: tuple[int, str], rules: Rules) -> Iterator[Any]:
    """One file's scenes, each with its ego by group, and last the `Statistics` of the reading."""
    from apache_beam.pvalue import TaggedOutput

    index, path = entry
    ledger, statistics = SkipLedger(max_skipped=1.0), Statistics()
    for number, kept in enumerate(kept_scenes([path], rules, ledger)):
        counts = Split()
        counts.add(kept)
        ego = kept.split, (index, number), kept.scene.scenario_id, places(kept.scene)
        yield TaggedOutput(EGOS, (kept.scene.group, ego))
        yield TaggedOutput(SCENES, EncodedScene((index, number), kept.split, encode(kept.scene), counts))
    statistics.close(ledger)
    yield statistics


def left_out_of(
    entry: tuple[str, Iterable[tuple[str, tuple[int, int], str, Any]]],
) -> Iterator[tuple[tuple[int, int], str]]:
    """Place and reason of each scene of a group that is not kept. The order is that of a build without a pipeline."""
    group, egos = entry
    recordings = Recordings()
    for split, place, scenario_id, ego in sorted(egos, key=lambda ego: (SPLIT_ORDER.index(ego[0]), ego[1])):
        if reason := recordings.left_out(split, group, scenario_id, ego):
            yield place, reason


def sort_out(scene: EncodedScene, left_out: Mapping[tuple[int, int], str]) -> Iterator[Any]:
    """A scene that is kept to the output of its split, and the `Statistics` of each."""
    from apache_beam.pvalue import TaggedOutput

    statistics = Statistics()
    if reason := left_out.get(scene.place):
        statistics.splits[scene.split].leave_out(reason)
    else:
        statistics.splits[scene.split].merge(scene.counts)
        index, number = scene.place
        yield TaggedOutput(scene.split, (f"{index}/{number}", scene.example))
    yield statistics


def total(parts: Sequence[Statistics]) -> Statistics:
    """The sum, also of partial sums: Beam adds up in any order."""
    whole = Statistics()
    for part in parts:
        whole.merge(part)
    return whole


def write_statistics(statistics: Statistics, path: str) -> None:
    """Writes the JSON of the statistics, for the process that started the pipeline."""
    tfds.core.Path(path).write_text(json.dumps(statistics.to_json()))
