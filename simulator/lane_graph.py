"""Which driving-lane segments begin where another one ends; made once per scene, on the host, for the road index.

A polyline's segments follow each other. At its end begin the lanes that start there and run on, at most `FOLLOWING`,
ordered by where they lead, from left to right: so neither the order of a map's polylines nor how they were cut matters.
Letters: N = M * P places for segments, K driving-lane segments, E of them that end a polyline, C pairs.
"""

import numpy as np
from scipy.spatial import cKDTree

from tether.data.polyline import wrap

FOLLOWING = 4  # lanes that a lane may lead to
JOINT_M = 1.0  # ends and beginnings this near to each other are one place
RUNS_ON_RAD = np.pi / 3  # a lane that begins at a greater angle does not continue another one
TELLING_M = 15.0  # how far along a lane one sees where it leads


def following_segments(ends: np.ndarray, lanes: np.ndarray, points: int) -> np.ndarray:
    """The segments that follow each driving-lane segment, -1 where there is none: int32[N, FOLLOWING].

    Args: ends: float64[N, 4], ax, ay, bx, by; lanes: int[K], rows of `ends`; points: P.
    """
    following = np.full((len(ends), FOLLOWING), -1, np.int32)
    is_lane = np.zeros(len(ends) + 1, bool)
    is_lane[lanes] = True
    goes_on = is_lane[lanes + 1] & ((lanes + 1) % points != 0)
    following[lanes[goes_on], 0] = lanes[goes_on] + 1
    last = lanes[~goes_on]
    first = lanes[(lanes % points == 0) | ~is_lane[lanes - 1]]
    if not len(last):
        return following
    before, after = pairs(ends, last, first)
    turn = wrap(bearing(ends, after, after) - bearing(ends, before, before))
    runs_on = np.abs(turn) < RUNS_ON_RAD
    before, after = before[runs_on], after[runs_on]
    leads = wrap(bearing(ends, after, told(ends, after, is_lane, points)) - bearing(ends, before, before))
    order = np.lexsort((-leads, before))
    before, after = before[order], after[order]
    rank = np.arange(len(before)) - np.searchsorted(before, before)
    kept = rank < FOLLOWING
    following[before[kept], rank[kept]] = after[kept]
    return following


def pairs(ends: np.ndarray, last: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segments [C] that end where the others [C] begin."""
    near = cKDTree(ends[first, :2]).query_ball_point(ends[last, 2:], JOINT_M)
    count = [len(found) for found in near]
    begins = np.concatenate([np.asarray(found, int) for found in near])
    return np.repeat(last, count), first[begins]


def told(ends: np.ndarray, first: np.ndarray, is_lane: np.ndarray, points: int) -> np.ndarray:
    """The segment [C] of the same polyline about `TELLING_M` further on, or its last one."""
    at, way = first.copy(), np.hypot(*(ends[first, 2:] - ends[first, :2]).T)
    for _ in range(points):
        goes_on = is_lane[at + 1] & ((at + 1) % points != 0) & (way < TELLING_M)
        at = np.where(goes_on, at + 1, at)
        way = way + np.where(goes_on, np.hypot(*(ends[at, 2:] - ends[at, :2]).T), 0.0)
    return at


def bearing(ends: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The direction from the beginning of a segment to the end of another [rad]."""
    return np.arctan2(*(ends[last, 2:] - ends[first, :2]).T[::-1])
