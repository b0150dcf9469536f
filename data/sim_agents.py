"""What the Waymo Open Sim Agents Challenge (WOSAC) asks of a scenario: who is simulated, who is judged, on which map.

Read straight from the proto, since a `Scene` is padded, thinned and planar, and knows neither feature nor track ids.
A agents, T log steps, L traffic lights, P points.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.errors import DataError

SURFACE_STREET = 2  # LaneCenter.LaneType
TRACK_FIELDS = {"x": "center_x", "y": "center_y", "z": "center_z", "heading": "heading", "valid": "valid"}
SIZES = ("length", "width", "height")


@dataclasses.dataclass(frozen=True)
class SimAgentsScene:
    """A scenario as the challenge reads it, in world coordinates: its code pads with zeros, and these have a place.

    Attributes:
      scenario_id: name of the scenario.
      agent_id: int[A], track ids of the agents to simulate: all that are valid at the current step.
      agent_type: int[A], `AgentType`.
      evaluated: bool[A], judged: the ego and the tracks to predict.
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

    Raises: DataError if the tracks and the timestamps differ in length, or nobody is there at the current step.
    """
    current, steps = scenario.current_time_index, len(scenario.timestamps_seconds)
    lengths = {len(track.states) for track in scenario.tracks}
    if lengths != {steps}:
        raise DataError(f"expected {steps} states per track, found {sorted(lengths)}", "tracks", scenario.scenario_id)
    tracks = [track for track in scenario.tracks if track.states[current].valid]
    if not tracks:
        raise DataError(f"no track is valid at step {current}", "tracks", scenario.scenario_id)
    judged = {scenario.sdc_track_index, *(required.track_index for required in scenario.tracks_to_predict)}
    judged_ids = [scenario.tracks[index].id for index in judged]
    agent_id = np.array([track.id for track in tracks])
    return SimAgentsScene(
        scenario_id=scenario.scenario_id,
        agent_id=agent_id,
        agent_type=np.array([track.object_type for track in tracks]),
        evaluated=np.isin(agent_id, judged_ids),
        current=current,
        **{
            name: np.array([[getattr(s, field) for s in t.states] for t in tracks])
            for name, field in TRACK_FIELDS.items()
        },
        **{name: np.array([getattr(t.states[current], name) for t in tracks]) for name in SIZES},
        **_read_map(scenario.map_features),
        **_read_lights(scenario.dynamic_map_states, steps),
    )


def _read_map(features: Sequence[Any]) -> dict[str, Any]:
    edges = [feature.road_edge.polyline for feature in features if feature.HasField("road_edge")]
    lanes = [f for f in features if f.HasField("lane") and f.lane.type == SURFACE_STREET]
    return {
        "road_edges": tuple(_points(polyline) for polyline in edges),
        "lanes": tuple(_points(feature.lane.polyline) for feature in lanes),
        "lane_id": np.array([feature.id for feature in lanes], np.int64),
    }


def _points(polyline: Sequence[Any]) -> np.ndarray:
    return np.array([(point.x, point.y, point.z) for point in polyline], np.float64).reshape(-1, 3)


def _read_lights(frames: Sequence[Any], steps: int) -> dict[str, np.ndarray]:
    logged = [(step, state) for step, frame in enumerate(frames[:steps]) for state in frame.lane_states]
    rows = {lane: row for row, lane in enumerate(dict.fromkeys(state.lane for _, state in logged))}
    x, y = np.zeros((2, len(rows), steps))
    light_state = np.zeros((len(rows), steps), np.int32)
    for step, state in logged:
        row = rows[state.lane]
        x[row, step], y[row, step], light_state[row, step] = state.stop_point.x, state.stop_point.y, state.state
    return {"light_lane": np.array(list(rows), np.int64), "light_x": x, "light_y": y, "light_state": light_state}
