"""What a setting says about itself, on the dataclass field that holds it; and the settings of a nested config, by name.

A config is a frozen dataclass whose fields are settings or sections, which are configs again. A section's facts hold
for all settings in it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What holds for a setting, beyond its type and default. A list's facts hold for each of its numbers.

    Attributes:
      least: smallest number that can work; None for 1 of whole numbers and 0 of fractional ones.
      above: bound that a fractional number has to be above, in place of `least`.
      most: largest fractional number that can work.
      below: bound that a fractional number has to be below, in place of `most`.
      size: whether a whole number is the size of an array, which has to fit into memory.
      free: whether runs that differ in it have the same numbers.
      common: whether it is changed often, so that `train.py --help` shows it.
      later: whether it acts after the stages that runs may share alone (`training.stage.Stage.shared`).
      acts_with: another setting, by its name from the config that holds this one, and the value of it with which alone
        this one acts.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    size: bool = False
    free: bool = False
    common: bool = False
    later: bool = False
    acts_with: tuple[str, Any] | None = None

    def within(self, section: "Facts") -> "Facts":
        """These and, where they say nothing, the section's."""
        values = ((each, getattr(self, each.name)) for each in dataclasses.fields(self))
        return dataclasses.replace(section, **{each.name: value for each, value in values if value != each.default})


class Setting(NamedTuple):
    """A setting of a nested config.

    Attributes:
      name: with its sections, `rounds.group`.   value: as it stands.
      facts: its own and its sections'; `acts_with` by the whole name.
    """

    name: str
    value: Any
    facts: Facts


def setting(default: T, **facts: Any) -> T:
    """A field of a config with its default and `Facts`. Raises: TypeError for a fact that there is none of."""
    return dataclasses.field(default=default, metadata={"facts": Facts(**facts)})


def settings_of(config: Any, prefix: str = "", section: Facts | None = None) -> Iterator[Setting]:
    """Every setting of a config, in the order of the fields. Args: prefix, section: where the config is one itself."""
    for field in dataclasses.fields(config):
        value, facts = getattr(config, field.name), field.metadata.get("facts", Facts())
        if facts.acts_with is not None:
            other, needed = facts.acts_with
            facts = dataclasses.replace(facts, acts_with=(prefix + other, needed))
        facts = facts.within(section or Facts())
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{prefix}{field.name}.", facts)
        else:
            yield Setting(prefix + field.name, value, facts)
