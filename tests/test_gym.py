"""The Gymnasium environment keeps Gymnasium's rules and gives the same rollouts as the library."""

import importlib.util
import pathlib
import re
import warnings

import numpy as np
import pytest

import tether
from tether.gym import DrivingEnv

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gymnasium") is None, reason="the extra `gym` is missing")
STRAIGHT_ON = np.zeros(2, np.float32)


@pytest.fixture(scope="module")
def scenes():
    return tether.open_split("test")[:4]


@pytest.fixture(scope="module")
def env(scenes):
    return DrivingEnv(scenes, render_mode="rgb_array")


def drive(env, **options):
    """One episode straight on: rewards, whether it terminated, infos."""
    _, info = env.reset(seed=0, options=options)
    rewards, infos, over = [], [info], False
    while not over:
        _, reward, terminated, truncated, info = env.step(STRAIGHT_ON)
        over = terminated or truncated
        rewards.append(reward)
        infos.append(info)
    return rewards, terminated, infos


def test_the_environment_keeps_gymnasiums_rules(env):
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of spaces that are in SI units, and an environment that is not registered
        check_env(env)


def test_an_episode_is_the_rollout_of_its_scene(env, scenes):
    rollouts = tether.drive(tether.GoStraight(), scenes)
    assert rollouts.scores["failure"].any() and not rollouts.scores["failure"].all()
    for scene in range(4):
        rewards, terminated, infos = drive(env, scene=scene)
        scores = {name: values[scene] for name, values in rollouts.scores.items()}
        assert sum(rewards) == pytest.approx(scores["return"], abs=1e-3)
        assert (len(rewards), terminated) == (scores["steps"], scores["failure"])
        assert infos[-1]["record"] == scene and infos[-1]["time_s"] == len(rewards) / 2
        happened = {name for info in infos[1:] for name in info["events"]}
        assert happened == {name for name in happened | {"off_road", "at_fault", "corridor"} if scores[name]}


def test_the_lines_of_the_page_run():
    page = pathlib.Path(__file__).parents[1] / "docs" / "python.md"
    [lines] = [block for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S) if "gym" in block]
    names: dict = {}
    exec(lines, names)
    assert names["over"] and names["image"].ndim == 3


def test_the_seed_draws_the_scene(env):
    def drawn(seed):
        return [env.reset(seed=seed)[1]["record"], *(env.reset()[1]["record"] for _ in range(7))]

    assert drawn(5) == drawn(5)
    assert len(set(drawn(5))) > 1


def test_the_environment_renders_the_episode(env):
    env.reset(seed=0, options={"scene": 0})
    first = env.render()
    env.step(STRAIGHT_ON)
    then = env.render()
    assert first.dtype == np.uint8 and first.shape == then.shape and first.shape[2] == 3
    assert (first != then).any()


def test_any_field_of_the_observation_can_be_seen_and_episodes_cut(scenes):
    env = DrivingEnv(scenes, "kinematic", sees=("agent_x", "agent_valid", "route_s"), steps=2)
    observed, _ = env.reset(seed=0)
    assert observed in env.observation_space and set(observed) == {"agent_x", "agent_valid", "route_s"}
    assert [env.step(STRAIGHT_ON)[2:4] for _ in range(2)] == [(False, False), (False, True)]
    assert env.render() is None


def test_wrong_arguments_give_clear_errors(env, scenes):
    from gymnasium.error import ResetNeeded

    for wrong, message in (
        ({"sees": ("bve",)}, "did you mean 'bev'"),
        ({"render_mode": "human"}, "unknown render_mode 'human', expected one of .'rgb_array'."),
        ({"world": "reactiv"}, "did you mean 'reactive'"),
        ({"steps": 0}, "steps: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            DrivingEnv(scenes, **wrong)
    with pytest.raises(ValueError, match=r"unknown option 'scnee'.*did you mean 'scene'"):
        env.reset(options={"scnee": 1})
    env.reset(seed=0)
    for action in (np.zeros(3), np.array([np.nan, 0])):
        with pytest.raises(ValueError, match="action: expected two finite numbers, acceleration and curvature"):
            env.step(action)
    drive(env)
    with pytest.raises(ResetNeeded):
        env.step(STRAIGHT_ON)
