"""Chooses the vehicles of a log that become egos."""

from collections.abc import Mapping

import numpy as np

from tether.data.polyline import wrap
from tether.data.scene import AgentType

SDC_TRAVEL_M = 3.0
OTHER_TRAVEL_M = 10.0
# One unit of difference between two candidates, by trait.
PLACE_M, SPEED_MPS, TURN_RAD = 20.0, 4.0, 0.4


def choose_egos(tracks: Mapping[str, np.ndarray], sdc: int, most: int) -> list[int]:
    """Up to `most` track indices: the SDC first if it moves more than 3 m, then vehicles that move more than 10 m.

    An ego is valid at every step. Among the others, each next one differs most from those already chosen, by where it
    starts, how fast it goes, how its speed changes and how far it turns.

    Args:
      tracks: x, y, heading, vel_x, vel_y float[N, T], valid bool[N, T], agent_type int[N].
      sdc: index of the log's own vehicle.
    """
    travel = np.hypot(tracks["x"] - tracks["x"][:, :1], tracks["y"] - tracks["y"][:, :1]).max(1)
    able = tracks["valid"].all(1) & (tracks["agent_type"] == AgentType.VEHICLE)
    others = [int(i) for i in np.flatnonzero(able & (travel > OTHER_TRAVEL_M)) if i != sdc]
    chosen = [sdc] if able[sdc] and travel[sdc] > SDC_TRAVEL_M else []
    traits = _traits(tracks)
    while others and len(chosen) < most:
        apart = [min((np.abs(traits[i] - traits[j]).sum() for j in chosen), default=travel[i]) for i in others]
        chosen.append(others.pop(int(np.argmax(apart))))
    return chosen[:most]


def _traits(tracks: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64[N, 5], in units that make them comparable."""
    speed = np.hypot(tracks["vel_x"], tracks["vel_y"])
    turn = wrap(tracks["heading"][:, -1] - tracks["heading"][:, 0])
    place = (tracks["x"][:, 0] / PLACE_M, tracks["y"][:, 0] / PLACE_M)
    return np.stack([*place, speed.mean(1) / SPEED_MPS, np.ptp(speed, 1) / SPEED_MPS, turn / TURN_RAD], axis=1)
