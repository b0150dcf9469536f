"""Things that anyone may add, named by import path: `package.module:Config`, a dataclass with `build` and defaults.

World models, policies and judges are such kinds; each is one `Importable`. To load a thing is to run its module. So a
name is loaded where the user gives it (`config_type`, `build`); a name that stands in a run's settings is data, and has
to pass `check_trusted` first.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import os
import pathlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

LONGEST_NAME = 200  # characters: a message that quotes a name is one line


@dataclasses.dataclass(frozen=True)
class Importable:
    """A kind of thing that is named by a short name, where it is built in, or by the import path of its config.

    Attributes:
      noun: what messages call it.
      built_in: short name to import path; an empty path for a name that its caller builds without this class.
      members: what each of them has to have.
      arguments: of a config's `build`, as messages show them.
    """

    noun: str
    built_in: Mapping[str, str]
    members: Sequence[str]
    arguments: str = "simulator"

    def check_name(self, name: str) -> None:
        """Checks a name without importing it. Raises: ValueError for an unknown short name, and for no import path."""
        module, colon, attribute = name.partition(":")
        path = colon and len(name) <= LONGEST_NAME and all(map(str.isidentifier, [*module.split("."), attribute]))
        if path or name in self.built_in:
            return
        near = difflib.get_close_matches(name, self.built_in, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = f"expected one of {sorted(self.built_in)} or package.module:Config"
        raise ValueError(f"{self.noun} {name[:100]!r}: {known}{hint}")

    def check_trusted(self, name: str, run: pathlib.Path, trusted: Sequence[str]) -> None:
        """Checks a name that stands in a run's settings before it is loaded; nothing is imported.

        A run is data. What is built in is loaded; anything else only where the user has named it as well, and from
        outside of the run's folder.

        Args:
          run: the run's folder.
          trusted: what the user named: modules or packages (`my_models`), or import paths (`my_models:MineConfig`).
        Raises: ValueError for any other name.
        """
        module, _ = self._module_and_class(name)
        named = any(name == one or f"{module}.".startswith(f"{one}.") for one in trusted)
        if not named and not self._is_built_in(name):
            raise ValueError(
                f"{self.noun} {name!r} is not built in, and to load it is to run its code. A run is data: if you trust "
                f"that module, name it yourself, --trust {module}"
            )
        self.check_source(name, (run,))

    def check_source(self, name: str, runs: Sequence[pathlib.Path]) -> None:
        """Checks that a name's module lies in none of the runs' folders; nothing is imported.

        Raises: ValueError for one that does, or that cannot be found.
        """
        module, _ = self._module_and_class(name)
        if self._is_built_in(name):
            return
        folders = {kind(run) for run in runs for kind in (os.path.abspath, os.path.realpath)}
        for place in self._places(name, module):
            for path in (os.path.abspath(place), os.path.realpath(place)):
                if any(pathlib.Path(path).is_relative_to(folder) for folder in folders):
                    raise ValueError(
                        f"{self.noun} {name!r}: {path} lies in a run's folder, from which no code is loaded"
                    )

    def config_type(self, name: str) -> type:
        """The config class behind a short name or an import path. Loading it runs its module.

        Raises: ValueError for an unknown short name, a module that cannot be imported, and anything but a dataclass
          with `build`.
        """
        module_name, attribute = self._module_and_class(name)
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
            hint = "; is its folder on the Python path?" if isinstance(error, ModuleNotFoundError) else ""
            raise ValueError(f"{self.noun} {name!r}: importing {module_name}: {_described(error)}{hint}") from error
        kind = getattr(module, attribute, None)
        if _is_config(kind):
            return kind
        configs = sorted(each for each, value in vars(module).items() if _is_config(value))
        near = difflib.get_close_matches(attribute, configs, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        problem = f"has no {attribute!r}" if kind is None else f"{attribute!r} is no config class"
        raise ValueError(
            f"{self.noun} {name!r}: {module_name}: {problem}, a dataclass with build({self.arguments}); "
            f"it has {', '.join(configs) or 'none'}{hint}"
        )

    def default_config(self, name: str) -> Any:
        """The config with all its defaults. Raises: as `config_type`; ValueError for fields without one."""
        kind = self.config_type(name)
        needed = [field.name for field in dataclasses.fields(kind) if field.init and not _has_default(field)]
        if needed:
            raise ValueError(
                f"{self.noun} {name!r}: expected defaults of all its config's fields, found none of {needed}"
            )
        return kind()

    def build(self, name: str, config: Any, *arguments: Any) -> Any:
        """Builds from the config behind `name`: from `config`, or from the default one where `config` is None.

        Args: arguments: of the config's `build`.
        Raises: ValueError as `default_config`, and for a config that builds something without the `members`; TypeError
          for a config of another name.
        """
        expected = self.config_type(name)
        config = self.default_config(name) if config is None else config
        if not isinstance(config, expected):
            raise TypeError(f"{self.noun} {name!r}: expected a {expected.__name__}, found a {type(config).__name__}")
        try:
            built = config.build(*arguments)
        except TypeError as error:
            call = f"{expected.__name__}.build({self.arguments})"
            raise ValueError(f"{self.noun} {name!r}: {call}: {_described(error)}") from error
        missing = [member for member in self.members if not hasattr(built, member)]
        if missing:
            raise ValueError(
                f"{self.noun} {name!r}: {expected.__name__} builds a {type(built).__name__} without {missing}"
            )
        return built

    def _module_and_class(self, name: str) -> tuple[str, str]:
        """The two parts of a name's import path. Raises: as `check_name`."""
        self.check_name(name)
        module, _, attribute = self.built_in.get(name, name).partition(":")
        return module, attribute

    def _is_built_in(self, name: str) -> bool:
        return name in self.built_in or name in self.built_in.values()

    def _places(self, name: str, module: str) -> Iterator[str]:
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
        raise ValueError(f"{self.noun} {name!r}: there is no module {module!r}; is its folder on the Python path?")


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind) and callable(getattr(kind, "build", None))


def _has_default(field: dataclasses.Field) -> bool:
    return not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)


def _described(error: BaseException) -> str:
    """An error of a user's module on one line, with the place at which it was raised."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} ({os.path.basename(last.filename)}:{last.lineno})"
