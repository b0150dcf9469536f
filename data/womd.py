"""Waymo Open Motion Dataset: `Scenario` protos in TFRecord files become `RawScene`s.

Only this module imports these protos, when asked; `sim_agents.py` reads them as well.
Source: waymo_open_dataset/protos/{scenario,map}.proto.
"""

import collections
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from data.egos import choose_egos
from data.errors import DataError, SkipLedger
from data.polyline import drop_repeats, wrap
from data.raw import RawScene, check_span, thin
from data.road_edges import road_on_left
from data.route import Lane, derive_route
from data.scene import RoadType
from data.tfrecord import read_records

INSTALL = "the WOMD protos are missing: pip install --no-deps waymo-open-dataset-tf-2-12-0==1.6.7"
EXAMPLE = "expected a WOMD Scenario proto, found a tf.Example: take Waymo's folder `scenario` instead of `tf_example`"
MPS_PER_MPH = 0.44704
SOURCE = "womd"
LEAST_SIZE_M = 0.05

# Proto enums to the codes of the tf.Example roadgraph. A lane of undefined type counts as a surface street, since the
# route and the renderer need it as a lane.
LANE_CODES = (RoadType.LANE_SURFACE, RoadType.LANE_FREEWAY, RoadType.LANE_SURFACE, RoadType.LANE_BIKE)
FIRST_LINE_CODE, FIRST_EDGE_CODE = RoadType.LINE_UNKNOWN, RoadType.EDGE_UNKNOWN
POLYGONS = {"crosswalk": RoadType.CROSSWALK, "speed_bump": RoadType.SPEED_BUMP, "driveway": RoadType.DRIVEWAY}

# Fields (name, number, type) of the messages that are read in bulk, with and without z.
POINT = (("x", 1, "<f8"), ("y", 2, "<f8"), ("z", 3, "<f8"))
STATE_HEAD = (("x", 2, "<f8"), ("y", 3, "<f8"), ("z", 4, "<f8"))
STATE_TAIL = (
    *(("length", 5, "<f4"), ("width", 6, "<f4"), ("height", 7, "<f4"), ("heading", 8, "<f4")),
    *(("vel_x", 9, "<f4"), ("vel_y", 10, "<f4"), ("valid", 11, "u1")),
)
STATE_FIELDS = {"x": "center_x", "y": "center_y", "length": "length", "width": "width", "heading": "heading"}
STATE_FIELDS |= {"vel_x": "velocity_x", "vel_y": "velocity_y"}
WIRE_TYPES = {"<f8": 1, "<f4": 5, "u1": 0}


def _layout(number: int, fields: tuple[tuple[str, int, str], ...]) -> tuple[np.dtype, dict[str, int]]:
    """How filled messages of a repeated field lie in bytes, and the constant ones among those (tags and the size)."""
    columns = [(name, kind) for field, _, kind in fields for name, kind in ((f"{field}_tag", "u1"), (field, kind))]
    dtype = np.dtype([("tag", "u1"), ("size", "u1"), *columns])
    constants = {f"{field}_tag": number << 3 | WIRE_TYPES[kind] for field, number, kind in fields}
    return dtype, {"tag": number << 3 | 2, "size": dtype.itemsize - 2} | constants


POINT_LAYOUTS = (_layout(2, POINT), _layout(2, POINT[:2]))
STATE_LAYOUTS = (_layout(3, STATE_HEAD + STATE_TAIL), _layout(3, STATE_HEAD[:2] + STATE_TAIL))


@functools.cache
def protos() -> tuple[Any, Any]:
    """The modules of `Scenario` and of its map. Raises: DataError where they cannot be imported."""
    try:
        from waymo_open_dataset.protos import map_pb2, scenario_pb2
    except (ImportError, TypeError) as error:  # TypeError: made for another version of protobuf
        raise DataError(f"{INSTALL} ({str(error).partition(chr(10))[0]})") from error
    return scenario_pb2, map_pb2


def is_example(payload: bytes) -> bool:
    """Whether bytes are a tf.Example, the other form in which WOMD is published."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        return len(tf_example_pb2.Example.FromString(payload).features.feature) > 0
    except DecodeError:
        return False


def parse_scenario(payload: bytes) -> Any:
    """A `Scenario` proto. Raises: DataError if the bytes are another message, or an index points at nothing."""
    from google.protobuf.message import DecodeError

    try:
        scenario = protos()[0].Scenario.FromString(payload)
    except DecodeError as error:
        reason = f"expected a WOMD Scenario proto, found bytes that do not parse as one ({error})"
        raise DataError(EXAMPLE if is_example(payload) else reason) from error
    if not scenario.scenario_id or not scenario.tracks or not scenario.timestamps_seconds:
        reason = "expected a WOMD Scenario proto, found one without scenario_id, tracks or timestamps"
        raise DataError(EXAMPLE if is_example(payload) else reason)
    lengths = {"current_time_index": scenario.timestamps_seconds, "sdc_track_index": scenario.tracks}
    for name, entries in lengths.items():
        if not 0 <= getattr(scenario, name) < len(entries):
            reason = f"expected an index of {len(entries)} entries, found {getattr(scenario, name)}"
            raise DataError(reason, name, scenario.scenario_id)
    return scenario


def read_file(
    path: str,
    ledger: SkipLedger,
    egos: int = 1,
    groups: Mapping[str, str] | None = None,
    keep: Callable[[str], bool] = lambda group: True,
) -> Iterator[RawScene]:
    """Scenes of all records of a file; what is damaged goes to the ledger.

    Args:
      path: of a TFRecord file, local or remote.
      ledger: counts records seen and skipped, and stops the reading past its share.
      egos: most egos per record: the SDC first if it moves, then other vehicles, see `choose_egos`.
      groups: location group by scenario id; without it each scenario is its own group.
      keep: says of a group whether its scenes are wanted.
    """
    for index, payload in enumerate(read_records(path)):
        ledger.see(path, str(index))
        scenes: list[RawScene] = []
        notes: collections.Counter[str] = collections.Counter()
        with ledger.guard(path, str(index)):
            scenes = _wanted_scenes(payload, egos, groups, keep, notes)
            ledger.note(path, str(index), notes)
        yield from scenes


def _wanted_scenes(
    payload: bytes | DataError,
    egos: int,
    groups: Mapping[str, str] | None,
    keep: Callable[[str], bool],
    notes: collections.Counter,
) -> list[RawScene]:
    if isinstance(payload, DataError):
        raise payload
    scenario = parse_scenario(payload)
    name = scenario.scenario_id
    if groups is not None and name not in groups:
        raise DataError("its location group is not in the manifest", "scenario_id", name)
    group = name if groups is None else groups[name]
    return convert(scenario, group, egos) if keep(group) else []


def convert(scenario: Any, group: str, egos: int = 1) -> list[RawScene]:
    """One `RawScene` per ego, in world coordinates, with a route derived from lanes and log.

    Raises: DataError for inconsistent messages or if no track can be an ego.
    """
    tracks = read_tracks(scenario)
    chosen = choose_egos(tracks, scenario.sdc_track_index, egos)
    if not chosen:
        raise DataError("no valid ego: no vehicle is valid at every step and moves", "tracks", scenario.scenario_id)
    road_type, road_points = read_road(scenario)
    lanes = read_lanes(scenario)
    lights = read_lights(scenario)
    shared = dict(
        scenario_id=scenario.scenario_id,
        source=SOURCE,
        group=group,
        current=scenario.current_time_index,
        road_type=road_type,
        road_points=road_points,
        **{name: values for name, values in lights.items() if name != "lane"},
        **tracks,
    )
    return [_with_ego(shared, ego, lanes, lights["lane"]) for ego in chosen]


def _with_ego(shared: dict[str, Any], ego: int, lanes: dict[int, Lane], light_lane: np.ndarray) -> RawScene:
    route = derive_route(*(shared[name][ego] for name in ("x", "y", "heading")), lanes)
    return RawScene(
        **shared,
        ego=ego,
        route_x=route.points[:, 0],
        route_y=route.points[:, 1],
        route_speed_limit=route.speed_limit,
        light_on_route=np.isin(light_lane, list(route.lanes)),
    )


def _table(wrapped: bytes, layouts: tuple[tuple[np.dtype, dict[str, int]], ...], count: int) -> np.ndarray | None:
    """Repeated messages as a structured array, None unless every one is filled exactly as in one of the layouts.

    Ten times faster than attribute access: a scenario holds some 10,000 states and 10,000 map points.
    """
    for dtype, constants in layouts:
        if len(wrapped) == count * dtype.itemsize:
            table = np.frombuffer(wrapped, dtype)
            if all((table[name] == byte).all() for name, byte in constants.items()):
                return table
    return None


def read_points(points: Any) -> np.ndarray:
    """A repeated MapPoint as float64[K, 2]."""
    wrapped = protos()[1].RoadLine(polyline=points).SerializeToString()
    table = _table(wrapped, POINT_LAYOUTS, len(points))
    if table is None:
        return np.array([(p.x, p.y) for p in points], np.float64).reshape(-1, 2)
    return np.stack([table["x"], table["y"]], axis=1)


def _read_states(track: Any) -> dict[str, np.ndarray]:
    """`STATE_FIELDS` float64[T], 0 where not valid, and valid bool[T]."""
    valid = np.array([state.valid for state in track.states], bool)
    seen = [state for state in track.states if state.valid]
    table = _table(protos()[0].Track(states=seen).SerializeToString(), STATE_LAYOUTS, len(seen))
    states = {"valid": valid}
    for name, field in STATE_FIELDS.items():
        states[name] = np.zeros(len(valid))
        states[name][valid] = [getattr(s, field) for s in seen] if table is None else table[name]
    return states


def read_tracks(scenario: Any) -> dict[str, np.ndarray]:
    """x, y, heading, vel_x, vel_y float64[N, T], valid bool[N, T]; length, width (mean over valid steps), agent_type.

    Raises: DataError for a track of another length than the scenario, values that are not finite, boxes without size.
    """
    steps = len(scenario.timestamps_seconds)
    states = [_read_states(track) for track in scenario.tracks]
    lengths = {len(s["valid"]) for s in states}
    if lengths != {steps}:
        raise DataError(f"expected {steps} states per track, found {sorted(lengths)}", "tracks", scenario.scenario_id)
    valid = np.stack([s["valid"] for s in states])
    fields = {name: np.stack([s[name] for s in states]) for name in STATE_FIELDS}
    broken = [name for name, values in fields.items() if not np.isfinite(values).all()]
    if broken:
        raise DataError("expected finite values at valid steps, found others", ", ".join(broken), scenario.scenario_id)
    for axis in ("x", "y"):
        check_span(fields[axis][valid], axis, scenario.scenario_id)
    fields["heading"] = wrap(fields["heading"])
    seen = np.maximum(valid.sum(1), 1)
    sizes = {name: fields.pop(name).sum(1) / seen for name in ("length", "width")}
    flat = valid.any(1) & (np.minimum(sizes["length"], sizes["width"]) < LEAST_SIZE_M)
    if flat.any():
        reason = f"expected boxes of at least {LEAST_SIZE_M} m, found smaller ones in {flat.sum()} tracks"
        raise DataError(reason, "length, width", scenario.scenario_id)
    return {**fields, **sizes, "valid": valid, "agent_type": np.array([t.object_type for t in scenario.tracks])}


def _road_feature(feature: Any) -> tuple[int, np.ndarray]:
    """RoadType and points of a map feature; no points for one that carries no data."""
    kind = feature.WhichOneof("feature_data")
    if kind is None:
        return RoadType.PADDING, np.zeros((0, 2))
    data = getattr(feature, kind)
    if kind == "lane":
        return LANE_CODES[data.type], read_points(data.polyline)
    if kind == "road_line":
        return FIRST_LINE_CODE + data.type, read_points(data.polyline)
    if kind == "road_edge":
        return FIRST_EDGE_CODE + data.type, read_points(data.polyline)
    if kind == "stop_sign":
        return RoadType.STOP_SIGN, read_points([data.position])
    return POLYGONS[kind], read_points(data.polygon)


def road_features(scenario: Any) -> list[tuple[int, np.ndarray]]:
    """RoadType and points float64[K, 2] of each map feature that has any, as the map spaces them.

    Raises: DataError for points that are not finite or too far apart to be of one scene.
    """
    features = [_road_feature(feature) for feature in scenario.map_features]
    check_span(np.concatenate([np.zeros((0, 2)), *(points for _, points in features)]), "map", scenario.scenario_id)
    return [(int(code), points) for code, points in features if len(points)]


def read_road(scenario: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Road types int[F] and points, thinned once for all egos, edges with the road on their left."""
    features = road_features(scenario)
    codes = np.array([code for code, _ in features], np.int32)
    return codes, road_on_left(codes, tuple(thin(codes.tolist(), [points for _, points in features])))


def read_lanes(scenario: Any) -> dict[int, Lane]:
    """The driving lanes (no bike lanes) of two or more points, by feature id."""
    lanes = {}
    for feature in scenario.map_features:
        if feature.WhichOneof("feature_data") != "lane" or LANE_CODES[feature.lane.type] == RoadType.LANE_BIKE:
            continue
        lane, points = feature.lane, drop_repeats(read_points(feature.lane.polyline))
        if len(points) > 1:
            neighbors = tuple(n.feature_id for n in (*lane.left_neighbors, *lane.right_neighbors))
            limit = lane.speed_limit_mph * MPS_PER_MPH
            lanes[feature.id] = Lane(points, tuple(lane.exit_lanes), tuple(lane.entry_lanes), neighbors, limit)
    return lanes


def read_lights(scenario: Any) -> dict[str, np.ndarray]:
    """lane int[L], light_x, light_y float64[L], light_state int[L, T], light_valid bool[L, T]."""
    steps = len(scenario.timestamps_seconds)
    logged = [(t, s) for t, frame in enumerate(scenario.dynamic_map_states[:steps]) for s in frame.lane_states]
    rows = {lane: row for row, lane in enumerate(dict.fromkeys(s.lane for _, s in logged))}
    x, y = np.zeros(len(rows)), np.zeros(len(rows))
    state, valid = np.zeros((len(rows), steps), np.int32), np.zeros((len(rows), steps), bool)
    for t, s in logged:
        row = rows[s.lane]
        state[row, t], valid[row, t] = s.state, s.HasField("stop_point")
        if valid[row, t]:
            x[row], y[row] = s.stop_point.x, s.stop_point.y
    for axis, values in (("x", x), ("y", y)):
        check_span(values[valid.any(1)], f"stop_point.{axis}", scenario.scenario_id)
    lane = np.array(list(rows), np.int64)
    return dict(lane=lane, light_x=x, light_y=y, light_state=state, light_valid=valid)
