"""Action sensitivity: the rules that find probes, their signs, and the exchange of actions between scenes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.data.scene import Scene
from tether.evaluation.world_models import probes, sensitivity
from tether.evaluation.world_models.counterfactual import logged_plan, losses_under, retimed
from tether.simulator.dynamics import log_ego, rear_axle
from tether.simulator.world import Action
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.kinematic import Kinematic, KinematicConfig
from tether.worldmodel.motion import estimate_motion, move

FOLLOWER, LEADER, ONCOMING = 1, 2, 3  # rows
START = jnp.full(1, 10, jnp.int32)
KEY = jax.random.split(jax.random.key(0), 1)


@dataclasses.dataclass(frozen=True)
class Obliging(Kinematic):
    """Every agent that is faster than row 0, the ego, brakes by the params [m/s^2]: at 0 it is `Kinematic`."""

    def step(self, params, key, state, action):
        moved = dataclasses.replace(self, config=params)
        return Kinematic.step(moved, (), key, state, action)

    def _others(self, history):
        substeps, dt = self.simulator.substeps, self.simulator.dt
        now, before = history[..., -1], history[..., -1 - substeps]
        motion = estimate_motion(now, before, substeps * dt)
        braking = jnp.where(motion.speed > motion.speed[:, :1] + 0.1, -self.config, 0.0)
        braking = braking.at[:, LEADER:].set(0.0)
        return move(now, motion, braking, motion.turn_rate, substeps, dt)


@pytest.fixture(scope="module")
def road(sim_config) -> Scene:
    """A follower 12 m behind the ego, a leader 25 m ahead and an oncoming car, all at 10 m/s: `Scene` [B = 1]."""
    scene = scenes.straight(speed=10.0)
    scene = scenes.with_agent(scene, FOLLOWER, -16.5, 0.0, speed=10.0)
    scene = scenes.with_agent(scene, LEADER, 29.5, 0.0, speed=10.0)
    scene = scenes.with_agent(scene, ONCOMING, 50.0, scenes.ONCOMING_Y, np.pi, speed=10.0)
    return scenes.stack([scenes.indexed(scene, sim_config)])


@pytest.fixture(scope="module")
def asked(road, sim_config):
    """Probes of a World whose follower brakes by so much."""
    ask = jax.jit(lambda scene, braking: probes.ask(Obliging(None, sim_config), braking, KEY, scene, START, sim_config))
    return lambda braking, scene=road: jax.tree.map(np.asarray, ask(scene, jnp.float32(braking)))


def test_rules_select_the_affected_agents(asked):
    case, _ = asked(0.0)
    concerned = {name: np.flatnonzero(rows[0]).tolist() for name, rows in case.items() if rows.any()}
    follower = {"follower, ego brakes": [FOLLOWER], "follower, ego eases": [FOLLOWER]}
    assert concerned == follower | {"leader": [LEADER], "oncoming": [ONCOMING]}


def test_an_agent_that_never_reacts_is_right_where_no_reaction_is_needed(asked):
    _, right = asked(0.0)
    assert not right["follower, ego brakes"].any()
    assert right["leader"][0, LEADER] and right["oncoming"][0, ONCOMING]


def test_follower_that_brakes_is_right(asked):
    assert asked(6.0)[1]["follower, ego brakes"][0, FOLLOWER]


def test_follower_that_brakes_too_little_hits_the_ego(asked):
    """It gets less far by 1 * 5^2 / 2 = 12.5 m, but the ego stands 12.5 m ahead after 2.5 s: they collide."""
    assert not asked(1.0)[1]["follower, ego brakes"].any()


def test_padding_changes_no_case(road, sim_config):
    """More padded rows, whose fields hold anything, change no case."""

    def padded(field: np.ndarray) -> np.ndarray:
        return np.pad(field, [(0, 0), (0, 2)] + [(0, 0)] * (field.ndim - 2), constant_values=1)

    names = ("x", "y", "heading", "vel_x", "vel_y", "length", "width", "agent_type")
    bigger = {name: padded(getattr(road, name)) for name in names} | {"valid": padded(road.valid)}
    bigger["valid"][:, 4:] = False
    find = jax.jit(lambda scene: probes.pose(scene, START, sim_config)[1])
    few, many = find(road), find(dataclasses.replace(road, **bigger))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.pad(a, [(0, 0), (0, 2)]), b), few, many)


def test_another_speed_on_the_same_way(sim_config):
    """On a bend of 1/50 m, braking by 4 from 10 m/s ends after 12.5 m of the same arc of the rear axle."""
    scene = scenes.stack([scenes.straight(speed=10.0)])
    ego = log_ego(scene, START)
    action, states = logged_plan(scene, START, 50, sim_config)
    bend = Action(jnp.zeros_like(action.acceleration), jnp.full_like(action.curvature, 0.02))
    _, way = retimed(ego, (bend, states), -4.0, sim_config)
    assert float(way.speed[0, -1]) == 0.0
    np.testing.assert_allclose(way.heading[0, -1], 12.5 * 0.02, atol=1e-3)
    back = float(rear_axle(ego.length[0])) * (1 - np.cos(0.25))  # the centre has swung to the left about the axle
    np.testing.assert_allclose(way.x[0, -1], np.sin(0.25) / 0.02 - back, atol=1e-2)


def test_constant_velocity_is_as_far_off_under_any_action(road, sim_config):
    """The ratio of such a World is exactly 1; its leader, which in the log stops at once, is off."""
    scene = jax.tree.map(jnp.asarray, road)
    scene = scene.replace(x=scene.x.at[0, LEADER, 11:].set(scene.x[0, LEADER, 30]))
    steps = jnp.zeros((1, 2, 5))
    batch = ModelBatch(scene, START, None, None, None, None, jnp.ones((1, 2), bool), None)
    find = jax.jit(lambda a: losses_under(a, KinematicConfig().build(sim_config), (), KEY, batch, sim_config))
    own, foreign = find(Action(steps, steps)), find(Action(steps - 5.0, steps + 0.1))
    assert float(own["all"][0]) > 1.0 and float(own["near"][0]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, own, foreign)


def test_actions_come_from_other_scenarios():
    groups = np.array(["a", "b", "a", "c", "c", "d"])
    rows = sensitivity.elsewhere(groups)
    assert sorted(rows) == list(range(6))
    assert (groups[rows] != groups).all()
    with pytest.raises(ValueError, match="2 of 3 scenes"):
        sensitivity.elsewhere(np.array(["a", "a", "b"]))


def test_kinds_count_alike():
    """A kind of 1 case of which 1 is right and one of 9 of which none is: 0.5 over kinds, 0.1 over cases."""
    asked = np.zeros((2, len(probes.KINDS)), int)
    asked[:, 0], asked[0, -1] = (4, 5), 1
    right = np.zeros_like(asked)
    right[0, -1] = 1
    fractions = sensitivity.fractions_right(np.array([0, 1]), sensitivity.Answers(asked, right))
    assert {name: interval["mean"] for name, interval in fractions.items()} == {
        "probes": 0.5,
        "reacts": 0.0,
        "stays": 1.0,
        "cases": 0.1,
    }
