"""World models by name: short names for the built-in ones, `package.module:Config` for anyone's.

To load a model is to run its module. So a name is loaded where the user gives it (`config_type`, `build`); a name that
stands in a run's settings is data, and has to pass `check_trusted` first.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import os
import pathlib
import traceback
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from tether.simulator.config import SimulatorConfig
from tether.worldmodel.interface import MEMBERS, WorldModel

BUILT_IN = {
    "kinematic": "tether.worldmodel.kinematic:KinematicConfig",
    "oracle": "tether.worldmodel.oracle:OracleConfig",
    "rssm": "tether.worldmodel.rssm:RSSMConfig",
    "tokens": "tether.worldmodel.tokens:TokensConfig",
    "pixels": "tether.worldmodel.pixels:PixelsConfig",
}

LONGEST_NAME = 200  # characters: a message that quotes a name is one line


def module_and_class(name: str) -> tuple[str, str]:
    """The two parts of a name's import path; nothing is imported.

    Raises: ValueError for an unknown short name, and for what is no import path.
    """
    module, colon, attribute = BUILT_IN.get(name, name).partition(":")
    parts = [*module.split("."), attribute]
    if colon and len(name) <= LONGEST_NAME and all(part.isidentifier() for part in parts):
        return module, attribute
    near = difflib.get_close_matches(name, BUILT_IN, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"world model {name[:100]!r}: expected one of {sorted(BUILT_IN)} or package.module:Config{hint}")


def check_trusted(name: str, run: pathlib.Path, trusted: Sequence[str]) -> None:
    """Checks a name that stands in a run's settings before it is loaded; nothing is imported.

    A run is data. Built-in models are loaded; any other only where the user has named it as well, and from outside of
    the run's folder.

    Args:
      run: the run's folder.
      trusted: what the user named: modules or packages (`my_models`), or whole import paths (`my_models:MineConfig`).
    Raises: ValueError for any other name.
    """
    module, _ = module_and_class(name)
    named = any(name == one or f"{module}.".startswith(f"{one}.") for one in trusted)
    if not named and not _is_built_in(name):
        raise ValueError(
            f"world model {name!r} is not built in, and to load it is to run its code. A run is data: if you trust "
            f"that module, name it yourself, --trust {module}"
        )
    check_source(name, (run,))


def check_source(name: str, runs: Sequence[pathlib.Path]) -> None:
    """Checks that a model's module lies in none of the runs' folders; nothing is imported.

    Raises: ValueError for one that does, or that cannot be found.
    """
    module, _ = module_and_class(name)
    if _is_built_in(name):
        return
    folders = {kind(run) for run in runs for kind in (os.path.abspath, os.path.realpath)}
    for place in _places(name, module):
        for path in (os.path.abspath(place), os.path.realpath(place)):
            if any(pathlib.Path(path).is_relative_to(folder) for folder in folders):
                raise ValueError(f"world model {name!r}: {path} lies in a run's folder, from which no code is loaded")


def _is_built_in(name: str) -> bool:
    return name in BUILT_IN or name in BUILT_IN.values()


def _places(name: str, module: str) -> Iterator[str]:
    """Files and folders of a module and of the packages around it, which an import would run."""
    first, *rest = module.split(".")
    # The search for `a.b` would import `a`; each part on its own is only looked for.
    spec: ModuleSpec | None = importlib.util.find_spec(first) if first != "__main__" else None
    while spec is not None:
        folders = list(spec.submodule_search_locations or ())
        yield from [*folders, *([spec.origin] if spec.has_location and spec.origin else [])]
        if not rest:
            return
        spec = PathFinder.find_spec(rest.pop(0), folders)
    raise ValueError(f"world model {name!r}: there is no module {module!r}; is its folder on the Python path?")


def config_type(name: str) -> type:
    """The config class behind a short name or an import path. Loading it runs its module.

    Raises: ValueError for an unknown short name, a module that cannot be imported, and anything but a dataclass with
      `build`.
    """
    module_name, attribute = module_and_class(name)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a module does while it is imported
        hint = "; is its folder on the Python path?" if isinstance(error, ModuleNotFoundError) else ""
        raise ValueError(f"world model {name!r}: importing {module_name}: {_told(error)}{hint}") from error
    found = getattr(module, attribute, None)
    if _is_config(found):
        return found
    configs = sorted(each for each, value in vars(module).items() if _is_config(value))
    near = difflib.get_close_matches(attribute, configs, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    problem = f"has no {attribute!r}" if found is None else f"{attribute!r} is no config class"
    raise ValueError(
        f"world model {name!r}: {module_name}: {problem}, a dataclass with build(simulator); "
        f"it has {', '.join(configs) or 'none'}{hint}"
    )


def _is_config(found: Any) -> bool:
    return isinstance(found, type) and dataclasses.is_dataclass(found) and callable(getattr(found, "build", None))


def _told(error: BaseException) -> str:
    """An error of somebody's module in a line, with the place at which it was raised."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} ({os.path.basename(last.filename)}:{last.lineno})"


def default_config(name: str) -> Any:
    """The config of a model with all its defaults. Raises: as `config_type`; ValueError for fields without one."""
    kind = config_type(name)
    needed = [field.name for field in dataclasses.fields(kind) if field.init and not _has_default(field)]
    if needed:
        raise ValueError(f"world model {name!r}: expected defaults of all its config's fields, found none of {needed}")
    return kind()


def _has_default(field: dataclasses.Field) -> bool:
    return not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)


def build(name: str, config: Any, simulator: SimulatorConfig) -> WorldModel:
    """The model `name`, with its own config or, where `config` is None, its default one.

    Raises: ValueError as `default_config`, and for a config that builds no `WorldModel`; TypeError for a config of
      another model.
    """
    expected = config_type(name)
    config = default_config(name) if config is None else config
    if not isinstance(config, expected):
        raise TypeError(f"world model {name!r}: expected a {expected.__name__}, found a {type(config).__name__}")
    try:
        model = config.build(simulator)
    except TypeError as error:
        raise ValueError(f"world model {name!r}: {expected.__name__}.build(simulator): {_told(error)}") from error
    missing = [name for name in MEMBERS if not hasattr(model, name)]
    if missing:
        raise ValueError(f"world model {name!r}: {expected.__name__} builds a {type(model).__name__} without {missing}")
    return model
