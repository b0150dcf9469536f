"""Tether: an offline-to-online world-model trainer for driving policies.

    scenes = tether.open_split("test")
    rollouts = tether.drive(tether.IDM(), scenes[:4], world="log_replay")
    print(rollouts.metrics())

The names below are the public face. They are imported when they are first used: `import tether` is quick and loads
neither JAX nor numpy. `tether.gym` holds a Gymnasium environment.
"""

import importlib
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tether.data.scene import Observation, Record, Scene, SceneSpec
    from tether.policy.baselines import IDM, ConstantSpeed, GoStraight, LogExpert
    from tether.rollouts import Rollouts, drive
    from tether.runs import Run, load_run
    from tether.scenes import Scenes, open_split
    from tether.simulator.config import SimulatorConfig
    from tether.simulator.log_replay import LogReplay
    from tether.simulator.reactive import Reactive
    from tether.simulator.world import Action, Outcome, Policy, State, World
    from tether.worldmodel.interface import WorldModel

__all__ = [
    "IDM",
    "Action",
    "ConstantSpeed",
    "GoStraight",
    "LogExpert",
    "LogReplay",
    "Observation",
    "Outcome",
    "Policy",
    "Reactive",
    "Record",
    "Rollouts",
    "Run",
    "Scene",
    "SceneSpec",
    "Scenes",
    "SimulatorConfig",
    "State",
    "World",
    "WorldModel",
    "drive",
    "load_run",
    "open_split",
]

_NAMES = {
    "data.scene": ("Observation", "Record", "Scene", "SceneSpec"),
    "policy.baselines": ("IDM", "ConstantSpeed", "GoStraight", "LogExpert"),
    "rollouts": ("Rollouts", "drive"),
    "runs": ("Run", "load_run"),
    "scenes": ("Scenes", "open_split"),
    "simulator.config": ("SimulatorConfig",),
    "simulator.log_replay": ("LogReplay",),
    "simulator.reactive": ("Reactive",),
    "simulator.world": ("Action", "Outcome", "Policy", "State", "World"),
    "worldmodel.interface": ("WorldModel",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

_ROOT = pathlib.Path(__file__).parents[1]
if (_ROOT / "pyproject.toml").is_file():  # a checkout: the packages lie beside this folder, not in it
    __path__.append(str(_ROOT))


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names among the rest, imported or not."""
    return sorted({*globals(), *__all__})
