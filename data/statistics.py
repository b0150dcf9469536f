"""Counts of what a data set holds and of what was left out, taken while it is built and added up over workers."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tether.data.errors import DataError, Noted, SkipLedger
from tether.data.recordings import Recordings, places
from tether.data.records import Kept
from tether.data.scene import AgentType
from tether.data.sumo.traits import traits

MOST_LISTED = 1000


@dataclasses.dataclass
class Split:
    """Sums over the scenes of one split.

    Attributes:
      counts: `scenes`, those that `starts_off_road`, `agents/<type>`, `with/<trait>` (see `sumo.traits`; `note` for
        free text), `left_out/<kind>` by the default spec, and scenes that are `not_kept/<reason>` (see `recordings`).
      groups: names of the location groups.
      nearest_m: distance from an ego's log to the nearest polyline left out.
    """

    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    groups: set[str] = dataclasses.field(default_factory=set)
    nearest_m: float = float("inf")

    def add(self, kept: Kept) -> None:
        """Counts a scene."""
        raw, dropped = kept.scene, kept.dropped
        self.groups.add(raw.group)
        self.nearest_m = min(self.nearest_m, dropped.nearest_polyline_m)
        self.counts["scenes"] += 1
        self.counts["starts_off_road"] += kept.starts_off_road
        self.counts.update(f"agents/{AgentType(kind).name.lower()}" for kind in raw.agent_type)
        self.counts.update(f"with/{name}" for name, has in traits(raw).items() if has)
        self.counts["with/note"] += bool(raw.note)
        left_out = ("agents", "polylines", "lights", "tokens")
        self.counts.update({f"left_out/{name}": getattr(dropped, name) for name in left_out})

    def leave_out(self, reason: str) -> None:
        """Counts a scene that is not kept."""
        self.counts[f"not_kept/{reason}"] += 1

    def merge(self, other: "Split") -> None:
        """Counts what another one counted."""
        self.counts.update(other.counts)
        self.groups |= other.groups
        self.nearest_m = min(self.nearest_m, other.nearest_m)

    def to_json(self) -> dict[str, Any]:
        """JSON types, with the number of location groups in place of their names."""
        values = {"scenes": self.counts["scenes"], "groups": len(self.groups)}
        values["starts_off_road"] = self.counts["starts_off_road"]
        for section in ("agents", "with", "left_out", "not_kept"):
            named = {name.partition("/")[2]: n for name, n in self.counts.items() if name.startswith(f"{section}/")}
            values[section] = dict(sorted(named.items()))
        nearest = None if self.nearest_m == float("inf") else round(self.nearest_m, 1)
        values["left_out"]["nearest_polyline_m"] = nearest
        return values


@dataclasses.dataclass
class Statistics:
    """Counts of a data set, or of a part of it.

    Attributes:
      splits: by name.   seen: records, and egos that were skipped alone.   skipped: message and reason of each.
      notes: by kind, what was met in records that are used.
    """

    splits: dict[str, Split] = dataclasses.field(default_factory=lambda: collections.defaultdict(Split))
    seen: int = 0
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    notes: dict[str, Noted] = dataclasses.field(default_factory=lambda: collections.defaultdict(Noted))

    def counted(self, scenes: Iterable[Kept], recordings: Recordings) -> Iterator[Kept]:
        """Yields the scenes that are kept, and counts every scene, kept or not, when it is read."""
        for kept in scenes:
            scene = kept.scene
            reason = recordings.left_out(kept.split, scene.group, scene.scenario_id, places(scene))
            if reason:
                self.splits[kept.split].leave_out(reason)
            else:
                self.splits[kept.split].add(kept)
                yield kept

    def close(self, ledger: SkipLedger) -> None:
        """Adds the skipped records and the notes of a ledger."""
        self.seen, self.skipped = ledger.seen, [(str(error), reason(error)) for error in ledger.errors]
        self.notes.clear()
        self.note(ledger.notes)

    def note(self, notes: Mapping[str, Noted]) -> None:
        """Counts what was noted, by kind."""
        for kind, noted in notes.items():
            self.notes[kind].add(noted)

    def merge(self, other: "Statistics") -> None:
        """Counts what another one counted."""
        for name, split in other.splits.items():
            self.splits[name].merge(split)
        self.seen += other.seen
        self.skipped += other.skipped
        self.note(other.notes)

    def to_json(self) -> dict[str, Any]:
        """The content of `summary.json`, which does not depend on the order of the work."""
        reasons = collections.Counter(reason for _, reason in self.skipped)
        return {
            "split": {name: split.to_json() for name, split in sorted(self.splits.items())},
            "records": self.seen,
            "skipped": {
                "records": len(self.skipped),
                "by_reason": dict(sorted(reasons.items())),
                "first": sorted(message for message, _ in self.skipped)[:MOST_LISTED],
            },
            "noted": {kind: dataclasses.asdict(noted) for kind, noted in sorted(self.notes.items())},
        }


def reason(error: DataError) -> str:
    """Why a record was skipped, with `#` for numbers, so that equal reasons are equal texts."""
    return re.sub(r"\d[\d.e+-]*", "#", ": ".join(part for part in (error.field, error.reason) if part))
