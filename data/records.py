"""How the records of WOMD files become scenes of splits: the one definition that all ways of building share."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from data import womd
from data.errors import SkipLedger
from data.padding import Dropped, pad_counted
from data.raw import RawScene, localize
from data.scene import SceneSpec
from data.validation import validate


@dataclasses.dataclass(frozen=True)
class Fractions:
    """Shares of the location groups that go to each split; a split without a share is not made."""

    train: float = 0.55
    grounding: float = 0.15
    validation: float = 0.1
    test: float = 0.2


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


@dataclasses.dataclass(frozen=True)
class Rules:
    """What decides which scenes a record becomes and where they go.

    Attributes:
      egos: most egos per record, see `egos.choose_egos`.
      groups: location group by scenario id; without it each scenario is its own group.
      seed, fractions: of the assignment of groups to splits.
      notes: free text to the driver by scenario id, where there is any.
      options: what may be done to logs that are not as they should be.
    """

    egos: int
    groups: Mapping[str, str] | None
    seed: int
    fractions: Fractions
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: womd.LogOptions = dataclasses.field(default_factory=womd.LogOptions)

    @property
    def splits(self) -> list[str]:
        """The splits to make."""
        return [name for name, share in dataclasses.asdict(self.fractions).items() if share > 0]

    def split(self, group: str) -> str:
        """The split of a group."""
        return split_of(group, self.seed, self.fractions)


@dataclasses.dataclass(frozen=True)
class Kept:
    """A scene that goes into the data set.

    Attributes:
      split: where.   scene: localized.   dropped: what the default spec leaves out of it.
    """

    split: str
    scene: RawScene
    dropped: Dropped


def kept_scenes(
    paths: Iterable[str], rules: Rules, ledger: SkipLedger, wanted: Callable[[str], bool] = lambda split: True
) -> Iterator[Kept]:
    """Scenes of TFRecord files that fit the default spec and pass validation; the others go to the ledger, by ego.

    Args: wanted: says of a split whether its scenes are.
    """
    spec = SceneSpec()
    for path in paths:
        found = womd.read_file(
            *(path, ledger, rules.egos, rules.groups, lambda group: wanted(rules.split(group))),
            *(rules.options, rules.notes),
        )
        for raw in found:
            kept: Kept | None = None
            with ledger.guard(path, raw.record_name):
                kept = _kept(raw, rules, spec)
            if kept is not None:
                yield kept


def _kept(raw: RawScene, rules: Rules, spec: SceneSpec) -> Kept:
    local = localize(raw)
    record, dropped = pad_counted(local, spec)
    validate(record, spec)
    return Kept(rules.split(raw.group), local, dropped)
