"""The map's part of the oracle (`oracle.py`): roads, the route and its lights, always over the whole map.

Letters: N sub-steps, K segments, Q points, L lights, S sub-steps of a step. Arrays [N + 1] begin with the start.
SI units.

A decision is a `Verdict`, which knows whether it is clear: float32 and float64 may disagree where a quantity lies
within `NEAR_M` (`NEAR_COS`) of its threshold, or where two parts of the map are equally near and differ.
"""

from typing import NamedTuple

import numpy as np

from tether.data.scene import DRIVING_LANE_TYPES, RED_STATES, ROAD_EDGE_TYPES, Scene

NEAR_M = 1e-3
NEAR_M2 = 2e-6
NEAR_COS = 1e-4


class Track(NamedTuple):
    """The ego at the start and after each sub-step, float64[N + 1]; fields as in `EgoState`."""

    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray
    curvature: np.ndarray


class Verdict(NamedTuple):
    """A decision after each sub-step, bool[N], and whether it lies clear of rounding errors, bool[N]."""

    value: np.ndarray
    clear: np.ndarray


class Place(NamedTuple):
    """Where a pose lies along the route.

    Attributes:
      s, offset: arc length, offset to the left [m].
      s_doubt, offset_doubt: how far places that rounding might prefer differ in s and in the offset's size [m].
    """

    s: float
    offset: float
    s_doubt: float
    offset_doubt: float

    @property
    def clear(self) -> bool:
        """Whether no other place ties."""
        return max(self.s_doubt, self.offset_doubt) < NEAR_M / 10


class Segments(NamedTuple):
    """Directed segments of positive length: a, b, unit float64[K, 2]; length float64[K]."""

    a: np.ndarray
    b: np.ndarray
    unit: np.ndarray
    length: np.ndarray


def segments_of(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> Segments:
    """The segments between neighbouring valid points of polylines [..., P]; those without length have no direction."""
    points = np.stack([x, y], axis=-1).astype(float)
    kept = valid[..., 1:] & valid[..., :-1]
    a, b = points[..., :-1, :][kept], points[..., 1:, :][kept]
    length = np.linalg.norm(b - a, axis=-1)
    a, b, length = a[length > 0], b[length > 0], length[length > 0]
    return Segments(a, b, (b - a) / length[:, None], length)


def road_segments(scene: Scene, types: tuple[int, ...]) -> Segments:
    """All segments of the map of some types."""
    rows = np.isin(scene.road_type, [int(kind) for kind in types])
    return segments_of(scene.road_x[rows], scene.road_y[rows], scene.road_valid[rows])


def feet(points: np.ndarray, lines: Segments) -> tuple[np.ndarray, np.ndarray]:
    """How far along each segment the nearest place to each point is, and its distance: [Q, K]; points [Q, 2]."""
    from_x, from_y = (points[:, None, i] - lines.a[:, i] for i in (0, 1))
    along = np.clip(from_x * lines.unit[:, 0] + from_y * lines.unit[:, 1], 0.0, lines.length)
    return along, np.hypot(from_x - along * lines.unit[:, 0], from_y - along * lines.unit[:, 1])


class Ends(NamedTuple):
    """Of the first and last point of each segment: outward normals summed over the segments that meet there.

    Attributes:
      normal: float64[2, K, 2], to the left.   meet: int[2, K], how many segments have an end there.
    """

    normal: np.ndarray
    meet: np.ndarray


def ends_of(lines: Segments) -> Ends:
    """Segments meet where their end points are equal."""
    left = np.stack([-lines.unit[:, 1], lines.unit[:, 0]], axis=-1)
    _, vertex = np.unique(np.concatenate([lines.a, lines.b]), axis=0, return_inverse=True)
    vertex = vertex.reshape(-1)
    total = np.zeros((vertex.max() + 1, 2))
    np.add.at(total, vertex, np.concatenate([left, left]))
    return Ends(total[vertex].reshape(2, -1, 2), np.bincount(vertex)[vertex].reshape(2, -1))


def off_road(scene: Scene, boxes: np.ndarray) -> Verdict:
    """Whether a corner is on the right-hand side of the road edge that is nearest to it; never without edges.

    At a vertex the sum of the normals decides. A point more than 2 m past the free end of an edge is not off the road.

    Args: boxes: float64[N, 4, 2].
    """
    lines = road_segments(scene, ROAD_EDGE_TYPES)
    if not len(lines.a):
        return Verdict(np.zeros(len(boxes), bool), np.ones(len(boxes), bool))
    points, ends = boxes.reshape(-1, 2), ends_of(lines)
    along, distance = feet(points, lines)
    point, line = np.nonzero(distance <= distance.min(1, keepdims=True) + NEAR_M)
    off, clear = beside_edge(points[point], along[point, line], line, lines, ends)
    every_off, any_off, all_clear = np.ones(len(points), bool), np.zeros(len(points), bool), np.ones(len(points), bool)
    np.logical_and.at(every_off, point, off)
    np.logical_or.at(any_off, point, off)
    np.logical_and.at(all_clear, point, clear)
    all_clear &= every_off == any_off
    beyond, certain = (values.reshape(-1, 4) for values in (every_off, all_clear))
    return Verdict(beyond.any(1), certain.all(1) | (beyond & certain).any(1))


def beside_edge(
    points: np.ndarray, along: np.ndarray, line: np.ndarray, lines: Segments, ends: Ends
) -> tuple[np.ndarray, np.ndarray]:
    """Whether points [Q, 2] are off the road by the edge segments `line` [Q], and whether that is clear."""
    offset = points - lines.a[line] - along[:, None] * lines.unit[line]
    at_end = np.stack([along <= 0, along >= lines.length[line]])
    own = np.stack([-lines.unit[line][:, 1], lines.unit[line][:, 0]], axis=-1)
    normal = np.where(at_end[0][:, None], ends.normal[0, line], np.where(at_end[1][:, None], ends.normal[1, line], own))
    side = (offset * normal).sum(-1)
    meet = np.where(at_end[0], ends.meet[0, line], np.where(at_end[1], ends.meet[1, line], 2))
    past = np.where(meet == 1, np.abs((offset * lines.unit[line]).sum(-1)), 0.0)
    clear = (np.abs(side) > NEAR_M) & (meet <= 2) & (np.abs(past - 2.0) > NEAR_M)
    return (side < 0) & (past <= 2.0), clear


def wrong_way(scene: Scene, track: Track, range_m: float) -> Verdict:
    """Whether a lane or the route within `range_m` runs against the ego and nothing near it runs with it.

    Against is by more than 120 degrees; with it, within 90; near is less than 1 m farther than the nearest against.
    """
    lanes, route = (
        road_segments(scene, DRIVING_LANE_TYPES),
        segments_of(scene.route_x, scene.route_y, scene.route_valid),
    )
    lines = Segments(*(np.concatenate(pair) for pair in zip(lanes, route, strict=True)))
    centre = np.stack([track.x, track.y], axis=-1)[1:]
    forward = np.stack([np.cos(track.heading), np.sin(track.heading)], axis=-1)[1:]
    distance, cos = feet(centre, lines)[1], forward @ lines.unit.T
    sure, possible = (
        (against < range_m - slack * NEAR_M) & (along > against + 1 + slack * NEAR_M)
        for slack in (1, -1)
        for against in [np.where(cos < -0.5 - slack * NEAR_COS, distance, np.inf).min(1, initial=np.inf)]
        for along in [np.where(cos > -slack * NEAR_COS, distance, np.inf).min(1, initial=np.inf)]
    )
    return Verdict(sure, sure == possible)


class Route(NamedTuple):
    """The route's segments and their arc lengths: s float64[K], where each begins."""

    lines: Segments
    s: np.ndarray


def route_of(scene: Scene) -> Route:
    """The whole route."""
    lines = segments_of(scene.route_x, scene.route_y, scene.route_valid)
    return Route(lines, np.cumsum(lines.length) - lines.length)


def place_on(route: Route, x: float, y: float, near_s: float, reach: float) -> Place:
    """The nearest place within `reach` along the route of `near_s`; its first and last segment extend to infinity."""
    lines = route.lines
    if not len(lines.a):
        return Place(0.0, 0.0, 0.0, 0.0)
    low, high = np.zeros(len(lines.a)), lines.length.copy()
    low[0], high[-1] = -np.inf, np.inf
    low, high = np.maximum(low, near_s - reach - route.s), np.minimum(high, near_s + reach - route.s)
    offset = np.array([x, y]) - lines.a
    along = np.minimum(np.maximum((offset * lines.unit).sum(-1), low), high)
    distance = np.linalg.norm(offset - along[:, None] * lines.unit, axis=-1)
    distance[low > high] = np.inf
    best = int(np.argmin(distance))
    is_left = lines.unit[best, 0] * offset[best, 1] - lines.unit[best, 1] * offset[best, 0] >= 0
    tied = distance**2 <= distance[best] ** 2 + NEAR_M2 * (NEAR_M + distance[best])
    s = route.s + along
    signed = distance[best] if is_left else -distance[best]
    return Place(float(s[best]), float(signed), float(np.ptp(s[tied])), float(np.ptp(distance[tied])))


def first_place(route: Route, x: float, y: float, heading: float) -> Place:
    """The first of the places that are about as near as the nearest: whose squared distance, and 9 m^2 (1 - cos) of the
    angle to the heading, exceed the least by 1 m^2 at most."""
    lines = route.lines
    if not len(lines.a):
        return Place(0.0, 0.0, 0.0, 0.0)
    low, high = np.zeros(len(lines.a)), lines.length.copy()
    low[0], high[-1] = -np.inf, np.inf
    offset = np.array([x, y]) - lines.a
    along = np.clip((offset * lines.unit).sum(-1), low, high)
    cost = np.square(offset - along[:, None] * lines.unit).sum(-1)
    cost += 9.0 * (1 - lines.unit @ [np.cos(heading), np.sin(heading)])
    first = int(np.argmax(cost <= cost.min() + 1.0))
    return place_on(route, x, y, route.s[first] + along[first], 3.0)


def walked(route: Route, first: Place, x: np.ndarray, y: np.ndarray) -> list[Place]:
    """The places of a track [N + 1] whose first one is known: each within 2 m and twice the way moved of the last."""
    places = [first]
    for i in range(1, len(x)):
        way = float(np.hypot(x[i] - x[i - 1], y[i] - y[i - 1]))
        places.append(place_on(route, x[i], y[i], places[-1].s, 2.0 + 2.0 * way))
    return places


def log_places(scene: Scene) -> list[Place]:
    """The places of the logged ego at each log step; where it is not seen it stays."""
    seen = np.flatnonzero(scene.valid[scene.ego])
    held = seen[np.maximum(np.searchsorted(seen, np.arange(scene.x.shape[1]), side="right") - 1, 0)]
    x, y, heading = (getattr(scene, name)[scene.ego, held].astype(float) for name in ("x", "y", "heading"))
    route = route_of(scene)
    return walked(route, first_place(route, x[0], y[0], heading[0]), x, y)


def red_light(scene: Scene, route: list[Place], start: int) -> Verdict:
    """Whether the front passes the stop point of a light on the route that is red after the sub-step."""
    front = np.array([place.s for place in route]) + float(scene.length[scene.ego]) / 2
    doubt = NEAR_M + np.array([place.s_doubt for place in route])
    steps = np.minimum(start + np.arange(1, len(front)), scene.x.shape[-1] - 1)
    on_route = np.flatnonzero(scene.light_route_s >= 0)
    stop = scene.light_route_s[on_route].astype(float)[:, None]
    red = np.isin(scene.light_state, [int(state) for state in RED_STATES]) & scene.light_valid
    red = red[on_route][:, steps]
    passed = (front[:-1] < stop) & (stop <= front[1:]) & red
    near = np.abs(front - stop) < doubt
    unclear = red & (near[:, 1:] | near[:, :-1])
    return Verdict(passed.any(0), ~unclear.any(0))


def corridor(route: list[Place], width: float) -> Verdict:
    """Whether the ego is farther from the route than `width`."""
    offset = np.abs([place.offset for place in route[1:]])
    doubt = NEAR_M + np.array([place.offset_doubt for place in route[1:]])
    return Verdict(offset > width, np.abs(offset - width) > doubt)
