"""Scripted policies in the log-replay World."""

import dataclasses

import jax
import numpy as np
import pytest
import scenes

from tether.policy.baselines import IDM, ConstantSpeed, GoStraight, LogExpert
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.simulator.prepare import prepare
from tether.simulator.rollout import rollout

SIMULATOR = SimulatorConfig(render=RenderConfig(height=8, width=8, tile_height=32, tile_width=32))
STEPS = 15


def bending():
    """The ego's log and route bend left with a radius of 40 m, from 20 m ahead on, at 8 m/s, on an open plain."""
    scene = scenes.straight(speed=8.0)
    scene = dataclasses.replace(scene, road_valid=np.zeros_like(scene.road_valid))
    arc = scenes.ROUTE_START_X + 2.0 * np.arange(scene.route_x.shape[0])
    scene = scenes.with_route(scene, *on_bend(arc))
    travelled = 0.8 * (np.arange(91) - 10)
    (x, y), heading = on_bend(travelled), np.maximum(travelled - 20, 0) / 40
    track = {"x": x, "y": y, "heading": heading, "vel_x": 8 * np.cos(heading), "vel_y": 8 * np.sin(heading)}
    return scenes.with_rows(scene, 0, track)


def on_bend(arc):
    turn = np.maximum(arc - 20, 0) / 40
    return np.minimum(arc, 20) + 40 * np.sin(turn), 40 * (1 - np.cos(turn))


SCENES = {
    "free": scenes.straight(speed=8.0),
    "stopped lead": scenes.lead_vehicle(gap=40.0, speed=0.0),
    "red light": scenes.red_light(45.0),
    "bend": bending(),
}
POLICIES = (GoStraight(SIMULATOR), ConstantSpeed(SIMULATOR), IDM(SIMULATOR), LogExpert(SIMULATOR))


@pytest.fixture(scope="module")
def drive():
    """Scenes to {policy: ego and outcome}, all policies in one compiled function."""
    keys = jax.random.split(jax.random.key(0), len(SCENES))

    def one(policy, scene):
        result = rollout(LogReplay(SIMULATOR), (), policy, (), scene, STEPS, keys, keys)
        return result.ego, result.outcome

    return jax.jit(lambda scene: {type(policy).__name__: one(policy, scene) for policy in POLICIES})


@pytest.fixture(scope="module")
def rollouts(drive):
    return drive(scenes.stack([prepare(scene, SIMULATOR) for scene in SCENES.values()]))


def track(rollouts, policy, scene):
    """x, y, speed after each sub-step."""
    ego = jax.tree.map(lambda field: np.asarray(field)[:, list(SCENES).index(scene)].ravel(), rollouts[policy][0])
    return ego.x, ego.y, ego.speed


def test_go_straight_keeps_speed_and_heading(rollouts):
    x, y, speed = track(rollouts, "GoStraight", "bend")
    np.testing.assert_allclose(speed, 8.0, atol=1e-4)
    np.testing.assert_allclose(y, 0.0, atol=1e-3)
    assert x[0] > 0.7


def test_constant_speed_follows_the_bend(rollouts):
    x, y, speed = track(rollouts, "ConstantSpeed", "bend")
    bend_x, bend_y = on_bend(0.8 * np.arange(1, len(x) + 1))
    np.testing.assert_allclose(speed, 8.0, atol=1e-3)
    assert np.abs(np.hypot(x - bend_x, y - bend_y)).max() < 0.6


def test_idm_approaches_the_speed_limit(rollouts):
    _, _, speed = track(rollouts, "IDM", "free")
    assert speed[-1] > 12 and speed.max() < scenes.SPEED_LIMIT


def test_idm_stops_behind_a_stopped_lead(rollouts):
    """The lead's rear is at 42.25 m, so the ego's centre must stop short of 40 m."""
    x, _, speed = track(rollouts, "IDM", "stopped lead")
    assert speed[-1] < 1.0 and 34 < x[-1] < 40
    assert not np.asarray(rollouts["IDM"][1].collision).any()


def test_idm_stops_at_a_red_light(rollouts):
    """The light is at 45 m: the front must not pass it, the centre not 42.75 m."""
    x, _, speed = track(rollouts, "IDM", "red light")
    assert speed[-1] < 1.0 and 36 < x[-1] < 42.75
    assert np.asarray(rollouts["GoStraight"][1].red_light)[:, list(SCENES).index("red light")].any()
    assert not np.asarray(rollouts["IDM"][1].red_light).any()


def test_log_expert_follows_the_log(rollouts):
    x, y, _ = track(rollouts, "LogExpert", "bend")
    log_x, log_y = on_bend(0.8 * np.arange(1, len(x) + 1))
    assert np.hypot(x - log_x, y - log_y).max() < 0.3


def test_rows_do_not_depend_on_their_neighbours(drive, rollouts):
    """The same scenes in reverse order give the same rollouts."""
    backwards = drive(scenes.stack([prepare(scene, SIMULATOR) for scene in reversed(SCENES.values())]))
    for name in ("ConstantSpeed", "IDM", "LogExpert"):
        np.testing.assert_allclose(backwards[name][0].x[:, ::-1], rollouts[name][0].x, atol=1e-4, err_msg=name)
