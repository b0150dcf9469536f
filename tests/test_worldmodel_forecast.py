"""Measures of draws against a log, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from tether.evaluation.world_models import forecasts as forecast
from tether.simulator.world import Agents


def test_joint_errors_by_hand():
    # Two draws of two agents over two steps; the second agent is not seen in the last step.
    distance = np.array([[[[1.0, 3.0], [2.0, 99.0]], [[0.0, 0.0], [9.0, 99.0]]]])
    counted = np.array([[[True, True], [True, False]]])
    ade, best = forecast.joint_errors(distance, counted, steps=2)
    assert ade == pytest.approx([(6 / 3 + 9 / 3) / 2])
    assert best == pytest.approx([2.0]), "the best draw as a whole, not the best of each agent"
    ade, best = forecast.joint_errors(distance, counted, steps=1)
    assert (ade[0], best[0]) == pytest.approx(((3 / 2 + 9 / 2) / 2, 1.5))


def test_joint_errors_of_a_scene_in_which_nothing_counts():
    ade, best = forecast.joint_errors(np.ones((1, 2, 3, 4)), np.zeros((1, 3, 4), bool), steps=4)
    assert np.isnan(ade[0]) and np.isnan(best[0])


def test_agents_that_do_not_count_change_nothing():
    rng = np.random.default_rng(0)
    distance, counted = rng.random((2, 3, 4, 5)), rng.random((2, 4, 5)) < 0.7
    padded = np.concatenate([distance, np.full((2, 3, 2, 5), 1e6)], axis=2)
    mask = np.concatenate([counted, np.zeros((2, 2, 5), bool)], axis=1)
    errors = (forecast.joint_errors(*pair, 5) for pair in ((distance, counted), (padded, mask)))
    for one, other in zip(*errors, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_kernel_is_a_density():
    x, y = np.meshgrid(np.linspace(-200, 200, 2001), np.linspace(-200, 200, 2001))
    density = np.exp(forecast.log_density(np.zeros((1, x.size)), np.zeros((1, x.size)), x.ravel(), y.ravel()))
    assert density.sum() * 0.2**2 == pytest.approx(1.0, abs=0.01)


def test_log_density_by_hand():
    at = np.zeros(1)
    assert forecast.log_density(np.zeros((3, 1)), np.zeros((3, 1)), at, at) == pytest.approx(-np.log(np.pi / 2))
    # One of two draws is right, the other 1 m off: 1 + 1 / 0.5 = 3, squared 9.
    mixed = forecast.log_density(np.array([[0.0], [1.0]]), np.zeros((2, 1)), at, at)
    assert mixed == pytest.approx(np.log((1 + 1 / 9) / 2 / (np.pi / 2)))


def test_interacting_agents_move_and_come_near():
    x = np.array([[0.0] * 6, [30.0, 25, 20, 15, 12, 9], [5.0] * 6, [0.0] * 6])
    valid = np.array([[True] * 6, [True] * 6, [True] * 6, [False] * 6])
    moving = np.array([False, True, False, True])
    interacting = forecast.interacting(x, np.zeros_like(x), valid, moving)
    assert interacting.tolist() == [False, True, False, False], (
        "the parked pair is near but does not move, the last is unseen"
    )


def test_wasserstein_by_hand():
    assert forecast.wasserstein(np.array([4, 0, 0]), np.array([0, 0, 2]), width=0.5) == pytest.approx(1.0)
    assert forecast.wasserstein(np.array([1, 2, 1]), np.array([2, 4, 2]), width=0.5) == 0.0


def test_an_agent_out_of_sight_goes_on_at_its_last_velocity():
    """Three agents at 10 m/s, whose boxes give a velocity of 100: never lost, lost after one step, lost at once."""
    valid = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], bool)
    x = jnp.where(valid, jnp.array([0.0, 1.0, 2.0, 3.0]), 100.0)
    velocity = jnp.where(valid, 10.0, -7.0)
    boxes = Agents(x, 0 * x, 0 * x, velocity, 0 * x, valid)
    now, after = boxes[:, :1], boxes[:, 1:]
    kept = forecast.keep_moving(now, after, 0.1)
    np.testing.assert_allclose(kept.x, np.tile([1.0, 2.0, 3.0], (3, 1)), atol=1e-6)
    np.testing.assert_array_equal(kept.valid, after.valid)
    back = after.replace(valid=after.valid.at[2, 2].set(True))  # seen again: at its own place
    np.testing.assert_allclose(forecast.keep_moving(now, back, 0.1).x[2], [1.0, 2.0, 100.0], atol=1e-6)


def test_which_of_the_others_move():
    """The ego; one that moves 3 m; one that moves 1 m; one that is lost before it moves; one that comes later."""
    x = np.array([[0.0, 9.0, 9.0], [0.0, 0.0, 3.0], [0.0, 1.0, 1.0], [0.0, 9.0, 9.0], [0.0, 0.0, 9.0]])
    valid = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 0, 0], [0, 1, 1]], bool)
    moving = forecast.moving(x, 0 * x, valid, np.array(0))
    assert moving.tolist() == [False, True, False, False, False]
