"""The coach: what it sees, what it decides, and that nothing but consequences is in it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.policy.coach import CoachConfig, entropy, log_prob
from tether.policy.coach_sight import AGENT_NUMBERS, EGO_NUMBERS
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.observe import observe
from tether.simulator.prepare import prepare
from tether.simulator.transition import start_state

SIMULATOR = SimulatorConfig(render=RenderConfig(height=8, width=8, tile_height=32, tile_width=32))
COACH = CoachConfig(width=16, agent_width=8, agents=3).build(SIMULATOR)
KEYS = jax.random.split(jax.random.key(1), 2)


@pytest.fixture(scope="module")
def params():
    # Larger than at first, so that every input matters.
    return jax.tree.map(lambda leaf: 3 * leaf + 0.1, COACH.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def observation():
    drawn = [scenes.lead_vehicle(gap=12.0, speed=3.0), scenes.red_light(30.0)]
    scene = scenes.stack([prepare(one, SIMULATOR) for one in drawn])
    return jax.jit(lambda scene: observe(start_state(scene, jnp.full(2, 10), ()), SIMULATOR))(scene)


@pytest.fixture(scope="module")
def act(params):
    return jax.jit(lambda observation: COACH.act(params, KEYS, observation, ())[2])


def test_it_sees_as_many_numbers_as_it_says(observation):
    sight = COACH.look(observation)
    assert sight.ego.shape == (2, EGO_NUMBERS) and sight.agents.shape == (2, 3, AGENT_NUMBERS)
    assert np.isfinite(sight.ego).all() and np.isfinite(sight.agents).all()


def test_a_leader_stands_where_it_is(observation):
    sight = COACH.look(observation)
    first = dict(zip(("gap", "near", "offset"), np.asarray(sight.agents)[0, 0, 6:9], strict=True))
    assert np.asarray(sight.exists)[0, 0]
    np.testing.assert_allclose(first["gap"] * 20, 12.0, atol=0.1)
    np.testing.assert_allclose(first["offset"], 0.0, atol=1e-4)


def test_the_order_of_agents_and_their_padding_change_nothing(observation, act):
    agents = [field.name for field in dataclasses.fields(observation) if field.name.startswith("agent_")]
    order = np.random.default_rng(0).permutation(observation.agent_x.shape[1])
    shuffled = observation.replace(**{name: getattr(observation, name)[:, order] for name in agents})
    absent = ~observation.agent_valid
    padded = observation.replace(agent_x=jnp.where(absent, 7.0, observation.agent_x))
    now = act(observation)
    for other in (act(shuffled), act(padded)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), now, other)


def test_what_was_drawn_has_the_probability_that_it_was_drawn_with(observation, act, params):
    extras = act(observation)
    scores = COACH.evaluate(params, extras["sight"])
    np.testing.assert_allclose(log_prob(scores, extras["tokens"]), extras["log_prob"], atol=1e-5)
    for part in ("acceleration", "curvature"):
        np.testing.assert_allclose(np.exp(scores[part]).sum(-1), 1.0, rtol=1e-5)
    assert np.all(entropy(scores) > 0)


def test_decisions_are_drawn_as_often_as_they_are_likely(observation, params):
    many = jax.tree.map(lambda field: jnp.repeat(field[:1], 4000, 0), observation)
    keys = jax.random.split(jax.random.key(2), 4000)
    extras = jax.jit(lambda many: COACH.act(params, keys, many, ())[2])(many)
    drawn = np.bincount(np.asarray(extras["tokens"])[:, 0], minlength=len(COACH.space.accelerations)) / 4000
    expected = np.exp(COACH.evaluate(params, extras["sight"][:1])["acceleration"][0])
    np.testing.assert_allclose(drawn, expected, atol=0.03)


def test_without_chance_it_drives_the_mean_or_the_likeliest(observation, params):
    scores = COACH.evaluate(params, COACH.look(observation))
    mean = COACH.deployed.act(params, KEYS, observation, ())[2]["knot"]
    np.testing.assert_allclose(mean, COACH.mean(scores), rtol=1e-5)
    likeliest = dataclasses.replace(COACH.deployed, config=dataclasses.replace(COACH.config, decides="likeliest"))
    extras = likeliest.act(params, KEYS, observation, ())[2]
    np.testing.assert_array_equal(extras["tokens"][:, 0], np.argmax(scores["acceleration"], -1))
    bins = COACH.space.acceleration_bins()
    np.testing.assert_allclose(extras["knot"][:, 0], bins[extras["tokens"][:, 0]], rtol=1e-6)


def test_an_actor_with_the_images_eyes_does_not_see_beyond_them_but_the_critic_does(observation, params):
    near = dataclasses.replace(COACH, config=dataclasses.replace(COACH.config, sees="image"))
    # The image of this test reaches 8 m across and nothing ahead of the lead vehicle.
    moved = observation.replace(agent_vel_x=observation.agent_vel_x + 1.0)
    before, after = (near.evaluate(params, near.look(one)) for one in (observation, moved))
    np.testing.assert_array_equal(before["acceleration"][0], after["acceleration"][0])
    assert before["value"][0] != after["value"][0]
    everything = [COACH.evaluate(params, COACH.look(one))["acceleration"][0] for one in (observation, moved)]
    assert np.any(everything[0] != everything[1])
