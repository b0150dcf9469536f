"""What goes wrong while a run learns is noticed, reported and undone or ended."""

import dataclasses
import itertools
import json
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.training.config import Config
from tether.training.loop import Unit, steps
from tether.training.state import Learned, Progress, RunState
from tether.training.watch import FILE, AlarmError, WatchConfig

UNIT = Unit("imitate", "imitate", 0)
SCENES = [SimpleNamespace(scenario_id=f"scene{i}") for i in range(8)]


class Batches:
    """Rows 2 n and 2 n + 1 in step n; the iterator's state is n."""

    def __init__(self, wait_s=0.0):
        self._count, self._wait_s = itertools.count(), wait_s

    def __next__(self):
        time.sleep(self._wait_s)
        first = 2 * next(self._count) % len(SCENES)
        return None, np.array([first, first + 1])

    def get_state(self):
        return {}


@pytest.fixture
def run(tmp_path):
    """As much of a run as steps need; what it logs and saves is kept."""
    logged, saved = [], []

    def save(state):
        saved.append(state)
        return state

    return SimpleNamespace(
        config=dataclasses.replace(Config(), log_every=1),
        directory=tmp_path,
        splits=SimpleNamespace(train=SCENES),
        stop=SimpleNamespace(requested=False),
        compiled=set(),
        key=lambda unit, step: jax.random.key(step),
        record=lambda state, unit, metrics: logged.append(metrics),
        save=save,
        logged=logged,
        saved=saved,
    )


def start():
    """A policy of one number."""
    empty = {name: () for name in ("policy_optimizer", "imitation", "accepted", "best", "model", "model_optimizer")}
    return RunState(Learned(policy={"weight": jnp.zeros(())}, tracks=(), **empty), Progress())


def counting(**wrong):
    """A body that adds 1 in each step; wrong: by name, what a metric or the `weight` is instead, by step."""

    def body(state, step, key, batch):
        instead = {name: jnp.float32(values[step]) for name, values in wrong.items() if step in values}
        weight = instead.pop("weight", state.learned.policy["weight"] + 1)
        return state.learn(policy={"weight": weight}), {"policy": jnp.float32(step), **instead}

    return body


def watched(run, **fields):
    """The run with other settings of its watch."""
    run.config = dataclasses.replace(run.config, watch=WatchConfig(**fields))
    return run


def alarms(run):
    """What was written down."""
    path = run.directory / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_healthy_run_is_left_alone(run):
    state = steps(run, start(), UNIT, 5, Batches(), counting())
    assert float(state.learned.policy["weight"]) == 5 and alarms(run) == []


@pytest.mark.parametrize("name", ["weight", "policy"])
def test_a_step_that_is_not_finite_is_undone_and_its_scenes_are_reported(run, name):
    """Whether the loss or what came of it; the steps around it count."""
    state = steps(run, start(), UNIT, 5, Batches(), counting(**{name: {2: jnp.nan}}))
    assert float(state.learned.policy["weight"]) == 4 and state.progress.step == 5
    (alarm,) = alarms(run)
    assert (alarm["unit"], alarm["step"], alarm["what"]) == ("0/imitate", 3, "not finite")
    assert alarm["scenes"] == ["scene4", "scene5"]


def test_a_step_that_is_not_finite_may_end_the_run(run):
    """Before the step after the next, and with nothing saved."""
    with pytest.raises(AlarmError, match=r"0/imitate, step 3.*not finite"):
        steps(watched(run, not_finite="stop"), start(), UNIT, 9, Batches(), counting(weight={2: jnp.inf}))
    assert len(run.logged) == 3 and run.saved == []


def test_many_skipped_steps_in_a_row_end_the_run(run):
    apart = {step: jnp.nan for step in (0, 2, 4, 6)}
    steps(watched(run, most_skipped=2), start(), UNIT, 8, Batches(), counting(policy=apart))
    with pytest.raises(AlarmError, match="2 step"):
        steps(run, start(), UNIT, 8, Batches(), counting(policy=apart | {5: jnp.nan}))


def test_the_last_step_is_checked_too(run):
    state = steps(run, start(), UNIT, 3, Batches(), counting(weight={2: jnp.nan}))
    assert float(state.learned.policy["weight"]) == 2 and len(alarms(run)) == 1


@pytest.mark.parametrize(("name", "value"), [("entropy", 0.001), ("kl", 80.0)])
def test_a_policy_that_collapses_or_runs_away_ends_the_run(run, name, value):
    usual = {"entropy": dict.fromkeys(range(9), 2.0), "kl": dict.fromkeys(range(9), 1.0)}
    steps(run, start(), UNIT, 9, Batches(), counting(**usual))
    usual[name] = usual[name] | {4: value}
    with pytest.raises(AlarmError, match=r"step 5.*entropy of at least 0.01, kl of at most 50"):
        steps(run, start(), UNIT, 9, Batches(), counting(**usual))
    assert alarms(run)[-1]["scenes"] == ["scene0", "scene1"]


def test_a_world_models_kl_is_no_policys(run):
    steps(run, start(), UNIT, 3, Batches(), counting(kl=dict.fromkeys(range(3), 80.0)))
    assert alarms(run) == []


def test_a_stall_of_the_data_is_reported_during_the_wait(run):
    steps(watched(run, stall_s=0.1), start(), UNIT, 1, Batches(wait_s=0.35), counting())
    lines = alarms(run)
    assert len(lines) >= 2 and {line["what"] for line in lines} == {"no batch"}
