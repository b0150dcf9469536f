"""The conformance suite itself: every broken rule of a model is named, and the command takes any model."""

import dataclasses
import pathlib
import sys

import jax
import numpy as np
import pytest

from tether.simulator.transition import advance_state
from tether.worldmodel import kinematic
from tether.worldmodel.conformance import batches
from tether.worldmodel.conformance import test_rules as rules
from tether.worldmodel.conformance.__main__ import main
from tether.worldmodel.conformance.plugin import Case, Fit, case_of

CHANCE = np.random.default_rng()


@dataclasses.dataclass(frozen=True)
class LawlessConfig:
    def build(self, simulator):
        return Lawless(self, simulator)


class Lawless(kinematic.Kinematic):
    """Others swerve by the ego's action, by their row, by the places of this and other scenes, and at random."""

    def step(self, params, key, state, action):
        others, count = self._others(state.history), self.simulator.substeps
        leaked = action.acceleration.mean(-1)[:, None]
        row_noise = jax.vmap(lambda k: jax.random.normal(k, others.x.shape[1:2]))(key)
        elsewhere = state.history.x[..., -1].mean()
        swerve = 0.1 * (leaked + row_noise + elsewhere + CHANCE.normal())
        lights = state.held_lights(count)
        others = others.replace(x=others.x + swerve[..., None])
        return advance_state(state, action, others, *lights, (), self.simulator)


@pytest.fixture(scope="module")
def lawless(model_batch, keys, sim_config):
    """The case, and what it imagines."""
    case = case_of("lawless", LawlessConfig(), sim_config, model_batch)
    return case, case.imagine(case.params, keys, model_batch)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (rules.test_rows_are_independent, "neighbours in the batch"),
        (rules.test_order_of_agents_is_nothing, "order of agents"),
        (rules.test_content_of_padding_is_nothing, "beneath a mask"),
        (rules.test_others_do_not_see_the_current_action, "ego's action at t"),
    ],
)
def test_a_broken_rule_is_named(lawless, keys, model_batch, rule, message):
    with pytest.raises(AssertionError, match=message):
        rule(*lawless, keys, model_batch)


def test_a_broken_symmetry_is_named(lawless, keys, model_batch, sim_config):
    with pytest.raises(AssertionError, match="turned and shifted"):
        rules.test_rigid_motion_moves_all_alike(*lawless, keys, model_batch, sim_config, rules.ANY_MOTION)


def test_chance_while_tracing_is_named(lawless, keys, model_batch, sim_config):
    with pytest.raises(AssertionError, match="two builds"):
        rules.test_a_new_build_is_the_same_model(lawless[0], keys, model_batch, sim_config)


def test_the_use_of_undeclared_images_is_named(model_batch, keys, sim_config):
    class Peeping(kinematic.Kinematic):
        def step(self, params, key, state, action):
            bright = self.observe(params, state).bev.max((1, 2, 3))
            return super().step(params, key, state.replace(alive=state.alive & (bright > 0)), action)

    model = Peeping(kinematic.KinematicConfig(), sim_config)
    case = Case("peeping", None, model, (), jax.jit(lambda *args: batches.imagine(model, *args)))
    fitted = Fit(jax.jit(lambda state, key, batch: state), (), [])
    with pytest.raises(AssertionError, match="sees_images is False, but reset or step reads"):
        rules.test_images_are_asked_for_where_they_are_read(case, fitted, keys, model_batch)


def test_the_command_takes_a_copy_of_the_template(tmp_path, monkeypatch):
    """As docs/extending.md begins: copied, renamed, named by import path."""
    copy = pathlib.Path(kinematic.__file__).read_text(encoding="utf-8").replace("Kinematic", "Mine")
    (tmp_path / "mine.py").write_text(copy, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["--world-model", "mine:MineConfig", "-k", "exact_dynamics"]) == pytest.ExitCode.OK


def test_the_command_names_a_missing_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pytest", None)
    assert main(["--help"]) == 2
    assert capsys.readouterr().err == ('expected pytest, which runs the rules, found none: pip install -e ".[test]"\n')


def test_the_command_explains_a_wrong_name(capfd):
    assert main(["--world-model", "kinematik"]) == pytest.ExitCode.USAGE_ERROR
    assert "did you mean 'kinematic'?" in capfd.readouterr().err
