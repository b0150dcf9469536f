"""The loop: the log's expert, invariances, keys, ends, and the score of a rollout."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.data.scene import SceneSpec
from tether.simulator.dynamics import track_log
from tether.simulator.log_replay import LogReplay
from tether.simulator.observe import ego_of
from tether.simulator.on_log import OnLog
from tether.simulator.prepare import prepare
from tether.simulator.replay import replay_actions
from tether.simulator.rollout import joined, rollout
from tether.simulator.score import driving_score
from tether.simulator.world import Action

HORIZON = 16


class Expert(NamedTuple):
    """Follows the log, with a little noise from its key if asked."""

    config: object
    noise: float = 0.0

    def reset(self, params, scene):
        return scene

    def act(self, params, key, observation, scene):
        action = track_log(ego_of(observation), scene, observation.time, self.config.substeps, self.config)
        noise = self.noise * jax.vmap(jax.random.normal)(key)[:, None]
        return Action(action.acceleration + noise, action.curvature), scene, {"noise": noise[:, 0]}


@pytest.fixture(scope="session")
def drive(sim_config):
    """Jitted (scene, key, start) -> (Rollout, score) of the noisy expert in the log-replay World."""

    def run(scene, key, start):
        result = rollout(LogReplay(sim_config), (), Expert(sim_config, 0.5), (), scene, HORIZON, key, key, start)
        return result, driving_score(result, scene, sim_config)

    return jax.jit(run)


@pytest.fixture(scope="session")
def rolled_out(drive, batch, keys):
    """Rollout and score of the batch of `conftest.py` from the current step."""
    return jax.tree.map(np.asarray, drive(batch, keys, jnp.full(4, 10)))


def assert_same(a, b, atol=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def test_the_log_drives_a_free_road_without_an_event(sim_config, batch, keys):
    run = jax.jit(lambda *a: rollout(LogReplay(sim_config), (), Expert(sim_config), (), *a[:1], HORIZON, *a[1:]))
    clean = run(batch, keys, keys)
    score = driving_score(clean, batch, sim_config)
    np.testing.assert_array_equal(score["failure"], [False, False, True, True])
    np.testing.assert_array_equal(score["at_fault"], [False, False, True, False])
    np.testing.assert_array_equal(score["red_light"], [False, False, False, True])
    np.testing.assert_allclose(score["score"], [1, 1, 0, 0])
    np.testing.assert_allclose(score["progress"][:2], 1.0, atol=0.01)
    np.testing.assert_allclose(clean.ego.x[:, 0].ravel(), np.arange(1, 81), atol=1e-3)


def test_shapes(rolled_out, sim_config, spec):
    result, score = rolled_out
    substeps, size = sim_config.substeps, sim_config.render
    assert result.observation.bev.shape == (HORIZON, 4, size.height, size.width, 12)
    assert result.agents.x.shape == (HORIZON, 4, spec.agents, substeps)
    assert result.ego.x.shape == result.outcome.valid.shape == (HORIZON, 4, substeps)
    assert result.final.bev.shape == (4, size.height, size.width, 12)
    assert result.final_extras["noise"].shape == (4,)
    assert all(values.shape == (4,) for values in score.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((result.ego, result.outcome.reward_terms)))


def test_the_egos_row_holds_the_simulated_ego(rolled_out):
    result, _ = rolled_out
    np.testing.assert_array_equal(result.agents.x[:, :, 0], result.ego.x)
    np.testing.assert_allclose(result.observation.pose[1:, :, 0], result.ego.x[:-1, :, -1], atol=1e-6)


def test_a_row_that_is_over_rests_and_no_longer_counts(rolled_out):
    result, score = rolled_out
    ended = np.flatnonzero(result.outcome.termination[:, 2])
    assert len(ended) == 1
    assert result.alive[: ended[0] + 1, 2].all() and not result.alive[ended[0] + 1 :, 2].any()
    after = slice(ended[0] + 1, None)
    assert not result.outcome.valid[after, 2].any() and not result.outcome.reward[after, 2].any()
    assert np.ptp(result.ego.x[after, 2]) == 0 and np.ptp(result.observation.time[after, 2]) == 0
    np.testing.assert_allclose(score["return"][2], result.outcome.reward[: ended[0] + 1, 2].sum(), rtol=1e-5)


def test_the_terms_sum_to_the_reward(rolled_out):
    outcome = rolled_out[0].outcome
    np.testing.assert_allclose(sum(outcome.reward_terms.values()), outcome.reward, rtol=1e-5)


def test_the_last_step_of_the_log_truncates(rolled_out):
    outcome = rolled_out[0].outcome
    np.testing.assert_array_equal(outcome.truncation[:-1].any(0), False)
    np.testing.assert_array_equal(outcome.truncation[-1], [True, True, False, False])
    assert not (outcome.truncation & outcome.termination).any()


def test_same_keys_same_rollout_other_keys_another(drive, rolled_out, batch, keys):
    again = drive(batch, keys, jnp.full(4, 10))
    assert_same(rolled_out[0].ego, again[0].ego)
    other = drive(batch, jax.random.split(jax.random.key(1), 4), jnp.full(4, 10))
    assert np.abs(np.asarray(other[0].ego.x) - rolled_out[0].ego.x).max() > 0.01


def test_the_same_actions_lead_the_same_way(rolled_out, batch, keys, sim_config):
    def run(*args):
        again = replay_actions(LogReplay(sim_config), (), *args)
        return again.ego, again.outcome, again.alive

    first = rolled_out[0]
    action = jax.tree.map(lambda field: np.swapaxes(field, 0, 1), first.action)
    again = jax.jit(run)(keys, batch, jnp.full(4, 10), action)
    assert_same(again, (first.ego, first.outcome, first.alive), atol=1e-4)


def test_an_ego_on_its_log_is_put_back_and_lives_on(batch, keys, sim_config):
    """It brakes by 5 m/s^2 in every step from the log's 10 m/s, so each ends 4.375 m on, 5 m after the last one's end.

    In one scene it crashes, and goes on.
    """

    def run(*args):
        result = replay_actions(OnLog(LogReplay(sim_config)), (), *args)
        return joined(result.agents), result.outcome, result.alive

    nothing = jnp.zeros((4, HORIZON, sim_config.substeps))
    agents, outcome, alive = jax.jit(run)(keys, batch, jnp.full(4, 10), Action(nothing - 5.0, nothing))
    np.testing.assert_array_equal(agents.x, batch.x[..., 11:])
    np.testing.assert_allclose(outcome.progress_m[:, 0].sum(1), [4.375] + [5.0] * (HORIZON - 1), atol=1e-3)
    assert bool(outcome.termination[:-1, 2].any()) and bool(alive.all())


def test_a_row_does_not_depend_on_its_neighbours(drive, rolled_out, batch, keys):
    order = np.array([2, 0, 3, 1])
    shuffled = drive(batch[order], keys[order], jnp.full(4, 10))
    assert_same(
        jax.tree.map(lambda field: field[:, order], rolled_out[0].replace(final=None, final_extras=None)),
        shuffled[0].replace(final=None, final_extras=None),
        atol=1e-5,
    )


def test_padding_changes_nothing(drive, rolled_out, batch, keys, sim_config):
    """More padded agents, polylines and lights, with rubbish in them: the same rollout, image and reward."""

    def grow(field, axis, filler):
        pad = [(0, 0)] * field.ndim
        pad[axis] = (0, 3)
        return np.pad(field, pad, constant_values=filler)

    places = ("x", "y", "heading", "vel_x", "vel_y", "length", "width", "road_x", "road_y", "light_x", "light_y")
    padded = {name: grow(getattr(batch, name), 1, 1.0) for name in places}
    padded |= {name: grow(getattr(batch, name), 1, 0) for name in ("valid", "road_valid", "light_valid")}
    padded |= {"agent_type": grow(batch.agent_type, 1, 1), "road_type": grow(batch.road_type, 1, 15)}
    padded |= {"light_state": grow(batch.light_state, 1, 4), "light_route_s": grow(batch.light_route_s, 1, 60.0)}
    bigger, score = drive(dataclasses.replace(batch, **padded), keys, jnp.full(4, 10))
    assert_same(rolled_out[0].ego, bigger.ego, atol=1e-5)
    assert_same(rolled_out[0].outcome, bigger.outcome, atol=1e-5)
    np.testing.assert_array_equal(rolled_out[0].observation.bev, bigger.observation.bev)
    assert_same(rolled_out[1], dict(score), atol=1e-5)


def test_where_the_ego_stands_in_the_list_does_not_matter(drive, rolled_out, batch, keys):
    swap = lambda field: field[:, [1, 0, 2, 3]]  # noqa: E731
    rows = ("x", "y", "heading", "vel_x", "vel_y", "valid", "length", "width", "agent_type")
    swapped = dataclasses.replace(batch, ego=1 - batch.ego, **{name: swap(getattr(batch, name)) for name in rows})
    result, _ = drive(swapped, keys, jnp.full(4, 10))
    assert_same(rolled_out[0].outcome, result.outcome, atol=1e-5)
    np.testing.assert_array_equal(rolled_out[0].observation.bev, result.observation.bev)


def test_a_later_start_and_progress_relative_to_the_log(drive, batch, keys):
    result, score = drive(batch, keys, jnp.array([40, 30, 10, 10]))
    np.testing.assert_array_equal(result.observation.time[0], [40, 30, 10, 10])
    np.testing.assert_allclose(result.observation.pose[0, :, 0], [30, 20, 0, 0], atol=1e-4)
    np.testing.assert_array_equal(result.alive.sum(0)[:2], [10, 12])
    np.testing.assert_allclose(score["progress"][:2], 1.0, atol=0.05)


def test_a_standing_log_scores_one_without_failure(drive, keys, sim_config):
    standing = scenes.stack([prepare(scenes.straight(speed=0.0), sim_config)] * 4)
    _, score = drive(standing, keys, jnp.full(4, 10))
    np.testing.assert_allclose(score["score"], 1.0)


def test_a_shorter_log_ends_the_rollout(drive, keys, sim_config):
    scene = scenes.straight()
    cut = scenes.with_agent(scene, 0, 0.0, 0.0, speed=10.0, steps=range(0, 33))
    result, score = drive(scenes.stack([prepare(cut, sim_config)] * 4), keys, jnp.full(4, 10))
    assert int(result.outcome.valid[:, 0].sum()) == 32 - SceneSpec.current
    np.testing.assert_allclose(score["progress"], 1.0, atol=0.1)
