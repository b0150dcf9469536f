"""`pad`: a ragged `LocalScene` becomes a `Record`, its `Scene` of the static sizes of a `SceneSpec`."""

import dataclasses

import numpy as np

from tether.data import tokenizer
from tether.data.errors import DataError
from tether.data.instruction import SampledRoute, sampled_route
from tether.data.polyline import arc_length, interpolate, simplify, walk, wrap
from tether.data.raw import (
    ROAD_TOLERANCE_M,
    LocalScene,
    RawScene,
    agent_distance,
    distance_to_path,
    first_steps,
    localize,
    sampled_path,
)
from tether.data.road_edges import starts_off_road
from tether.data.scene import DRIVING_LANE_TYPES, RING_TYPES, ROAD_EDGE_TYPES, Record, Scene, SceneSpec

EDGE_KEEP_M = 40.0
LIGHT_LATERAL_M = 2.5


@dataclasses.dataclass(frozen=True)
class Dropped:
    """The part of a scene that did not fit into the spec.

    Attributes:
      agents, polylines, lights: entries left out.
      tokens: of the instruction; its end, which is the end of the free text, is left out.
      nearest_polyline_m: distance from the ego's log to the nearest polyline left out; inf where none was.
    """

    agents: int
    polylines: int
    lights: int
    tokens: int
    nearest_polyline_m: float


def pad(scene: RawScene, spec: SceneSpec) -> Record:
    """Fits a scene into `spec`; one that is still in the world is moved to the ego's frame first.

    Only the first `spec.steps` of its log count. The agents that come nearest to the ego are kept, and the polylines
    nearest to the ego's log: first road edges within 40 m (they decide what is off-road), then the others, where edges
    and driving lanes count as half as far.
    Longer polylines are split into chunks that share their end points.

    Raises: DataError for a log shorter than `spec.steps` or another current step.
    """
    return pad_counted(scene, spec)[0]


def pad_counted(scene: RawScene, spec: SceneSpec) -> tuple[Record, Dropped]:
    """`pad`, and a count of the entries left out."""
    _check_steps(scene, spec)
    local = first_steps(scene if isinstance(scene, LocalScene) else localize(scene), spec.steps)
    agents, agents_dropped = _agents(local, spec)
    road, road_dropped, nearest = _road(local, spec)
    route = sampled_route(local, spec)
    lights, lights_dropped = _lights(local, spec, route)
    ids = tokenizer.encode(route.instruction, spec.text)
    fields = {**agents, **road, **lights, **_route_fields(route, spec)}
    scene = Scene(**fields, instruction=ids, map_tile=np.zeros((0, 0, 0), np.uint8))
    off_road = starts_off_road(scene, spec.current)
    record = Record(scene, local.scenario_id, local.source, local.group, route.instruction, local.origin, off_road)
    cut = max(len(tokenizer.tokens(route.instruction)) - spec.text, 0)
    return record, Dropped(agents_dropped, road_dropped, lights_dropped, cut, nearest)


def _check_steps(raw: RawScene, spec: SceneSpec) -> None:
    if raw.x.shape[1] < spec.steps:
        raise DataError(f"expected at least {spec.steps} steps, found {raw.x.shape[1]}", "x", raw.record_name)
    if raw.current != spec.current:
        raise DataError(f"expected {spec.current}, found {raw.current}", "current", raw.record_name)


def _fit(values: np.ndarray, rows: int, dtype: type, mask: np.ndarray | None = None) -> np.ndarray:
    """Zero-padded to `rows` along the first axis; masked-out entries become 0."""
    out = np.zeros((rows, *values.shape[1:]), dtype)
    out[: len(values)] = values if mask is None else np.where(mask, values, 0)
    return out


def _agents(local: LocalScene, spec: SceneSpec) -> tuple[dict[str, np.ndarray], int]:
    distance = agent_distance(local)
    distance[local.ego] = -1.0
    seen = np.flatnonzero(np.isfinite(distance) & local.valid.any(1))
    # Kept agents stay in the source's order, so that nothing downstream can rely on the ego being first.
    kept = np.sort(seen[np.argsort(distance[seen], kind="stable")[: spec.agents]])
    valid = local.valid[kept]
    fields = {"valid": _fit(valid, spec.agents, bool), "ego": np.int32(np.searchsorted(kept, local.ego))}
    for name in ("x", "y", "heading", "vel_x", "vel_y"):
        fields[name] = _fit(getattr(local, name)[kept], spec.agents, np.float32, valid)
    fields["heading"] = _wrap32(fields["heading"])
    for name, dtype in (("length", np.float32), ("width", np.float32), ("agent_type", np.int32)):
        fields[name] = _fit(getattr(local, name)[kept], spec.agents, dtype)
    return fields, len(seen) - len(kept)


def _wrap32(heading: np.ndarray) -> np.ndarray:
    """Rounds to float32 within [-pi, pi): a rounded heading may reach pi, which becomes -pi."""
    wrapped = wrap(heading).astype(np.float32)
    return np.where(wrapped >= np.float32(np.pi), np.float32(-np.pi), wrapped)


def _chunks(road_type: int, line: np.ndarray, points: int) -> list[np.ndarray]:
    """Parts of at most `points` points that share end points; rings are thinned instead, to stay closed."""
    if len(line) <= points:
        return [line]
    if road_type not in RING_TYPES:
        return [line[first : first + points] for first in range(0, len(line) - 1, points - 1)]
    tolerance = ROAD_TOLERANCE_M
    while len(line) > points:
        tolerance *= 2
        line = simplify([line], tolerance)[0]
    return [line]


def _road_order(types: np.ndarray, distance: np.ndarray) -> np.ndarray:
    edge = np.isin(types, ROAD_EDGE_TYPES)
    weight = np.where(edge | np.isin(types, DRIVING_LANE_TYPES), 0.5, 1.0)
    later = ~(edge & (distance < EDGE_KEEP_M))
    return np.lexsort((distance * weight, later))


def _road(local: LocalScene, spec: SceneSpec) -> tuple[dict[str, np.ndarray], int, float]:
    parts = [
        (int(road_type), part)
        for road_type, line in zip(local.road_type, local.road_points, strict=True)
        for part in _chunks(int(road_type), line, spec.points)
    ]
    distance = np.array([d.min() for d in distance_to_path([part for _, part in parts], sampled_path(local))])
    types = np.array([road_type for road_type, _ in parts], np.int32)
    order = _road_order(types, distance)
    kept, left = order[: spec.polylines], order[spec.polylines :]
    points = np.zeros((spec.polylines, spec.points, 2), np.float32)
    valid = np.zeros((spec.polylines, spec.points), bool)
    for row, part in enumerate(kept):
        line = parts[part][1]
        points[row, : len(line)], valid[row, : len(line)] = line, True
    fields = dict(road_x=points[..., 0], road_y=points[..., 1], road_valid=valid)
    fields["road_type"] = _fit(types[kept], spec.polylines, np.int32)
    return fields, len(left), float(distance[left].min(initial=np.inf))


def _route_fields(route: SampledRoute, spec: SceneSpec) -> dict[str, np.ndarray]:
    points, rows = route.points, spec.route_points
    return dict(
        route_x=_fit(points[:, 0], rows, np.float32),
        route_y=_fit(points[:, 1], rows, np.float32),
        route_speed_limit=_fit(route.speed_limit, rows, np.float32),
        route_valid=_fit(np.ones(len(points), bool), rows, bool),
    )


def _light_route_s(local: LocalScene, points: np.ndarray) -> np.ndarray:
    """Arc length of each stop point along the padded route, -1 where it is not on it: float64[L].

    Where the route comes by a stop point several times, about as near, the first time counts.
    """
    stops = np.stack([local.light_x, local.light_y], axis=1)
    s = np.array([walk(stop[None], points)[0] for stop in stops])
    beside = np.hypot(*(stops - interpolate(points, s)).T)
    beyond = (s <= 0.0) | (s >= arc_length(points)[-1])
    return np.where(local.light_on_route & (beside <= LIGHT_LATERAL_M) & ~beyond, s, -1.0)


def _lights(local: LocalScene, spec: SceneSpec, route: SampledRoute) -> tuple[dict[str, np.ndarray], int]:
    route_s = _light_route_s(local, route.points)
    to_ego = np.hypot(local.light_x, local.light_y)
    seen = np.flatnonzero(local.light_valid.any(1))
    kept = seen[np.lexsort((to_ego[seen], route_s[seen] < 0))][: spec.lights]
    valid = local.light_valid[kept]
    fields = dict(
        light_x=_fit(local.light_x[kept], spec.lights, np.float32),
        light_y=_fit(local.light_y[kept], spec.lights, np.float32),
        light_route_s=np.full(spec.lights, -1.0, np.float32),
        light_state=_fit(local.light_state[kept], spec.lights, np.int32, valid),
        light_valid=_fit(valid, spec.lights, bool),
    )
    fields["light_route_s"][: len(kept)] = route_s[kept]
    return fields, len(seen) - len(kept)
