"""Returns and objectives against numbers worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.simulator.world import Outcome
from tether.training import learning, objectives, returns
from tether.training.config import Config
from tether.training.objectives.actor_critic import ActorCritic
from tether.training.objectives.advantages import leave_one_out
from tether.training.objectives.closed_loop_sft import ClosedLoopSFT
from tether.training.objectives.grpo import GRPO
from tether.training.objectives.pmpo import PMPO, balanced
from tether.training.objectives.ppo import PPO
from tether.training.returns import ReturnsConfig, Targets


def outcome(reward, termination=None, truncation=None, disagreement=None) -> Outcome:
    """An `Outcome` [H, B] with the given fields and nothing else."""
    reward = jnp.asarray(reward, jnp.float32)
    empty = dict.fromkeys(Outcome.__dataclass_fields__, ())
    flags = {"termination": termination, "truncation": truncation}
    filled = {name: jnp.zeros(reward.shape, bool) if v is None else jnp.asarray(v, bool) for name, v in flags.items()}
    disagreement = jnp.zeros_like(reward) if disagreement is None else jnp.asarray(disagreement, jnp.float32)
    return Outcome(**{**empty, **filled, "reward": reward, "disagreement": disagreement})


def column(*values):
    return jnp.asarray(values, jnp.float32)[:, None]


def counted(out: Outcome, horizon=99, trust=1e9, alive=None):
    """`returns.counted` of an outcome."""
    alive = jnp.ones(out.reward.shape, bool) if alive is None else alive
    return returns.counted(alive, out.truncation, out.disagreement, horizon, trust)


def solve(out: Outcome, value, final, horizon=99, penalty=0.0, **changes) -> Targets:
    """`targets` of one row with two equal value heads, everything else at plain settings."""
    heads, last = jnp.repeat(value[..., None], 2, -1), jnp.asarray([[final, final]], jnp.float32)
    config = dataclasses.replace(ReturnsConfig(discount=0.9, lam=0.5), **changes)
    return returns.targets(out, counted(out, horizon), heads, last, penalty, config)


def test_returns_of_a_three_state_chain():
    # a -> b -> c -> end, rewards 1, 2, 4 on leaving a, b, c; gamma 0.5; lam 1: the plain discounted sums.
    solved = returns.lambda_return(column(1, 2, 4), column(0.5, 0.5, 0.0), column(7, 7, 7), jnp.array([9.0]), 1.0)
    # c: 4;  b: 2 + 0.5 * 4 = 4;  a: 1 + 0.5 * 4 = 3
    np.testing.assert_allclose(solved[:, 0], [3, 4, 4])


def test_lambda_mixes_value_and_return():
    solved = returns.lambda_return(column(1, 2), column(0.9, 0.9), column(5, 6), jnp.array([10.0]), 0.5)
    # R_1 = 2 + 0.9 * 10 = 11;  R_0 = 1 + 0.9 * (0.5 * 6 + 0.5 * 11) = 8.65
    np.testing.assert_allclose(solved[:, 0], [8.65, 11.0], rtol=1e-6)


def test_zero_lambda_is_one_step_bootstrapping():
    solved = returns.lambda_return(column(1, 2), column(0.9, 0.9), column(5, 6), jnp.array([10.0]), 0.0)
    np.testing.assert_allclose(solved[:, 0], [1 + 0.9 * 6, 2 + 0.9 * 10], rtol=1e-6)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="must agree"):
        returns.lambda_return(column(1, 2), column(1), column(1, 2), jnp.zeros(1))


def test_reward_belongs_to_the_transition():
    later = solve(outcome(column(0, 0, 1)), column(0, 0, 0), 0.0, lam=1.0)
    np.testing.assert_allclose(later.returns[:, 0], [0.81, 0.9, 1.0], rtol=1e-6)


def test_no_bootstrap_after_termination():
    out = outcome(column(1, -5, 0), termination=[[0], [1], [1]])
    alive = jnp.asarray([[1], [1], [0]], bool)
    valid, value = counted(out, alive=alive), jnp.full((3, 1, 2), 100.0)
    got = returns.targets(out, valid, value, jnp.full((1, 2), 100.0), 0.0, ReturnsConfig(discount=0.9, lam=1.0))
    # R_1 = -5 (no value of the crash's state);  R_0 = 1 + 0.9 * -5 = -3.5
    np.testing.assert_allclose(got.returns[:2, 0], [-3.5, -5.0], rtol=1e-6)
    assert not got.valid[2, 0]
    assert got.undiscounted[0] == -4


def test_bootstrap_at_truncation():
    out = outcome(column(1, 2, 50), truncation=[[0], [1], [1]])
    got = solve(out, column(0, 0, 10), 77.0, lam=1.0)
    # the log ends in step 1: R_1 = 2 + 0.9 * V(s_2) = 11;  R_0 = 1 + 0.9 * 11 = 10.9;  step 2 does not count
    np.testing.assert_allclose(got.returns[:2, 0], [10.9, 11.0], rtol=1e-6)
    np.testing.assert_array_equal(got.valid[:, 0], [True, True, False])


def test_horizon_and_lost_trust_cut_like_a_truncation():
    by_horizon = solve(outcome(column(1, 2, 50)), column(0, 0, 10), 77.0, lam=1.0, horizon=2)
    np.testing.assert_allclose(by_horizon.returns[:2, 0], [10.9, 11.0], rtol=1e-6)
    doubted = outcome(column(1, 2, 50), disagreement=column(0, 0, 3))
    valid = counted(doubted, trust=2.0)
    np.testing.assert_array_equal(valid[:, 0], [True, True, False])


def test_bootstrap_is_the_lowest_head_and_the_baseline_their_mean():
    out, valid = outcome(column(1)), jnp.ones((1, 1), bool)
    value, final = jnp.asarray([[[1.0, 3.0]]]), jnp.asarray([[4.0, 8.0]])
    config = ReturnsConfig(discount=0.5, lam=1.0)
    got = returns.targets(out, valid, value, final, 0.0, config)
    assert got.returns[0, 0] == 1 + 0.5 * 4
    assert got.advantage[0, 0] == 3 - 2
    got = returns.targets(out, valid, value, final, 0.0, dataclasses.replace(config, pessimistic=False))
    assert got.returns[0, 0] == 1 + 0.5 * 6  # without the pessimism their mean


def test_penalty_lowers_the_reward_by_the_disagreement():
    got = solve(outcome(column(1), disagreement=column(0.25)), column(0), 0.0, penalty=2.0)
    assert got.undiscounted[0] == 0.5


def test_group_baseline_is_the_mean_of_the_others():
    values, valid = jnp.asarray([[1.0, 2.0, 6.0, 5.0]]), jnp.asarray([[1, 1, 1, 0]], bool)
    # groups (1, 2) and (6, invalid): others of 1 -> 2, of 2 -> 1, of 6 -> none, of the invalid one -> 6
    np.testing.assert_allclose(leave_one_out(values, valid, 2)[0], [2, 1, 0, 6])


def aims(advantage, returns=None, valid=None, undiscounted=None) -> Targets:
    """`Targets` [1, B] with an advantage for each row."""
    advantage = jnp.asarray([advantage], jnp.float32)
    valid = jnp.ones(advantage.shape, bool) if valid is None else jnp.asarray([valid], bool)
    returns = advantage if returns is None else jnp.asarray([returns], jnp.float32)
    total = advantage[0] if undiscounted is None else jnp.asarray(undiscounted, jnp.float32)
    return Targets(returns, jnp.where(valid, advantage, 0.0), valid, total)


def test_pmpo_compares_with_the_others_of_the_group():
    weight = PMPO(dead_band=0.0).weights(aims([1, 1, 0, 4]), group=2)
    # centred 0, 0, -4, 4: one good, one bad, N = 4
    np.testing.assert_allclose(weight[0], [0, 0, -2, 2])


def test_pmpo_ignores_near_ties():
    weight = PMPO(dead_band=0.5).weights(aims([0, 0.1, 0, 4]), group=2)
    np.testing.assert_allclose(weight[0], [0, 0, -2, 2])


def test_grpo_weighs_whole_rollouts_by_their_lead_in_the_group():
    weight = GRPO(dead_band=0.0).weights(aims([9, 9, 9, 9], undiscounted=[1, 3, 5, 5]), group=2)
    # leads -2, 2, 0, 0 have a root mean square of sqrt(2); the second group carries no signal
    np.testing.assert_allclose(weight[0], [-np.sqrt(2), np.sqrt(2), 0, 0], rtol=1e-6)


def test_grpo_leaves_out_groups_without_signal():
    weight = GRPO(dead_band=0.25).weights(aims([0, 0, 0, 0], undiscounted=[0, 10, 5, 5.1]), group=2)
    assert np.all(weight[0, 2:] == 0) and weight[0, 1] > 0 > weight[0, 0]


def test_actor_critic_divides_by_the_range_of_returns_only_if_it_is_above_one():
    small = ActorCritic().weights(aims([0.5, -0.5], returns=[0.1, 0.2]), group=1)
    np.testing.assert_allclose(small[0], [0.5, -0.5])
    large = ActorCritic().weights(aims([5, -5], returns=[0, 100]), group=1)
    np.testing.assert_allclose(large[0], [5 / 90, -5 / 90], rtol=1e-5)


def test_ppo_has_mean_zero_and_spread_one():
    weight = PPO().weights(aims([1, 3, 5, 7]), group=1)
    np.testing.assert_allclose(weight[0], np.array([-3, -1, 1, 3]) / np.sqrt(5), rtol=1e-5)


def test_every_objective_is_built_by_its_name_with_its_settings():
    config = dataclasses.replace(Config(), ppo=PPO(clip=0.1))
    for name in objectives.BUILT_IN:
        built = objectives.build(name, config.objective_settings(name))
        assert isinstance(built, objectives.OBJECTIVES.config_type(name)) and hash(built) == hash(
            dataclasses.replace(built)
        )
    assert objectives.build("ppo", config.ppo).clip == 0.1
    with pytest.raises(ValueError, match=r"objective 'pppo': expected one of .*'ppo'"):
        objectives.build("pppo", None)


def test_imagined_decisions_weigh_nothing_where_demonstrations_are_learned():
    """The gap to grounding is measured in imagination under every objective, also one that does not learn there."""
    assert not np.any(ClosedLoopSFT().weights(aims([1, -2, 3, 0.5]), group=1))


@pytest.mark.parametrize("objective", [PMPO(dead_band=0.0), GRPO(dead_band=0.0), ActorCritic(), PPO()])
def test_invalid_transitions_weigh_nothing_and_change_nothing(objective):
    plain = aims([1, -2, 3, 0.5])
    invalid = jax.tree.map(lambda a: jnp.concatenate([a, 77 * a]), plain)
    valid = jnp.concatenate([plain.valid, jnp.zeros_like(plain.valid)])
    padded = invalid.replace(
        valid=valid, advantage=jnp.where(valid, invalid.advantage, 0.0), undiscounted=plain.undiscounted
    )
    weight = objective.weights(padded, 2)
    assert np.all(weight[1] == 0)
    # As many transitions again that are invalid: the valid ones weigh twice, so that the mean stays what it was.
    np.testing.assert_allclose(weight[0], 2 * objective.weights(plain, 2)[0], rtol=1e-5)


def test_the_surrogate_is_the_log_probability_without_a_clip():
    log_prob, drawn, weight = jnp.asarray([-1.0, -2.0]), jnp.asarray([-1.5, -1.0]), jnp.asarray([2.0, -1.0])
    np.testing.assert_allclose(learning.surrogate(log_prob, drawn, weight, jnp.float32(0)), [-2.0, 2.0])


def test_the_clipped_surrogate_stops_pushing_where_the_ratio_has_moved():
    drawn, weight, clip = jnp.zeros(4), jnp.asarray([1.0, 1.0, -1.0, -1.0]), jnp.float32(0.2)
    log_prob = jnp.log(jnp.asarray([1.5, 0.5, 1.5, 0.5]))
    value, slope = jax.vmap(jax.value_and_grad(lambda p, d, w: learning.surrogate(p, d, w, clip)))(
        log_prob, drawn, weight
    )
    # A good decision is not pushed beyond 1.2, a bad one not below 0.8; the way back is open.
    np.testing.assert_allclose(value, [1.2, 0.5, -1.5, -0.8], rtol=1e-6)
    np.testing.assert_allclose(slope, [0, 0.5, -1.5, 0], atol=1e-6)


def test_before_the_first_update_the_clipped_gradient_is_the_plain_one():
    log_prob, weight = jnp.asarray([-1.0, -3.0]), jnp.asarray([2.0, -1.0])

    def slope(clip):
        return jax.grad(lambda p: learning.surrogate(p, log_prob, weight, clip).sum())(log_prob)

    np.testing.assert_allclose(slope(jnp.float32(0.2)), slope(jnp.float32(0.0)))


def test_pmpo_splits_by_sign_and_balances_counts():
    weight = balanced(jnp.asarray([3.0, 0.01, -2.0, 0.0]), alpha=0.5)
    # N = 4: two good ones get 0.5 * 4 / 2 = 1 each, the bad one -0.5 * 4 / 1 = -2, the tie nothing
    np.testing.assert_allclose(weight, [1, 1, -2, 0])


def test_pmpo_gradient_raises_good_and_lowers_bad_actions():
    weight = balanced(jnp.asarray([1.0, -1.0]), alpha=0.5)
    taken = jnp.asarray([0, 1])

    def loss(logits):
        return -jnp.mean(weight * jax.nn.log_softmax(logits)[jnp.arange(2), taken])

    gradient = jax.grad(loss)(jnp.zeros((2, 2)))
    # d/dz of -0.5 * (1 * log p_0) = -0.5 * (1 - 0.5) = -0.25 for the good one, +0.25 for the bad one
    np.testing.assert_allclose(gradient, [[-0.25, 0.25], [-0.25, 0.25]], atol=1e-6)


def test_pmpo_without_bad_actions_is_cross_entropy():
    np.testing.assert_allclose(balanced(jnp.asarray([1.0, 2.0]), alpha=0.5), [0.5, 0.5])


def test_value_loss_is_huber_over_heads():
    # errors 0.5 -> 0.125, 3 -> 2.5; mean 1.3125
    np.testing.assert_allclose(learning.value_loss(jnp.asarray([[1.5, 4.0]]), jnp.asarray([1.0])), [1.3125])


def test_masked_mean_ignores_what_is_invalid():
    values, valid = jnp.asarray([1.0, 3.0, np.nan]), jnp.asarray([True, True, False])
    assert returns.masked_mean(values, valid) == 2
    assert returns.masked_mean(values, ~jnp.ones(3, bool)) == 0
