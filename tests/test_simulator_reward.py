"""The reward's order: metamorphic tests on its terms, and the driving score."""

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
    # 4 m of the 5 m that the limit allows in 0.5 s
    np.testing.assert_allclose(reward(), 0.8, rtol=1e-6)
    # jerk at the bound: 0.02; an offset of 2 m: 0.3 / 4; a time to collision of 1 s: 0.3 / 2
    tense = reward(longitudinal_jerk=4.13, route_offset_m=2.0, ttc_s=1.0)
    np.testing.assert_allclose(tense, 0.8 - 0.02 - 0.075 - 0.15, rtol=1e-5)


@pytest.mark.parametrize(
    ("measure", "values"),
    [
        ("overlap_m", [0.0, 0.1, 0.5, 1.5]),
        ("longitudinal_jerk", [0.0, 1.0, -3.0, 8.0]),
        ("route_offset_m", [0.0, 0.5, -1.5, 3.9]),
        ("ttc_s", [5.0, 1.9, 1.0, 0.1]),
        ("progress_m", [1.0, 0.6, 0.0, -0.2]),
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
    assert reward(**{event: True}, valid=1) + 16 * reward(progress_m=1.0) < 16 * reward(progress_m=0.0)


def test_an_at_fault_collision_is_worse_than_one_of_the_others_fault():
    assert reward(collision=True, at_fault=True) < reward(collision=True)


def test_driving_beats_standing_and_speeding_gains_nothing():
    assert reward() > reward(progress_m=0.0) == 0.0
    assert reward(progress_m=1.5) == reward(progress_m=1.0)


def test_substeps_after_the_end_do_not_count():
    np.testing.assert_allclose(reward(valid=3), 0.48, rtol=1e-5)


def test_an_unknown_speed_limit_has_a_stand_in():
    np.testing.assert_allclose(reward(speed_limit=0.0), 0.8 * LIMIT / CONFIG.reward.reference_speed, rtol=1e-5)
