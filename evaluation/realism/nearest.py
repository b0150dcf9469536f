"""Exact nearest segment of each of many points, without trying all segments. N points, S samples."""

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

FIRST_GUESSES, MORE = 12, 4  # samples tried first; factor by which the number grows where those prove nothing
CHUNK = 8192  # points at once, so that memory stays bounded


class SegmentSearch:
    """Nearest-segment search by sample points on or near the segments.

    The caller's distance function decides. It need not be a true distance, but no segment may be nearer than its
    nearest sample, up to `spacing`: a segment at true distance D, whose samples are at most `spacing` apart and hold
    both its ends, has a sample within sqrt(D^2 + spacing^2 / 4).
    """

    def __init__(self, samples: np.ndarray, owner: np.ndarray, spacing: float = 0.0):
        """Args: samples: float64[S, 2 or 3]; owner: int[S], each sample's segment; spacing [m], see the class."""
        self._tree = cKDTree(samples)
        self._owner = owner
        self._slack = spacing**2 / 4

    def nearest(self, points: np.ndarray, distance: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """The segment int[N] nearest to each point float64[N, 2 or 3], the first of those that tie.

        Args: distance: of the points int[n, 1] to the segments int[n, k], by index: float64[n, k].
        """
        nearest = np.zeros(len(points), np.int64)
        for first in range(0, len(points), CHUNK):
            rows = np.arange(first, min(first + CHUNK, len(points)))
            guesses = min(FIRST_GUESSES, self._tree.n)
            while rows.size:
                segment, proven = self._try(points, rows, guesses, distance)
                nearest[rows] = segment
                rows = rows[~proven]
                guesses = min(guesses * MORE, self._tree.n)
        return nearest

    def _try(self, points: np.ndarray, rows: np.ndarray, guesses: int, distance: Callable) -> tuple[np.ndarray, ...]:
        """The nearest segment among those of the nearest samples, and whether no other can be as near."""
        sample_distance, sample = self._tree.query(points[rows], k=np.arange(1, guesses + 1))
        segment = self._owner[sample]
        apart = distance(rows[:, None], segment)
        least = apart.min(axis=1)
        first = np.where(apart <= least[:, None], segment, np.iinfo(np.int64).max).min(axis=1)
        proven = least**2 < sample_distance[:, -1] ** 2 - self._slack
        return first, proven | (guesses == self._tree.n)
