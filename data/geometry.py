"""Planar geometry that host and device share: traced by JAX; host code that needs float64 wraps with NumPy itself.

What decides whether a box is off the road takes NumPy arrays as well and then computes with NumPy, in their precision:
data sets are built by processes that have no device. N points, K segments.
"""

from types import ModuleType
from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np

from tether.data.scene import Array

FREE_END_M = 2.0  # past the end of a road edge that nothing continues


def wrap_angle(angle: Array) -> Array:
    """Wraps [rad] into [-pi, pi)."""
    return (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi


def rotate(x: Array, y: Array, angle: Array) -> tuple[Array, Array]:
    """Rotates counter-clockwise by `angle` [rad]."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def to_frame(x: Array, y: Array, frame_x: Array, frame_y: Array, frame_heading: Array) -> tuple[Array, Array]:
    """Coordinates as seen from a frame at (frame_x, frame_y) with its x axis along frame_heading."""
    return rotate(x - frame_x, y - frame_y, -frame_heading)


def from_frame(x: Array, y: Array, frame_x: Array, frame_y: Array, frame_heading: Array) -> tuple[Array, Array]:
    """The inverse of `to_frame`."""
    rotated_x, rotated_y = rotate(x, y, frame_heading)
    return rotated_x + frame_x, rotated_y + frame_y


@flax.struct.dataclass
class Box:
    """An oriented box: centre x, y, heading, length, width; fields [...]."""

    x: Array
    y: Array
    heading: Array
    length: Array
    width: Array


class Segments(NamedTuple):
    """Directed segments from (ax, ay) to (bx, by); fields [K]."""

    ax: Array
    ay: Array
    bx: Array
    by: Array
    valid: Array


def _library(*values: Array) -> ModuleType:
    """The library for these values: NumPy where all are NumPy's, else JAX."""
    return np if all(isinstance(value, np.ndarray | np.generic) for value in values) else jnp


def corners(box: Box) -> tuple[Array, Array]:
    """Corner coordinates [..., 4]: front left, front right, rear right, rear left."""
    xp = _library(box.x, box.length)
    along = xp.array([0.5, 0.5, -0.5, -0.5], box.length.dtype) * box.length[..., None]
    across = xp.array([0.5, -0.5, -0.5, 0.5], box.width.dtype) * box.width[..., None]
    cos, sin = xp.cos(box.heading)[..., None], xp.sin(box.heading)[..., None]
    return box.x[..., None] + along * cos - across * sin, box.y[..., None] + along * sin + across * cos


def segments(x: Array, y: Array, valid: Array) -> Segments:
    """The segments [..., P - 1] between neighbouring valid points [..., P]."""
    return Segments(x[..., :-1], y[..., :-1], x[..., 1:], y[..., 1:], valid[..., :-1] & valid[..., 1:])


def offset_from(seg: Segments, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """Where (x, y) lies relative to each segment.

    An end point is exact: neighbouring segments then tie there, which `signed_edge_distance` relies on.

    Returns: x and y of the vector from the segment's nearest point, the distance from the segment's line, left
      positive, and how far past the segment's ends, negative within. [m] each.
    """
    xp = _library(seg.ax, x)
    dx, dy = seg.bx - seg.ax, seg.by - seg.ay
    length = xp.maximum(xp.sqrt(dx * dx + dy * dy), 1e-6)
    from_x, from_y = x - seg.ax, y - seg.ay
    t = (from_x * dx + from_y * dy) / length**2
    off_x = xp.where(t <= 0, from_x, xp.where(t >= 1, x - seg.bx, from_x - t * dx))
    off_y = xp.where(t <= 0, from_y, xp.where(t >= 1, y - seg.by, from_y - t * dy))
    past = xp.maximum(-t, t - 1) * length
    return off_x, off_y, (dx * from_y - dy * from_x) / length, past


def signed_edge_distance(edges: Segments, x: Array, y: Array) -> Array:
    """Distance beyond the nearest road edge [m]: positive off the road, -inf where there is no edge.

    The road lies on an edge's left. Where the nearest point is a vertex, two segments tie and may disagree; the one
    whose line is farther away faces the point and decides (the pseudo-distance of signed-distance-field fonts), so
    both convex and concave vertices come out right. More than `FREE_END_M` past the free end of an edge, where maps
    stop, the edge does not count: that is not off the road.

    Args: edges: fields [K] or [..., K].  x, y: float32[...].
    Returns: float32[...].
    """
    xp = _library(edges.ax, x)
    off_x, off_y, line, past = offset_from(edges, x[..., None], y[..., None])
    square = xp.where(edges.valid, off_x * off_x + off_y * off_y, xp.inf)
    nearest = xp.min(square, axis=-1)
    tied = square <= nearest[..., None] * (1 + 1e-5) + 1e-9
    left = xp.max(xp.where(tied, line, -xp.inf), axis=-1)
    right = xp.min(xp.where(tied, line, xp.inf), axis=-1)
    lone_end = (xp.sum(tied, axis=-1) == 1) & (xp.max(xp.where(tied, past, -xp.inf), axis=-1) > FREE_END_M)
    on_road = (left >= -right) | lone_end
    distance = xp.sqrt(nearest)
    return xp.where(xp.isinf(nearest), -xp.inf, xp.where(on_road, -distance, distance))
