"""Distance to the nearest box and time to collision, on the host. E evaluated agents, A agents, T steps.

Boxes are (x, y, heading, length, width), fields that broadcast to [..., A, T], float64 in any frame. One rollout at a
time keeps the pairs [E, A, T] in the cache.
"""

from typing import NamedTuple

import numpy as np

FAR = 1e10  # [m], the distance where there is no other box
ROUNDING = 0.7  # of half a box's shorter side, the radius of its corners
MAX_TTC_S = 5.0
FOLLOWING_RAD = np.radians(75.0)  # a box whose heading differs by more is not followed
GRAZING_RAD = np.radians(10.0)  # the same limit for a box that reaches less than `GRAZING_M` into the path ahead
GRAZING_M = 0.5


class Boxes(NamedTuple):
    """Boxes: centre [m], heading [rad], size [m]."""

    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    length: np.ndarray
    width: np.ndarray


def nearest_distance(boxes: Boxes, valid: np.ndarray, evaluated: np.ndarray) -> np.ndarray:
    """Signed distance of each evaluated agent to the nearest other one, boxes having round corners; `FAR` without any.

    A box is a smaller rectangle, grown on all sides by the radius of its corners. The distance is that of the two
    rectangles less both radii; it is negative where the boxes overlap.

    Args: boxes: fields [A, T]; valid: bool[A, T]; evaluated: int[E], rows.
    Returns: float64[E, T], [m].
    """
    radius = np.minimum(boxes.length, boxes.width) * ROUNDING / 2
    core = boxes._replace(length=boxes.length - 2 * radius, width=boxes.width - 2 * radius)
    own = Boxes(*(field[evaluated][:, None] for field in core))
    distance = rectangle_distance(own, core) - radius[evaluated][:, None] - radius
    counted = valid & valid[evaluated][:, None] & (np.arange(len(valid)) != evaluated[:, None])[..., None]
    return np.where(counted, distance, FAR).min(axis=1)


def rectangle_distance(a: Boxes, b: Boxes) -> np.ndarray:
    """Distance between rectangles; where they overlap, minus the least shift that separates them.

    The shortest line between two separate rectangles ends at a corner of one of them.
    """
    x, y, cos, sin = _seen_from(a, b)
    in_b = -x * cos - y * sin, x * sin - y * cos
    corner = np.minimum(_corner_distance(a, b, x, y, cos, sin), _corner_distance(b, a, *in_b, cos, -sin))
    depth = np.minimum(_depth(a, b, x, y, cos, sin), _depth(b, a, *in_b, cos, sin))
    return np.where(depth >= 0, -depth, corner)


def _seen_from(a: Boxes, b: Boxes) -> tuple[np.ndarray, ...]:
    """Centre of `b` in the frame of `a`, cosine and sine of its turn. Trigonometry per box, not per pair."""
    cos_a, sin_a, cos_b, sin_b = np.cos(a.heading), np.sin(a.heading), np.cos(b.heading), np.sin(b.heading)
    dx, dy = b.x - a.x, b.y - a.y
    return (
        dx * cos_a + dy * sin_a,
        dy * cos_a - dx * sin_a,
        cos_a * cos_b + sin_a * sin_b,
        cos_a * sin_b - sin_a * cos_b,
    )


def _corner_distance(a: Boxes, b: Boxes, x: np.ndarray, y: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Distance from rectangle `a` to the nearest corner of `b`, which lies at x, y in a's frame and is turned."""
    nearest = np.inf
    for along, across in ((b.length / 2, b.width / 2), (b.length / 2, -b.width / 2)):
        corner_x, corner_y = along * cos - across * sin, along * sin + across * cos
        for side in (1, -1):
            out_x = np.maximum(np.abs(x + side * corner_x) - a.length / 2, 0)
            out_y = np.maximum(np.abs(y + side * corner_y) - a.width / 2, 0)
            nearest = np.minimum(nearest, out_x * out_x + out_y * out_y)
    return np.sqrt(nearest)


def _depth(a: Boxes, b: Boxes, x: np.ndarray, y: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Overlap of the projections on the axes of `a`, the smaller of the two."""
    cos, sin = np.abs(cos), np.abs(sin)
    along = (a.length + b.length * cos + b.width * sin) / 2 - np.abs(x)
    across = (a.width + b.length * sin + b.width * cos) / 2 - np.abs(y)
    return np.minimum(along, across)


def time_to_collision(boxes: Boxes, speed: np.ndarray, valid: np.ndarray, evaluated: np.ndarray) -> np.ndarray:
    """Seconds until an evaluated agent hits the agent that it follows if both keep their speed, at most `MAX_TTC_S`.

    An agent follows the nearest valid box ahead of its front that reaches into its path and is turned from it by at
    most `FOLLOWING_RAD`, or `GRAZING_RAD` where it hardly reaches in. Headings are subtracted without wrapping, as in
    the official definition: one wrapped at pi by the source and one not wrapped are not aligned.

    Args: boxes: fields [A, T]; speed: float64[A, T], NaN counts as unknown, which is never a collision;
      valid: bool[A, T]; evaluated: int[E], rows.
    Returns: float64[E, T].
    """
    own = Boxes(*(field[evaluated][:, None] for field in boxes))
    x, y, cos, sin = _seen_from(own, boxes)
    cos, sin = np.abs(cos), np.abs(sin)
    gap = x - (own.length + boxes.length * cos + boxes.width * sin) / 2
    aside = np.abs(y) - (own.width + boxes.length * sin + boxes.width * cos) / 2
    turned = np.abs(boxes.heading - own.heading)
    aligned = turned <= np.where(aside < -GRAZING_M, FOLLOWING_RAD, GRAZING_RAD)
    gap = np.where(valid & (gap > 0) & (aside < 0) & aligned, gap, FAR)
    leader = gap.argmin(axis=1)
    closing = speed[evaluated] - np.take_along_axis(speed, leader, axis=0)
    closes = closing > 0
    seconds = gap.min(axis=1) / np.where(closes, closing, 1.0)
    return np.where(closes, np.minimum(seconds, MAX_TTC_S), MAX_TTC_S)
