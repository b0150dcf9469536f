"""Command that turns logged data into a data set of its own:

python -m data.build --womd "GLOB" --out DIR [--egos-per-scene 8] [--groups manifest.json] [--notes notes.json]

Splits are cut by location group, so that no road is in two of them. `--groups` is a JSON list of objects with
`scenario_id` and `location_group`; without it each scenario is a group. `--notes` is such a list with `note` instead:
free text to the driver, which follows the instruction.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator

from data.builder import write_dataset
from data.errors import DataError, SkipLedger, read_json
from data.padding import Dropped, pad_counted
from data.raw import RawScene, localize
from data.scene import SceneSpec
from data.sources import available_splits
from data.validation import validate


@dataclasses.dataclass(frozen=True)
class Fractions:
    """Shares of the location groups that go to each split."""

    train: float = 0.55
    grounding: float = 0.15
    validation: float = 0.1
    test: float = 0.2


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Attributes:
      womd: glob of TFRecord files of WOMD Scenario protos, local or gs://.
      out: directory of the data set; a finished one of the same request is left as it is.
      groups: JSON manifest of location groups.
      notes: JSON manifest of free texts.
      egos_per_scene: most egos per record, the log's own vehicle first.
      max_skipped: largest share of records that may be skipped.
      seed: of the assignment of groups to splits.
      fractions: shares of the groups.
    """

    womd: str
    out: pathlib.Path
    groups: pathlib.Path | None = None
    notes: pathlib.Path | None = None
    egos_per_scene: int = 8
    max_skipped: float = 0.05
    seed: int = 0
    fractions: Fractions = dataclasses.field(default_factory=Fractions)


@dataclasses.dataclass
class Counts:
    """What went into one split."""

    scenes: int = 0
    groups: set[str] = dataclasses.field(default_factory=set)
    dropped: list[Dropped] = dataclasses.field(default_factory=list)


def split_of(group: str, seed: int, fractions: Fractions) -> str:
    """The split of a group: a hash of its name decides, so the answer does not depend on what else is in the set."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    shares = dataclasses.asdict(fractions)
    place = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares.values())
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return name


def read_manifest(path: pathlib.Path, field: str) -> dict[str, str]:
    """A text by scenario id: `location_group`, or `note`. Raises: DataError for a manifest without these fields."""
    entries = read_json(path)
    texts = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        named = [entry.get(name) for name in ("scenario_id", field)] if isinstance(entry, dict) else []
        if len(named) != 2 or not all(isinstance(name, str) and name for name in named):
            reason = f"expected an object with the texts scenario_id and {field}, found {str(entry)[:80]}"
            raise DataError(reason, record=str(index), file=str(path))
        texts[named[0]] = named[1]
    return texts


def checked(scenes: Iterable[RawScene], ledger: SkipLedger, counts: Counts) -> Iterator[RawScene]:
    """Scenes that fit the default spec and pass validation, counted; the others go to the ledger, by ego."""
    spec = SceneSpec()
    for raw in scenes:
        try:
            local = localize(raw)
            record, dropped = pad_counted(local, spec)
            validate(record, spec)
        except DataError as error:
            ledger.skip(raw.source, raw.record_name, error)
            continue
        counts.scenes += 1
        counts.groups.add(raw.group)
        counts.dropped.append(dropped)
        yield local


def build(config: BuildConfig) -> bool:
    """Writes the data set and prints a summary. Returns: False if it was found finished."""
    from data import womd

    ledger = SkipLedger(config.max_skipped)
    groups = read_manifest(config.groups, "location_group") if config.groups else None
    notes = read_manifest(config.notes, "note") if config.notes else {}
    splits = [field.name for field in dataclasses.fields(Fractions)]
    counts = {name: Counts() for name in splits}

    def scenes(split: str) -> Iterator[RawScene]:
        def wanted(group: str) -> bool:
            return split_of(group, config.seed, config.fractions) == split

        found = womd.read_scenes(config.womd, ledger, config.egos_per_scene, groups, wanted)
        noted = (dataclasses.replace(raw, note=notes.get(raw.scenario_id, "")) for raw in found)
        yield from checked(noted, ledger, counts[split])
        ledger.finish()

    by_split = {name: functools.partial(scenes, name) for name in splits}
    written = write_dataset(by_split, config.out, _request(config, womd.list_files(config.womd), groups, notes))
    print(_summary(config.out, counts, ledger) if written else f"{config.out}: found finished")
    return written


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
        seed=config.seed,
        fractions=dataclasses.asdict(config.fractions),
    )


def _summary(out: pathlib.Path, counts: dict[str, Counts], ledger: SkipLedger) -> str:
    sizes = available_splits(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    total = sum(sizes.values())
    lines = [f"{out}: {total} scenes, {size / 1e6:.1f} MB, {size / total / 1e3:.1f} KB per scene"]
    for name, count in counts.items():
        polylines = sum(d.polylines for d in count.dropped) / max(count.scenes, 1)
        agents = sum(d.agents for d in count.dropped) / max(count.scenes, 1)
        cut = sum(d.tokens > 0 for d in count.dropped)
        nearest = min((d.nearest_polyline_m for d in count.dropped), default=float("inf"))
        lines.append(
            f"  {name}: {sizes[name]} scenes of {len(count.groups)} groups; the default spec leaves out "
            f"{agents:.1f} agents and {polylines:.1f} polylines per scene, the nearest {nearest:.0f} m off, and cuts "
            f"{cut} instructions short (--spec.text)"
        )
    lines.append(f"skipped {len(ledger.reasons)} of {ledger.seen}")
    reasons = collections.Counter(ledger.reasons)
    return "\n".join([*lines, *(f"  {reason}" for reason in reasons)])


if __name__ == "__main__":
    import sys

    import tyro

    try:
        build(tyro.cli(BuildConfig))
    except DataError as error:
        sys.exit(f"error: {error}")
