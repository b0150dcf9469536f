"""Pose increments, poses as given, and the exact inverse of a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.simulator.config import VehicleLimits
from tether.simulator.dynamics import advance, limited, move
from tether.simulator.vehicle_models import apply_delta, inverse, pose_delta, set_pose
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
    found = inverse(before, move(before, *wanted, LIMITS, 0.1), 0.1)
    # the last one stops after 0.05 s and 7.5 mm: only the distance tells -6 from -3 m/s^2
    np.testing.assert_allclose(found, wanted, rtol=2e-3)


def test_the_inverse_takes_no_slip_for_curvature():
    # Side-slip of a steady turn is atan(1.25 * 0.1); read as turn of one step it would be 0.12 / 0.5 m.
    action = Action(jnp.zeros((1, 2)), jnp.full((1, 2), 0.1))
    swept = advance(ego(5.0), action, LIMITS, 0.1)
    before, after = (jax.tree.map(lambda field, at=at: field[:, at], swept) for at in (0, 1))
    np.testing.assert_allclose(inverse(before, after, 0.1), [[0.0], [0.1]], atol=1e-4)


def test_deltas_play_a_track_back_across_the_wrap(rng):
    track = ego(5.0, rng.normal(0, 1, 40).cumsum(), rng.normal(0, 1, 40).cumsum(), rng.uniform(-np.pi, np.pi, 40))
    state = jax.tree.map(lambda field: field[0], track)
    for step in range(1, 40):
        after = jax.tree.map(lambda field, step=step: field[step], track)
        delta = pose_delta(jax.tree.map(lambda field, step=step: field[step - 1], track), after)
        state = apply_delta(state, delta, 0.1)
        np.testing.assert_allclose([state.x, state.y], [after.x, after.y], atol=1e-3)
        np.testing.assert_allclose(np.cos(state.heading - after.heading), 1.0, atol=1e-6)


def test_a_delta_is_seen_from_the_pose_before():
    # facing up, to one metre above and two to the left
    delta = pose_delta(ego(1.0, 5.0, 5.0, np.pi / 2), ego(1.0, 3.0, 6.0, np.pi))
    np.testing.assert_allclose(np.array(delta)[:, 0], [1.0, 2.0, np.pi / 2], atol=1e-5)


def test_a_pose_as_given_implies_speed_and_curvature():
    # The rear axle, at (-1.25, 0), on a quarter circle of radius 2 m to the left in 1 s: pi metres.
    put = set_pose(ego(1.0), 2.0 - 1.25, 2.0 + 1.25, np.pi / 2, 1.0)
    np.testing.assert_allclose(
        [put.speed[0], put.curvature[0], put.acceleration[0]], [np.pi, 0.5, np.pi - 1], rtol=1e-5
    )
    behind = set_pose(ego(1.0), -1.0, 0.0, 0.0, 0.1)
    assert behind.speed[0] == 0 and behind.curvature[0] == 0
    turned = set_pose(ego(0.0, length=0.0), 0.0, 0.0, 0.5, 0.1)
    assert turned.speed[0] == 0 and turned.curvature[0] == 0 and turned.heading == 0.5
