"""Bins, ramps, and labels that lead back to the log."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.policy.action_space import (
    ActionSpace,
    Waypoints,
    deviation,
    dithered,
    drive_to,
    encode_towards,
    knot_of,
    knot_towards,
    logged_waypoints,
    ramp,
    reach,
)
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import advance, log_ego
from tether.simulator.world import EgoState

SPACE, SIMULATOR = ActionSpace(), SimulatorConfig()
STRAIGHT_AHEAD = SPACE.curvatures // 2


def ego(speed, acceleration=0.0, curvature=0.0) -> EgoState:
    speed = jnp.asarray(speed, jnp.float32)
    zero = jnp.zeros_like(speed)
    return EgoState(zero, zero, zero, speed, zero + acceleration, zero + curvature, zero + 4.5, zero + 1.8)


def bins(*tokens):
    """Knots of the default space."""
    return knot_of(SPACE, jnp.asarray(tokens))


def reached(space: ActionSpace, start: EgoState, knots) -> Waypoints:
    """Where the exact dynamics end for given knots."""
    motion = jnp.stack([start.speed, start.acceleration, start.curvature, start.x], -1)
    swept = advance(start, drive_to(space, knots, motion, space.horizon), SIMULATOR.limits, space.dt)
    return Waypoints(swept.x, swept.y, swept.heading, swept.speed, jnp.ones(swept.x.shape, bool))


@pytest.fixture(scope="module")
def encode():
    return jax.jit(lambda start, waypoints: encode_towards(SPACE, start, waypoints, SIMULATOR.limits))


def test_bins_are_symmetric_and_hold_zero():
    fractions = np.asarray(SPACE.curvature_fractions())
    np.testing.assert_allclose(fractions, -fractions[::-1], atol=1e-6)
    assert fractions[STRAIGHT_AHEAD] == 0 and fractions[-1] == 1
    assert 0.0 in SPACE.accelerations and list(SPACE.accelerations) == sorted(SPACE.accelerations)
    with pytest.raises(ValueError, match="odd"):
        ActionSpace(curvatures=10)


def test_curvature_limit_depends_on_speed():
    """kappa_max = 6 / v^2: 0.3 up to 4.47 m/s, 0.015 at 20 m/s."""
    np.testing.assert_allclose(SPACE.max_curvature_at(jnp.array([0.0, 4.0, 10.0, 20.0])), [0.3, 0.3, 0.06, 0.015])


def test_ramp_reaches_the_target_at_the_commit_and_holds_it():
    values = ramp(jnp.array([1.0]), jnp.array([-1.0]), 7, 5)
    np.testing.assert_allclose(values[0], [0.6, 0.2, -0.2, -0.6, -1.0, -1.0, -1.0], atol=1e-6)


def test_decode_starts_from_the_current_motion():
    knot = bins([SPACE.accelerations.index(-1.1), SPACE.curvatures - 1])
    action = drive_to(SPACE, knot, jnp.array([[10.0, 0.9, 0.01, 0.0]]), 5)
    np.testing.assert_allclose(action.acceleration[0], [0.5, 0.1, -0.3, -0.7, -1.1], atol=1e-6)
    np.testing.assert_allclose(action.curvature[0], [0.02, 0.03, 0.04, 0.05, 0.06], atol=1e-6)


def test_encoding_recovers_every_kind_of_action(encode):
    """Driving any joint bin and encoding where it ends gives that bin back (bins that the limits merge aside)."""
    tokens = jnp.array([[a, k] for a in (1, 5, 8, 10, 13) for k in (5, 11, 14, 16, 23)])
    start = ego(jnp.full(len(tokens), 8.0), acceleration=0.3, curvature=0.01)
    np.testing.assert_array_equal(encode(start, reached(SPACE, start, bins(*tokens))), tokens)


def test_standing_is_encoded_as_standing_and_starting_as_accelerating(encode):
    start = ego(jnp.zeros(2))
    gone = reached(SPACE, start, bins([8, STRAIGHT_AHEAD], [13, STRAIGHT_AHEAD]))
    tokens = np.asarray(encode(start, gone))
    np.testing.assert_array_equal(tokens[0], [8, STRAIGHT_AHEAD])
    np.testing.assert_array_equal(tokens[1], [13, STRAIGHT_AHEAD])


def test_labels_beside_the_log_lead_back_without_overshoot(encode):
    """From 0.8 m left of a straight log, re-planned every 0.5 s: back within 0.2 m, never beyond 0.1 m right of it."""
    scene = scenes.stack([scenes.straight()])
    state = log_ego(scene, jnp.array([10])).replace(y=jnp.array([0.8]))
    waypoints = jax.jit(lambda time: logged_waypoints(scene, time, SPACE.horizon))
    offsets = []
    for step in range(12):
        motion = jnp.stack([state.speed, state.acceleration, state.curvature, state.x], -1)
        action = drive_to(SPACE, knot_of(SPACE, encode(state, waypoints(jnp.array([10 + 5 * step])))), motion, 5)
        swept = advance(state, action, SIMULATOR.limits, SPACE.dt)
        state = swept[:, -1]
        offsets.append(float(state.y[0]))
    assert min(offsets) > -0.1 and abs(offsets[-1]) < 0.2
    assert float(jnp.abs(state.x - 60.0)[0]) < 0.3


def test_waypoints_end_with_the_log():
    scene = scenes.stack([scenes.straight()])
    waypoints = logged_waypoints(scene, jnp.array([85]), 10)
    np.testing.assert_array_equal(waypoints.valid[0], np.arange(10) < 5)
    np.testing.assert_allclose(waypoints.x[0, :5], 75 + np.arange(1, 6), atol=1e-4)


def test_deviation_ignores_what_is_invalid():
    """With the horizon's waypoint invalid, its coordinates do not matter."""
    start = ego(jnp.array([5.0]))
    straight = reached(SPACE, start, bins([8, STRAIGHT_AHEAD]))
    valid = jnp.arange(SPACE.horizon)[None] < SPACE.commit
    spoiled = [straight.replace(valid=valid, x=jnp.where(valid, straight.x, junk)) for junk in (0.0, 99.0)]
    knots = bins([3, 3], [8, STRAIGHT_AHEAD])[None]
    deviations = [deviation(SPACE, knots, start, waypoints, SIMULATOR.limits) for waypoints in spoiled]
    np.testing.assert_array_equal(*deviations)
    assert deviations[0][0, 1] == 0 < deviations[0][0, 0]


def test_reach_in_a_coarser_space():
    space = dataclasses.replace(SPACE, accelerations=(-2.0, 0.0, 1.0), curvatures=3)
    acceleration, curvature = reach(space, knot_of(space, jnp.array([[0, 2], [2, 0]])), jnp.array([10.0, 1.0]))
    np.testing.assert_allclose(acceleration, [-2.0, 1.0])
    np.testing.assert_allclose(curvature, [0.06, -0.3], rtol=1e-6)


def test_dithered_tokens_are_right_on_average():
    """0.8 m/s^2 lies half way between the bins of 0.6 and 1.0; beyond the outermost bins these are taken."""
    count = 4000
    keys = jax.random.split(jax.random.key(0), count)
    knots = np.asarray(knot_of(SPACE, dithered(SPACE, jnp.tile(jnp.array([0.8, 0.18]), (count, 1)), keys)))
    assert set(np.unique(knots[:, 0])) == {np.float32(0.6), np.float32(1.0)}
    assert np.unique(knots[:, 1]).size == 2
    np.testing.assert_allclose(knots.mean(0), [0.8, 0.18], rtol=0.02)
    extreme = dithered(SPACE, jnp.array([[-9.0, -1.5], [9.0, 1.5]]), keys[:2])
    np.testing.assert_array_equal(extreme, [[0, 0], [SPACE.shape[0] - 1, SPACE.shape[1] - 1]])


def test_dithering_keeps_what_is_a_bin():
    tokens = np.stack(np.meshgrid(*map(np.arange, SPACE.shape), indexing="ij"), -1).reshape(-1, 2)
    keys = jax.random.split(jax.random.key(1), len(tokens))
    np.testing.assert_array_equal(dithered(SPACE, bins(*tokens), keys), tokens)


def test_the_nearest_knot_lies_between_the_bins():
    """Knots off the grid are recovered to an eighth of a bin, 0.05 m/s^2 there and 0.01 of kappa_max."""
    start = ego(jnp.full(3, 8.0), acceleration=0.3, curvature=0.01)
    wanted = jnp.array([[0.9, 0.05], [-0.42, -0.1], [0.05, 0.003]])
    search = jax.jit(lambda waypoints: knot_towards(SPACE, start, waypoints, SIMULATOR.limits))
    nearest, nearest_bin = search(reached(SPACE, start, wanted)), bins([11, 17], [6, 10], [8, 15])
    np.testing.assert_allclose(nearest, wanted, atol=0.06)
    assert np.abs(nearest - wanted)[:, 1].max() < 0.01
    assert np.abs(nearest - wanted).sum() < 0.5 * np.abs(nearest_bin - wanted).sum()
