"""Intervals by hand."""

import numpy as np
import pytest
import scenes

from tether.data.scene import Record
from tether.evaluation.statistics import (
    bootstrap,
    bootstrap_of,
    excludes_zero,
    is_known,
    paired_difference,
    rank_violation,
    ranks,
    recordings,
    spearman,
)


def test_constant_values_have_no_width():
    assert bootstrap(np.full(7, 0.3)) == pytest.approx({"mean": 0.3, "low": 0.3, "high": 0.3, "n": 7, "groups": 7})


def test_interval_of_a_coin_is_close_to_the_normal_one():
    values = np.tile([0.0, 1.0], 200)
    interval = bootstrap(values)
    half_width = 1.96 * 0.5 / np.sqrt(400)  # 0.049
    assert interval["mean"] == 0.5
    assert interval["high"] - 0.5 == pytest.approx(half_width, abs=0.006)
    assert 0.5 - interval["low"] == pytest.approx(half_width, abs=0.006)
    assert interval == bootstrap(values)


def test_difference_of_a_shifted_copy_has_no_width():
    before = np.random.default_rng(0).random(50)
    difference = paired_difference(before + 0.1, before)
    assert difference == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1, "n": 50, "groups": 50})
    assert excludes_zero(difference)
    assert not excludes_zero(paired_difference(before, before))


def test_copies_of_a_scene_within_a_group_do_not_narrow_the_interval():
    values = np.random.default_rng(1).random(40)
    alone = bootstrap(values)
    copied = bootstrap(np.repeat(values, 5), np.repeat(np.arange(40), 5))
    naive = bootstrap(np.repeat(values, 5))
    assert copied["high"] - copied["low"] == pytest.approx(alone["high"] - alone["low"], rel=1e-9)
    assert naive["high"] - naive["low"] < 0.6 * (alone["high"] - alone["low"])
    assert copied["n"] == 200


def test_groups_of_unequal_size_weigh_by_their_scenes():
    interval = bootstrap(np.array([1.0, 1.0, 1.0, 0.0]), np.array(["a", "a", "a", "b"]))
    assert interval == {"mean": 0.75, "low": 0.0, "high": 1.0, "n": 4, "groups": 2}


def test_scenes_are_resampled_by_recording():
    scene = scenes.straight()
    records = [Record(scene, f"scenario-{i}", "hand", f"network-{i // 3}", "", np.zeros(3)) for i in range(6)]
    assert recordings(records) == ("network-0",) * 3 + ("network-1",) * 3
    interval = bootstrap(np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), recordings(records))
    # Two networks: both drawn twice gives 1 or 0 with a chance of a quarter each, so the interval is all there is.
    assert interval == {"mean": 0.5, "low": 0.0, "high": 1.0, "n": 6, "groups": 2}
    assert bootstrap(np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))["low"] > 0


@pytest.mark.parametrize("measured", [bootstrap, lambda v, g: bootstrap_of(lambda rows: v[rows].mean(), g)])
def test_a_single_recording_has_no_interval(measured):
    interval = measured(np.array([0.5, 0.7]), np.array(["a", "a"]))
    assert interval["mean"] == pytest.approx(0.6) and (interval["n"], interval["groups"]) == (2, 1)
    assert np.isnan([interval["low"], interval["high"]]).all()
    assert not is_known(interval) and not excludes_zero(interval)
    assert not is_known({**interval, "low": None, "high": None})  # as JSON has it


@pytest.mark.parametrize("values", [[], [0.0, np.nan], [[1.0]]])
def test_values_that_cannot_be_averaged_are_refused(values):
    with pytest.raises(ValueError, match="bootstrap"):
        bootstrap(np.array(values))


def test_pairs_must_be_the_same_scenes():
    with pytest.raises(ValueError, match="same scenes"):
        paired_difference(np.zeros(3), np.zeros(2))


def test_spearman_by_hand():
    np.testing.assert_array_equal(ranks(np.array([10.0, 20.0, 20.0, 5.0])), [1.0, 2.5, 2.5, 0.0])
    assert spearman([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # d = (0, 1, 1), rho = 1 - 6 * 2 / (3 * 8)
    assert spearman([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_rank_violation_by_hand():
    real = [0.1, 0.5, 0.6]
    assert rank_violation(real, [1, 2, 3]) == 0
    # the last two are swapped: each of them is misplaced by 0.1
    assert rank_violation(real, [1, 3, 2]) == pytest.approx((0 + 0.1 + 0.1) / 3)
    # turned round: the worst that happens to each is 0.5, 0.4 and 0.5
    assert rank_violation(real, [3, 2, 1]) == pytest.approx((0.5 + 0.4 + 0.5) / 3)
    # a tie hides that the last one is better
    assert rank_violation(real, [1, 2, 2]) == pytest.approx(0.1 / 3)
    assert rank_violation([1, 1], [1, 2]) == 0
    with pytest.raises(ValueError, match="rank_violation"):
        rank_violation([1, 2], [1])
