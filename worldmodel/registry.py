"""World models by name: short names of the built-in ones, import paths of anyone's (`data/importing.py`)."""

from typing import Any

from tether.data.importing import Importable
from tether.simulator.config import SimulatorConfig
from tether.worldmodel.interface import MEMBERS, WorldModel

BUILT_IN = {
    "kinematic": "tether.worldmodel.kinematic:KinematicConfig",
    "lanes": "tether.worldmodel.lanes:LanesConfig",
    "oracle": "tether.worldmodel.oracle:OracleConfig",
    "rssm": "tether.worldmodel.rssm:RSSMConfig",
    "tokens": "tether.worldmodel.tokens:TokensConfig",
    "pixels": "tether.worldmodel.pixels:PixelsConfig",
}
WORLD_MODELS = Importable("world model", BUILT_IN, MEMBERS)


def build(name: str, config: Any, simulator: SimulatorConfig) -> WorldModel:
    """The model `name`, with its own config or, where `config` is None, its default one.

    Raises: as `Importable.build`.
    """
    return WORLD_MODELS.build(name, config, simulator)
