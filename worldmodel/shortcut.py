"""Shortcut forcing: a sequence of continuous frames, each drawn in a few steps (Dreamer 4, arXiv 2509.24527).

A frame is mixed with noise up to a signal level tau, 0 being noise and 1 the frame itself:

    z_tau = tau * z_1 + (1 - tau) * noise

and a network predicts z_1 from z_tau, tau and the length d of the step that its prediction serves. Each frame of a
sequence has its own tau and d (diffusion forcing, arXiv 2407.01392). tau lies on the grid of its d, and d is a power of
two times the finest step d_min = 1 / `finest`:

    d = d_min   the target is z_1: flow matching, written as x-prediction
    d > d_min   the target is where two steps of d / 2 lead, without gradient (shortcut models, arXiv 2410.12557)

Dreamer 4 writes the second case as an error of velocities, (x - z_tau) / (1 - tau), times (1 - tau)^2. Those factors
cancel: it is the squared error of x against `two_half_steps`, so both cases share one loss. Each frame's error counts
0.9 tau + 0.1, because a frame that is still mostly noise can hardly be predicted.

The functions work with any network and any kind of frame. B rows, F frames, `...` the axes of a frame.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array


@flax.struct.dataclass
class Levels:
    """The network's inputs beside each noisy frame.

    Attributes:
      tau: float32[B, F], signal level in [0, 1].
      step: float32[B, F], length d of the step to be taken from there, at most 1 - tau.
    """

    tau: Array
    step: Array


# From noisy frames [n, F, ...] and their levels to the clean frames. If n < B, they are the first rows of the batch, to
# which the network's other inputs then have to be cut.
Predict = Callable[[Array, Levels], Array]


def over(level: Array, frames: Array) -> Array:
    """A level [B, F] with axes added, to multiply frames [B, F, ...]."""
    return level.reshape(level.shape + (1,) * (frames.ndim - level.ndim))


def corrupt(clean: Array, noise: Array, tau: Array) -> Array:
    """Mixes frames [B, F, ...] with noise of the same shape, up to tau [B, F]."""
    tau = over(tau, clean)
    return tau * clean + (1 - tau) * noise


def velocity(clean: Array, noisy: Array, tau: Array) -> Array:
    """The change of z per tau that leads from `noisy` at `tau` < 1 to `clean` at 1."""
    return (clean - noisy) / (1 - over(tau, clean))


def draw_levels(key: jax.Array, rows: int, frames: int, finest: int, bootstrapped: int) -> Levels:
    """Levels to train at: the first `bootstrapped` rows at steps longer than the finest, each length equally likely.

    Args: finest: 1 / d_min, a power of two. Returns: `Levels` [rows, frames]; tau is a multiple of its step.
    """
    k_step, k_tau = jax.random.split(key)
    doublings = jax.random.randint(k_step, (rows, frames), 1, finest.bit_length())
    doublings = jnp.where(jnp.arange(rows)[:, None] < bootstrapped, doublings, 0)
    step = jnp.exp2(doublings) / finest
    return Levels(jnp.floor(jax.random.uniform(k_tau, step.shape) / step) * step, step)


def two_half_steps(predict: Predict, noisy: Array, levels: Levels) -> Array:
    """The frames [n, F, ...] that would lead, in one step, where two steps of half the length do. Without gradient."""
    half, tau = levels.step / 2, levels.tau
    first = velocity(predict(noisy, Levels(tau, half)), noisy, tau)
    middle = noisy + over(half, noisy) * first
    second = velocity(predict(middle, Levels(tau + half, half)), middle, tau + half)
    return jax.lax.stop_gradient(noisy + (1 - over(tau, noisy)) * (first + second) / 2)


def weight(tau: Array) -> Array:
    """The weight of a frame at a signal level: Dreamer 4's ramp."""
    return 0.9 * tau + 0.1


def losses(predict: Predict, clean: Array, noise: Array, levels: Levels, bootstrapped: int) -> Array:
    """The weighted mean squared error of each frame.

    Args: clean, noise: float32[B, F, ...]; levels: of `draw_levels`, with the same `bootstrapped` in [0, B].
    Returns: float32[B, F].
    """
    noisy, target = corrupt(clean, noise, levels.tau), clean
    if bootstrapped:
        coarse = jax.tree.map(lambda a: a[:bootstrapped], (noisy, levels))
        target = jnp.concatenate([two_half_steps(predict, *coarse), clean[bootstrapped:]])
    error = jnp.square(predict(noisy, levels) - target)
    return weight(levels.tau) * error.reshape(*levels.tau.shape, -1).mean(-1)


def sample(predict: Predict, noise: Array, steps: int) -> Array:
    """Draws frames in `steps` steps of equal length, a power of two up to 1 / d_min. float32[B, F, ...], from noise."""

    def body(frames: Array, tau: Array) -> tuple[Array, None]:
        levels = Levels(*(jnp.full(frames.shape[:2], level) for level in (tau, 1 / steps)))
        return frames + velocity(predict(frames, levels), frames, levels.tau) / steps, None

    return jax.lax.scan(body, noise, jnp.arange(steps) / steps)[0]
