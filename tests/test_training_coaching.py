"""The coach's practice: advantages by hand, what is left out, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.policy.coach import CoachConfig
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.simulator.prepare import prepare
from tether.training.coaching import CoachingConfig, advantages, begin, coaching_step, informative

SIMULATOR = SimulatorConfig(render=RenderConfig(height=8, width=8, tile_height=32, tile_width=32))
COACH = CoachConfig(width=16, agent_width=8, agents=2).build(SIMULATOR)
CONFIG = CoachingConfig(rows=4, steps=4, epochs=2, minibatch=8, learning_rate=3e-3)
DISCOUNT, LAM = 0.5, 0.25


def test_advantages_by_hand():
    # Three steps of three rollouts: one goes on, one fails in the second step, one is cut off after the second.
    reward = np.array([[1.0, 1.0, 1.0], [2.0, -8.0, 2.0], [4.0, 0.0, 0.0]], np.float32)
    value = np.array([[10.0, 10.0, 10.0], [20.0, 20.0, 20.0], [30.0, 30.0, 30.0]], np.float32)
    last = np.array([40.0, 40.0, 40.0], np.float32)
    termination = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    alive = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0]], bool)
    config = dataclasses.replace(CONFIG, discount=DISCOUNT, lam=LAM)
    result = advantages(reward, termination, alive, value, last, config)
    going = [4 + 20 - 30, 2 + 15 - 20, 1 + 10 - 10]
    expected = np.zeros((3, 3))
    expected[2, 0] = going[0]
    expected[1, 0] = going[1] + DISCOUNT * LAM * expected[2, 0]
    expected[1, 1] = -8 - 20
    expected[1, 2] = 2 + 15 - 20
    expected[0] = 1 + 10 - 10 + DISCOUNT * LAM * expected[1]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_decisions_of_small_advantage_and_dead_ones_are_left_out():
    advantage, valid = jnp.array([0.5, -2.0, 100.0, 0.1, 50.0]), jnp.array([True, True, True, True, False])
    chosen, largest = informative(advantage, valid, jnp.float32(0), CONFIG)
    np.testing.assert_array_equal(chosen, [False, True, True, False, False])
    assert largest == 100.0
    # The range is remembered: a quarter of the newest, three of those before.
    chosen, largest = informative(advantage / 100, valid, largest, CONFIG)
    assert not np.any(chosen[:2]) and largest == 75.25


@pytest.fixture(scope="module")
def scene():
    drawn = [scenes.straight(speed=5.0), scenes.lead_vehicle(gap=19.0, speed=0.0)]
    return scenes.stack([prepare(one, SIMULATOR) for one in drawn * 2])


@pytest.fixture(scope="module")
def step(scene):
    start = jnp.full(4, 10)

    def practise(state, seed, done=0.0):
        arrays = (), state, scene, start, jax.random.key(seed), jnp.float32(done)
        return coaching_step(LogReplay(SIMULATOR), COACH, CONFIG, *arrays)

    return practise


def test_it_learns_to_drive_where_it_may_and_to_stop_where_it_must(step):
    state, earned = begin(COACH, jax.random.key(0)), []
    for seed in range(60):
        state, metrics = step(state, seed, seed / 60)
        earned.append(float(metrics["return"]))
    assert np.mean(earned[-10:]) > np.mean(earned[:10]) + 1.0


def test_practice_is_a_function_of_its_keys(step):
    first, again, other = (step(begin(COACH, jax.random.key(0)), seed)[0].params for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, other)), strict=True))


def test_without_anything_informative_it_stays_finite(scene):
    config = dataclasses.replace(CONFIG, least_advantage=2.0)
    state = begin(COACH, jax.random.key(0))
    arrays = (), state, scene, jnp.full(4, 10), jax.random.key(1), jnp.float32(0)
    after, metrics = coaching_step(LogReplay(SIMULATOR), COACH, config, *arrays)
    assert metrics["informative"] == 0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
