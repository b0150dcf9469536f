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
from tether.training.coaching import CoachingConfig, advantages, begin, coaching_step, informative, weights
from tether.training.imagination import Trust

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
    result = advantages(reward, termination, alive, value, last, DISCOUNT, LAM)
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
    chosen, largest = informative(advantage, valid, jnp.float32(0), 0.01)
    np.testing.assert_array_equal(chosen, [False, True, True, False, False])
    assert largest == 100.0
    # The range is remembered: a quarter of the newest, three of those before.
    chosen, largest = informative(advantage / 100, valid, largest, 0.01)
    assert not np.any(chosen[:2]) and largest == 75.25


@pytest.fixture(scope="module")
def scene():
    drawn = [scenes.straight(speed=5.0), scenes.lead_vehicle(gap=19.0, speed=0.0)]
    return scenes.stack([prepare(one, SIMULATOR) for one in drawn * 2])


@pytest.fixture(scope="module")
def step(scene):
    start = jnp.full(4, 10)

    def practise(state, seed, done=0.0, config=CONFIG, horizon=4):
        trust = Trust(jnp.int32(horizon), jnp.float32(jnp.inf), jnp.float32(0))
        program = LogReplay(SIMULATOR), COACH, config.steps, config.epochs, config.minibatch
        return coaching_step(*program, (), state, scene, start, jax.random.key(seed), trust, weights(config, done))

    return practise


@pytest.fixture
def fresh():
    return begin(COACH, jax.random.key(0))


def test_it_learns_to_drive_where_it_may_and_to_stop_where_it_must(step, fresh):
    state, earned = fresh, []
    for seed in range(60):
        state, metrics = step(state, seed, seed / 60)
        earned.append(float(metrics["return"]))
    assert np.mean(earned[-10:]) > np.mean(earned[:10]) + 1.0


def test_practice_is_a_function_of_its_keys(step, fresh):
    first, again, other = (step(fresh, seed)[0].params for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, other)), strict=True))


def test_what_the_world_is_not_believed_in_is_not_learned(step, fresh):
    whole, part = (step(fresh, 1, horizon=horizon)[1] for horizon in (4, 1))
    assert part["decisions"] == whole["decisions"] and abs(part["return"]) < abs(whole["return"])


def test_without_anything_informative_nothing_is_learned(step, fresh):
    after, metrics = step(fresh, 1, config=dataclasses.replace(CONFIG, least_advantage=2.0))
    assert metrics["informative"] == 0
    jax.tree.map(np.testing.assert_array_equal, after.params, fresh.params)
