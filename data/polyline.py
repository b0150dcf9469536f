"""Planar polylines on the host, float64: arc length, resampling, projection, simplification.

A polyline is float64[K, 2]; distances in metres, headings in radians.
"""

from collections.abc import Sequence

import numpy as np

# Constants of `walk`, as in `simulator/route.py`.
SLACK_M, STRETCH, TIED_M = 2.0, 2.0, 1.0


def wrap(angle: np.ndarray) -> np.ndarray:
    """Wraps [rad] into [-pi, pi) in float64."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi


def arc_length(line: np.ndarray) -> np.ndarray:
    """Distance of each vertex from the first one along the line: float64[K]."""
    steps = np.hypot(*np.diff(line, axis=0).T)
    return np.concatenate([[0.0], np.cumsum(steps)])


def drop_repeats(line: np.ndarray, least: float = 1e-3) -> np.ndarray:
    """The line without vertices closer than `least` [m] to the vertex before them; it may be empty."""
    keep = np.ones(len(line), bool)
    keep[1:] = np.hypot(*np.diff(line, axis=0).T) >= least
    return line[keep]


def interpolate(line: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Points at arc lengths `s`, held at the ends: float64[len(s), 2]."""
    along = arc_length(line)
    return np.stack([np.interp(s, along, line[:, 0]), np.interp(s, along, line[:, 1])], axis=1)


def resample(line: np.ndarray, spacing: float) -> np.ndarray:
    """Points every `spacing` metres from the first vertex on; the remainder at the end is cut off."""
    return interpolate(line, np.arange(0.0, arc_length(line)[-1] + 1e-6, spacing))


def headings(line: np.ndarray) -> np.ndarray:
    """Heading at each vertex, the direction of the segment after it (before it for the last): float64[K]."""
    step = np.diff(line, axis=0)
    heading = np.arctan2(step[:, 1], step[:, 0])
    return np.concatenate([heading, heading[-1:]])


def foot_on_segments(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest place on each segment to each point, broadcast.

    Args: points, start, end: float64[..., 2].
    Returns: fraction along the segment in [0, 1] and distance [m], both float64[...].
    """
    step_x, step_y = end[..., 0] - start[..., 0], end[..., 1] - start[..., 1]
    rel_x, rel_y = points[..., 0] - start[..., 0], points[..., 1] - start[..., 1]
    squared = np.maximum(step_x**2 + step_y**2, 1e-12)
    fraction = np.minimum(np.maximum((rel_x * step_x + rel_y * step_y) / squared, 0.0), 1.0)
    return fraction, np.hypot(rel_x - fraction * step_x, rel_y - fraction * step_y)


def project(points: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arc length and signed lateral offset of the nearest place on the line.

    Args: points float64[N, 2]; line float64[K, 2] with K >= 2.
    Returns: s float64[N] and offset float64[N], left of the line positive; its size is the distance.
    """
    fraction, distance = foot_on_segments(points[:, None], line[:-1], line[1:])
    nearest = distance.argmin(1)
    rows = np.arange(len(points))
    along = arc_length(line)
    s = along[nearest] + fraction[rows, nearest] * np.diff(along)[nearest]
    step, rel = np.diff(line, axis=0)[nearest], points - line[nearest]
    side = np.where(step[:, 0] * rel[:, 1] - step[:, 1] * rel[:, 0] >= 0, 1.0, -1.0)
    return s, side * distance[rows, nearest]


def walk(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Arc length of each point of a track along a line that may cross itself or come back: float64[N].

    The first point lies at the first of the places that are about as near as the nearest; each next place is the
    nearest one within a reach of the last. The same rule as on the device: `simulator/route.py`.

    Args: points float64[N, 2]; line float64[K, 2] with K >= 2.
    """
    along = arc_length(line)
    fraction, distance = foot_on_segments(points[:, None], line[:-1], line[1:])
    first = int(np.argmax(distance[0] ** 2 <= distance[0].min() ** 2 + TIED_M**2))
    s, reach = along[first] + fraction[0, first] * np.diff(along)[first], TIED_M + SLACK_M
    places = []
    for i, point in enumerate(points):
        reach = SLACK_M + STRETCH * np.hypot(*(point - points[i - 1])) if i else reach
        s = _nearest_within(point, line, along, s - reach, s + reach)
        places.append(s)
    return np.array(places)


def _nearest_within(point: np.ndarray, line: np.ndarray, along: np.ndarray, low_s: float, high_s: float) -> float:
    """Arc length of the nearest place between two arc lengths."""
    step, length = np.diff(line, axis=0), np.maximum(np.diff(along), 1e-9)
    t = ((point - line[:-1]) * step).sum(1) / length
    low, high = np.maximum(low_s - along[:-1], 0.0), np.minimum(high_s - along[:-1], length)
    t = np.minimum(np.maximum(t, low), high)
    distance = np.hypot(*(point - line[:-1] - t[:, None] * step / length[:, None]).T)
    best = int(np.argmin(np.where(low <= high, distance, np.inf)))
    return float(along[best] + t[best])


def simplify(lines: Sequence[np.ndarray], tolerance: float) -> list[np.ndarray]:
    """Douglas-Peucker on many lines at once: few vertices, so that none left out is off by more than `tolerance`.

    Every round keeps, between each two neighbouring kept vertices, the one farthest from their chord, where it is
    farther than the tolerance: the recursion of the original, level by level. Closed rings work too: their first
    chord is a point. Source: Douglas & Peucker 1973.
    """
    if not lines:
        return []
    points = np.concatenate(lines)
    ends = np.cumsum([len(line) for line in lines])
    keep = np.zeros(len(points), bool)
    keep[ends - 1] = keep[np.concatenate([[0], ends[:-1]])] = True
    while len(added := _farthest_between(points, keep, tolerance)):
        keep[added] = True
    return [part[kept] for part, kept in zip(np.split(points, ends[:-1]), np.split(keep, ends[:-1]), strict=True)]


def _farthest_between(points: np.ndarray, keep: np.ndarray, tolerance: float) -> np.ndarray:
    """The index of the farthest vertex of each span between kept ones, where it is beyond the tolerance."""
    kept = np.flatnonzero(keep)
    span = np.cumsum(keep) - 1
    inner = np.flatnonzero(~keep)
    _, distance = foot_on_segments(points[inner], points[kept[span[inner]]], points[kept[span[inner] + 1]])
    order = np.lexsort((-distance, span[inner]))
    order = order[distance[order] > tolerance]
    _, first = np.unique(span[inner[order]], return_index=True)
    return inner[order[first]]
