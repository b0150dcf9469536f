"""Signed distance to the road edge, on the host. N points, S segments of all edges in order."""

import numpy as np

from tether.evaluation.realism.nearest import SegmentSearch

Z_STRETCH = 3.0  # a metre of height counts as this many, so that a bridge does not pick the edge below it
RING_M = 1.0  # an edge whose ends are nearer than this is a ring
SPACING_M = 1.0  # of the samples of the nearest-segment search


class RoadEdges:
    """The road edges of a scene, prepared for queries."""

    def __init__(self, polylines: tuple[np.ndarray, ...]):
        """Args: polylines: float64[P, 3] each, the road on the left. Raises: ValueError without any segment."""
        lines = [line for line in polylines if len(line) > 1]
        if not lines:
            raise ValueError("expected road edges of two or more points, found none")
        self._start = np.concatenate([line[:-1] for line in lines])
        self._step = np.concatenate([np.diff(line, axis=0) for line in lines])
        self._before, self._after = neighbors(lines)
        self._search = SegmentSearch(*samples(self._start, self._step), SPACING_M)

    def signed_distance(self, points: np.ndarray) -> np.ndarray:
        """Planar distance float64[N] of points [N, 3] to the edge nearest in stretched space; positive off the road."""

        def distance(point: np.ndarray, segment: np.ndarray) -> np.ndarray:
            x, y, z = self._offset(points[point], segment)
            return np.sqrt(x * x + y * y + (Z_STRETCH * z) ** 2)

        nearest = self._search.nearest(points * [1, 1, Z_STRETCH], distance)
        x, y, _ = self._offset(points, nearest)
        return np.hypot(x, y) * self._side(points, nearest)

    def _fraction(self, points: np.ndarray, segment: np.ndarray) -> np.ndarray:
        """Position of a point's planar projection as a fraction of the segment; 0 without length."""
        step, way = self._step[segment], points - self._start[segment]
        square = step[..., 0] ** 2 + step[..., 1] ** 2
        dot = way[..., 0] * step[..., 0] + way[..., 1] * step[..., 1]
        return np.divide(dot, square, out=np.zeros_like(dot), where=square > 0)

    def _offset(self, points: np.ndarray, segment: np.ndarray) -> tuple[np.ndarray, ...]:
        """Vector x, y, z to the point from the place on the segment that is nearest in the plane."""
        fraction = np.clip(self._fraction(points, segment), 0, 1)
        way, step = points - self._start[segment], self._step[segment]
        return tuple(way[..., i] - fraction * step[..., i] for i in range(3))

    def _line_side(self, points: np.ndarray, segment: np.ndarray) -> np.ndarray:
        """1 to the right of the segment's line, -1 to its left, 0 on it."""
        return np.sign(_cross(points - self._start[segment], self._step[segment]))

    def _side(self, points: np.ndarray, segment: np.ndarray) -> np.ndarray:
        """1 off the road, -1 on it. Past an end two segments tie, and the turn there decides between them.

        At a left turn a point to the right of either line is off the road, at a right turn one to the right of both.
        """
        fraction = self._fraction(points, segment)
        near = np.where(fraction < 0, self._before[segment], np.where(fraction > 1, self._after[segment], segment))
        first, second = np.where(fraction < 0, near, segment), np.where(fraction < 0, segment, near)
        left_turn = _cross(self._step[first], self._step[second]) > 0
        sides = self._line_side(points, segment), self._line_side(points, near)
        return np.where(left_turn, np.maximum(*sides), np.minimum(*sides))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def neighbors(lines: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The segments before and after each segment, int[S]; the segment itself at a free end.

    Only rings with the most points are closed: the official code pads the others and takes the neighbour from the
    padding.
    """
    most = max(len(line) for line in lines)
    before, after, first = [], [], 0
    for line in lines:
        own = np.arange(first, first + len(line) - 1)
        ring = len(line) == most and np.sum((line[0] - line[-1]) ** 2) < RING_M**2
        before.append(np.concatenate([own[-1:] if ring else own[:1], own[:-1]]))
        after.append(np.concatenate([own[1:], own[:1] if ring else own[-1:]]))
        first += len(own)
    return np.concatenate(before), np.concatenate(after)


def samples(start: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stretched sample points of segments [S, 3], at most `SPACING_M` apart, ends included, and their segments."""
    stretch = np.array([1, 1, Z_STRETCH])
    pieces = np.maximum(np.ceil(np.linalg.norm(step * stretch, axis=1) / SPACING_M), 1).astype(int)
    owner = np.repeat(np.arange(len(start)), pieces + 1)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(pieces + 1) - pieces - 1, pieces + 1)
    return (start[owner] + (place / pieces[owner])[:, None] * step[owner]) * stretch, owner
