"""Hand-made scenes for the sim agents challenge: a straight road along x, edges at y = -4 and 4, all in the plane."""

import numpy as np

from tether.data.scene import AgentType, LightState
from tether.data.sim_agents import SimAgentsScene
from tether.evaluation.realism.features import Tracks, logged_tracks

STEPS, CURRENT = 91, 10
DT = 0.1


def line(y: float, first: float, last: float, spacing: float = 5.0) -> np.ndarray:
    """A polyline float64[P, 3] along x, to the right or to the left."""
    x = np.arange(first, last + np.sign(last - first), np.sign(last - first) * spacing)
    return np.stack([x, np.full(len(x), y), np.zeros(len(x))], axis=-1)


def scene(x, y=0.0, heading=0.0, valid=True, evaluated=(0,), **changes) -> SimAgentsScene:
    """Vehicles 4 m long and 2 m wide, of which `evaluated` are evaluated; a red light at x = 30 on lane 7.

    Args: x, y, heading, valid: broadcast to [A, T].
    """
    x = np.atleast_2d(np.asarray(x, float))
    agents = len(x)
    x, y, heading, valid = (np.broadcast_to(values, (agents, STEPS)) for values in (x, y, heading, valid))
    fields = {
        "scenario_id": "made",
        "agent_id": np.arange(agents) + 100,
        "agent_type": np.full(agents, AgentType.VEHICLE),
        "evaluated": np.isin(np.arange(agents), evaluated),
        **{"x": x, "y": y, "z": np.full(x.shape, 0.75), "heading": heading, "valid": valid},
        **{"length": np.full(agents, 4.0), "width": np.full(agents, 2.0), "height": np.full(agents, 1.5)},
        "road_edges": (line(-4.0, -100, 300), line(4.0, 300, -100)),
        "lanes": (line(0.0, -100, 300), line(3.5, 300, -100)),
        "lane_id": np.array([7, 8]),
        "light_lane": np.array([7]),
        "light_x": np.full((1, STEPS), 30.0),
        "light_y": np.zeros((1, STEPS)),
        "light_state": np.full((1, STEPS), LightState.STOP),
    }
    return SimAgentsScene(**(fields | changes))


def cruise(speed: float, start: float = 0.0) -> np.ndarray:
    """x float64[T] at constant speed, `start` at the current step."""
    return start + speed * DT * (np.arange(STEPS) - CURRENT)


def repeated(log: SimAgentsScene, rollouts: int) -> Tracks:
    """The log as every rollout."""
    tracks = logged_tracks(log)
    return Tracks(*(np.repeat(values, rollouts, axis=0) for values in (tracks.x, tracks.y, tracks.z, tracks.heading)))
