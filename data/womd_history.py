"""A WOMD scenario as far as its history goes: what may be known when its future is to be imagined.

The test split of WOMD ends at the current step, and nothing after it may be looked at in the others either. A `Scene`
needs a route and an ego that is there until the end: both go on from the history alone.
"""

from typing import Any

import numpy as np

from data.errors import DataError
from data.polyline import arc_length, headings, interpolate, project
from data.raw import RawScene
from data.route import derive_route
from data.womd import SOURCE, read_lanes, read_lights, read_road, read_tracks

TRACKS = ("x", "y", "heading", "vel_x", "vel_y", "valid")


def history_scene(scenario: Any, steps: int, dt: float) -> RawScene:
    """The scenario cut after its current step, its own vehicle being the ego.

    Everybody else is unseen from there on, and so are the lights. The ego keeps its speed along the route that its
    history and the lanes suggest; nobody has to drive it there.

    Args: steps: T, log steps of the result.   dt: of a step [s].
    Raises: DataError for inconsistent messages, or where the scenario's own vehicle is not seen at every step so far.
    """
    tracks, current, ego = read_tracks(scenario), scenario.current_time_index, scenario.sdc_track_index
    if not tracks["valid"][ego, : current + 1].all():
        raise DataError("expected the SDC valid at every step up to the current one", "tracks", scenario.scenario_id)
    past = {name: tracks[name][:, : current + 1] for name in TRACKS}
    route = derive_route(*(past[name][ego] for name in ("x", "y", "heading")), read_lanes(scenario))
    missing = [(0, 0), (0, steps - 1 - current)]
    tracks |= {name: np.pad(values, missing) for name, values in past.items()}
    for name, values in _along(route.points, {name: past[name][ego, -1] for name in TRACKS}, missing[1][1], dt).items():
        tracks[name][ego, current + 1 :] = values
    lights = read_lights(scenario)
    lanes = lights.pop("lane")
    lights |= {name: np.pad(lights[name][:, : current + 1], missing) for name in ("light_state", "light_valid")}
    road_type, road_points = read_road(scenario)
    return RawScene(
        scenario_id=scenario.scenario_id,
        source=SOURCE,
        group=scenario.scenario_id,
        **tracks,
        ego=ego,
        road_type=road_type,
        road_points=road_points,
        **lights,
        light_on_route=np.isin(lanes, list(route.lanes)),
        route_x=route.points[:, 0],
        route_y=route.points[:, 1],
        route_speed_limit=route.speed_limit,
        current=current,
    )


def _along(line: np.ndarray, now: dict[str, Any], steps: int, dt: float) -> dict[str, np.ndarray]:
    """A track that keeps its speed and its distance to a line: fields float64[steps] by name."""
    place, _ = project(np.array([[now["x"], now["y"]]]), line)
    speed = float(np.hypot(now["vel_x"], now["vel_y"]))
    along = place[0] + speed * dt * np.arange(steps + 1)
    points = interpolate(line, np.minimum(along, arc_length(line)[-1]))
    points += np.array([now["x"], now["y"]]) - points[0]
    heading = np.interp(along, arc_length(line)[:-1], np.unwrap(headings(line))[: len(line) - 1])[1:]
    return {
        "x": points[1:, 0],
        "y": points[1:, 1],
        "heading": (heading + np.pi) % (2 * np.pi) - np.pi,
        "vel_x": speed * np.cos(heading),
        "vel_y": speed * np.sin(heading),
        "valid": np.ones(steps, bool),
    }
