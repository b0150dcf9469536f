"""The gap between imagined and grounded, the rule about a round, and policies of training, on hand-made numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.simulator.events import EVENTS
from tether.training import grounding
from tether.training.closest_to_log import nearest
from tether.training.config import Config, GroundingConfig, RoundsConfig
from tether.training.disturbed_expert import DisturbedExpert, disturbance, drive_expert, undisturbed
from tether.training.drives import Steps
from tether.training.grounding import Grounded
from tether.training.imagination import row_keys
from tether.training.state import Progress

CONFIG = Config(
    rounds=RoundsConfig(horizon=12),
    grounding=GroundingConfig(tolerance=0.5, failure_tolerance=0.1, bias_tolerance=2.0, horizon_min=4),
)
BEFORE = Progress(horizon=12, penalty=0.5, grounded_return=(4.0, 6.0), failures=0.0)


def steps(predicted=None, **changes) -> Steps:
    """Three steps of two rows, reward 1 each, nothing happens; events by name."""
    ones = np.ones((3, 2), np.float32)
    events = {event.name: np.asarray(changes.pop(event.name, 0 * ones), bool) for event in EVENTS}
    plain = Steps(ones > 0, ones < 0, ones, ones, 0 * ones, events, predicted or {})
    return dataclasses.replace(plain, **changes)


def imagined(**changes) -> Steps:
    """With a head for collisions that predicts 0."""
    return steps({"at_fault": np.zeros((3, 2), np.float32)}, **changes)


def test_equal_rollouts_have_no_gap():
    gap = grounding.gap(imagined(), steps(), trust=1.0, horizon=3)
    assert (gap["bias"], gap["gap"], gap["imagined_return"], gap["compared_steps"]) == (0, 0, 3, 3)


def test_a_crash_that_was_not_imagined_is_a_positive_bias():
    crash = np.array([[0, 0], [1, 0], [0, 0]], bool)
    alive = np.array([[1, 1], [1, 1], [0, 1]], bool)
    reward = np.array([[1, 1], [-20, 1], [0, 1]], float)
    gap = grounding.gap(imagined(), steps(at_fault=crash, alive=alive, reward=reward), trust=1.0, horizon=3)
    # row 0: imagined 3, grounded -19; row 1: no difference
    assert (gap["bias"], gap["gap"]) == (11, 11)
    assert (gap["imagined_at_fault"], gap["grounded_at_fault"], gap["gap_at_fault"]) == (0, 0.5, -0.5)
    # the head predicts 0 in both: Brier (1 - 0)^2 / 2; a constant 0.5 gives 0.25
    assert (gap["brier_at_fault"], gap["brier_base_at_fault"]) == (0.5, 0.25)


def test_only_trusted_steps_are_compared():
    doubted = imagined(disagreement=np.array([[0, 0], [0, 9], [0, 0]]))
    gap = grounding.gap(doubted, steps(), trust=1.0, horizon=2)
    assert gap["compared_steps"] == 1.5  # two steps by the horizon; one until the doubt
    assert gap["grounded_return"] == 1.5


def test_probabilities_of_steps_combine_to_that_of_a_rollout():
    half = np.full((2, 1), 0.5)
    score = grounding.head_scores("at_fault", half, np.ones((2, 1), bool), np.array([True]))
    assert score["brier_at_fault"] == pytest.approx((0.75 - 1) ** 2)


@pytest.mark.parametrize(
    ("returns", "failures", "bias", "accept", "horizon", "penalty"),
    [
        ([5.0, 6.0], [0, 0], 0.0, True, 12, 0.5),
        ([3.6, 5.6], [0, 0], 9.0, True, 12, 0.5),  # fell by 0.4: within the tolerance
        ([3.0, 5.0], [0, 0], 0.0, False, 12, 1.0),  # fell by 1
        ([3.0, 5.0], [0, 0], 3.0, False, 8, 1.0),  # and imagination was wrong
        ([9.0, 9.0], [1, 0], 0.0, False, 12, 1.0),  # a higher return does not pay for failures
    ],
)
def test_the_rule(returns, failures, bias, accept, horizon, penalty):
    now = Grounded(np.array(returns), np.array(failures, bool))
    decision = grounding.decide(CONFIG, BEFORE, now, bias)
    assert (decision.accept, decision.horizon, decision.penalty) == (accept, horizon, penalty)
    assert "own return" in decision.reason


def test_each_guard_can_be_left_out():
    worse = Grounded(np.array([0.0, 0.0]), np.ones(2, bool))
    fixed = dataclasses.replace(CONFIG, rounds=dataclasses.replace(CONFIG.rounds, dynamic_horizon=False))
    assert grounding.decide(fixed, BEFORE, worse, bias=5.0).horizon == BEFORE.horizon
    no_gate = dataclasses.replace(CONFIG, grounding=dataclasses.replace(CONFIG.grounding, roll_back=False))
    trusting = grounding.decide(no_gate, BEFORE, worse, bias=5.0)
    assert (trusting.accept, trusting.horizon, trusting.penalty) == (True, BEFORE.horizon, BEFORE.penalty)


def test_the_horizon_has_a_floor():
    short = dataclasses.replace(BEFORE, horizon=5)
    worse = Grounded(np.array([0.0, 0.0]), np.zeros(2, bool))
    assert grounding.decide(CONFIG, short, worse, bias=5.0).horizon == 4


def test_groups_share_the_worlds_noise_and_not_the_policys():
    policy, world = row_keys(jax.random.key(0), 2, 3)
    data = np.asarray(jax.random.key_data(world))
    assert (data[0] == data[2]).all() and (data[0] != data[3]).any()
    assert len(np.unique(np.asarray(jax.random.key_data(policy)), axis=0)) == 6


def test_the_nearest_candidate_is_chosen_per_row():
    candidates = jnp.arange(12.0).reshape(2, 3, 2)  # [B, K, 2]
    chosen, distance = nearest(candidates, jnp.asarray([[3.0, 1.0, 2.0], [5.0, 6.0, 7.0]]))
    np.testing.assert_array_equal(chosen, [[2, 3], [6, 7]])
    np.testing.assert_array_equal(distance, [1.0, 5.0])


def test_disturbed_rows_leave_the_log_and_clean_ones_do_not(batch, sim_config, keys):
    """Row 2 lapses 1 s after the start and holds 1 m/s^2 from then on: 2 m/s more than its log after 3 s."""
    strength, lapse_s = jnp.asarray([0.0, 3.0, 0.0, 3.0]), jnp.full(4, jnp.inf).at[2].set(2.0)
    disturbed = undisturbed(4).replace(acceleration=strength, curvature=strength, lapse_s=lapse_s, held=jnp.ones(4))
    tracks = jax.jit(lambda d: drive_expert(sim_config, 6, batch, d, keys))(disturbed)
    last = np.asarray(tracks.ego.y[:, -1, -1])
    assert abs(last[0]) < 0.05 and np.abs(last[[1, 3]]).max() > 0.2
    np.testing.assert_array_equal(tracks.dynamics, [True, False, False, False])
    np.testing.assert_allclose(tracks.ego.speed[2, [1, -1], -1], [10.0, 12.0], atol=0.1)
    assert DisturbedExpert(sim_config).memory < 1


def test_drawn_disturbances_lapse_within_the_scene():
    drawn = disturbance(jax.random.key(0), 64)
    assert bool((drawn.lapse_s >= 1.0).all()) and bool((drawn.lapse_s < 9.1).all())
    assert not bool(drawn.none.any()) and bool(undisturbed(2).none.all())
