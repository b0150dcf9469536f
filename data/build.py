"""Command that turns logged data into a data set of its own:

python -m data.build --womd "GLOB" --out DIR [--egos-per-scene 8] [--groups manifest.json] [--notes notes.json]
                     [--beam runner=DirectRunner direct_num_workers=2 direct_running_mode=multi_processing]

Splits are cut by location group, so that no road is in two of them. `--groups` is a JSON list of objects with
`scenario_id` and `location_group`; without it each scenario is a group. `--notes` is such a list with `note` instead:
free text to the driver, which follows the instruction. With `--beam` the work is an Apache Beam pipeline of these
options, for data sets that one process is too slow for (docs/data_at_scale.md). `summary.json` beside the records says
what is in them, and what was skipped and why.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from data.builder import FILE_FORMAT, prepare, put_in_place, write_dataset
from data.errors import DataError, SkipLedger, read_json, too_many
from data.inputs import list_files
from data.raw import RawScene
from data.records import Fractions, Rules, kept_scenes
from data.statistics import Statistics
from data.storage import SUMMARY_FILE
from data.womd import LogOptions


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Attributes:
      womd: glob of TFRecord files of WOMD Scenario protos, local or gs://.
      out: directory of the data set, local or gs://; a finished one of the same request is left as it is.
      groups: JSON manifest of location groups.
      notes: JSON manifest of free texts.
      egos_per_scene: most egos per scene, the log's own vehicle first.
      resample: logs of another rate than 10 Hz or with gaps of up to 0.55 s are resampled; otherwise they are skipped.
      derive_velocities: velocities that contradict the positions are taken from the positions; otherwise such tracks
        are left out, and logs skipped where it concerns their own vehicle or half of the moving tracks.
      windows: a log that is long enough for several scenes becomes several; otherwise its first 9.1 s are used.
      max_skipped: largest share of records that may be skipped.
      seed: of the assignment of groups to splits.
      fractions: shares of the groups; a split without a share is not made.
      beam: options of an Apache Beam pipeline, which then does the work; without their leading dashes.
      shards: files per split that a pipeline writes; TFDS chooses if None.
    """

    womd: str
    out: str
    groups: pathlib.Path | None = None
    notes: pathlib.Path | None = None
    egos_per_scene: int = 8
    resample: bool = False
    derive_velocities: bool = False
    windows: bool = False
    max_skipped: float = 0.05
    seed: int = 0
    fractions: Fractions = dataclasses.field(default_factory=Fractions)
    beam: tuple[str, ...] | None = None
    shards: int | None = None


def read_manifest(path: pathlib.Path, field: str) -> dict[str, str]:
    """A text by scenario id: `location_group`, or `note`. Raises: DataError for a manifest without these fields."""
    entries = read_json(path)
    texts = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        named = [entry.get(name) for name in ("scenario_id", field)] if isinstance(entry, dict) else []
        if len(named) != 2 or not all(isinstance(name, str) and name for name in named):
            reason = f"expected an object with the texts scenario_id and {field}, found {str(entry)[:80]}"
            raise DataError(reason, record=str(index), file=str(path))
        if any("\ud800" <= letter <= "\udfff" for name in named for letter in name):
            reason = f"expected text that UTF-8 can hold, found half of a surrogate pair in {str(entry)[:80]!a}"
            raise DataError(reason, field, str(index), str(path))
        texts[named[0]] = named[1]
    return texts


def build(config: BuildConfig) -> bool:
    """Writes the data set and prints a summary. Returns: False if it was found finished."""
    groups = read_manifest(config.groups, "location_group") if config.groups else None
    notes = read_manifest(config.notes, "note") if config.notes else {}
    options = LogOptions(config.resample, config.derive_velocities, config.windows)
    rules = Rules(config.egos_per_scene, groups, config.seed, config.fractions, notes, options)
    files = list_files(config.womd)
    build_here = build_with_beam if config.beam is not None else build_alone
    written = build_here(config, rules, files, _request(config, files, groups, notes))
    print(_told(config.out) if written else f"{config.out}: found finished")
    return written


def build_alone(config: BuildConfig, rules: Rules, files: list[str], request: dict) -> bool:
    """In this process, split after split; scenes stay in the order of the files."""
    ledger, statistics = SkipLedger(config.max_skipped), Statistics()

    def scenes(split: str) -> Iterator[RawScene]:
        found = kept_scenes(files, rules, ledger, lambda name: name == split)
        yield from (kept.scene for kept in statistics.counted(found))
        ledger.finish()

    def summary() -> dict[str, Any]:
        statistics.close(ledger)
        return statistics.to_json()

    by_split = {name: functools.partial(scenes, name) for name in rules.splits}
    return write_dataset(by_split, config.out, request, summary)


def build_with_beam(config: BuildConfig, rules: Rules, files: list[str], request: dict) -> bool:
    """By a pipeline, all splits at once; scenes are shuffled."""
    from data import beam

    options = beam.options(config.beam)

    def write(work: Any) -> tuple[Any, dict]:
        work.mkdir()
        noted = work / SUMMARY_FILE
        builder = beam.Scenes(files=files, rules=rules, statistics=str(noted), data_dir=work, file_format=FILE_FORMAT)
        built = prepare(builder, beam_options=options, num_shards=config.shards)
        summary = read_json(noted)
        skipped = summary["skipped"]
        if skipped["records"] > config.max_skipped * summary["records"]:
            raise too_many(skipped["records"], summary["records"], config.max_skipped, skipped["first"])
        return built, summary

    return put_in_place(config.out, request | {"shuffled": True, "shards": config.shards}, write)


def _request(
    config: BuildConfig, files: list[str], groups: dict[str, str] | None, notes: dict[str, str]
) -> dict[str, object]:
    def digest(manifest: dict[str, str] | None) -> str:
        return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]

    return dict(
        source="womd",
        files=[pathlib.PurePath(file).name for file in files],
        groups=digest(groups),
        notes=digest(notes),
        egos_per_scene=config.egos_per_scene,
        resample=config.resample,
        derive_velocities=config.derive_velocities,
        windows=config.windows,
        seed=config.seed,
        fractions=dataclasses.asdict(config.fractions),
    )


def _told(out: str) -> str:
    """The summary of a finished data set for people."""
    folder = tfds.core.Path(out)
    summary = read_json(folder / SUMMARY_FILE)
    total = sum(split["scenes"] for split in summary["split"].values())
    size = sum(file.stat().length for file in folder.iterdir())
    lines = [f"{out}: {total} scenes, {size / 1e6:.1f} MB, {size / total / 1e3:.1f} KB per scene"]
    for name, split in summary["split"].items():
        left = split["left_out"]
        agents, polylines, tokens = (left[kind] / split["scenes"] for kind in ("agents", "polylines", "tokens"))
        lines.append(
            f"  {name}: {split['scenes']} scenes of {split['groups']} groups; the default spec leaves out {agents:.1f} "
            f"agents and {polylines:.1f} polylines per scene, the nearest {left['nearest_polyline_m']} m off, and "
            f"{tokens:.1f} tokens of the instruction (--spec.text)"
        )
    skipped = summary["skipped"]
    lines += [
        f"  {kind}: {noted['count']} in {noted['records']} records, such as {noted['example']}"
        for kind, noted in summary["noted"].items()
    ]
    lines.append(f"skipped {skipped['records']} of {summary['records']}")
    return "\n".join([*lines, *(f"  {message}" for message in skipped["first"])])


if __name__ == "__main__":
    import sys

    import tyro

    try:
        build(tyro.cli(BuildConfig))
    except DataError as error:
        sys.exit(f"error: {error}")
