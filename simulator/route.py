"""Places along the route of one scene, walked from where the vehicle was. R points; batch with `jax.vmap`.

A route may close, cross itself or pass beside itself, so that a pose is near several of its arc lengths. The vehicle's
last place decides: the next place is searched for around it, within a reach that grows with the way moved (`walk`). The
log's first step has no last place. There the whole route is searched, and the first of the places that are about
equally near is taken (`first_place`). `log_places` walks the log's own places from there; a rollout starts on them, and
the score compares with them.

The first and the last segment extend to infinity: progress continues beyond the route's ends. Without a route of at
least two points arc lengths and offsets are 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.simulator.dynamics import ego_track
from tether.simulator.geometry import segments

SLACK_M = 2.0  # a place may be this far along the route from the last place,
STRETCH = 2.0  # plus this many times the way moved: on a curve's inner side the route is longer than the way
HEADING_M = 3.0  # at first, a route segment at a right angle to the vehicle counts as this much farther away
TIED_M = 1.0  # at first, squared distances that differ by the square of this are about the same


class Route(NamedTuple):
    """The route's points float32[R] [m], and bool[R], which of them exist: the first ones."""

    x: Array
    y: Array
    valid: Array


class Feet(NamedTuple):
    """The nearest place on each segment; fields [R - 1].

    Attributes:
      s: arc length [m].
      square: squared distance [m^2], infinite where the segment is out of reach.
      left: whether the point is on the segment's left.
      cos: cosine of the segment's angle to a heading.
    """

    s: Array
    square: Array
    left: Array
    cos: Array


def route_of(scene: Scene) -> Route:
    """The route of a scene, [R] or batched."""
    return Route(scene.route_x, scene.route_y, scene.route_valid)


def feet(route: Route, x: Array, y: Array, heading: Array, low_s: Array, high_s: Array) -> Feet:
    """The nearest places to a point with arc lengths from `low_s` to `high_s`."""
    seg = segments(*route)
    dx, dy = seg.bx - seg.ax, seg.by - seg.ay
    length = jnp.where(seg.valid, jnp.hypot(dx, dy), 0.0)
    start_s, order, unit = jnp.cumsum(length) - length, jnp.arange(length.shape[0]), jnp.maximum(length, 1e-6)
    low = jnp.maximum(jnp.where(order == 0, -jnp.inf, 0.0), low_s - start_s)
    high = jnp.minimum(jnp.where(order == jnp.sum(route.valid) - 2, jnp.inf, length), high_s - start_s)
    from_x, from_y = x - seg.ax, y - seg.ay
    t = jnp.clip((from_x * dx + from_y * dy) / unit, low, high)
    off_x, off_y = from_x - t * dx / unit, from_y - t * dy / unit
    return Feet(
        s=start_s + t,
        square=jnp.where(seg.valid & (low <= high), off_x * off_x + off_y * off_y, jnp.inf),
        left=dx * from_y - dy * from_x >= 0,
        cos=(dx * jnp.cos(heading) + dy * jnp.sin(heading)) / unit,
    )


def project(route: Route, x: Array, y: Array, near_s: Array, reach: Array) -> tuple[Array, Array]:
    """Arc length and lateral offset, left positive, of the nearest place not farther than `reach` along the route.

    Args: x, y: scalars.  near_s, reach: arc length of the last place and how far from it is looked for, scalars [m].
    """
    places = feet(route, x, y, 0.0, near_s - reach, near_s + reach)
    best = jnp.argmin(places.square)
    known, distance = jnp.isfinite(places.square[best]), jnp.sqrt(places.square[best])
    offset = jnp.where(places.left[best], distance, -distance)
    return jnp.where(known, places.s[best], 0.0), jnp.where(known, offset, 0.0)


def first_place(
    route: Route, x: Array, y: Array, heading: Array | None, from_s: Array = -jnp.inf, tied_m: float = TIED_M
) -> tuple[Array, Array]:
    """Arc length and lateral offset [m] of a point whose last place is not known.

    It is the first of the places from `from_s` on that are about as near as the nearest.

    Args: x, y, heading, from_s: scalars; segments that point elsewhere than a heading count as farther away.
      tied_m: squared distances that differ by its square are about the same.
    """
    places = feet(route, x, y, 0.0 if heading is None else heading, from_s, jnp.inf)
    cost = places.square if heading is None else places.square + HEADING_M**2 * (1 - places.cos)
    first = jnp.argmax(cost <= jnp.min(cost) + tied_m**2)
    near_s = jnp.where(jnp.isfinite(places.s[first]), places.s[first], 0.0)
    return project(route, x, y, near_s, tied_m + SLACK_M)


def walk(route: Route, s: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Arc lengths and lateral offsets [N] of a track whose first point lies at arc length `s`.

    Args: x, y: float32[N + 1].
    """

    def body(s: Array, track: tuple) -> tuple[Array, tuple]:
        x, y, way = track
        place = project(route, x, y, s, SLACK_M + STRETCH * way)
        return place[0], place

    track = (x[1:], y[1:], jnp.hypot(jnp.diff(x), jnp.diff(y)))
    # Unrolled, a step's sub-steps cost half as much on a CPU.
    return jax.lax.scan(body, s, track, unroll=5)[1]


def log_places(scene: Scene) -> Array:
    """Arc length float32[B, T] of the logged ego at each log step; where it is not seen, at the last step before."""
    x, y, heading, valid = (ego_track(scene, name) for name in ("x", "y", "heading", "valid"))
    steps = jnp.arange(valid.shape[-1])
    seen = jnp.maximum(jax.lax.cummax(jnp.where(valid, steps, -1), axis=1), jnp.argmax(valid, axis=1)[:, None])
    x, y, heading = (jnp.take_along_axis(field, seen, axis=1) for field in (x, y, heading))

    def of_scene(route: Route, x: Array, y: Array, heading: Array) -> Array:
        first, _ = first_place(route, x[0], y[0], heading[0])
        return jnp.concatenate([first[None], walk(route, first, x, y)[0]])

    return jax.vmap(of_scene)(route_of(scene), x, y, heading)
