"""Which agents can be seen from a point: lines of sight in the plane, blocked by the boxes of vehicles.

No World hides anything by itself. A caller that wants a policy to see only what is in sight clears the validity of the
others in its observation; logs and physics stay complete, so that a hidden agent moves on and can be hit.
"""

import jax.numpy as jnp

from tether.data.geometry import Box, corners, to_frame
from tether.data.scene import Array

GRAZE = 1e-4  # a line of sight is free if at most this fraction of it lies within a box: rounding


def in_sight(boxes: Box, valid: Array, blocks: Array, eye_x: Array, eye_y: Array, reach: float) -> Array:
    """Whether each agent can be seen from a point.

    An agent is seen if a straight line from the eye to its centre or to one of its corners is at most `reach` long and
    crosses no other box that blocks the view. A box that holds the eye, as the ego's own does, blocks nothing. Heights
    are unknown: a low car hides what is behind it as a van does.

    Args:
      boxes: fields float32[..., A].
      valid: bool[..., A], the agents that exist; others are not seen and block nothing.
      blocks: bool[..., A], the agents that block the view: vehicles, not pedestrians or cyclists.
      eye_x, eye_y: float32[...], [m], in the frame of the boxes.
      reach: [m].
    Returns: bool[..., A].
    """
    corner_x, corner_y = corners(boxes)
    x = jnp.concatenate([boxes.x[..., None], corner_x], axis=-1)
    y = jnp.concatenate([boxes.y[..., None], corner_y], axis=-1)
    near = jnp.hypot(x - eye_x[..., None, None], y - eye_y[..., None, None]) <= reach
    blocked = crosses(boxes, eye_x, eye_y, x, y) & (valid & blocks)[..., None, None, :]
    own = jnp.eye(valid.shape[-1], dtype=bool)[:, None]
    free = ~jnp.any(blocked & ~own, axis=-1)
    return valid & jnp.any(free & near, axis=-1)


def crosses(boxes: Box, eye_x: Array, eye_y: Array, x: Array, y: Array) -> Array:
    """Whether the line from the eye to each place runs through each box that does not hold the eye.

    In a box's frame a line lies within the box where it lies within two slabs, along and across.

    Args: eye_x, eye_y: float32[...].   x, y: float32[..., A, P].
    Returns: bool[..., A, P, A], the last axis that of the boxes.
    """
    boxes = Box(*(field[..., None, None, :] for field in vars(boxes).values()))
    frame = boxes.x, boxes.y, boxes.heading
    eye = to_frame(eye_x[..., None, None, None], eye_y[..., None, None, None], *frame)
    place = to_frame(x[..., None], y[..., None], *frame)
    sides = boxes.length / 2, boxes.width / 2
    (in_x, out_x), (in_y, out_y) = map(within, eye, place, sides)
    enters, leaves = jnp.maximum(jnp.maximum(in_x, in_y), 0.0), jnp.minimum(jnp.minimum(out_x, out_y), 1.0)
    holds_eye = (jnp.abs(eye[0]) <= sides[0]) & (jnp.abs(eye[1]) <= sides[1])
    return ~holds_eye & (leaves - enters > GRAZE)


def within(start: Array, end: Array, half: Array) -> tuple[Array, Array]:
    """The fractions of the way from start to end at which a line enters and leaves [-half, half]."""
    step = end - start
    per_metre = 1 / jnp.where(jnp.abs(step) < 1e-6, 1e-6, step)
    first, second = (-half - start) * per_metre, (half - start) * per_metre
    return jnp.minimum(first, second), jnp.maximum(first, second)
