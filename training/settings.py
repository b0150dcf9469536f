"""Settings as JSON beside a run: written, read back, compared."""

import dataclasses
import difflib
import json
import pathlib
import sys
import types
import typing
from typing import Any

from tether.data.errors import read_json
from tether.data.files import write_text
from tether.data.settings import settings_of
from tether.training.config import Config, flatten
from tether.training.validation import validate


def write(config: Config, path: pathlib.Path) -> None:
    """Writes the resolved config as JSON."""
    write_text(path, json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def read(path: pathlib.Path) -> Config:
    """The config of a run.

    Raises: ValueError for a file that is no JSON, a field that `Config` does not have, with the nearest name, a value
      of another type, and values that cannot work.
    """
    return from_json(read_json(path), str(path))


def from_json(values: Any, where: str) -> Config:
    """The config that was written as JSON. Args: where: it stands. Raises: ValueError as `read`."""
    config = _build(Config, values, where)
    try:
        validate(config)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return config


def differences(config: Config, earlier: Config, later: bool = True) -> list[str]:
    """The settings that two configs disagree on, `name: earlier -> now`; free ones may differ.

    Args: later: whether settings that act after the stages that runs may share count as well.
    """
    now, then = flatten(config), flatten(earlier)
    compared = [each.name for each in settings_of(config) if not each.facts.free and (later or not each.facts.later)]
    return [f"{name}: {then[name]} -> {now[name]}" for name in compared if now[name] != then[name]]


def _build(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected the fields of {kind.__name__}, found {str(values)[:80]}")
    hints = typing.get_type_hints(kind)
    for name in values.keys() - hints.keys():
        near = difflib.get_close_matches(name, hints, n=1)
        raise ValueError(
            f"{where}: unknown field {name!r} of {kind.__name__}" + (f"; did you mean {near[0]}?" if near else "")
        )
    fields = {name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return kind(**fields)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as the type that a field has."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        kinds = typing.get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if _fits(hint, value):
        return float(value) if hint is float else value
    raise ValueError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {str(value)[:80]!r}")


def _fits(hint: Any, value: Any) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(_fits(kind, value) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return False  # of which no list was made
    if hint is float:
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        return whole or isinstance(value, float)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
