"""Command that turns logged data into a data set of its own:

python -m tether.data.build --womd FILES --out DIR [--held-out FILES] [--egos-per-scene 8] [--groups manifest.json]
                     [--notes notes.json]
                     [--beam runner=DirectRunner direct_num_workers=2 direct_running_mode=multi_processing]

FILES is a file, a folder of `*tfrecord*` files, or a glob. Splits are cut by location group, so that no road is in two
of them. `--groups` is a JSON list of objects with `scenario_id` and `location_group`; without it each scenario is a
group. `--notes` is such a list with `note` instead: free text to the policy, which follows the instruction. With
`--held-out`, validation and test come from those files alone, train and grounding from the others. With `--beam` the
work is an Apache Beam pipeline of these options, for data sets that one process is too slow for
(docs/data_at_scale.md). `summary.json` beside the records lists what is in them, and what was skipped and why.

Exit status: 0 when done, 2 for input or settings that cannot work, 130 after an interrupt; one line gives the reason.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tether.data import womd
from tether.data.builder import FILE_FORMAT, FORMAT, TetherScenes, place_of, prepare, put_in_place
from tether.data.errors import DataError, Noted, SkipLedger, read_json, too_many
from tether.data.inputs import fingerprints, list_files
from tether.data.progress import Bar, log_above_bars
from tether.data.raw import LocalScene
from tether.data.recordings import Recordings
from tether.data.records import CONVERTER, EVALUATED_ON, LEARNED_FROM, Fractions, Rules, kept_scenes
from tether.data.statistics import Statistics
from tether.data.storage import SUMMARY_FILE
from tether.data.tfrecord import read_records
from tether.data.womd import LogOptions

log = logging.getLogger(__name__)
INTERRUPTED = 130
# Settings that name places or ways to work. All others decide what is in a data set, and are a part of its request.
NO_CONTENT = ("womd", "held_out", "out", "groups", "notes", "max_skipped", "beam", "shards")


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """The settings of a build.

    Attributes:
      womd: TFRecord files of WOMD Scenario protos, gzip-compressed or not, local or gs://: a file, a folder or a glob.
      out: directory of the data set, local or gs://; a finished one of the same request is left as it is.
      held_out: further such files, from which alone validation and test are made; train and grounding are then made
        from `womd` alone.
      groups: JSON manifest of location groups.
      notes: JSON manifest of free texts.
      egos_per_scene: most egos per scene, the log's own vehicle first.
      resample: logs of another rate than 10 Hz or with gaps of up to 0.55 s are resampled; otherwise they are skipped.
      derive_velocities: velocities that contradict the positions are taken from the positions; otherwise such tracks
        are left out, and logs skipped where it concerns their own vehicle or half of the moving tracks.
      windows: a log that is long enough for several scenes becomes several; otherwise its first 9.1 s are used.
      max_skipped: largest fraction of the records that may be skipped, in [0, 1].
      seed: of the assignment of groups to splits.
      fractions: of the groups that go to each split, in any unit; a split of 0 is not made.
      beam: options of an Apache Beam pipeline, which then does the work; without their leading dashes.
      shards: files per split that a pipeline writes; TFDS chooses if None.
    """

    womd: str
    out: str
    held_out: str | None = None
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


def validate(config: BuildConfig) -> None:
    """Raises: DataError with all settings that cannot work."""
    fractions = dataclasses.asdict(config.fractions)
    sums = {"fractions": tuple(fractions)}
    if config.held_out is not None:
        sums = {"fractions of what --womd is for": LEARNED_FROM, "fractions of what --held-out is for": EVALUATED_ON}
    total = {name: sum(fractions[split] for split in splits) for name, splits in sums.items()}
    rules = [
        *((name, value, value, "a name") for name, value in (("womd", config.womd), ("out", config.out))),
        ("held_out", config.held_out, config.held_out != "", "a name"),
        ("egos_per_scene", config.egos_per_scene, config.egos_per_scene >= 1, "at least 1"),
        ("max_skipped", config.max_skipped, 0 <= config.max_skipped <= 1, "a fraction in [0, 1]"),
        ("seed", config.seed, config.seed >= 0, "at least 0"),
        *((f"fractions.{name}", f, 0 <= f < math.inf, "a number of at least 0") for name, f in fractions.items()),
        *((name, total[name], total[name] not in (0, math.inf), "a finite sum above 0") for name in total),
        ("shards", config.shards, config.shards is None or config.shards >= 1, "at least 1"),
        ("shards", config.shards, config.shards is None or config.beam is not None, "none without --beam"),
    ]
    wrong = [f"{name}: expected {expected}, found {value}" for name, value, works, expected in rules if not works]
    if wrong:
        raise DataError(f"these settings cannot work: {'; '.join(wrong)}")


def read_manifest(path: pathlib.Path, field: str) -> dict[str, str]:
    """A text by scenario id: `location_group`, or `note`.

    Raises: DataError for a manifest without these fields, or with two different texts for one scenario.
    """
    entries = read_json(path)
    texts: dict[str, str] = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        named = [entry.get(name) for name in ("scenario_id", field)] if isinstance(entry, dict) else []
        if len(named) != 2 or not all(isinstance(name, str) and name for name in named):
            reason = f"expected an object with the texts scenario_id and {field}, found {str(entry)[:80]}"
            raise DataError(reason, record=str(index), file=str(path))
        if any("\ud800" <= letter <= "\udfff" for name in named for letter in name):
            reason = f"expected text that UTF-8 can hold, found half of a surrogate pair in {str(entry)[:80]!a}"
            raise DataError(reason, field, str(index), str(path))
        name, text = named
        if texts.setdefault(name, text) != text:
            reason = f"expected one text for each scenario, found {texts[name]!r} and {text!r} for {name}"
            raise DataError(reason, field, str(index), str(path))
    return texts


def build(config: BuildConfig) -> bool:
    """Writes the data set and prints a summary. Returns: False if it was found finished.

    Raises: DataError for settings, files or manifests that cannot work, before anything is written, and for records of
    which too many cannot be used; OSError and RuntimeError where a disk or a pipeline fails. Nothing is left behind.
    """
    validate(config)
    womd.protos()
    groups = read_manifest(config.groups, "location_group") if config.groups else None
    notes = read_manifest(config.notes, "note") if config.notes else {}
    files = list_files(config.womd)
    held_out = [] if config.held_out is None else list_files(config.held_out)
    _check_files(files, held_out)
    options = LogOptions(config.resample, config.derive_velocities, config.windows)
    rules = Rules(config.egos_per_scene, groups, config.seed, config.fractions, notes, options, frozenset(held_out))
    read = {"files": fingerprints(files), "held_out": fingerprints(held_out)}
    request = _request(config, groups, notes) | read
    size = sum(file["bytes"] for file in read["files"] + read["held_out"])
    print(f"{config.out}: from {len(files + held_out)} files of {size / 1e6:.1f} MB", flush=True)
    build_here = build_with_beam if config.beam is not None else build_alone
    written = build_here(config, rules, files + held_out, request)
    print(describe(config.out, len(notes)) if written else f"{config.out}: found finished")
    return written


def _check_files(files: Sequence[str], held_out: Sequence[str]) -> None:
    """Raises: DataError for a file that is to be learned from and held out, and for files of the other kind of WOMD."""
    both = sorted({os.path.realpath(file) for file in files} & {os.path.realpath(file) for file in held_out})
    if both:
        raise DataError(f"expected other files for --held-out, found {len(both)} of --womd among them", file=both[0])
    for first in (files[0], *held_out[:1]):
        payload = next(read_records(first))
        if isinstance(payload, bytes) and womd.is_example(payload):
            raise DataError(womd.EXAMPLE, file=first)


def build_alone(config: BuildConfig, rules: Rules, files: Sequence[str], request: dict) -> bool:
    """Builds in this process, split after split; scenes stay in the order of the files."""
    ledger, statistics, recordings = SkipLedger(config.max_skipped), Statistics(), Recordings()
    files_of = {split: [file for file in files if rules.may_give(file, split)] for split in rules.splits}

    def scenes(split: str, bar: Bar) -> Iterator[LocalScene]:
        began, count = time.monotonic(), 0
        for file in files_of[split]:
            from_file = kept_scenes([file], rules, ledger, lambda name: name == split)
            for kept in statistics.counted(from_file, recordings):
                yield kept.scene
                count += 1
                rate = count / (time.monotonic() - began)
                bar.show({"split": split, "scenes": f"{count} ({rate:.1f}/s)"})
                bar.advance(0)
            bar.advance()
        ledger.finish()
        if not count:
            raise no_scenes(split)

    def write(work: Any) -> tuple[Any, dict]:
        with Bar("build", sum(map(len, files_of.values())), unit="files") as bar:
            by_split = {name: functools.partial(scenes, name, bar) for name in rules.splits}
            built = prepare(TetherScenes(scenes=by_split, data_dir=work, file_format=FILE_FORMAT))
        statistics.close(ledger)
        return built, statistics.to_json()

    return put_in_place(config.out, request, write)


def no_scenes(split: str) -> DataError:
    """The error for a split that nothing goes to."""
    reason = (
        f"no record has a scene for this split: take more logs, another --seed, other --fractions, or do without it "
        f"(--fractions.{split} 0)"
    )
    return DataError(reason, f"split {split}")


def build_with_beam(config: BuildConfig, rules: Rules, files: Sequence[str], request: dict) -> bool:
    """Builds with a pipeline, all splits at once; scenes are shuffled."""
    from tether.data import beam

    options = beam.options(config.beam)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # it would log errors that it raises as well

    def write(work: Any) -> tuple[Any, dict]:
        log.info("a pipeline reads %d files; its engine shows how far it is", len(files))
        noted = work / SUMMARY_FILE
        builder = beam.Scenes(files=files, rules=rules, statistics=str(noted), data_dir=work, file_format=FILE_FORMAT)
        try:
            built = prepare(builder, beam_options=options, num_shards=config.shards)
        except Exception as error:  # each engine raises types of its own, with the trace of a worker in the text
            raise _of_pipeline(error) from error
        summary = read_json(noted)
        skipped = summary["skipped"]
        if skipped["records"] > config.max_skipped * summary["records"]:
            raise too_many(skipped["records"], summary["records"], config.max_skipped, skipped["first"])
        return built, summary

    return put_in_place(config.out, request | {"shuffled": True, "shards": config.shards}, write)


def _of_pipeline(error: Exception) -> DataError:
    """The error that ended a pipeline, on one line. TFDS refuses a split without examples."""
    lines = str(error).strip().splitlines()
    empty = re.search(r"examples is 0 for split (\w+)", lines[-1] if lines else "")
    return no_scenes(empty[1]) if empty else DataError(f"the pipeline failed: {lines[-1] if lines else repr(error)}")


def _request(config: BuildConfig, groups: dict[str, str] | None, notes: dict[str, str]) -> dict[str, Any]:
    """All settings that decide the content of the data set, files excepted (JSON types)."""

    def digest(manifest: dict[str, str] | None) -> str:
        return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]

    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in NO_CONTENT}
    made_by = {"source": womd.SOURCE, "format": FORMAT, "converter": CONVERTER}
    return settings | made_by | {"groups": digest(groups), "notes": digest(notes)}


def describe(out: str, notes: int) -> str:
    """The summary of a finished data set as text. Args: notes: number of notes given."""
    folder = place_of(out)
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
        if split["starts_off_road"]:
            lines.append(f"    egos that are off the road before any action (marked): {split['starts_off_road']}")
        lines += [f"    scenes that are not kept, {reason}: {count}" for reason, count in split["not_kept"].items()]
    if notes:
        noted = sum(split["with"]["note"] for split in summary["split"].values())
        lines.append(f"  scenes with one of the {notes} notes: {noted}")
    skipped = summary["skipped"]
    lines += [f"  {Noted(**noted).line(kind)}" for kind, noted in summary["noted"].items()]
    lines.append(f"skipped {skipped['records']} of {summary['records']}")
    return "\n".join([*lines, *(f"  {message}" for message in skipped["first"])])


def parse(arguments: Sequence[str]) -> BuildConfig:
    """The settings that a command line gives, not yet validated."""
    import tyro

    return tyro.cli(BuildConfig, prog="python -m tether.data.build", description=__doc__, args=arguments)


def main(arguments: Sequence[str]) -> int:
    """Builds what a command line asks for. Returns: the exit status."""
    log_above_bars()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        build(parse(arguments))
    except (DataError, OSError, RuntimeError) as error:  # the last of TFDS, for a disk that is full
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing is left behind", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
