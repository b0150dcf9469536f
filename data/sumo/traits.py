"""Traits of a scene, by which eventful scenes are preferred and a data set is described."""

import numpy as np

from tether.data.polyline import arc_length, headings, interpolate, walk
from tether.data.raw import RawScene
from tether.data.scene import AgentType
from tether.data.sumo.gates import pair_gap, runs_red

NEAR_M = 15.0
TURN_RAD = np.deg2rad(40.0)
STANDING_MPS = 0.3
MOVING_MPS = 2.0
DT_S = 0.1


def traits(raw: RawScene) -> dict[str, bool]:
    """Facts of a scene.

    Returns: `vehicle_near`, `vru_near` (one comes within 15 m of the ego), `stops` (moves, then stands), `turns` (by
      more than 40 degrees), `signal` (a light on the route ahead or passed), `constant_speed_event` (keeping the
      current speed along the route collides or runs a red light), `stands` (hardly moves), `brakes` (below -2 m/s^2).
    """
    speed = np.hypot(raw.vel_x[raw.ego], raw.vel_y[raw.ego])
    heading = np.unwrap(raw.heading[raw.ego])
    near = near_types(raw)
    future = speed[raw.current :]
    travelled = arc_length(raw.ego_path)[-1]
    return {
        "vehicle_near": AgentType.VEHICLE in near,
        "vru_near": bool({AgentType.PEDESTRIAN, AgentType.CYCLIST} & near),
        "stops": bool(future.min() < STANDING_MPS and speed.max() > MOVING_MPS),
        "turns": bool(np.ptp(heading) > TURN_RAD),
        "signal": bool(raw.light_on_route.any()),
        "constant_speed_event": constant_speed_event(raw),
        "stands": bool(travelled < 5.0),
        "brakes": bool(np.gradient(future, DT_S).min() < -2.0),
    }


def near_types(raw: RawScene) -> set[int]:
    """Types of the agents that come within 15 m of the ego."""
    apart = np.where(raw.valid, np.hypot(raw.x - raw.x[raw.ego], raw.y - raw.y[raw.ego]), np.inf).min(1)
    apart[raw.ego] = np.inf
    return {int(kind) for kind in raw.agent_type[apart < NEAR_M]}


def constant_speed_event(raw: RawScene) -> bool:
    """Whether the ego, keeping its current speed along its route, would hit a logged agent or run a red light."""
    past = np.stack([raw.x, raw.y], axis=-1)[raw.ego, : raw.current + 1]
    speed = np.hypot(raw.vel_x[raw.ego, raw.current], raw.vel_y[raw.ego, raw.current])
    steps = raw.x.shape[1] - raw.current
    along = walk(past, raw.route)[-1] + speed * DT_S * np.arange(steps)
    along = along[along < arc_length(raw.route)[-1] - 1.0]
    window = slice(raw.current, raw.current + len(along))
    tracks = [np.where(raw.valid, field, np.nan)[:, window] for field in (raw.x, raw.y, raw.heading)]
    x, y, heading = (track.copy() for track in tracks)
    x[raw.ego], y[raw.ego] = interpolate(raw.route, along).T
    heading[raw.ego] = np.interp(along, arc_length(raw.route), np.unwrap(headings(raw.route)))
    hit = (pair_gap(x, y, heading, raw.length, raw.width, raw.ego) < 0).any()
    return bool(hit) or bool(red_lights_run(raw, along + raw.length[raw.ego] / 2, window))


def red_lights_run(raw: RawScene, front_s: np.ndarray, window: slice) -> int:
    """The number of red lights on the route that the front crosses. front_s: float64[n], along the route [m]."""
    chosen = np.flatnonzero(raw.light_on_route)
    stops = [walk(stop[None], raw.route)[0] for stop in np.stack([raw.light_x, raw.light_y], 1)[chosen]]
    return sum(runs_red(front_s, s, raw.light_state[i, window]) for i, s in zip(chosen, stops, strict=True))
