"""The output of every source, a `RawScene` in world coordinates, and its `LocalScene` in the frame of the ego."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tether.data.errors import DataError
from tether.data.polyline import arc_length, drop_repeats, foot_on_segments, interpolate, resample, simplify, walk, wrap
from tether.data.scene import RING_TYPES

ROAD_TOLERANCE_M = 0.05
ROAD_RADIUS_M = 150.0
AGENT_RADIUS_M = 150.0
ROUTE_BEHIND_M = 15.0
AT_ONCE = 20_000  # segments compared with a path at once, to bound memory
LARGEST_M = 1e5  # across; a scene is some hundred metres, and a broken coordinate would cost memory by the metre


@dataclasses.dataclass(frozen=True)
class RawScene:
    """A logged scenario as a source knows it. Arrays may be larger than any `SceneSpec`; nothing is padded.

    N agents, T steps of 0.1 s, F road features, L lights, K route points. Entries where `valid` is False are ignored.

    Attributes:
      scenario_id, source, group: see `data.scene.Record`.
      x, y, heading, vel_x, vel_y: float64[N, T], box centre [m], [rad], [m/s].
      valid: bool[N, T].
      length, width: float64[N], [m].
      agent_type: int[N], `AgentType`.
      ego: index along N.
      road_type: int[F], `RoadType`.
      road_points: F arrays float64[K_f, 2], [m]; rings need not be closed; a stop sign is one point.
      light_x, light_y: float64[L], stop point [m].
      light_state: int[L, T], `LightState`.
      light_valid: bool[L, T].
      light_on_route: bool[L], the light controls a lane that the route follows.
      route_x, route_y: float64[K], [m], dense (0.5 to 5 m); should begin 15 m or more behind the ego's first pose.
      route_speed_limit: float64[K], [m/s], 0 where unknown.
      note: free text to the policy; empty where there is none.
      current: index of the current step.
    """

    scenario_id: str
    source: str
    group: str
    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    vel_x: np.ndarray
    vel_y: np.ndarray
    valid: np.ndarray
    length: np.ndarray
    width: np.ndarray
    agent_type: np.ndarray
    ego: int
    road_type: np.ndarray
    road_points: tuple[np.ndarray, ...]
    light_x: np.ndarray
    light_y: np.ndarray
    light_state: np.ndarray
    light_valid: np.ndarray
    light_on_route: np.ndarray
    route_x: np.ndarray
    route_y: np.ndarray
    route_speed_limit: np.ndarray
    note: str = ""
    current: int = 10

    @property
    def route(self) -> np.ndarray:
        """float64[K, 2]."""
        return np.stack([self.route_x, self.route_y], axis=1)

    @property
    def ego_path(self) -> np.ndarray:
        """The ego's logged positions at valid steps: float64[<=T, 2]."""
        seen = self.valid[self.ego]
        return np.stack([self.x[self.ego, seen], self.y[self.ego, seen]], axis=1)

    @property
    def record_name(self) -> str:
        """The scene's name in errors: its id and ego."""
        return f"{self.scenario_id} (ego {self.ego})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalScene(RawScene):
    """A scene in the ego's frame at the current step, without what is far away: what data sets store.

    Attributes:
      origin: float64[3], world x [m], y [m] and heading [rad] of the frame.
    """

    origin: np.ndarray


def first_steps(scene: LocalScene, steps: int) -> LocalScene:
    """The scene as if its log ended after so many steps; its route stays."""
    names = ("x", "y", "heading", "vel_x", "vel_y", "valid", "light_state", "light_valid")
    return dataclasses.replace(scene, **{name: getattr(scene, name)[:, :steps] for name in names})


def check_extent(raw: RawScene) -> None:
    """Raises: DataError for a scene that is not finite or that is larger than `LARGEST_M`."""
    lines = np.concatenate([np.zeros((0, 2)), *raw.road_points])
    for axis, (field, road) in enumerate((("x", "road_x"), ("y", "road_y"))):
        seen = getattr(raw, field)[raw.valid]
        places = {field: seen, road: lines[:, axis], f"route_{field}": getattr(raw, f"route_{field}")}
        places[f"light_{field}"] = getattr(raw, f"light_{field}")[raw.light_valid.any(1)]
        for name, values in places.items():
            check_span(np.concatenate([seen[:1], values]), name, raw.record_name)


def check_span(values: np.ndarray, field: str, record: str) -> None:
    """Args: values: float64[K, ...]. Raises: DataError for any not finite, or farther apart than `LARGEST_M`."""
    if not np.isfinite(values).all():
        raise DataError("expected finite values, found others", field, record)
    across = np.ptp(values, axis=0).max() if len(values) else 0.0
    if across > LARGEST_M:
        raise DataError(f"expected a scene of at most {LARGEST_M:g} m, found {across:g} m", field, record)


def sound_lines(lines: Sequence[np.ndarray], field: str, record: str) -> np.ndarray:
    """bool[F], the lines that are finite and lie near the others. A line without points is sound.

    Args: lines: F arrays float64[K, D].
    Raises: DataError where more than half of the lines are not: then the whole is wrong.
    """
    if not lines:
        return np.zeros(0, bool)
    points = np.concatenate(lines)
    finite = points[np.isfinite(points).all(1)]
    middle = np.median(finite, axis=0) if len(finite) else np.zeros(points.shape[1])
    sound = np.array([(np.abs(line - middle) <= LARGEST_M / 2).all() for line in lines])  # False for NaN
    if 2 * sound.sum() < len(sound):
        reason = f"expected finite points of one scene, found others in {(~sound).sum()} of {len(sound)} lines"
        raise DataError(reason, field, record)
    return sound


def localize(raw: RawScene) -> LocalScene:
    """Moves a scene to the ego's frame at `raw.current` and drops what is far from the ego's log.

    The road is thinned to within 5 cm and cut at 150 m from the ego's log. Agents that never come within 150 m of the
    ego are left out. The route starts at most 15 m behind the ego's first pose. All in float64.

    Raises: DataError if the ego is not valid at the current step, or the route has fewer than two points.
    """
    if not raw.valid[raw.ego, raw.current]:
        raise DataError(f"the ego is not valid at the current step {raw.current}", "valid", raw.record_name)
    if len(raw.route_x) < 2:
        raise DataError(f"expected a route of two or more points, found {len(raw.route_x)}", "route", raw.record_name)
    origin = np.array([field[raw.ego, raw.current] for field in (raw.x, raw.y, raw.heading)], np.float64)
    return _near_agents(_cut_route(_near_road(_moved(raw, origin))))


def _moved(raw: RawScene, origin: np.ndarray) -> LocalScene:
    cos, sin = np.cos(origin[2]), np.sin(origin[2])

    def turn(x, y):
        return cos * x + sin * y, cos * y - sin * x

    def move(x, y):
        return turn(np.asarray(x, np.float64) - origin[0], np.asarray(y, np.float64) - origin[1])

    x, y = move(raw.x, raw.y)
    vel_x, vel_y = turn(raw.vel_x, raw.vel_y)
    light_x, light_y = move(raw.light_x, raw.light_y)
    route_x, route_y = move(raw.route_x, raw.route_y)
    points = tuple(np.stack(move(line[:, 0], line[:, 1]), axis=1) for line in raw.road_points)
    moved = dict(x=x, y=y, heading=wrap(raw.heading - origin[2]), vel_x=vel_x, vel_y=vel_y, road_points=points)
    moved |= dict(light_x=light_x, light_y=light_y, route_x=route_x, route_y=route_y)
    return LocalScene(origin=origin, **{**vars(raw), **moved})  # a TypeError for a scene that has been moved before


def _near_road(raw: LocalScene) -> LocalScene:
    lines = thin(raw.road_type, raw.road_points)
    distances = distance_to_path(lines, sampled_path(raw))
    parts = [
        (int(road_type), part)
        for road_type, line, distance in zip(raw.road_type, lines, distances, strict=True)
        for part in _near_parts(line, distance, road_type in RING_TYPES)
    ]
    types = np.array([road_type for road_type, _ in parts], np.int32)
    return dataclasses.replace(raw, road_type=types, road_points=tuple(line for _, line in parts))


def thin(road_type: Sequence[int], road_points: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Road features with as few points as keep them within 5 cm; rings closed. Thinning again changes nothing."""
    lines = [_closed(drop_repeats(p)) if t in RING_TYPES else p for t, p in zip(road_type, road_points, strict=True)]
    return simplify(lines, ROAD_TOLERANCE_M)


def _closed(ring: np.ndarray) -> np.ndarray:
    gap = np.hypot(*(ring[0] - ring[-1]))
    return np.concatenate([ring, ring[:1]]) if len(ring) > 2 and gap > 1e-3 else ring


def _near_parts(line: np.ndarray, distance: np.ndarray, ring: bool) -> list[np.ndarray]:
    """The runs of segments within the radius; a ring stays whole."""
    if not (distance < ROAD_RADIUS_M).any():
        return []
    if ring or len(line) == 1:
        return [line]
    near = np.concatenate([[False], distance < ROAD_RADIUS_M, [False]])
    edges = np.flatnonzero(near[1:] != near[:-1])
    return [line[first : last + 1] for first, last in zip(edges[::2], edges[1::2], strict=True)]


def distance_to_path(lines: Sequence[np.ndarray], path: np.ndarray) -> list[np.ndarray]:
    """Distance of each segment of each line (a single point counts as one segment) to a densely sampled path.

    Args: lines: arrays float64[K, 2]; path float64[J, 2], see `sampled_path`.
    Returns: for each line float64[max(K - 1, 1)].
    """
    if not lines:
        return []
    start = np.concatenate([line[:-1] if len(line) > 1 else line for line in lines])
    end = np.concatenate([line[1:] if len(line) > 1 else line for line in lines])
    ends = np.cumsum([max(len(line) - 1, 1) for line in lines])
    parts = (slice(first, first + AT_ONCE) for first in range(0, len(start), AT_ONCE))
    nearest = [foot_on_segments(path[:, None], start[part], end[part])[1].min(0) for part in parts]
    return np.split(np.concatenate(nearest), ends[:-1])


def sampled_path(raw: RawScene) -> np.ndarray:
    """The ego's log every 5 m and its last pose: float64[J, 2]. Dense, so that crossing lines are near a sample."""
    path = raw.ego_path
    return np.concatenate([resample(path, 5.0), path[-1:]])


def _cut_route(raw: LocalScene) -> LocalScene:
    keep = np.concatenate([[True], np.hypot(np.diff(raw.route_x), np.diff(raw.route_y)) > 1e-3])
    line, limit = raw.route[keep], np.asarray(raw.route_speed_limit, np.float64)[keep]
    along = arc_length(line)
    first = max(float(walk(raw.ego_path[:1], line)[0]) - ROUTE_BEHIND_M, 0.0)
    s = np.concatenate([[first], along[along > first + 1e-3]])
    line, limit = interpolate(line, s), limit[np.minimum(np.searchsorted(along, s), len(limit) - 1)]
    return dataclasses.replace(raw, route_x=line[:, 0], route_y=line[:, 1], route_speed_limit=limit)


def agent_distance(raw: RawScene) -> np.ndarray:
    """Smallest distance of each agent to the ego over the steps where both are valid: float64[N], inf without any."""
    apart = np.hypot(raw.x - raw.x[raw.ego], raw.y - raw.y[raw.ego])
    return np.where(raw.valid & raw.valid[raw.ego], apart, np.inf).min(1)


def _near_agents(raw: LocalScene) -> LocalScene:
    near = agent_distance(raw) < AGENT_RADIUS_M
    names = ("x", "y", "heading", "vel_x", "vel_y", "valid", "length", "width", "agent_type")
    kept = {name: getattr(raw, name)[near] for name in names}
    return dataclasses.replace(raw, **kept, ego=int(near[: raw.ego].sum()))
