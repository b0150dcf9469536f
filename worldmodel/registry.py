"""World models by name: short names for the built-in ones, `package.module:Config` for anyone's."""

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from simulator.config import SimulatorConfig
from worldmodel.interface import WorldModel

BUILT_IN = {
    "kinematic": "worldmodel.kinematic:KinematicConfig",
    "oracle": "worldmodel.oracle:OracleConfig",
    "rssm": "worldmodel.rssm:RSSMConfig",
    "tokens": "worldmodel.tokens:TokensConfig",
    "pixels": "worldmodel.pixels:PixelsConfig",
}


def config_type(name: str) -> Callable[[], Any]:
    """What makes a model's default config: the class behind a short name or an import path.

    Raises: ValueError for an unknown short name, a module that cannot be found, or a name that it does not hold.
    """
    path = BUILT_IN.get(name, name)
    if ":" not in path:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"world model {name!r}: expected one of {sorted(BUILT_IN)} or package.module:Config{hint}")
    module_name, attribute = path.split(":", 1)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"world model {name!r}: {error}; is its folder on the Python path?") from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"world model {name!r}: {module_name} has no {attribute!r}{hint}")
    return getattr(module, attribute)


def build(name: str, config: Any, simulator: SimulatorConfig) -> WorldModel:
    """The model `name`, with its own config or, where `config` is None, its default one.

    Raises: ValueError for an unknown name, TypeError for a config of another model.
    """
    expected = config_type(name)
    config = expected() if config is None else config
    if isinstance(expected, type) and not isinstance(config, expected):
        raise TypeError(f"world model {name!r}: expected a {expected.__name__}, found a {type(config).__name__}")
    return config.build(simulator)
