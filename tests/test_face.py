"""The public face: what is imported when, five lines, and the errors for wrong arguments."""

import ast
import importlib
import pathlib
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import tether

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = ("jax", "numpy", "flax", "matplotlib")


@pytest.fixture(scope="module")
def scenes():
    return tether.open_split("test")


@pytest.fixture(scope="module")
def rollouts(scenes):
    """A policy that not even turns, so that something happens, in four scenes."""
    return tether.drive(tether.GoStraight(), scenes[:4])


def test_importing_it_imports_nothing_heavy():
    """`train.py` reacts to signals before it imports what takes seconds."""
    program = f"import tether, sys; dir(tether); print([name for name in {HEAVY} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_every_name_is_in_its_module():
    tree = ast.parse((ROOT / "tether" / "__init__.py").read_text("utf-8"))
    [checkers] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imported = {alias.name: node.module.removeprefix("tether.") for node in checkers.body for alias in node.names}
    assert imported == tether._MODULE_OF
    assert sorted(imported) == sorted(tether.__all__) and len(set(tether.__all__)) == len(tether.__all__)
    for name, module in imported.items():
        assert getattr(tether, name) is getattr(importlib.import_module(f"tether.{module}"), name)
        assert getattr(tether, name).__doc__
    assert set(tether.__all__) <= set(dir(tether))
    with pytest.raises(AttributeError, match="has no attribute 'idm'"):
        tether.idm  # noqa: B018


def test_the_quickstart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    metrics = ast.literal_eval(capsys.readouterr().out)
    assert list(metrics)[:2] == ["score", "failure"] and 0.5 < metrics["score"] <= 1
    with Image.open(tmp_path / "scene.gif") as drawn:
        assert drawn.n_frames > 10


def test_the_page_shows_the_quickstart():
    block = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text("utf-8"), re.S).group(1)
    assert (ROOT / "examples" / "quickstart.py").read_text("utf-8").endswith(f'"""\n\n{block}')


def test_a_scenes_rollout_does_not_depend_on_the_others(scenes, rollouts):
    others = tether.drive(tether.GoStraight(), scenes[[3, 1, 5, 6]], tether.LogReplay())
    assert others.scenes[0].scenario_id == scenes[3].scenario_id
    for name, values in rollouts.scores.items():
        np.testing.assert_allclose(others.scores[name][:2], values[[3, 1]], atol=1e-4)
    assert others.metrics()["return"] == pytest.approx(others.scores["return"].mean())


def test_events_are_named_and_drawn(rollouts, tmp_path):
    failed = [index for index, value in enumerate(rollouts.scores["failure"]) if value]
    events = rollouts.events()
    assert failed and {event["record"] for event in events} >= set(failed)
    assert {event["event"] for event in events} <= set(rollouts.scores) and "m/s" in events[0]["cause"]
    assert [record.scenario_id for record in rollouts.scenes[rollouts.scores["failure"]]] == [
        rollouts.scenes[index].scenario_id for index in failed
    ]
    path = rollouts.draw(tmp_path / "end.png", failed[0])
    assert path.stat().st_size > 5000
    assert repr(rollouts).startswith("<GoStraight in log_replay, 4 scenes: score ")


def test_a_world_model_without_parameters_is_a_world(scenes):
    rollouts = tether.drive(tether.GoStraight(), scenes[:4], "kinematic", steps=4)
    assert rollouts.world == "kinematic" and (rollouts.scores["steps"] <= 4).all()
    assert len(rollouts.trace(0)) <= 20


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda scenes: tether.drive("idm", scenes), r"policy: expected one .* such as tether.IDM\(\), found 'idm'"),
        (lambda scenes: tether.drive(tether.IDM, scenes), "policy: expected one with reset and act"),
        (lambda scenes: tether.drive(tether.IDM(), scenes[0]), "scenes: expected some, .* found Record"),
        (lambda scenes: tether.drive(tether.IDM(), scenes[:0]), r"found <0 of \d+ scenes of split 'test' of "),
        (lambda scenes: tether.drive(tether.IDM(), scenes, "log_reply"), "did you mean 'log_replay'"),
        (lambda scenes: tether.drive(tether.IDM(), scenes, "rssm"), "'rssm' has to be fitted: name the run"),
        (lambda scenes: tether.drive(tether.IDM(), scenes, 3), "world: expected a name or a World.* found 3"),
        (lambda scenes: tether.drive(tether.IDM(), scenes, steps=0), "steps: expected at least 1, found 0"),
        (lambda scenes: tether.open_split("tset"), "did you mean 'test'"),
        (lambda scenes: tether.open_split("test", "nowhere"), "nowhere: expected a finished data set"),
        (lambda scenes: tether.load_run("nowhere"), "nowhere is not a run: expected a config.json"),
    ],
)
def test_wrong_arguments_give_clear_errors(scenes, wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(scenes)


def test_rows_and_files_that_are_not_there(scenes, rollouts, tmp_path):
    with pytest.raises(IndexError):
        scenes[len(scenes)]
    with pytest.raises(ValueError, match=r"path: expected one that ends in \.gif or \.png, found"):
        rollouts.draw(tmp_path / "scene.mp4")
    assert not list(tmp_path.iterdir())
