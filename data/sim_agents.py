"""A scenario as the Waymo Open Sim Agents Challenge (WOSAC) reads it: agents to simulate, those evaluated, the map.

Read straight from the proto, since a `Scene` is padded, thinned and planar, and knows neither feature nor track ids.
A agents, T log steps, L traffic lights, P points.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tether.data.errors import DataError
from tether.data.raw import sound_lines
from tether.data.womd_lights import light_messages
from tether.data.womd_tracks import LARGEST_SIZE_M, LEAST_SIZE_M, Notes, boxes, repaired

SURFACE_STREET = 2  # LaneCenter.LaneType; the challenge leaves out lanes of undefined type
TRACK_FIELDS = {"x": "center_x", "y": "center_y", "z": "center_z", "heading": "heading"}
SIZES = ("length", "width", "height")
USUAL_HEIGHT_M = 1.7


@dataclasses.dataclass(frozen=True)
class SimAgentsScene:
    """A scenario as the challenge reads it, in world coordinates: its code pads with zeros, and these have a place.

    Attributes:
      scenario_id: name of the scenario.
      agent_id: int[A], track ids of the agents to simulate: all that are valid at the current step.
      agent_type: int[A], `AgentType`.
      evaluated: bool[A], the ego and the tracks to predict.
      x, y, z: float64[A, T], box centre [m]; at invalid steps whatever the source holds there, zeros as a rule.
      heading: float64[A, T], [rad], as the source has it: not wrapped.
      valid: bool[A, T].
      length, width, height: float64[A], box size at the current step [m].
      road_edges: float64[P, 3] each, road on the left.
      lanes: float64[P, 3] each, centre lines of surface streets only.
      lane_id: int[len(lanes)].
      light_lane: int[L], id of the lane that a light stops.
      light_x, light_y: float64[L, T], stop point [m]; 0 where the light is not observed.
      light_state: int[L, T], `LightState`; 0 where not observed.
      current: index of the current step, the last of the history.
      dt: log step [s].
    """

    scenario_id: str
    agent_id: np.ndarray
    agent_type: np.ndarray
    evaluated: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    heading: np.ndarray
    valid: np.ndarray
    length: np.ndarray
    width: np.ndarray
    height: np.ndarray
    road_edges: tuple[np.ndarray, ...]
    lanes: tuple[np.ndarray, ...]
    lane_id: np.ndarray
    light_lane: np.ndarray
    light_x: np.ndarray
    light_y: np.ndarray
    light_state: np.ndarray
    current: int = 10
    dt: float = 0.1


def read_sim_agents(scenario: Any) -> SimAgentsScene:
    """The challenge's view of a WOMD `Scenario` proto (`womd.parse_scenario`).

    It has all agents that are valid at the current step. A value that is not finite at that step is taken from before
    it. A box without size gets its type's usual one (`womd_tracks`). A track is not valid at steps without a state.

    Raises: DataError if the log's own vehicle lacks states, if no agent is valid now or one has no place,
      if two tracks have one id, or if the map or `tracks_to_predict` hold what is none.
    """
    name, current, steps = scenario.scenario_id, scenario.current_time_index, len(scenario.timestamps_seconds)
    own = len(scenario.tracks[scenario.sdc_track_index].states)
    if own != steps:
        raise DataError(f"expected {steps} states of the log's own vehicle, found {own}", "tracks", name)
    tracks = [track for track in scenario.tracks if len(track.states) > current and track.states[current].valid]
    tracks = list({(track.id, track.SerializeToString()): track for track in tracks}.values())
    if not tracks:
        raise DataError(f"no track is valid at step {current}", "tracks", name)
    agent_id = np.array([track.id for track in tracks])
    if len(set(agent_id.tolist())) < len(agent_id):
        raise DataError("expected one track for each id, found several that differ", "tracks.id", name)
    motion, valid = _read_motion(tracks, steps, current, name)
    agent_type = np.array([track.object_type for track in tracks])
    return SimAgentsScene(
        scenario_id=name,
        agent_id=agent_id,
        agent_type=agent_type,
        evaluated=np.isin(agent_id, _evaluated_ids(scenario)),
        current=current,
        **motion,
        valid=valid,
        **_read_boxes(agent_type, [track.states[current] for track in tracks]),
        **_read_map(scenario.map_features, name),
        **_read_lights(scenario.dynamic_map_states, steps),
    )


def _evaluated_ids(scenario: Any) -> list[int]:
    evaluated = {scenario.sdc_track_index, *(required.track_index for required in scenario.tracks_to_predict)}
    strange = sorted(index for index in evaluated if not 0 <= index < len(scenario.tracks))
    if strange:
        reason = f"expected indices of {len(scenario.tracks)} tracks, found {strange}"
        raise DataError(reason, "tracks_to_predict", scenario.scenario_id)
    return [scenario.tracks[index].id for index in evaluated]


def _read_motion(
    tracks: Sequence[Any], steps: int, current: int, record: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`TRACK_FIELDS` float64[A, T] and valid bool[A, T]."""
    fields = {name: np.zeros((len(tracks), steps)) for name in TRACK_FIELDS}
    valid = np.zeros((len(tracks), steps), bool)
    for row, track in enumerate(tracks):
        states = track.states[:steps]
        valid[row, : len(states)] = [state.valid for state in states]
        for name, field in TRACK_FIELDS.items():
            fields[name][row, : len(states)] = [getattr(state, field) for state in states]
    return repaired(fields, valid, current, record, Notes())


def _read_boxes(agent_type: np.ndarray, now: Sequence[Any]) -> dict[str, np.ndarray]:
    """`SIZES` float64[A] at the current step."""
    length, width, height = (np.array([getattr(state, name) for state in now], np.float64) for name in SIZES)
    bare = ~np.all([(size >= LEAST_SIZE_M) & (size <= LARGEST_SIZE_M) for size in (length, width)], axis=0)
    length, width = boxes(agent_type, bare, length, width)
    known = (height >= 0) & (height <= LARGEST_SIZE_M)  # a planar source has 0
    return {"length": length, "width": width, "height": np.where(known, height, USUAL_HEIGHT_M)}


def _read_map(features: Sequence[Any], record: str) -> dict[str, Any]:
    """Lines of two points or more: one point has no side, and leads nowhere."""
    edges = [f.road_edge.polyline for f in features if f.HasField("road_edge") and len(f.road_edge.polyline) > 1]
    lanes = [f for f in features if f.HasField("lane") and f.lane.type == SURFACE_STREET and len(f.lane.polyline) > 1]
    lines = [*map(_points, edges), *(_points(feature.lane.polyline) for feature in lanes)]
    sound = sound_lines(lines, "map", record)
    kept = [line if good else None for line, good in zip(lines, sound, strict=True)]
    return {
        "road_edges": tuple(line for line in kept[: len(edges)] if line is not None),
        "lanes": tuple(line for line in kept[len(edges) :] if line is not None),
        "lane_id": np.array([f.id for f, good in zip(lanes, sound[len(edges) :], strict=True) if good], np.int64),
    }


def _points(polyline: Sequence[Any]) -> np.ndarray:
    return np.array([(point.x, point.y, point.z) for point in polyline], np.float64).reshape(-1, 3)


def _read_lights(frames: Sequence[Any], steps: int) -> dict[str, np.ndarray]:
    logged = list(light_messages(frames, steps))
    rows = {lane: row for row, lane in enumerate(dict.fromkeys(state.lane for _, state in logged))}
    x, y = np.zeros((2, len(rows), steps))
    light_state = np.zeros((len(rows), steps), np.int32)
    for step, state in logged:
        row = rows[state.lane]
        stop = state.stop_point.x, state.stop_point.y
        if np.isfinite(stop).all():
            (x[row, step], y[row, step]), light_state[row, step] = stop, state.state
    return {"light_lane": np.array(list(rows), np.int64), "light_x": x, "light_y": y, "light_state": light_state}
