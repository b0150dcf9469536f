"""Log divergence and kinematic infeasibility."""

import jax.numpy as jnp
import numpy as np
import pytest

from tether.simulator.config import VehicleLimits
from tether.simulator.dynamics import advance
from tether.simulator.studies.config import KinematicBounds
from tether.simulator.studies.log_metrics import kinematic_infeasibility, log_divergence
from tether.simulator.transition import ego_track_of
from tether.simulator.world import Action, Agents, EgoState

BOUNDS = KinematicBounds()


def track(speed, heading=0.0, x=0.0, y=0.0, valid=True, slip=0.0):
    """Agents [..., K] whose velocity points `slip` beside their heading."""
    speed, heading, x, y, valid = np.broadcast_arrays(speed, heading, x, y, valid)
    course = heading + slip
    return Agents(x, y, heading, speed * np.cos(course), speed * np.sin(course), valid)


def infeasible(agents):
    return [np.asarray(part) for part in kinematic_infeasibility(agents, 0.1, BOUNDS)]


def test_divergence_is_the_distance_where_both_are_there():
    # two agents, four steps: the first vanishes from the log, the second appears in it
    simulated = track(np.zeros((2, 4)), x=3.0, y=4.0, valid=[[1, 1, 1, 1], [1, 1, 1, 0]])
    log = track(np.zeros((2, 4)), valid=[[1, 1, 0, 0], [0, 1, 1, 1]])
    log = log.replace(valid=log.valid.astype(bool))
    value, valid = log_divergence(simulated.replace(valid=simulated.valid.astype(bool)), log)
    np.testing.assert_array_equal(valid, [[True, True, False, False], [False, True, True, False]])
    np.testing.assert_allclose(value, 5.0 * valid)


def test_padding_never_changes_the_divergence():
    simulated, log = track(np.zeros(3), x=np.array([1.0, np.nan, 2.0]), valid=[True, False, True]), track(np.zeros(3))
    np.testing.assert_array_equal(log_divergence(simulated, log)[0], [1.0, 0.0, 2.0])


@pytest.mark.parametrize(("change", "expected"), [(1.03, False), (-1.03, False), (1.05, True), (-1.05, True)])
def test_acceleration_beyond_the_bound(change, expected):
    # 10.4 m/s^2 is 1.04 m/s a step
    assert infeasible(track(np.array([20.0, 20.0 + change])))[0].tolist() == [expected]


@pytest.mark.parametrize("around", [0.0, np.pi, -np.pi / 2])
@pytest.mark.parametrize(("turn", "expected"), [(0.29, False), (-0.29, False), (0.31, True), (-0.31, True)])
def test_curvature_beyond_the_bound_also_across_the_wrap(turn, expected, around):
    # at 10 m/s a step is one metre: the turn is the curvature
    heading = np.array([around - turn / 2, around + turn / 2])
    wrapped = (heading + np.pi) % (2 * np.pi) - np.pi
    assert infeasible(track(np.full(2, 10.0), wrapped))[0].tolist() == [expected]


def test_a_standing_box_may_waver():
    value, valid = infeasible(track(np.array([0.0, 0.02, 0.0, 0.5]), np.array([0.0, 0.1, -0.1, 0.2])))
    assert not value.any() and valid.all()


def test_side_slip_is_no_curvature():
    # velocity 0.1 rad beside a constant heading: read after the step it would be 0.1 / 0.2 m
    assert not infeasible(track(np.full(5, 2.0), 0.3, slip=0.1))[0].any()


def test_turning_from_forward_to_reverse_is_no_jump():
    # the speed falls by 0.5 m/s a step; the turn while reversing is within the bound
    speed = np.array([1.0, 0.5, 0.0, -0.5, -1.0, -1.5])
    assert not infeasible(track(speed, np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.03])))[0].any()


def test_agents_count_between_appearing_and_vanishing():
    # rows of zeros are padding; the steps into and out of them do not count
    valid = np.array([[False, True, True, False, True], [False] * 5])
    agents = track(20.0 * valid, valid=valid)
    value, counted = infeasible(agents)
    np.testing.assert_array_equal(counted, [[False, True, False, False], [False] * 4])
    assert not value.any()
    changed = agents.replace(vel_x=np.where(valid, agents.vel_x, 1e6), heading=np.where(valid, 0.0, np.nan))
    np.testing.assert_array_equal(infeasible(changed), [value, counted])


@pytest.mark.parametrize("length", [0.0, 5.0, 13.8])
def test_no_rollout_of_the_vehicle_model_is_infeasible(rng, length):
    start = {name: jnp.zeros(16) for name in ("x", "y", "heading", "acceleration", "curvature")}
    ego = EgoState(
        **start, speed=jnp.float32(rng.uniform(0, 30, 16)), length=jnp.full(16, length), width=jnp.full(16, 2.0)
    )
    action = Action(*(jnp.float32(rng.normal(0, scale, (16, 100))) for scale in (10.0, 1.0)))
    value, valid = infeasible(ego_track_of(advance(ego, action, VehicleLimits(), 0.1)))
    assert valid.all() and not value.any()


def test_ego_and_all_agents_get_the_same_values(rng):
    agents = track(rng.uniform(0, 10, (3, 4, 30)), rng.uniform(-3, 3, (3, 4, 30)), valid=rng.random((3, 4, 30)) < 0.8)
    value, valid = infeasible(agents)
    assert value.shape == (3, 4, 29) and value.any()
    one = Agents(*(getattr(agents, name)[1, 2] for name in ("x", "y", "heading", "vel_x", "vel_y", "valid")))
    np.testing.assert_array_equal(infeasible(one), [value[1, 2], valid[1, 2]])


def test_infeasibility_agrees_with_a_loop_over_steps(rng):
    speed, heading = rng.choice([0.0, 0.5, 3.0, -3.0], 300) + rng.normal(0, 0.5, 300), rng.normal(0, 0.1, 300)
    flags, _ = infeasible(track(speed, heading))
    for step, flagged in enumerate(flags):
        before, after = speed[step], speed[step + 1]
        way = abs(before + after) / 2 * 0.1
        curvature = abs(heading[step + 1] - heading[step]) / way if way > 0 else np.inf
        turns = min(abs(before), abs(after)) >= 0.6 and curvature > 0.301
        assert flagged == (abs(after - before) / 0.1 > 10.401 or turns)
