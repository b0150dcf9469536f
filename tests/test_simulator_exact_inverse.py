"""The exact inverse of a step."""

import jax.numpy as jnp
import numpy as np
import pytest

from tether.simulator.config import VehicleLimits
from tether.simulator.dynamics import advance, limited, move
from tether.simulator.studies.exact_inverse import inverse
from tether.simulator.world import Action, EgoState

LIMITS = VehicleLimits()


def ego(speed, x=0.0, y=0.0, heading=0.0, length=5.0):
    values = dict(x=x, y=y, heading=heading, speed=speed, acceleration=0.0, curvature=0.0, length=length, width=1.8)
    shape = np.broadcast_shapes(*(np.shape(value) for value in values.values()), (1,))
    return EgoState(**{name: jnp.broadcast_to(jnp.float32(value), shape) for name, value in values.items()})


def random_steps(rng, count, length):
    """States and limited actions: standstill, stops inside the step and headings about the wrap are common."""
    speed = rng.choice([0.0, 1e-3, 0.05, 0.3, 1.0], count) + rng.choice([0.0, 25.0], count) * rng.random(count)
    heading = rng.choice([0.0, np.pi - 0.01, -np.pi + 0.01], count) + rng.normal(0, 0.02, count)
    before = ego(speed, rng.uniform(-200, 200, count), rng.uniform(-200, 200, count), heading, length)
    wanted = jnp.float32(rng.uniform(-10, 8, count)), jnp.float32(rng.uniform(-0.4, 0.4, count))
    return before, limited(before.speed, *wanted, LIMITS)


@pytest.mark.parametrize("length", [0.0, 5.0, 13.8])
def test_forward_of_the_inverse_is_the_step(rng, length):
    before, action = random_steps(rng, 4000, length)
    after = move(before, *action, LIMITS, 0.1)
    assert np.mean(np.asarray((after.speed == 0) & (before.speed > 0))) > 0.1
    again = move(before, *inverse(before, after, 0.1), LIMITS, 0.1)
    for name, tolerance in (("x", 1e-4), ("y", 1e-4), ("speed", 1e-5)):
        np.testing.assert_allclose(getattr(again, name), getattr(after, name), atol=tolerance, err_msg=name)
    turn = np.asarray(again.heading - after.heading)
    np.testing.assert_allclose(np.arctan2(np.sin(turn), np.cos(turn)), 0.0, atol=2e-5)


def test_the_inverse_recovers_actions():
    before = ego(np.array([10.0, 10.0, 0.0, 0.3]), heading=np.array([0.0, 3.14, 1.0, 0.0]))
    wanted = jnp.array([2.0, -3.0, 0.0, -6.0]), jnp.array([0.05, 0.05, 0.0, 0.2])
    recovered = inverse(before, move(before, *wanted, LIMITS, 0.1), 0.1)
    # the last one stops after 0.05 s and 7.5 mm: only the distance tells -6 from -3 m/s^2
    np.testing.assert_allclose(recovered, wanted, rtol=2e-3)


def test_the_inverse_takes_no_slip_for_curvature():
    # Side-slip of a steady turn is atan(1.25 * 0.1); read as turn of one step it would be 0.12 / 0.5 m.
    action = Action(jnp.zeros((1, 2)), jnp.full((1, 2), 0.1))
    swept = advance(ego(5.0), action, LIMITS, 0.1)
    before, after = swept[:, 0], swept[:, 1]
    np.testing.assert_allclose(inverse(before, after, 0.1), [[0.0], [0.1]], atol=1e-4)
