"""The way from records of WOMD files to scenes of splits: one definition for all ways of building."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from tether.data import womd
from tether.data.errors import SkipLedger
from tether.data.padding import Dropped, pad_counted
from tether.data.raw import LocalScene, RawScene, localize
from tether.data.recordings import SPLIT_ORDER
from tether.data.scene import SceneSpec
from tether.data.validation import validate

# A change of what a record becomes (any field of any scene, which egos, which records) adds one: a data set that an
# older converter made is then no longer taken for what the same command makes now.
CONVERTER = 3
LEARNED_FROM, EVALUATED_ON = ("train", "grounding"), ("validation", "test")


@dataclasses.dataclass(frozen=True)
class Fractions:
    """Fractions of the location groups that go to each split, in any unit; a split of 0 is not made.

    Attributes:
      train: what policies and world models learn from.
      grounding: what a run measures and refits its world model on.
      validation: what decides between settings.
      test: what is reported.
    """

    train: float = 0.55
    grounding: float = 0.15
    validation: float = 0.1
    test: float = 0.2


def split_of(group: str, seed: int, fractions: Fractions) -> str:
    """The split of a group: a hash of its name decides, so the answer does not depend on what else is in the set."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    wanted = {name: fraction for name, fraction in dataclasses.asdict(fractions).items() if fraction > 0}
    place = int.from_bytes(digest[:8], "big") / 2**64 * sum(wanted.values())
    for name, fraction in wanted.items():
        if place < fraction:
            return name
        place -= fraction
    return name


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules by which a record becomes scenes of splits.

    Attributes:
      egos: most egos per record, see `egos.choose_egos`.
      groups: location group by scenario id; without it each scenario is its own group.
      seed, fractions: of the assignment of groups to splits.
      notes: free text to the policy by scenario id, where there is any.
      options: permitted corrections of faulty logs.
      held_out: files whose groups go to validation and test alone, those of all others then to train and grounding
        alone; where there are none, every file's groups go to all splits.
    """

    egos: int
    groups: Mapping[str, str] | None
    seed: int
    fractions: Fractions
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: womd.LogOptions = dataclasses.field(default_factory=womd.LogOptions)
    held_out: frozenset[str] = frozenset()

    @property
    def splits(self) -> list[str]:
        """The splits to make, in the order of `SPLIT_ORDER`."""
        fractions = dataclasses.asdict(self.fractions)
        return [name for name in SPLIT_ORDER if fractions[name] > 0]

    def fractions_of(self, path: str) -> Fractions:
        """The fractions for a file's groups."""
        if not self.held_out:
            return self.fractions
        elsewhere = LEARNED_FROM if path in self.held_out else EVALUATED_ON
        return dataclasses.replace(self.fractions, **dict.fromkeys(elsewhere, 0.0))

    def may_give(self, path: str, split: str) -> bool:
        """Whether a file may have scenes of a split."""
        return getattr(self.fractions_of(path), split) > 0

    def split(self, group: str, path: str = "") -> str:
        """The split of a group of a file."""
        return split_of(group, self.seed, self.fractions_of(path))


@dataclasses.dataclass(frozen=True)
class Kept:
    """A scene that goes into the data set.

    Attributes:
      split: where it goes.   scene: as it is stored.   dropped: what the default spec leaves out of it.
      starts_off_road: see `data.scene.Record`.
    """

    split: str
    scene: LocalScene
    dropped: Dropped
    starts_off_road: bool


def kept_scenes(
    paths: Iterable[str], rules: Rules, ledger: SkipLedger, wanted: Callable[[str], bool] = lambda split: True
) -> Iterator[Kept]:
    """Scenes of TFRecord files that fit the default spec and pass validation; the others go to the ledger, by ego.

    Args: wanted: whether the scenes of a split are wanted.
    """
    spec = SceneSpec()
    for path in paths:

        def keep(group: str, path: str = path) -> bool:
            return wanted(rules.split(group, path))

        scenes = womd.read_file(path, ledger, rules.egos, rules.groups, keep, rules.options, rules.notes)
        for raw in scenes:
            kept: Kept | None = None
            with ledger.guard(path, raw.record_name):
                kept = _kept(raw, rules.split(raw.group, path), spec)
            if kept is not None:
                yield kept


def _kept(raw: RawScene, split: str, spec: SceneSpec) -> Kept:
    local = localize(raw)
    record, dropped = pad_counted(local, spec)
    validate(record, spec)
    return Kept(split, local, dropped, record.starts_off_road)
