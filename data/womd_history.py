"""A WOMD scenario up to its current step: the input for imagining its future.

The test split of WOMD ends at the current step, and nothing after it may be looked at in the others either. A `Scene`
needs a route and an ego that is there until the end: both go on from the history alone.
"""

from typing import Any

import numpy as np

from tether.data.errors import DataError
from tether.data.physics import check_times
from tether.data.polyline import arc_length, headings, interpolate, project
from tether.data.raw import RawScene, check_extent
from tether.data.route import derive_route
from tether.data.womd import SOURCE, read_lanes, read_road
from tether.data.womd_lights import read_lights
from tether.data.womd_tracks import Notes, centre, check_log, faults, present, read_tracks

TRACKS = ("x", "y", "heading", "vel_x", "vel_y", "valid")


def history_scene(scenario: Any, steps: int, dt: float, notes: Notes | None = None) -> RawScene:
    """The scenario cut after its current step, its own vehicle being the ego.

    From there on the others and the lights are not seen. The ego keeps its speed along the route that its history and
    the lanes suggest, so that no policy is needed. All agents that are valid at the current step stay: values that are
    not finite there are taken from the steps before, and a box without size gets its type's usual one.

    Args:
      scenario: a `Scenario` proto.
      steps: T, log steps of the result.
      dt: of a step [s].
      notes: counts what was left out or changed, by kind.

    Raises: DataError for inconsistent messages or times, for a log whose velocities or headings are wrong as a whole,
      or where the scenario's own vehicle is not seen at every step so far.
    """
    notes = Notes() if notes is None else notes
    name, current, ego = scenario.scenario_id, scenario.current_time_index, scenario.sdc_track_index
    if current >= steps - 1:
        raise DataError(f"expected an index below {steps - 1}, found {current}", "current_time_index", name)
    times = np.array(scenario.timestamps_seconds)[: current + 1]
    check_times(times, name)
    logged = read_tracks(scenario)
    if not logged.whole[ego]:
        reason = f"expected {len(scenario.timestamps_seconds)} states of the log's own vehicle, found another number"
        raise DataError(reason, "tracks", name)
    history = logged.steps(0, current + 1)
    check_log(history, times, faults(history, times), ego, name)
    tracks, ego = present(history, ego, name, notes)
    if not tracks["valid"][ego].all():
        raise DataError("expected the SDC valid at every step up to the current one", "tracks", name)
    past = {field: tracks[field] for field in TRACKS}
    route = derive_route(*(past[field][ego] for field in ("x", "y", "heading")), read_lanes(scenario, notes))
    missing = [(0, 0), (0, steps - 1 - current)]
    tracks |= {field: np.pad(values, missing) for field, values in past.items()}
    ahead = _along(route.points, {field: past[field][ego, -1] for field in TRACKS}, missing[1][1], dt)
    for field, values in ahead.items():
        tracks[field][ego, current + 1 :] = values
    lights = read_lights(scenario, current + 1, centre(history.x, history.y, history.valid), notes)
    seen = {field: values for field, values in lights.fields().items() if field in ("light_x", "light_y")}
    seen |= {"light_state": np.pad(lights.state, missing), "light_valid": np.pad(lights.valid, missing)}
    road_type, road_points = read_road(scenario, notes)
    raw = RawScene(
        scenario_id=name,
        source=SOURCE,
        group=name,
        **tracks,
        ego=ego,
        road_type=road_type,
        road_points=road_points,
        **seen,
        light_on_route=np.isin(lights.lane, list(route.lanes)),
        route_x=route.points[:, 0],
        route_y=route.points[:, 1],
        route_speed_limit=route.speed_limit,
        current=current,
    )
    check_extent(raw)
    return raw


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
