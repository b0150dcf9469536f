"""The objectives by name. One of your own is a frozen dataclass (`objective.py`), named by its import path."""

from typing import Any

from tether.data.importing import Importable
from tether.training.objectives.objective import Objective

BUILT_IN = {
    "pmpo": "tether.training.objectives.pmpo:PMPO",
    "grpo": "tether.training.objectives.grpo:GRPO",
    "actor_critic": "tether.training.objectives.actor_critic:ActorCritic",
    "ppo": "tether.training.objectives.ppo:PPO",
    "dagger": "tether.training.objectives.dagger:DAgger",
    "cl_sft": "tether.training.objectives.closed_loop_sft:ClosedLoopSFT",
}
MEMBERS = ("least_group", "clip", "learns_drawn", "imagines", "experience")
OBJECTIVES = Importable("objective", BUILT_IN, MEMBERS, arguments="")


def least_group(name: str) -> int:
    """How many rollouts from one start an objective compares at least; 1 for one that is not built in."""
    return OBJECTIVES.config_type(name).least_group if name in BUILT_IN else 1


def imagines(name: str) -> bool:
    """Whether an objective learns from imagined rollouts; one that is not built in may."""
    return name not in BUILT_IN or OBJECTIVES.config_type(name).imagines


def demonstrates(name: str) -> bool:
    """Whether an objective learns from demonstrations; one that is not built in may."""
    return name not in BUILT_IN or not OBJECTIVES.config_type(name).imagines


def asks(name: str) -> bool:
    """Whether an objective asks a teacher; one that is not built in may."""
    return name not in BUILT_IN or name == "dagger"


def build(name: str, settings: Any) -> Objective:
    """The objective `name`, with its own settings or, where they are None, its default ones.

    Raises: as `Importable.build`.
    """
    return OBJECTIVES.build(name, settings)
