"""The reward's order: metamorphic tests on its terms, and against the driving score."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from tether.simulator.config import SimulatorConfig
from tether.simulator.events import FAILURES
from tether.simulator.reward import reward_terms

CONFIG = SimulatorConfig()
LIMIT = 10.0


def reward(valid=5, speed_limit=LIMIT, **changes):
    """The reward of a step that gains 4 m with nothing else to report, with some measures changed."""
    calm = dict.fromkeys((*FAILURES, "collision", "uncomfortable", "wrong_way"), False)
    calm |= dict(overlap_m=0.0, progress_m=0.8, ttc_s=CONFIG.ttc_cap_s, longitudinal_jerk=0.0, route_offset_m=0.0)
    measures = {name: jnp.full(5, value) for name, value in (calm | changes).items()}
    terms = reward_terms(measures, jnp.arange(5) < valid, jnp.float32(speed_limit), CONFIG)
    return float(sum(terms.values()))


def test_hand_computed_step():
    # 4 m are all of the 0.8 x 5 m in 0.5 s that are counted, 2 m are half of them
    np.testing.assert_allclose([reward(), reward(progress_m=0.4)], [1.0, 0.5], rtol=1e-6)
    # jerk at the bound: 0.1; an offset of 2 m: 0.3 / 4; a time to collision of 1 s: 0.3 / 2
    tense = dict(longitudinal_jerk=4.13, route_offset_m=2.0, ttc_s=1.0)
    np.testing.assert_allclose(reward(**tense), 0.9 * 0.925 * 0.85, rtol=1e-5)
    # who does not move gains nothing, and loses nothing
    np.testing.assert_allclose(reward(**tense, progress_m=0.0), 0.0)


@pytest.mark.parametrize(
    ("measure", "values"),
    [
        ("overlap_m", [0.0, 0.1, 0.5, 1.5]),
        ("longitudinal_jerk", [0.0, 1.0, -3.0, 8.0]),
        ("route_offset_m", [0.0, 0.5, -1.5, 3.9]),
        ("ttc_s", [5.0, 1.9, 1.0, 0.1]),
        ("progress_m", [0.8, 0.6, 0.0, -0.2]),
        ("uncomfortable", [False, True]),
        ("wrong_way", [False, True]),
        ("collision", [False, True]),
    ],
)
def test_worse_measures_earn_strictly_less(measure, values):
    earned = [reward(**{measure: value}) for value in values]
    assert all(better > worse for better, worse in itertools.pairwise(earned))


@pytest.mark.parametrize("event", FAILURES)
def test_a_failure_costs_more_than_a_whole_rollout_gains(event):
    assert 15 * reward(progress_m=1.0) + reward(**{event: True}, valid=1) < 16 * reward(progress_m=0.0)


def test_an_at_fault_collision_is_worse_than_one_of_the_others_fault():
    assert reward(collision=True, at_fault=True) < reward(collision=True)


def test_driving_beats_standing_and_speeding_gains_nothing():
    assert reward() > reward(progress_m=0.0) == 0.0
    assert reward(progress_m=1.5) == reward(progress_m=1.0)


def test_substeps_after_the_end_do_not_count():
    np.testing.assert_allclose(reward(valid=3), 0.6, rtol=1e-5)


def test_an_unknown_speed_limit_has_a_stand_in():
    np.testing.assert_allclose(reward(speed_limit=0.0), LIMIT / CONFIG.reward.reference_speed, rtol=1e-5)


def test_rollouts_are_ordered_as_by_the_driving_score(rng):
    # Sixteen steps each, of at most what is counted; some rollouts fail in one of them.
    gains = rng.uniform(0, 0.8, (20, 1)) * rng.uniform(0, 1, (20, 16))
    fails_at = np.where(np.arange(20) < 6, rng.integers(0, 16, 20), 16)
    returns = [
        sum(reward(progress_m=gain) for gain in row[:end]) + (reward(off_road=True, valid=1) if end < 16 else 0)
        for row, end in zip(gains, fails_at, strict=True)
    ]
    scores = np.where(fails_at < 16, 0, gains.sum(1))
    best = np.argsort(-scores, kind="stable")[:15]  # the failures have one score
    assert np.all(np.diff(np.array(returns)[best]) < 0) and max(np.array(returns)[fails_at < 16]) < 0
