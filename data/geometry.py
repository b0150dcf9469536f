"""Planar geometry that host and device share: traced by JAX; host code that needs float64 wraps with NumPy itself."""

import jax.numpy as jnp

from data.scene import Array


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
