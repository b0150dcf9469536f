"""Between a scene's frame and SUMO's: its network coordinates, front bumpers, and degrees clockwise from north.

Arrays may have any shape that broadcasts; `length` is 0 for walkers, whose position is their centre there too.
"""

import numpy as np

from tether.data.polyline import wrap
from tether.data.scene import AgentType, Record, Scene
from tether.data.sumo.simulate import box_centre
from tether.simulator.referee.messages import Window


def to_network(x: np.ndarray, y: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of a scene [m] in the network's coordinates. origin: float64[3], `Record.origin`."""
    cos, sin = np.cos(origin[2]), np.sin(origin[2])
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return origin[0] + cos * x - sin * y, origin[1] + sin * x + cos * y


def to_sumo(poses: np.ndarray, length: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Box poses (x, y, heading) float64[..., 3] of a scene as SUMO's (x, y, angle)."""
    x, y = to_network(poses[..., 0], poses[..., 1], origin)
    heading = poses[..., 2] + origin[2]
    # `box_centre` with a negative length leads from the centre to the front.
    x, y = box_centre(x, y, heading, -length)
    return np.stack([x, y, np.mod(90.0 - np.rad2deg(heading), 360.0)], axis=-1)


def from_sumo(places: np.ndarray, length: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """SUMO's (x, y, angle) float64[..., 3] as box poses (x, y, heading) of a scene."""
    heading = np.deg2rad(90.0 - places[..., 2])
    x, y = box_centre(places[..., 0], places[..., 1], heading, length)
    cos, sin = np.cos(origin[2]), np.sin(origin[2])
    east, north = x - origin[0], y - origin[1]
    return np.stack([cos * east + sin * north, cos * north - sin * east, wrap(heading - origin[2])], axis=-1)


def bumper_lengths(scene: Scene) -> np.ndarray:
    """Twice the distance from SUMO's position to the box centre, float64[A] [m]."""
    return np.where(scene.agent_type == AgentType.PEDESTRIAN, 0.0, scene.length).astype(np.float64)


def window_of(record: Record, first: int, current: int) -> Window:
    """The record's scene in the network's coordinates."""
    scene = record.scene
    x, y = (np.where(scene.valid, field, np.nan) for field in to_network(scene.x, scene.y, record.origin))
    light_x, light_y = to_network(scene.light_x, scene.light_y, record.origin)
    states = np.where(scene.light_valid, scene.light_state, 0)
    return Window(record.scenario_id, first, current, x, y, light_x, light_y, states)
