"""Red lights run, on the host, by the official code's rules, flaws included. N points, L lights, T steps.

Three flaws of the official code decide which lane an agent is on and where a light's stop line lies. They are kept,
because scores are comparable only with them:
- The projection on a segment is added where it should be subtracted, so that a point is compared with the mirror image
  of each segment behind its start.
- A lane shorter than the longest ends in a segment to the world's origin.
- A light that is not observed has its stop point at the world's origin.
"""

import numpy as np

from tether.data.scene import RED_STATES
from tether.evaluation.realism.nearest import SegmentSearch


class Lanes:
    """The lanes of a scene, prepared for queries. Lanes of fewer than two points are left out.

    Attributes:
      ids: int[lanes].
    """

    def __init__(self, polylines: tuple[np.ndarray, ...], ids: np.ndarray):
        """Args: polylines: float64[P, 2 or more] each; ids: int[len(polylines)]."""
        kept = [row for row, line in enumerate(polylines) if len(line) > 1]
        most = max((len(polylines[row]) for row in kept), default=0)
        self.ids = np.asarray(ids)[kept]
        self._lines = [padded(polylines[row][:, :2], most) for row in kept]

    def __len__(self) -> int:
        return len(self._lines)

    def lane_at(self, points: np.ndarray) -> np.ndarray:
        """Row of the lane that each point float64[N, 2] is taken to be on: int[N]."""
        start = np.concatenate([line[:-1] for line in self._lines])
        step = np.concatenate([np.diff(line, axis=0) for line in self._lines])
        owner = np.repeat(np.arange(len(self)), [len(line) - 1 for line in self._lines])
        # What is added never points away from the point, so no segment is nearer than its start.
        search = SegmentSearch(start, np.arange(len(start)))
        nearest = search.nearest(points, lambda p, s: mirrored_distance(points[p], start[s], step[s]))
        return owner[nearest]

    def stop_segment(self, row: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and step float64[N, 2] of the segment of a lane that is taken to be nearest to each point [N, 2]."""
        line = self._lines[row]
        start, step = line[:-1], np.diff(line, axis=0)
        nearest = mirrored_distance(points[:, None], start, step).argmin(axis=1)
        return start[nearest], step[nearest]


def padded(line: np.ndarray, most: int) -> np.ndarray:
    """A lane [P, 2], with the origin at its end if it has fewer than `most` points."""
    return line if len(line) == most else np.concatenate([line, np.zeros((1, 2))])


def fraction(points: np.ndarray, start: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Position of a point's projection as a fraction of a segment, unclipped; 0 without length. All [..., 2]."""
    dot, square = ((way * step).sum(-1) for way in (points - start, step))
    return np.divide(dot, square, out=np.zeros(np.broadcast_shapes(dot.shape, square.shape)), where=square > 0)


def mirrored_distance(points: np.ndarray, start: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Distance [...] to the projection's mirror image behind the segment's start. All [..., 2]."""
    along = np.clip(fraction(points, start, step), 0, 1)[..., None]
    away = points - start + along * step
    return np.hypot(away[..., 0], away[..., 1])


def runs_red_light(
    x: np.ndarray,
    y: np.ndarray,
    lanes: Lanes,
    light_lane: np.ndarray,
    light_x: np.ndarray,
    light_y: np.ndarray,
    light_state: np.ndarray,
) -> np.ndarray:
    """Whether an agent passes the stop point of its lane's red light in the step that ends at each time.

    Args:
      x, y: float64[..., T + 1], box centres in world coordinates, one step more in front.
      lanes: `Lanes`.
      light_lane: int[L], ids.   light_x, light_y: float64[L, T + 1].   light_state: int[L, T + 1], `LightState`.
    Returns: bool[..., T].
    """
    run = np.zeros((*x.shape[:-1], x.shape[-1] - 1), bool)
    rows = [int(np.flatnonzero(lanes.ids == lane)[0]) if lane in lanes.ids else None for lane in light_lane]
    red = np.isin(light_state, RED_STATES)[:, 1:]
    if not any(row is not None and red[light].any() for light, row in enumerate(rows)):
        return run
    points = np.stack([x, y], axis=-1)
    lane = lanes.lane_at(points[..., 1:, :].reshape(-1, 2)).reshape(run.shape)
    for light, row in enumerate(rows):
        if row is None or not red[light].any():
            continue
        stop = np.stack([light_x[light], light_y[light]], axis=-1)
        start, step = lanes.stop_segment(row, stop)
        past = fraction(points, start, step) - fraction(stop, start, step)
        crosses = (past[..., :-1] < 0) & (past[..., 1:] > 0)
        run |= crosses & red[light] & (lanes.ids[lane] == light_lane[light])
    return run
