"""Which driving-lane segments begin where another one ends; made once per scene, on the host, for the road index.

The segments of a polyline follow each other. Where a polyline ends, the lanes that begin there and run on follow it, at
most `FOLLOWING` of them, ordered by where they lead, from left to right. So neither the order of a map's polylines nor
where they were cut matters.
Letters: N = M * P places for segments, K driving-lane segments, C pairs of segments.
"""

import numpy as np
from scipy.spatial import cKDTree

from tether.data.polyline import wrap

FOLLOWING = 4  # lanes that a lane may lead to
JOINT_M = 0.2  # an end and a beginning this near to each other are one place; lanes are longer, or they would loop
RUNS_ON_RAD = np.pi / 3  # a lane that begins at a greater angle does not continue another one
SIGHT_M = 15.0  # how far along a lane one sees where it leads


def following_segments(ends: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    """The segments that follow each driving-lane segment, from left to right, -1 where there is none.

    Args: ends: float64[N, 4], ax, ay, bx, by [m], nan where a polyline has no further point; lanes: int[K], rows of
      `ends`, in order.
    Returns: int32[N, FOLLOWING], rows of `ends`.
    """
    following = np.full((len(ends), FOLLOWING), -1, np.int32)
    if not len(lanes):
        return following
    is_lane = np.zeros(len(ends) + 1, bool)  # at a polyline's last point no segment begins: so polylines are parted
    is_lane[lanes] = True
    inner = lanes[is_lane[lanes + 1]]
    following[inner, 0] = inner + 1
    before, after = joints(ends, last=lanes[~is_lane[lanes + 1]], first=lanes[~is_lane[lanes - 1]])
    arrives = bearing(ends, before, before)
    runs_on = np.abs(wrap(bearing(ends, after, after) - arrives)) < RUNS_ON_RAD
    before, after, arrives = before[runs_on], after[runs_on], arrives[runs_on]
    leads = wrap(bearing(ends, after, further_on(ends, after, is_lane)) - arrives)
    order = np.lexsort((-leads, before))
    before, after = before[order], after[order]
    rank = np.arange(len(before)) - np.searchsorted(before, before)
    kept = rank < FOLLOWING
    following[before[kept], rank[kept]] = after[kept]
    return following


def joints(ends: np.ndarray, last: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a segment out of `last` and one out of `first` that begins where it ends: int[C] each."""
    near = cKDTree(ends[first, :2]).query_ball_point(ends[last, 2:], JOINT_M)
    begins = np.concatenate([np.asarray(rows, int) for rows in near])
    return np.repeat(last, [len(rows) for rows in near]), first[begins]


def further_on(ends: np.ndarray, first: np.ndarray, is_lane: np.ndarray) -> np.ndarray:
    """The segment int[C] of the polyline that `first` begins in which `SIGHT_M` of it are passed, or its last one.

    Args: first: int[C]; is_lane: bool[N + 1].
    """
    at, passed = first.copy(), np.hypot(*(ends[first, 2:] - ends[first, :2]).T)
    while np.any(goes_on := is_lane[at + 1] & (passed < SIGHT_M)):
        at = at + goes_on
        passed = passed + np.where(goes_on, np.hypot(*(ends[at, 2:] - ends[at, :2]).T), 0.0)
    return at


def bearing(ends: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The direction [rad] from the beginnings of segments to the ends of others: float64[C]."""
    return np.arctan2(*(ends[last, 2:] - ends[first, :2]).T[::-1])
