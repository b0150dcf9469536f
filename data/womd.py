"""Waymo Open Motion Dataset: `Scenario` protos in TFRecord files become `RawScene`s.

A log is first brought to the default spec: steps of 0.1 s, as many as a scene has, and the current one at its index.
The ego is chosen by these steps alone, and so are the things near it.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tether.data.egos import choose_egos
from tether.data.errors import DataError, SkipLedger
from tether.data.physics import STEP_S, check_times, even_steps
from tether.data.polyline import drop_repeats
from tether.data.raw import RawScene, check_extent, sound_lines, thin
from tether.data.road_edges import road_on_left
from tether.data.route import Lane, derive_route
from tether.data.scene import DRIVING_LANE_TYPES, ROAD_EDGE_TYPES, AgentType, RoadType, SceneSpec
from tether.data.tfrecord import read_records
from tether.data.womd_lights import Lights, read_lights
from tether.data.womd_proto import protos, read_points
from tether.data.womd_tracks import Notes, Tracks, centre, read_tracks, resampled, sound_tracks, with_derived_velocities

EXAMPLE = "expected a WOMD Scenario proto, found a tf.Example: take Waymo's folder `scenario` instead of `tf_example`"
MPS_PER_MPH = 0.44704
FASTEST_LIMIT_MPH = 130.0
NOT_USED = "steps of logs that are not used"
RESAMPLED_S = 0.01  # a log whose times are nearer to even steps than this is not resampled
SOURCE = "womd"
MOST_LETTERS, MOST_STATES, MOST_POINTS, MOST_LINE_POINTS = 200, 1_000_000, 500_000, 20_000

# Proto enums to the codes of the tf.Example roadgraph. A lane of undefined type counts as a surface street, since the
# route and the renderer need it as a lane.
LANE_CODES = (RoadType.LANE_SURFACE, RoadType.LANE_FREEWAY, RoadType.LANE_SURFACE, RoadType.LANE_BIKE)
FIRST_LINE_CODE, FIRST_EDGE_CODE = RoadType.LINE_UNKNOWN, RoadType.EDGE_UNKNOWN
POLYGONS = {"crosswalk": RoadType.CROSSWALK, "speed_bump": RoadType.SPEED_BUMP, "driveway": RoadType.DRIVEWAY}


@dataclasses.dataclass(frozen=True)
class LogOptions:
    """Permitted corrections of faulty logs. Each is counted in the summary.

    Attributes:
      resample: logs of another rate, or with gaps of up to 0.55 s, are resampled to 10 Hz.
      derive_velocities: velocities that contradict the positions are taken from the positions.
      windows: a log that is long enough for several scenes becomes several, one after the other.
    """

    resample: bool = False
    derive_velocities: bool = False
    windows: bool = False


@dataclasses.dataclass(frozen=True)
class Log:
    """A log of 0.1 s steps, or a window of one.

    Attributes:
      name: scenario id; where it is a window of several, with `@` and its first step.
      tracks: the tracks without fault.   own: row of the log's own vehicle.
      lights: see `read_lights`.
      current: index of the current step.
    """

    name: str
    tracks: Tracks
    own: int
    lights: Lights
    current: int


def check_sizes(scenario: Any) -> None:
    """Raises: DataError for a message so large that memory or time would be spent on it that no log needs.

    Real logs hold up to some 50,000 states and 70,000 points; arrays are as large as the product of two lengths, which
    a message of few bytes can name.
    """
    name, times = scenario.scenario_id[:MOST_LETTERS], len(scenario.timestamps_seconds)
    lights = {message.lane for frame in scenario.dynamic_map_states for message in frame.lane_states}
    kinds = ((feature, feature.WhichOneof("feature_data")) for feature in scenario.map_features)
    shapes = [getattr(feature, kind) for feature, kind in kinds if kind not in (None, "stop_sign")]
    points = [len(shape.polygon if hasattr(shape, "polygon") else shape.polyline) for shape in shapes]
    sizes = {
        "scenario_id": (len(scenario.scenario_id), MOST_LETTERS, "letters"),
        "tracks": (len(scenario.tracks) * times, MOST_STATES, "tracks times steps"),
        "dynamic_map_states": (len(lights) * times, MOST_STATES, "traffic lights times steps"),
        "map_features": (sum(points), MOST_POINTS, "points"),
        "polyline": (max(points, default=0), MOST_LINE_POINTS, "points of one map feature"),
    }
    for field, (count, most, what) in sizes.items():
        if count > most:
            raise DataError(f"expected at most {most} {what}, found {count}", field, name)


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
            raise DataError(reason, name, scenario.scenario_id[:MOST_LETTERS])
    check_sizes(scenario)
    return scenario


def read_file(
    path: str,
    ledger: SkipLedger,
    egos: int = 1,
    groups: Mapping[str, str] | None = None,
    keep: Callable[[str], bool] = lambda group: True,
    options: LogOptions = LogOptions(),
    texts: Mapping[str, str] | None = None,
) -> Iterator[RawScene]:
    """Yields the scenes of all records of a file. The ledger counts damaged records, and notes about the others.

    Args:
      path: of a TFRecord file, local or remote.
      ledger: counts records seen and skipped, and stops the reading past its fraction.
      egos: most egos per record: the SDC first if it moves, then other vehicles, see `choose_egos`.
      groups: location group by scenario id; without it each scenario is its own group.
      keep: whether the scenes of a group are wanted.
      options: permitted corrections of faulty logs.
      texts: free text by scenario id, where there is any.
    """
    for index, payload in enumerate(read_records(path)):
        ledger.see(path, str(index))
        scenes: list[RawScene] = []
        notes = Notes()
        with ledger.guard(path, str(index)):
            if isinstance(payload, DataError):
                raise payload
            scenario = parse_scenario(payload)
            group = _group(scenario.scenario_id, groups)
            if keep(group):
                text = (texts or {}).get(scenario.scenario_id, "")
                made = convert(scenario, group, egos, options, notes)
                scenes = [dataclasses.replace(scene, note=text) for scene in made]
                ledger.note(path, str(index), notes)
        yield from scenes


def _group(name: str, groups: Mapping[str, str] | None) -> str:
    if groups is not None and name not in groups:
        raise DataError("its location group is not in the manifest", "scenario_id", name)
    return name if groups is None else groups[name]


def convert(
    scenario: Any,
    group: str,
    egos: int = 1,
    options: LogOptions = LogOptions(),
    notes: Notes | None = None,
) -> list[RawScene]:
    """One `RawScene` per ego (and window), in world coordinates, with a route derived from lanes and log.

    Args:
      scenario: a `Scenario` proto.
      group: location group.
      egos: most egos of a window.
      options: permitted corrections of a faulty log.
      notes: counts what was left out or changed, by kind.

    Raises: DataError for inconsistent messages, times or tracks, or if no track can be an ego.
    """
    notes = Notes() if notes is None else notes
    chosen: list[tuple[Log, list[int]]] = []
    errors: list[DataError] = []
    for log in read_logs(scenario, options, notes):
        if isinstance(log, DataError):
            errors.append(log)
        elif rows := choose_egos(log.tracks.fields(), log.own, egos):
            chosen.append((log, rows))
        else:
            reason = "no valid ego: no vehicle is valid at every step and moves"
            errors.append(DataError(reason, "tracks", scenario.scenario_id))
    if not chosen:
        raise errors[0]
    notes["windows of long logs left out"] += len(errors)
    road_type, road_points = read_road(scenario, notes)
    lanes = read_lanes(scenario, notes)
    notes["logs without a road edge: nothing is off the road"] += not np.isin(road_type, ROAD_EDGE_TYPES).any()
    notes["logs without a driving lane: routes follow the log"] += not lanes
    scenes = []
    for log, rows in chosen:
        kind = AgentType(log.tracks.agent_type[log.own])
        if kind != AgentType.VEHICLE:
            notes[f"log's own vehicle is of type {kind.name}, another one is the ego"] += 1
        shared = dict(scenario_id=log.name, source=SOURCE, group=group, current=log.current)
        shared |= dict(road_type=road_type, road_points=road_points, **log.lights.fields(), **log.tracks.fields())
        scenes += [_with_ego(shared, ego, lanes, log.lights.lane) for ego in rows]
    return scenes


def read_logs(scenario: Any, options: LogOptions, notes: Notes) -> Iterator[Log | DataError]:
    """The log as steps of 0.1 s, no more than a scene has, or as several such windows.

    A window with a fault yields its `DataError` in its place. Raises: DataError for a fault of the whole log.
    """
    name, spec = scenario.scenario_id, SceneSpec()
    times = np.array(scenario.timestamps_seconds)
    tracks, current = read_tracks(scenario), scenario.current_time_index
    lights = read_lights(scenario, len(times), centre(tracks.x, tracks.y, tracks.valid), notes)
    if not options.resample and not options.windows:
        notes[NOT_USED] += max(len(times) - spec.steps, 0)
        times, tracks, lights = times[: spec.steps], tracks.steps(0, spec.steps), lights.steps(slice(spec.steps))
    if options.resample or options.derive_velocities:
        check_times(times, name, resample=True)
    if options.derive_velocities:
        tracks = with_derived_velocities(tracks, times, notes)
    if options.resample:
        times, tracks, lights, current = _at_even_steps(times, tracks, lights, current, notes)
    count = max(len(times) // spec.steps, 1) if options.windows else 1
    current = spec.current if count > 1 else current
    notes[NOT_USED] += max(len(times) - count * spec.steps, 0)
    for first in range(0, count * spec.steps, spec.steps):
        at, part = times[first : first + spec.steps], tracks.steps(first, first + spec.steps)
        try:
            check_times(at, name)
            if len(at) < spec.steps:
                raise DataError(f"expected at least {spec.steps} steps, found {len(at)}", "timestamps_seconds", name)
            if current != spec.current:
                reason = f"expected the current step {spec.current}, found {current}"
                raise DataError(reason, "current_time_index", name)
            sound, own = sound_tracks(part, at, scenario.sdc_track_index, name, notes)
        except DataError as error:
            yield error
        else:
            label = f"{name}@{first}" if count > 1 else name
            yield Log(label, sound, own, lights.steps(slice(first, first + spec.steps)), current)


def _at_even_steps(
    times: np.ndarray, tracks: Tracks, lights: Lights, current: int, notes: Notes
) -> tuple[np.ndarray, Tracks, Lights, int]:
    """The log at 0.1 s steps. Its current step is that of the spec; earlier steps are not used.

    If a log begins too late for the spec's history, a later step becomes the current one.
    """
    wanted, at = even_steps(times, float(times[current]))
    if len(wanted) == len(times) and np.abs(wanted - times).max() < RESAMPLED_S:
        return times, tracks, lights, current
    notes["logs resampled to 10 Hz"] += 1
    notes[NOT_USED] += max(at - SceneSpec.current, 0)
    wanted = wanted[max(at - SceneSpec.current, 0) :]
    before = np.clip(np.searchsorted(times, wanted + RESAMPLED_S) - 1, 0, len(times) - 1)
    even = wanted[0] + STEP_S * np.arange(len(wanted))
    return even, resampled(tracks, times, wanted), lights.steps(before), SceneSpec.current


def _with_ego(shared: dict[str, Any], ego: int, lanes: dict[int, Lane], light_lane: np.ndarray) -> RawScene:
    route = derive_route(*(shared[name][ego] for name in ("x", "y", "heading")), lanes)
    raw = RawScene(
        **shared,
        ego=ego,
        route_x=route.points[:, 0],
        route_y=route.points[:, 1],
        route_speed_limit=route.speed_limit,
        light_on_route=np.isin(light_lane, list(route.lanes)),
    )
    check_extent(raw)
    return raw


def _road_feature(feature: Any) -> tuple[int, np.ndarray]:
    """RoadType and points of a map feature; `RoadType.PADDING` for a kind that the protos do not know."""
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
        return RoadType.STOP_SIGN, read_points([data.position] if data.HasField("position") else [])
    return POLYGONS[kind], read_points(data.polygon)


def road_features(scenario: Any, notes: Notes | None = None) -> list[tuple[int, np.ndarray]]:
    """RoadType and points float64[K, 2] of each map feature that has any, as the map spaces them.

    Args: notes: counts the others.
    Raises: as `sound_features`.
    """
    return [(code, points) for _, code, points in sound_features(scenario, notes)]


def sound_features(scenario: Any, notes: Notes | None = None) -> list[tuple[Any, int, np.ndarray]]:
    """The map features that can be used: proto, RoadType and points float64[K, 2]. Args: notes: counts the others.

    Raises: DataError where most features have points that are not finite or too far apart to be of one scene.
    """
    features = map_features(scenario)
    read = [_road_feature(feature) for feature in features]
    sound = sound_lines([points for _, points in read], "map", scenario.scenario_id)
    if notes is not None:
        unknown = sum(code == RoadType.PADDING for code, _ in read)
        notes["map features left out: of an unknown kind"] += unknown
        notes["map features left out: no points"] += sum(not len(points) for _, points in read) - unknown
        notes["map features left out: points that are not finite, or far from the scene"] += int((~sound).sum())
        notes["map features left out: there twice"] += len(scenario.map_features) - len(features)
    listed = zip(features, read, sound, strict=True)
    return [(feature, int(code), points) for feature, (code, points), good in listed if good and len(points)]


def map_features(scenario: Any) -> list[Any]:
    """The map features; one that is there twice, id and all, counts once."""
    ids = collections.Counter(feature.id for feature in scenario.map_features)
    features: dict[Any, Any] = {}
    for index, feature in enumerate(scenario.map_features):
        features.setdefault(index if ids[feature.id] == 1 else feature.SerializeToString(), feature)
    return list(features.values())


def read_road(scenario: Any, notes: Notes | None = None) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Road types int[F] and points, thinned once for all egos, edges with the road on their left. Args: as before."""
    features = road_features(scenario, notes)
    codes = np.array([code for code, _ in features], np.int32)
    return codes, road_on_left(codes, tuple(thin(codes.tolist(), [points for _, points in features])))


def read_lanes(scenario: Any, notes: Notes | None = None) -> dict[int, Lane]:
    """The driving lanes (no bike lanes) of two or more points, by feature id.

    Args: notes: counts speed limits that are none (not finite, negative, above 130 mph): they are unknown.
    """
    lanes = {}
    for feature, code, points in sound_features(scenario):
        lane, points = feature.lane, drop_repeats(points)
        if code in DRIVING_LANE_TYPES and len(points) > 1:
            neighbors = tuple(n.feature_id for n in (*lane.left_neighbors, *lane.right_neighbors))
            known = 0 <= lane.speed_limit_mph <= FASTEST_LIMIT_MPH
            limit = lane.speed_limit_mph * MPS_PER_MPH if known else 0.0
            if not known and notes is not None:
                notes["lanes whose speed limit is none"] += 1
            lanes[feature.id] = Lane(points, tuple(lane.exit_lanes), tuple(lane.entry_lanes), neighbors, limit)
    return lanes
