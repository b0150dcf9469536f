"""Logged tracks as paths: the pose at an arc length, and the arc length at each log step.

Functions work on one scene, without batch axis; batch with `jax.vmap`. Letters as in `data/scene.py`, N places.
"""

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.geometry import wrap_angle
from tether.data.scene import Array, Scene, SceneSpec

SLOPE_STEPS = 3  # log steps on each side over which the acceleration is differenced; over fewer, noise dominates
STANDING_MPS = 0.2  # slower logged motion is label noise: it adds no arc length


@flax.struct.dataclass
class Paths:
    """Tracks without holes: interpolated where the log skips steps, at rest before, straight on after the last step.

    Attributes:
      x, y, heading, speed: float32[A, T].
      acceleration: float32[A, T], smoothed [m/s^2].
      arc: float32[A, T], the schedule: arc length from the first logged position to that of each step [m].
      first, last: int32[A], the first and the last logged step.
      length: float32[A], arc length at the last logged step [m].
      extent: float32[A], how far the track gets from its first position [m].
      sense: float32[A], 1, or -1 for agents that drive in reverse.
    """

    x: Array
    y: Array
    heading: Array
    speed: Array
    acceleration: Array
    arc: Array
    first: Array
    last: Array
    length: Array
    extent: Array
    sense: Array


def at(field: Array, index: Array) -> Array:
    """Values [A, ...] of a field [A, T] at indices [A, ...] of its last axis."""
    flat = jnp.take_along_axis(field, index.reshape(index.shape[0], -1), axis=-1)
    return flat.reshape(index.shape)


def logged_paths(scene: Scene) -> Paths:
    """The paths of all agents."""
    count = scene.valid.shape[-1]
    steps = jnp.broadcast_to(jnp.arange(count), scene.valid.shape)
    before = jax.lax.cummax(jnp.where(scene.valid, steps, -1), axis=1)
    after = jax.lax.cummin(jnp.where(scene.valid, steps, count), axis=1, reverse=True)
    first, last = jnp.minimum(after[:, :1], count - 1), jnp.maximum(before[:, -1:], 0)
    low, high = jnp.maximum(before, first), jnp.minimum(after, last)
    fraction = jnp.clip((steps - low) / jnp.maximum(high - low, 1), 0.0, 1.0)
    beyond_s = jnp.maximum(steps - last, 0) * SceneSpec.dt

    def filled(field, slope=None):
        value = at(field, low) + fraction * (at(field, high) - at(field, low))
        return value if slope is None else value + at(slope, last) * beyond_s

    x, y = filled(scene.x, scene.vel_x), filled(scene.y, scene.vel_y)
    speed = filled(jnp.hypot(scene.vel_x, scene.vel_y))
    turn = wrap_angle(at(scene.heading, high) - at(scene.heading, low))
    heading = wrap_angle(at(scene.heading, low) + fraction * turn)
    dx, dy = jnp.diff(x), jnp.diff(y)
    moves = jnp.where(speed[:, 1:] > STANDING_MPS, jnp.hypot(dx, dy), 0.0)
    forwards = jnp.sum(dx * jnp.cos(heading[:, 1:]) + dy * jnp.sin(heading[:, 1:]), axis=-1)
    arc = jnp.pad(jnp.cumsum(moves, axis=-1), ((0, 0), (1, 0)))
    earlier, later = jnp.maximum(steps - SLOPE_STEPS, 0), jnp.minimum(steps + SLOPE_STEPS, count - 1)
    away = jnp.hypot(x - at(x, first), y - at(y, first))
    return Paths(
        x=x,
        y=y,
        heading=heading,
        speed=speed,
        acceleration=(at(speed, later) - at(speed, earlier)) / ((later - earlier) * SceneSpec.dt),
        arc=arc,
        first=first[:, 0],
        last=last[:, 0],
        length=at(arc, last)[:, 0],
        extent=jnp.max(jnp.where(steps <= last, away, 0.0), axis=-1),
        sense=jnp.where(forwards < 0, -1.0, 1.0),
    )


def pose_at(paths: Paths, arc: Array) -> tuple[Array, Array, Array]:
    """x, y and heading at arc lengths [A, N]; straight on past the end.

    Where an agent stands, many log steps share a place; the last of them is used.
    """
    passed = jnp.sum(paths.arc[:, None, 1:] <= arc[..., None], axis=-1)
    low = jnp.minimum(passed, paths.arc.shape[-1] - 2)
    span = at(paths.arc, low + 1) - at(paths.arc, low)
    fraction = jnp.clip((arc - at(paths.arc, low)) / jnp.maximum(span, 1e-6), 0.0, 1.0)

    def between(field, change=lambda difference: difference):
        return at(field, low) + fraction * change(at(field, low + 1) - at(field, low))

    heading = wrap_angle(between(paths.heading, wrap_angle))
    beyond = paths.sense[:, None] * jnp.maximum(arc - paths.arc[:, -1:], 0.0)
    x, y = between(paths.x) + beyond * jnp.cos(heading), between(paths.y) + beyond * jnp.sin(heading)
    return x, y, heading
