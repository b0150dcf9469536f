"""A `LocalScene` as compact integers, and back: quantised, differenced, split into byte planes.

Tracks are rounded to 5 mm, 1 mrad and 2 cm/s, the map to 1 cm. Smooth motion has tiny second differences, and
once the high bytes stand together they compress to nothing: about 10 KB for a scene of 32 agents with its map.
"""

import pathlib
from collections.abc import Mapping

import numpy as np

from tether.data.errors import DataError
from tether.data.polyline import wrap
from tether.data.raw import LocalScene, check_extent

DATASET = "tether_scenes"
REQUEST_FILE, SUMMARY_FILE = "request.json", "summary.json"

TRACK_M = 0.005
MAP_M = 0.01
HEADING_RAD = 1e-3
SPEED_MPS = 0.02

TRACKS = (("x", TRACK_M), ("y", TRACK_M), ("heading", HEADING_RAD), ("vel_x", SPEED_MPS), ("vel_y", SPEED_MPS))
TEXTS = ("scenario_id", "source", "group", "note")
SINCE_1_1 = {"note": (b"",)}  # values of the fields that data sets of format 1.0.0 lack
VECTORS = {"shape": (np.int32, 4), "origin": (np.float64, 3)}
ARRAYS = (
    *(name for name, _ in TRACKS),
    *("valid", "length", "width", "agent_type"),
    *("road_type", "road_count", "road_x", "road_y"),
    *("light_x", "light_y", "light_state", "light_valid", "light_on_route"),
    *("route_x", "route_y", "route_speed_limit"),
)
Example = Mapping[str, str | np.ndarray]


def is_finished(directory: pathlib.Path) -> bool:
    """Whether a complete data set stands in `directory`: the request is written last."""
    return (directory / REQUEST_FILE).is_file()


def encode(local: LocalScene) -> dict[str, object]:
    """A scene as texts, `shape` int32[4] (N, T, ego, current), `origin` float64[3] and uint8 byte planes."""
    steps = local.x.shape[1]
    example = {name: getattr(local, name) for name in TEXTS}
    example["shape"] = np.array([len(local.x), steps, local.ego, local.current], np.int32)
    example["origin"] = np.asarray(local.origin, np.float64)
    integers = _agent_integers(local) | _road_integers(local) | _light_integers(local) | _route_integers(local)
    return example | {name: _planes(integers[name]) for name in ARRAYS}


def parse_example(payload: bytes) -> Example:
    """A stored record as `encode` made it.

    Raises: DataError for bytes that are no tf.Example, and for a field that is missing or of another kind.
    """
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        stored = tf_example_pb2.Example.FromString(payload).features.feature
    except DecodeError as error:
        raise DataError(f"expected a tf.Example, found bytes that do not parse as one ({error})") from error
    example = {}
    for name in (*TEXTS, *VECTORS, *ARRAYS):
        values = stored[name].bytes_list.value if name in stored else SINCE_1_1.get(name, ())
        if len(values) != 1:
            raise DataError(f"expected one value, found {len(values)}", name)
        example[name] = _text(name, values[0]) if name in TEXTS else _array(name, values[0])
    return example


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"expected text in UTF-8 ({error})", name) from error


def _array(name: str, value: bytes) -> np.ndarray:
    dtype, count = VECTORS.get(name, (np.uint8, len(value)))
    if len(value) != count * np.dtype(dtype).itemsize:
        raise DataError(f"expected {count * np.dtype(dtype).itemsize} bytes, found {len(value)}", name)
    return np.frombuffer(value, dtype)


def decode(example: Example) -> LocalScene:
    """The inverse of `encode`, within the quantisation; what was not valid comes back as 0.

    Raises: DataError for fields that do not fit together or hold what no scene does.
    """
    agents, steps, ego, current = example["shape"].tolist()
    if not (0 <= ego < agents and 0 <= current < steps):
        reason = f"expected agents, steps, ego < agents, current < steps, found {example['shape'].tolist()}"
        raise DataError(reason, "shape")
    if not np.isfinite(example["origin"]).all():
        raise DataError(f"expected finite values, found {example['origin'].tolist()}", "origin")
    integers = {name: _unplanes(name, example[name]) for name in ARRAYS}
    _check_lengths(integers, agents, steps)
    fields = {name: example[name] for name in TEXTS}
    fields |= _decode_agents(integers, agents, steps) | _decode_road(integers)
    fields |= _decode_lights(integers, steps) | _decode_route(integers)
    local = LocalScene(**fields, ego=ego, current=current, origin=example["origin"])
    check_extent(local)
    return local


def _check_lengths(integers: dict[str, np.ndarray], agents: int, steps: int) -> None:
    """Raises: DataError for an array of another length than the others ask for."""
    counts = integers["road_count"]
    if (counts < 0).any():
        raise DataError(f"expected numbers of points, found {counts.min()}", "road_count")
    lights, features, route = (len(integers[name]) for name in ("light_x", "road_count", "route_x"))
    expected = {name: agents * steps for name, _ in TRACKS} | {"valid": agents * steps}
    expected |= {name: agents for name in ("length", "width", "agent_type")}
    expected |= {"road_type": features, "road_x": counts.sum(), "road_y": counts.sum()}
    expected |= {"light_y": lights, "light_on_route": lights}
    expected |= {"light_state": lights * steps, "light_valid": lights * steps}
    expected |= {"route_y": route, "route_speed_limit": route}
    for name, count in expected.items():
        if len(integers[name]) != count:
            raise DataError(f"expected {count} values, found {len(integers[name])}", name)


def _planes(integers: np.ndarray) -> np.ndarray:
    """Signed integers as uint8[4 * n]: zigzag (small sizes of either sign become small numbers), lowest bytes first."""
    values = np.asarray(integers, np.int64).ravel()
    zigzag = ((values << 1) ^ (values >> 63)).astype("<u4")
    return zigzag.view(np.uint8).reshape(-1, 4).T.ravel()


def _unplanes(name: str, planes: np.ndarray) -> np.ndarray:
    if len(planes) % 4:
        raise DataError(f"expected 4 bytes for each value, found {len(planes)}", name)
    zigzag = np.ascontiguousarray(planes.reshape(4, -1).T).view("<u4").ravel().astype(np.int64)
    return (zigzag >> 1) ^ -(zigzag & 1)


def _quantise(values: np.ndarray, step: float) -> np.ndarray:
    return np.rint(np.asarray(values, np.float64) / step).astype(np.int64)


def _differences(values: np.ndarray, order: int) -> np.ndarray:
    """Differences along the last axis that `_sums` undoes exactly."""
    for _ in range(order):
        values = np.diff(values, axis=-1, prepend=0)
    return values


def _sums(values: np.ndarray, order: int) -> np.ndarray:
    for _ in range(order):
        values = np.cumsum(values, axis=-1)
    return values


def _held(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Invalid entries repeat the last valid one (0 before the first), so that they cost nothing."""
    last = np.maximum.accumulate(np.where(valid, np.arange(valid.shape[-1]), -1), axis=-1)
    return np.where(last >= 0, np.take_along_axis(np.where(valid, values, 0), np.maximum(last, 0), axis=-1), 0)


def _agent_integers(local: LocalScene) -> dict[str, np.ndarray]:
    values = {name: np.where(local.valid, getattr(local, name), 0.0) for name, _ in TRACKS}
    values["heading"] = np.unwrap(_held(values["heading"], local.valid), axis=-1)
    out = {name: _differences(_held(_quantise(values[name], step), local.valid), 2) for name, step in TRACKS}
    out["valid"] = _differences(local.valid.astype(np.int64), 1)
    out |= {name: _quantise(getattr(local, name), MAP_M) for name in ("length", "width")}
    return out | {"agent_type": local.agent_type}


def _decode_agents(integers: dict[str, np.ndarray], agents: int, steps: int) -> dict[str, np.ndarray]:
    valid = _sums(integers["valid"].reshape(agents, steps), 1) != 0
    out = {"valid": valid, "agent_type": integers["agent_type"].astype(np.int32)}
    for name, step in TRACKS:
        out[name] = np.where(valid, _sums(integers[name].reshape(agents, steps), 2) * step, 0.0)
    out["heading"] = wrap(out["heading"])
    return out | {name: integers[name] * MAP_M for name in ("length", "width")}


def _road_integers(local: LocalScene) -> dict[str, np.ndarray]:
    points = np.concatenate([np.zeros((0, 2)), *local.road_points])
    out = {f"road_{axis}": _differences(_quantise(points[:, i], MAP_M), 1) for i, axis in enumerate("xy")}
    return out | {
        "road_type": local.road_type,
        "road_count": np.array([len(line) for line in local.road_points], np.int64),
    }


def _decode_road(integers: dict[str, np.ndarray]) -> dict[str, object]:
    points = np.stack([_sums(integers[f"road_{axis}"], 1) * MAP_M for axis in "xy"], axis=1)
    ends = np.cumsum(integers["road_count"])
    lines = tuple(np.split(points, ends[:-1])) if len(ends) else ()
    return {"road_type": integers["road_type"].astype(np.int32), "road_points": lines}


def _light_integers(local: LocalScene) -> dict[str, np.ndarray]:
    out = {name: _quantise(getattr(local, name), MAP_M) for name in ("light_x", "light_y")}
    out["light_state"] = _differences(_held(np.asarray(local.light_state, np.int64), local.light_valid), 1)
    out["light_valid"] = _differences(local.light_valid.astype(np.int64), 1)
    return out | {"light_on_route": local.light_on_route.astype(np.int64)}


def _decode_lights(integers: dict[str, np.ndarray], steps: int) -> dict[str, np.ndarray]:
    valid = _sums(integers["light_valid"].reshape(-1, steps), 1) != 0
    out = {"light_valid": valid, "light_on_route": integers["light_on_route"] != 0}
    out["light_state"] = np.where(valid, _sums(integers["light_state"].reshape(-1, steps), 1), 0).astype(np.int32)
    return out | {name: integers[name] * MAP_M for name in ("light_x", "light_y")}


def _route_integers(local: LocalScene) -> dict[str, np.ndarray]:
    out = {name: _differences(_quantise(getattr(local, name), MAP_M), 2) for name in ("route_x", "route_y")}
    return out | {"route_speed_limit": _differences(_quantise(local.route_speed_limit, MAP_M), 1)}


def _decode_route(integers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out = {name: _sums(integers[name], 2) * MAP_M for name in ("route_x", "route_y")}
    return out | {"route_speed_limit": _sums(integers["route_speed_limit"], 1) * MAP_M}
