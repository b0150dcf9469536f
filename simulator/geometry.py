"""Boxes, road edges and lanes of one scene. N points, K segments; batch with `jax.vmap`."""

from typing import NamedTuple

import jax.numpy as jnp

from tether.data.geometry import Box, Segments, offset_from, to_frame
from tether.data.geometry import corners as corners
from tether.data.geometry import segments as segments
from tether.data.geometry import signed_edge_distance as signed_edge_distance
from tether.data.scene import Array


class Relative(NamedTuple):
    """A box as seen from another: its centre, and the cosine and sine of how far it is turned; fields [...]."""

    x: Array
    y: Array
    cos: Array
    sin: Array


def relative(a: Box, b: Box) -> Relative:
    """`b` in the frame of `a`. Trigonometry is done per box, not per pair: pairs are many."""
    cos_a, sin_a, cos_b, sin_b = jnp.cos(a.heading), jnp.sin(a.heading), jnp.cos(b.heading), jnp.sin(b.heading)
    dx, dy = b.x - a.x, b.y - a.y
    place = dx * cos_a + dy * sin_a, dy * cos_a - dx * sin_a
    return Relative(*place, cos_b * cos_a + sin_b * sin_a, sin_b * cos_a - cos_b * sin_a)


def penetration(a: Box, b: Box) -> Array:
    """Depth by which two boxes overlap [m]: the least shift along any box axis that parts them; negative if apart.

    Separating axes: boxes overlap exactly where the projections on all four box axes do. Touching is 0.
    """
    x, y, turn_cos, turn_sin = relative(a, b)
    cos, sin = jnp.abs(turn_cos), jnp.abs(turn_sin)

    def depth(along, across, own: Box, other: Box):
        along = (own.length + other.length * cos + other.width * sin) / 2 - jnp.abs(along)
        across = (own.width + other.length * sin + other.width * cos) / 2 - jnp.abs(across)
        return jnp.minimum(along, across)

    in_a = depth(x, y, a, b)
    in_b = depth(x * turn_cos + y * turn_sin, y * turn_cos - x * turn_sin, b, a)
    return jnp.minimum(in_a, in_b)


def time_to_collision(ego: Box, ego_speed: Array, other: Box, vel_x: Array, vel_y: Array) -> Array:
    """Seconds until the boxes meet if both keep their velocity; +inf if never; 0 if they overlap.

    The other's box is widened to an axis-aligned one in the ego's frame: exact for parallel and perpendicular
    traffic, early for oblique.
    """
    x, y, turn_cos, turn_sin = relative(ego, other)
    speed_x, speed_y = to_frame(vel_x, vel_y, 0.0, 0.0, ego.heading)
    cos, sin = jnp.abs(turn_cos), jnp.abs(turn_sin)
    in_x, out_x = _crossing(x, speed_x - ego_speed, (ego.length + other.length * cos + other.width * sin) / 2)
    in_y, out_y = _crossing(y, speed_y, (ego.width + other.length * sin + other.width * cos) / 2)
    entry = jnp.maximum(jnp.maximum(in_x, in_y), 0.0)
    return jnp.where(entry < jnp.minimum(out_x, out_y), entry, jnp.inf)


def _crossing(position: Array, speed: Array, half: Array) -> tuple[Array, Array]:
    """The times at which a point at `position` moving at `speed` enters and leaves [-half, half]."""
    per_metre = 1 / jnp.where(jnp.abs(speed) < 1e-3, 1e-3, speed)  # one division for two: pairs are many
    first, second = (-half - position) * per_metre, (half - position) * per_metre
    return jnp.minimum(first, second), jnp.maximum(first, second)


def segment_distance(seg: Segments, x: Array, y: Array) -> Array:
    """Distance from a point to each segment [m]; +inf for invalid ones."""
    off_x, off_y, _, _ = offset_from(seg, x, y)
    return jnp.where(seg.valid, jnp.sqrt(off_x * off_x + off_y * off_y), jnp.inf)
