"""Host-side work that is done once per scene, before it is batched."""

import dataclasses

from tether.data.scene import Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.render import rasterize_map
from tether.simulator.road_index import index_road


def prepare(scene: Scene, config: SimulatorConfig) -> Scene:
    """A numpy `Scene` without batch axes, completed with its map tile and road index."""
    return dataclasses.replace(scene, map_tile=rasterize_map(scene, config), road_index=index_road(scene, config))
