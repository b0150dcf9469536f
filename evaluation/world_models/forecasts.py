"""Errors and densities of draws against the log. K draws, A agents, T steps.

All of these measures see only boxes, so that every World is measured alike, with or without a likelihood of its own.
NumPy on the host; `moving` takes arrays of either kind, and `keep_moving` is computed with the draws.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.scene import Array
from tether.simulator.world import Agents

MOVED_M = 2.0  # an agent whose log stays within this of its first place is not moving
KERNEL_M = 0.5  # scale of the kernel
INTERACTING_M = 10.0  # centres of two agents, one of them moving, that come this near


def moving(x: Array, y: Array, valid: Array, ego: Array) -> Array:
    """Agents other than the ego that are there at first and move by more than `MOVED_M` while the log sees them.

    Args: x, y, valid: the log, [..., A, 1 + T].   ego: int[...], its row.   Returns: bool[..., A].
    """
    moved = (x - x[..., :1]) ** 2 + (y - y[..., :1]) ** 2 > MOVED_M**2
    return (moved & valid).any(-1) & valid[..., 0] & (ego[..., None] != np.arange(x.shape[-2]))


def keep_moving(now: Agents, after: Agents, dt: float) -> Agents:
    """The boxes; an agent that is out of sight keeps the velocity at which it was last seen.

    A model predicts no position for an agent that it takes to be out of sight. A box that stood still from then on
    would be implausible for a vehicle; leaving the agent out would hide the model's error.

    Args: now: `Agents` [..., 1], at the start; after: `Agents` [..., T], one every dt [s].
    Returns: `Agents` [..., T], valid where `after` is.
    """
    boxes = now.then(after)
    steps = jnp.arange(boxes.valid.shape[-1])
    last = jax.lax.cummax(jnp.where(boxes.valid, steps, 0), axis=boxes.valid.ndim - 1)
    seen = jax.tree.map(lambda a: jnp.take_along_axis(a, last, axis=-1)[..., 1:], boxes)
    since = ((steps - last) * dt)[..., 1:]
    return seen.replace(x=seen.x + seen.vel_x * since, y=seen.y + seen.vel_y * since, valid=after.valid)


def displacement(x: Array, y: Array, logged_x: Array, logged_y: Array) -> np.ndarray:
    """Distance [m] of draws [..., K, A, T] from the log [..., A, T]."""
    return np.hypot(x - logged_x[..., None, :, :], y - logged_y[..., None, :, :])


def joint_errors(distance: Array, counted: Array, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Average displacement error (ADE) and minADE [m] of each scene: the draws' mean, and the best draw as a whole.

    The average is over agents and over the steps up to `steps`, of those that count.

    Args: distance: [N, K, A, T]; counted: bool[N, A, T].   Returns: float64[N] each, NaN where nothing counts.
    Source: minADE of joint futures as in WOSAC, arXiv 2305.12032.
    """
    distance, counted = distance[..., :steps], counted[..., None, :, :steps]
    number = counted.sum((-1, -2))
    summed = np.where(counted, distance, 0.0).sum((-1, -2), dtype=np.float64)
    errors = np.where(number > 0, summed / np.maximum(number, 1), np.nan)
    return errors.mean(-1), errors.min(-1)


def log_density(x: Array, y: Array, logged_x: Array, logged_y: Array) -> np.ndarray:
    """Log-density [1/m^2] of an agent's logged position under a mixture of kernels around the draws.

    The kernel is a Student t of two degrees of freedom. A draw that is metres off then costs a few nats, not hundreds,
    so that no single agent dominates the mean over agents.

    Args: x, y: [..., K, A]; logged_x, logged_y: [..., A].   Returns: float64[..., A].
    Source: kernel density NLL as in The Trajectron (arXiv 1810.05993), with a heavy tail in place of its cut at -20.
    """
    off_x, off_y = x - logged_x[..., None, :], y - logged_y[..., None, :]
    squared = np.asarray(off_x, np.float64) ** 2 + np.asarray(off_y, np.float64) ** 2
    density = (1 + squared / (2 * KERNEL_M**2)) ** -2 / (2 * np.pi * KERNEL_M**2)
    return np.log(density.mean(-2))


def interacting(x: Array, y: Array, valid: Array, moving: Array) -> np.ndarray:
    """Moving agents that come within `INTERACTING_M` of another agent while both are seen: bool[A].

    Args: the log of one scene: x, y, valid: [A, T], the ego among them; moving: bool[A].
    """
    near = np.zeros((len(x), len(x)), bool)
    for step in range(0, x.shape[1], 5):  # twice a second
        both = valid[:, None, step] & valid[None, :, step]
        near |= both & (np.hypot(x[:, None, step] - x[:, step], y[:, None, step] - y[:, step]) < INTERACTING_M)
    np.fill_diagonal(near, False)
    return moving & near.any(1)


def wasserstein(first: Array, second: Array, width: float) -> float:
    """Earth mover's distance between two histograms over the same bins, in the unit of the bins' width."""
    fractions = [counts / max(counts.sum(), 1) for counts in (first, second)]
    return float(np.abs(np.cumsum(fractions[0] - fractions[1])).sum() * width)
