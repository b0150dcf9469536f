"""Shortcut forcing: its grid, its targets by hand, and few-step draws of a distribution that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tether.worldmodel import shortcut
from tether.worldmodel.nets import draw, mlp, mlp_layers
from tether.worldmodel.shortcut import Levels

FINEST = 8


def test_levels_lie_on_the_grid_of_their_step():
    """Bootstrapped rows take every longer step, the others the finest; each step ends at 1 at the latest."""
    levels = shortcut.draw_levels(jax.random.key(0), 64, 32, FINEST, bootstrapped=16)
    tau, step = np.asarray(levels.tau), np.asarray(levels.step)
    assert tau.shape == step.shape == (64, 32)
    assert set(np.unique(step[:16])) == {0.25, 0.5, 1.0}
    assert np.all(step[16:] == 1 / FINEST)
    np.testing.assert_array_equal(tau % step, 0.0)
    assert tau.min() == 0.0 and np.all(tau + step <= 1.0)
    assert np.all(tau[step == 1.0] == 0.0) and set(np.unique(tau[16:])) == set(np.arange(FINEST) / FINEST)


def test_corruption_and_its_velocity(rng):
    """From any level, the velocity leads to the clean frame in the time that is left."""
    clean, noise = jnp.asarray(rng.normal(size=(2, 3, 5, 4, 2)))
    tau = jnp.array([[0.0, 0.25, 0.5, 0.75, 0.875]] * 3)
    noisy = shortcut.corrupt(clean, noise, tau)
    np.testing.assert_array_equal(noisy[:, 0], noise[:, 0])
    left = shortcut.over(1 - tau, clean)
    np.testing.assert_allclose(noisy + left * shortcut.velocity(clean, noisy, tau), clean, atol=1e-5)


def test_the_ramp():
    np.testing.assert_allclose(shortcut.weight(jnp.array([0.0, 0.5, 1.0])), [0.1, 0.55, 1.0])


def test_target_is_two_half_steps_by_hand():
    """A network that returns 4 at first and 3 half way on: from z = 1 at tau 0 with d 0.5.

    First velocity (4 - 1) / 1 = 3, z' = 1 + 0.25 * 3 = 1.75 at tau 0.25; second (3 - 1.75) / 0.75 = 5 / 3. Their mean
    over d leads to 1 + 0.5 * 7 / 3, and the frame that one step would have to believe in is 1 + 1 * 7 / 3.
    """

    def network(noisy, levels):
        np.testing.assert_array_equal(levels.step, 0.25)
        return jnp.where(shortcut.over(levels.tau, noisy) > 0, 3.0, 4.0) + 0 * noisy

    target = shortcut.two_half_steps(network, jnp.ones((1, 1, 2)), Levels(jnp.zeros((1, 1)), jnp.full((1, 1), 0.5)))
    np.testing.assert_allclose(target, 1 + 7 / 3, rtol=1e-6)


def test_loss_is_flow_and_bootstrap_by_row(rng):
    """Weighted squared error against the frame, or against the result of two half steps; that side has no gradient."""
    clean, noise = jnp.asarray(rng.normal(size=(2, 4, 3, 5)), jnp.float32)
    levels = shortcut.draw_levels(jax.random.key(1), 4, 3, FINEST, bootstrapped=1)
    noisy = shortcut.corrupt(clean, noise, levels.tau)

    def losses(scale, held):
        def network(noisy, levels):
            return (scale if noisy.shape[0] == 4 else held) * noisy

        return shortcut.losses(network, clean, noise, levels, bootstrapped=1)

    row = jax.tree.map(lambda a: a[:1], levels)
    target = shortcut.two_half_steps(lambda noisy, levels: 0.7 * noisy, noisy[:1], row)
    error = jnp.square(0.7 * noisy - jnp.concatenate([target, clean[1:]])).mean(-1)
    np.testing.assert_allclose(losses(0.7, 0.7), (0.9 * levels.tau + 0.1) * error, rtol=1e-4)
    assert losses(0.7, 0.7).shape == (4, 3)
    assert float(jax.grad(lambda held: losses(0.7, held).sum())(0.7)) == 0.0


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_constant_network_gives_its_frame(steps):
    """A network that always returns the same frame gives it in any number of steps."""
    frame = jnp.arange(6.0).reshape(1, 2, 3)
    drawn = shortcut.sample(lambda noisy, levels: frame, jax.random.normal(jax.random.key(0), frame.shape), steps)
    np.testing.assert_allclose(drawn, frame, atol=1e-5)


@pytest.fixture(scope="module")
def toy():
    """A small network fitted to two points, (-1, 0.5) and (1, 0.5), alike likely: half the rows are bootstrapped."""

    def network(params, noisy, levels):
        features = jnp.stack([levels.tau, jnp.log2(levels.step)], -1)
        return mlp(params, jnp.concatenate([noisy, features], -1))

    def loss(params, key):
        k_side, k_noise, k_levels = jax.random.split(key, 3)
        side = jnp.sign(jax.random.uniform(k_side, (256, 1)) - 0.5)
        clean = jnp.stack([side, jnp.full_like(side, 0.5)], -1)
        levels = shortcut.draw_levels(k_levels, 256, 1, FINEST, bootstrapped=128)
        noise = jax.random.normal(k_noise, clean.shape)
        return shortcut.losses(lambda *a: network(params, *a), clean, noise, levels, 128).mean()

    optimizer = optax.adam(5e-3)

    @jax.jit
    def fitted(params):
        def step(carry, key):
            gradients = jax.grad(loss)(carry[0], key)
            updates, moments = optimizer.update(gradients, carry[1])
            return (optax.apply_updates(carry[0], updates), moments), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(1), 1200))[0][0]

    params = fitted(draw(jax.random.key(0), mlp_layers((4, 48, 48, 2))))
    return lambda noisy, levels: network(params, noisy, levels)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_few_steps_draw_the_distribution(toy, steps):
    """Also in one step: without bootstrapping that would be the mean of both points, with deviation 0."""
    noise = jax.random.normal(jax.random.key(2), (2000, 1, 2))
    drawn = np.asarray(jax.jit(lambda noise: shortcut.sample(toy, noise, steps))(noise))[:, 0]
    np.testing.assert_allclose(drawn.mean(0), [0.0, 0.5], atol=0.1)
    np.testing.assert_allclose(drawn.std(0), [1.0, 0.0], atol=0.12)
    assert np.mean(np.abs(np.abs(drawn[:, 0]) - 1) < 0.25) > 0.85
