"""The messages of a WOMD `Scenario`, and how those that come by the thousand are read in bulk.

Only this module imports the protos, when asked. Source: waymo_open_dataset/protos/{scenario,map}.proto.
"""

import functools
from typing import Any

import numpy as np

from tether.data.errors import DataError

INSTALL = "the WOMD protos are missing: pip install --no-deps waymo-open-dataset-tf-2-12-0==1.6.7"

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
    """The byte layout of filled messages of a repeated field, and its constant bytes (tags and the size)."""
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


def read_states(track: Any) -> dict[str, np.ndarray]:
    """`STATE_FIELDS` of a track, float64[T], 0 where not valid, and valid bool[T]."""
    valid = np.array([state.valid for state in track.states], bool)
    seen = [state for state in track.states if state.valid]
    table = _table(protos()[0].Track(states=seen).SerializeToString(), STATE_LAYOUTS, len(seen))
    states = {"valid": valid}
    for name, field in STATE_FIELDS.items():
        states[name] = np.zeros(len(valid))
        states[name][valid] = [getattr(s, field) for s in seen] if table is None else table[name]
    return states
