"""The build as an Apache Beam pipeline: one file of records is one piece of work, whichever worker does it.

Only this module imports Beam, when asked. Scenes are shuffled by a hash of their place (file, number), so that records
and shards are the same for any number of workers.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from data.builder import TetherScenes
from data.errors import DataError, SkipLedger
from data.records import Rules, kept_scenes
from data.statistics import Statistics
from data.storage import DATASET, encode

INSTALL = 'Apache Beam is missing: pip install -e ".[beam]"'
STATISTICS = "statistics"


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
      rules: what becomes of their records.
      statistics: where the pipeline writes the `Statistics`' JSON.
    """

    name = DATASET  # of the data set, not of the class
    SHUFFLED = True

    def __init__(self, *, files: Sequence[str], rules: Rules, statistics: str, **kwargs):
        self._files, self._rules, self._statistics = tuple(files), rules, statistics
        super().__init__(scenes={}, **kwargs)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager, pipeline: Any) -> dict[str, Any]:
        import apache_beam as beam

        found = (
            pipeline
            | "Files" >> beam.Create(list(enumerate(self._files)))
            | "Spread" >> beam.Reshuffle()
            | "Convert" >> beam.FlatMap(convert, self._rules).with_outputs(*self._rules.splits, main=STATISTICS)
        )
        _ = (
            found[STATISTICS]
            | "Add up" >> beam.CombineGlobally(total)
            | "Summarise" >> beam.Map(write_statistics, self._statistics)
        )
        return {name: found[name] for name in self._rules.splits}


def convert(entry: tuple[int, str], rules: Rules) -> Iterator[Any]:
    """One file's examples, each to the output of its split, and last its `Statistics`."""
    from apache_beam.pvalue import TaggedOutput

    index, path = entry
    statistics, ledger = Statistics(), SkipLedger(max_skipped=1.0)
    for number, kept in enumerate(statistics.counted(kept_scenes([path], rules, ledger))):
        yield TaggedOutput(kept.split, (f"{index}/{number}", encode(kept.scene)))
    statistics.close(ledger)
    yield statistics


def total(parts: Sequence[Statistics]) -> Statistics:
    """The sum; of sums as well, for Beam adds up in any order."""
    whole = Statistics()
    for part in parts:
        whole.merge(part)
    return whole


def write_statistics(statistics: Statistics, path: str) -> None:
    """As JSON, for the process that started the pipeline."""
    tfds.core.Path(path).write_text(json.dumps(statistics.to_json()))
