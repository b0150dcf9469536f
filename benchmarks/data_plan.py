"""Predicts the cost of building a data set from the measured cost of a part of it:

python -m benchmarks.data_plan --womd "GLOB" [--egos 1 8] [--file docs/data_at_scale.md]

One process reads, converts, counts and writes the records that the glob names. CPU-seconds and bytes per record are
extrapolated to the whole of WOMD. Prints JSON, and writes the table into a section of the file, if one is named.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from array_record.python.array_record_data_source import ArrayRecordDataSource

from benchmarks import command
from benchmarks.pages import write_section
from tether.data import womd
from tether.data.builder import write_dataset
from tether.data.command_line import Parser
from tether.data.errors import DataError, SkipLedger
from tether.data.inputs import list_files
from tether.data.recordings import Recordings
from tether.data.records import Fractions, Rules, kept_scenes
from tether.data.statistics import Statistics
from tether.data.tfrecord import read_records
from tether.evaluation.provenance import made_here
from tether.evaluation.report import table

RECORDS = {"training": 487_000, "validation": 44_000}
SHARD_BYTES = 300e6
CORES = 256


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of all measured records together.

    Attributes:
      records, scenes: their numbers.
      read_bytes: of the TFRecord files.   stored_bytes: of the ArrayRecord files, compressed.
      serialised_bytes: of the same records before compression, which a worker holds while it writes a shard.
      parse_s: CPU-seconds for reading and parsing, a part of `convert_s`.
      convert_s: for records to checked scenes.   count_s: for statistics.   write_s: for encoding and writing.
    """

    records: int
    scenes: int
    read_bytes: int
    stored_bytes: int
    serialised_bytes: int
    parse_s: float
    convert_s: float
    count_s: float
    write_s: float


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.data_plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--womd", required=True, help="glob of TFRecord files of WOMD Scenario protos")
    parser.add_argument("--egos", nargs="+", type=int, default=[1, 8], help="per record (default: %(default)s)")
    parser.add_argument("--file", type=pathlib.Path, help="in which to write the table")
    return parser.parse_args(arguments)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the CPU-seconds that it took."""
    began = time.process_time()
    return work(), time.process_time() - began


def parsed(files: list[str]) -> int:
    """Reads and parses all records. Returns: how many there are."""
    payloads = [payload for file in files for payload in read_records(file)]
    for payload in payloads:
        if not isinstance(payload, DataError):
            womd.parse_scenario(payload)
    return len(payloads)


def measure(files: list[str], egos: int) -> Cost:
    """One process's work on all records."""
    rules, ledger, statistics = Rules(egos, None, 0, Fractions()), SkipLedger(max_skipped=1.0), Statistics()
    records, parse_s = timed(lambda: parsed(files))
    kept, convert_s = timed(lambda: list(kept_scenes(files, rules, ledger)))
    _, count_s = timed(lambda: list(statistics.counted(kept, Recordings())))
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "set"
        with contextlib.redirect_stdout(sys.stderr):  # TFDS prints messages among our JSON
            _, write_s = timed(lambda: write_dataset({"train": [one.scene for one in kept]}, out, {}))
        written = list(out.glob("*.array_record*"))
        payloads = ArrayRecordDataSource([str(path) for path in written])
        serialised = sum(len(payloads[index]) for index in range(len(payloads)))
        stored = sum(path.stat().st_size for path in written)
    read = sum(pathlib.Path(file).stat().st_size for file in files)
    return Cost(records, len(kept), read, stored, serialised, parse_s, convert_s, count_s, write_s)


def plan(cost: Cost, records: int) -> dict[str, float]:
    """The cost extrapolated to so many records."""
    times = records / cost.records
    core_hours = times * (cost.convert_s + cost.count_s + cost.write_s) / 3600
    shards = math.ceil(times * cost.stored_bytes / SHARD_BYTES)
    return {
        "records": records,
        "scenes": round(times * cost.scenes),
        "read_gb": times * cost.read_bytes / 1e9,
        "stored_gb": times * cost.stored_bytes / 1e9,
        "core_hours": core_hours,
        f"hours_on_{CORES}_cores": core_hours / CORES,
        "shards": shards,
        "shard_mb": times * cost.stored_bytes / shards / 1e6,
        "shard_serialised_gb": times * cost.serialised_bytes / shards / 1e9,
    }


def section(by_egos: dict[int, Any]) -> str:
    """The tables as Markdown."""
    kinds = ("parse_s", "convert_s", "count_s", "write_s")
    costs = [
        [str(egos), f"{cost['records']}", f"{cost['scenes'] / cost['records']:.2f}"]
        + [f"{1e3 * cost[kind] / cost['scenes']:.1f}" for kind in kinds]
        + [f"{cost[kind] / cost['scenes'] / 1e3:.1f}" for kind in ("read_bytes", "serialised_bytes", "stored_bytes")]
        for egos, cost in ((egos, one["measured"]) for egos, one in by_egos.items())
    ]
    names = list(next(iter(by_egos.values()))["plan"]["training"])
    plans = [
        [
            str(egos),
            name,
            *(f"{values[column]:,.0f}" if values[column] >= 100 else f"{values[column]:.2g}" for column in names),
        ]
        for egos, one in by_egos.items()
        for name, values in one["plan"].items()
    ]
    measured = [
        "egos",
        "records",
        "scenes per record",
        *(f"{kind.removesuffix('_s')} [CPU-ms per scene]" for kind in kinds),
    ]
    measured += [f"{kind} [KB per scene]" for kind in ("read", "serialised", "stored")]
    return "\n\n".join(
        [
            "Measured {date} at commit {commit} on {machine}; parsing is a part of converting.".format(**made_here()),
            table(measured, costs),
            "Extrapolated to the whole data set:",
            table(["egos", "split", *(name.replace("_", " ") for name in names)], plans),
        ]
    )


def main(arguments: list[str]) -> int:
    """Measures, plans, prints, returns the exit status."""
    options = parse(arguments)
    files, by_egos = list_files(options.womd), {}
    measure(files[:1], 1)  # the first call also loads libraries
    for egos in options.egos:
        cost = measure(files, egos)
        plans = {name: plan(cost, records) for name, records in RECORDS.items()}
        by_egos[egos] = {"measured": dataclasses.asdict(cost), "plan": plans}
    print(json.dumps({**made_here(), "egos": by_egos}, indent=2))
    if options.file:
        write_section(options.file, "plan", section(by_egos))
    return 0


if __name__ == "__main__":
    command.run(main)
