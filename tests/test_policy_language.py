"""Reasoning labels, sentences and consistency on hand-made scenes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.data.scene import AgentType, LightState
from tether.data.text import CAUSES, LATERAL, LONGITUDINAL, TOKEN_ID
from tether.policy.hazards import CAUSE, FollowerConfig, hazards
from tether.policy.language import LabelConfig, consistency, label, sentence, slot_masks
from tether.simulator.car_following import idm
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.observe import observe
from tether.simulator.prepare import prepare
from tether.simulator.transition import start_state
from tether.simulator.world import Action

SIMULATOR = SimulatorConfig(render=RenderConfig(height=8, width=8, tile_height=32, tile_width=32))
LABELS = LabelConfig()


def curved():
    """The route bends left with a radius of 30 m, 10 m ahead."""
    scene = scenes.straight()
    arc = scenes.ROUTE_START_X + 2.0 * np.arange(scene.route_x.shape[0])
    turn = np.clip((arc - 10.0) / 30.0, 0.0, np.pi / 2)
    x = np.where(arc < 10, arc, 10 + 30 * np.sin(turn))
    return scenes.with_route(scene, x, np.where(arc < 10, 0.0, 30 * (1 - np.cos(turn))))


def beside():
    """The ego drives 2.5 m right of its route."""
    scene = scenes.straight()
    return scenes.with_route(scene, scenes.ROUTE_START_X + 2.0 * np.arange(scene.route_x.shape[0]), 2.5)


def askew(scene):
    """The same scene with an ego that heads to the left of its route."""
    return scenes.with_agent(scene, 0, x=0.0, y=0.0, heading=0.15, speed=10.0)


def standing(scene):
    """The same scene with a standing ego."""
    return scenes.with_agent(scene, 0, x=0.0, y=0.0, speed=0.0)


def without_limit(scene):
    """The same road without a known speed limit."""
    return dataclasses.replace(scene, route_speed_limit=np.zeros_like(scene.route_speed_limit))


def with_walker(x, y, heading, speed):
    return scenes.with_agent(
        scenes.straight(),
        1,
        x=x,
        y=y,
        heading=heading,
        speed=speed,
        agent_type=AgentType.PEDESTRIAN,
        length=0.6,
        width=0.6,
    )


# name: (scene, a*, kappa*, sentence)
CASES = {
    "free": (scenes.straight(speed=8.0), 0.6, 0.0, "speed up and keep the lane: the road is free"),
    "limit": (scenes.straight(speed=15.0), 0.0, 0.0, "keep speed and keep the lane: the speed limit is reached"),
    "slow lead": (
        scenes.lead_vehicle(gap=15.0, speed=5.0),
        -1.7,
        0.0,
        "slow down and keep the lane: a vehicle is 15 m ahead",
    ),
    "steady lead": (
        scenes.lead_vehicle(gap=20.0, speed=10.0),
        0.0,
        0.0,
        "keep distance and keep the lane: a vehicle is 20 m ahead",
    ),
    "red": (scenes.red_light(32.0), -2.4, 0.0, "stop and keep the lane: the light 30 m ahead is red"),
    "waiting": (standing(scenes.red_light(4.0)), 0.0, 0.0, "wait and keep the lane: the light just ahead is red"),
    "yellow": (
        scenes.with_light(scenes.straight(), 32.0, LightState.CAUTION),
        -1.7,
        0.0,
        "stop and keep the lane: the light 30 m ahead is yellow",
    ),
    "green": (
        scenes.with_light(scenes.straight(), 32.0, LightState.GO),
        0.25,
        0.0,
        "keep speed and keep the lane: the road is free",
    ),
    "crossing": (
        scenes.crossing_vehicle(x=25.0, arrival_s=2.0, speed=5.0),
        -1.7,
        0.0,
        "yield and keep the lane: a vehicle crosses 20 m ahead",
    ),
    "walker": (
        with_walker(18.0, -3.0, np.pi / 2, 1.4),
        -2.4,
        0.0,
        "yield and keep the lane: a pedestrian is 15 m ahead",
    ),
    "curve": (curved(), -0.6, 0.02, "slow down and follow the curve: the road bends 10 m ahead"),
    "turn": (curved(), 0.6, 0.05, "speed up and steer left: the route leads there"),
    "change": (beside(), 0.0, 0.01, "keep speed and change lane left: the route leads there"),
    "pulling away": (
        scenes.with_agent(scenes.straight(speed=2.0), 1, x=10.5, y=0.0, speed=3.0),
        1.0,
        0.0,
        "speed up and keep the lane: the vehicle 5 m ahead moves on",
    ),
    "queue": (
        standing(scenes.lead_vehicle(gap=6.0, speed=0.0)),
        0.0,
        0.0,
        "wait and keep the lane: a vehicle is 5 m ahead",
    ),
    "unseen": (scenes.straight(speed=8.0), -2.0, 0.0, "slow down and keep the lane: the cause is not in sight"),
    "unseen stop": (standing(scenes.straight()), 0.0, 0.0, "wait and keep the lane: the cause is not in sight"),
    "no limit": (
        without_limit(scenes.straight(speed=20.0)),
        0.0,
        0.0,
        "keep speed and keep the lane: the road is free",
    ),
    "crawl": (scenes.straight(speed=1.0), 0.0, 0.04, "keep speed and keep the lane: the road is free"),
    "far lead": (scenes.lead_vehicle(gap=60.0, speed=10.0), 0.0, 0.0, "keep speed and keep the lane: the road is free"),
    "cut in": (
        scenes.with_agent(scenes.straight(), 1, x=25.0, y=3.0, heading=-0.2, speed=7.0),
        -1.1,
        0.0,
        "slow down and keep the lane: a vehicle is 20 m ahead",
    ),
    "nudge": (scenes.straight(), 0.0, -0.01, "keep speed and nudge right: the road is free"),
    "drift": (askew(scenes.straight()), 0.0, -0.005, "keep speed and keep the lane: the road is free"),
    "drift back": (askew(beside()), 0.0, -0.005, "keep speed and keep the lane: the road is free"),
    "askew": (askew(scenes.straight()), 0.0, 0.005, "keep speed and nudge left: the road is free"),
    "back": (askew(beside()), 0.0, 0.005, "keep speed and change lane left: the route leads there"),
}


@pytest.fixture(scope="module")
def observation():
    batch = scenes.stack([prepare(case[0], SIMULATOR) for case in CASES.values()])
    start = jnp.full(len(CASES), 10)
    return jax.jit(lambda scene: observe(start_state(scene, start, ()), SIMULATOR))(batch)


@pytest.fixture(scope="module")
def labelled(observation):
    _, acceleration, curvature, _ = zip(*CASES.values(), strict=True)
    return np.asarray(
        jax.jit(lambda o, a, k: label(LABELS, o, a, k))(observation, jnp.array(acceleration), jnp.array(curvature))
    )


@pytest.mark.parametrize("name", CASES)
def test_labels_describe_the_scene_and_the_action(labelled, name):
    assert sentence(labelled[list(CASES).index(name)]) == CASES[name][3]


def test_labels_lie_in_their_slots(labelled):
    assert slot_masks()[np.arange(4), labelled].all()


def test_slots_partition_the_phrases():
    masks = slot_masks()
    assert masks.sum(1).tolist() == [len(LONGITUDINAL), len(LATERAL), len(CAUSES), 11]
    assert masks.sum(0).max() == 1 and not masks[:, :2].any()


def test_hazards_ignore_what_is_behind_aside_or_invalid(observation):
    """A parked car on the oncoming lane, a follower, and an unseen car 10 m ahead leave the road free."""
    row = observation[:1]
    aside = row.replace(
        agent_x=jnp.array([[0.0, 10.0, -8.0, 10.0]]),
        agent_y=jnp.array([[0.0, 3.5, 0.0, 0.0]]),
        agent_length=jnp.full((1, 4), 4.5),
        agent_width=jnp.full((1, 4), 1.8),
        agent_type=jnp.ones((1, 4), jnp.int32),
        agent_valid=jnp.array([[False, True, True, False]]),
    )
    measured = jax.jit(lambda o: hazards(FollowerConfig(), o))
    free = measured(aside)
    np.testing.assert_allclose(free.acceleration[0, CAUSE["lead vehicle"]], FollowerConfig.acceleration)
    seen = measured(aside.replace(agent_valid=jnp.array([[False, True, True, True]])))
    assert seen.acceleration[0, CAUSE["lead vehicle"]] < -3
    np.testing.assert_allclose(seen.distance[0, CAUSE["lead vehicle"]], 10 - 4.5, atol=1e-4)


def test_idm_equilibrium():
    """At the desired gap s0 + v T = 22 m behind an equally fast car, far below the desired speed: a (-(v / v0)^4)."""
    follower = dataclasses.replace(FollowerConfig(), default_speed_mps=1e3)
    acceleration = idm(follower, jnp.array(10.0), jnp.array(20.0), jnp.array(22.0), jnp.array(10.0))
    np.testing.assert_allclose(acceleration, 2.0 * (1 - 0.5**4 - 1), rtol=1e-5)


def action(acceleration, curvature):
    return Action(acceleration=jnp.full((1, 5), acceleration), curvature=jnp.full((1, 5), curvature))


@pytest.mark.parametrize(
    ("longitudinal", "lateral", "acceleration", "curvature", "score"),
    [
        ("slow down", "keep lane", -1.5, 0.0, 1.0),
        ("slow down", "keep lane", 1.5, 0.0, 0.5),
        ("speed up", "steer left", 1.0, 0.1, 1.0),
        ("speed up", "steer left", 1.0, -0.1, 0.5),
        ("stop", "keep lane", 1.0, 0.2, 0.0),
        ("keep speed", "follow the curve", 0.0, -0.02, 1.0),
    ],
)
def test_consistency_of_reasoning_and_action(longitudinal, lateral, acceleration, curvature, score):
    tokens = jnp.array([[TOKEN_ID[phrase] for phrase in (longitudinal, lateral, "free road", "0 m")]])
    np.testing.assert_allclose(consistency(LABELS, tokens, action(acceleration, curvature), jnp.full(1, 8.0)), [score])


def test_curvature_at_a_crawl_or_standstill_is_consistent_with_keep_lane():
    tokens = jnp.array([[TOKEN_ID[phrase] for phrase in ("keep speed", "keep lane", "free road", "0 m")]] * 4)
    done = Action(jnp.zeros((4, 5)), jnp.array([0.04, 0.04, 0.2, 0.2])[:, None] * jnp.ones(5))
    np.testing.assert_allclose(consistency(LABELS, tokens, done, jnp.array([1.0, 8.0, 0.3, 0.5])), [1.0, 0.5, 1.0, 0.5])


def test_a_standing_ego_is_labelled_keep_lane_at_any_curvature(observation):
    standing = observation.replace(ego=observation.ego.at[:, 0].set(0.1))
    rows = standing.ego.shape[0]
    done = Action(jnp.full((rows, 5), -6.0), jnp.full((rows, 5), -0.1))
    tokens = label(LabelConfig(), standing, done.acceleration[:, -1], done.curvature[:, -1])
    np.testing.assert_allclose(consistency(LABELS, tokens, done, standing.ego[:, 0]), 1.0)


def test_own_labels_are_consistent(labelled, observation):
    _, acceleration, curvature, _ = zip(*CASES.values(), strict=True)
    done = Action(acceleration=jnp.array(acceleration)[:, None], curvature=jnp.array(curvature)[:, None])
    np.testing.assert_allclose(consistency(LABELS, jnp.asarray(labelled), done, observation.ego[:, 0]), 1.0)


@pytest.mark.parametrize("curvature", np.linspace(-0.06, 0.06, 25))
def test_labels_are_consistent_at_every_curvature(observation, curvature):
    rows = observation.ego.shape[0]
    done = Action(jnp.zeros((rows, 5)), jnp.full((rows, 5), curvature))
    tokens = label(LABELS, observation, done.acceleration[:, -1], done.curvature[:, -1])
    np.testing.assert_allclose(consistency(LABELS, tokens, done, observation.ego[:, 0]), 1.0)


@pytest.mark.parametrize(
    ("changes", "score"),
    [({}, 0.0), ({"steady": 1.0}, 0.5), ({"turn_curvature": 0.3}, 0.5), ({"standing_mps": 9.0}, 0.5)],
)
def test_consistency_uses_the_thresholds_of_the_labels(changes, score):
    """Kept speed and lane, at 8 m/s, with -0.8 m/s^2 and a curvature of 0.2: neither, by the default thresholds."""
    tokens = jnp.array([[TOKEN_ID[phrase] for phrase in ("keep speed", "keep lane", "free road", "0 m")]])
    config = dataclasses.replace(LABELS, **changes)
    np.testing.assert_allclose(consistency(config, tokens, action(-0.8, 0.2), jnp.full(1, 8.0)), [score])


def test_tokens_without_a_sentence_are_refused():
    with pytest.raises(ValueError, match="found '<pad>'"):
        sentence(np.zeros(4, np.int32))
