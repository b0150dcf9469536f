"""Arithmetic that objectives share. H imagined steps, B rows; rows of a group stand next to each other."""

import jax.numpy as jnp

from tether.data.scene import Array


def leave_one_out(values: Array, valid: Array, group: int) -> Array:
    """Mean over the other members of a row's group at the same step; 0 where no other member is valid.

    Rows of a group are neighbours: row b belongs to group b // G. Given the start the members act independently, so
    the others' mean does not depend on the row's own action: it is a baseline that adds no bias.

    Args:
      values: float32[H, B].   valid: bool[H, B].   group: G, rows per group.
    Returns: float32[H, B].
    """
    masked = jnp.where(valid, values, 0.0).reshape(values.shape[0], -1, group)
    count = valid.reshape(masked.shape).astype(values.dtype)
    others = (masked.sum(-1, keepdims=True) - masked) / jnp.maximum(count.sum(-1, keepdims=True) - count, 1)
    return others.reshape(values.shape)


def scaled(advantage: Array, valid: Array) -> Array:
    """Advantages so that their mean square over valid transitions is 1; nothing where all are 0."""
    spread = jnp.sqrt(jnp.sum(jnp.where(valid, advantage, 0.0) ** 2) / jnp.maximum(valid.sum(), 1))
    return jnp.where(valid, advantage / jnp.maximum(spread, 1e-6), 0.0)
