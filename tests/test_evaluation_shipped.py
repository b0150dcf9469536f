"""The run that ships: written from a finished run, read back to the bit, refused where it is damaged or too large."""

import dataclasses
import functools
import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

import tether
from tether import eval as command
from tether import runs
from tether.data.sources import STARTER, open_split
from tether.evaluation import policies as evaluation
from tether.evaluation import ship, shipped
from tether.evaluation.judges import Evaluation
from tether.evaluation.restore import template
from tether.training import presets, stages
from tether.training.checkpoint import Checkpoints
from tether.training.mesh import MeshConfig
from tether.training.models import build
from tether.training.scenes import DataConfig, PreparedRecords
from tether.training.settings import write
from tether.training.state import Progress
from tether.training.stop import Interrupted

CONFIG = dataclasses.replace(presets.tiny(), directory="/somewhere/of/mine", mesh=MeshConfig(data=1))
UNITS = tuple(unit.name for unit in stages.schedule(CONFIG))
ACCEPTED = ({"round": 1, "decision": "accept", "spent": {}},)
FINISHED = Progress(finished=UNITS, rounds=ACCEPTED)


@pytest.fixture(scope="module")
def learned():
    """Arrays of a run of preset tiny, made up."""
    records = PreparedRecords(open_split(STARTER, "test", CONFIG.spec), CONFIG.simulator, 1, 1)
    rng, shapes = np.random.default_rng(0), template(CONFIG, build(CONFIG), records)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


@pytest.fixture
def run(learned, tmp_path):
    """A run's directory, given its progress."""

    def made(progress, config=CONFIG):
        directory = tmp_path / "run"
        checkpoints = Checkpoints(directory / "checkpoints", 1)
        meta = {"progress": progress.to_json(), "settings": dataclasses.asdict(config)}
        checkpoints.save(1, learned, meta)
        checkpoints.close()
        write(config, directory / "config.json")
        return directory

    return made


@pytest.fixture
def folder(learned, tmp_path):
    """What ships of it."""
    shipped.write_shipped(CONFIG, learned, FINISHED, tmp_path / "shipped_run")
    return tmp_path / "shipped_run"


def test_a_finished_run_ships_and_opens_as_it_was(run, learned, tmp_path, capsys):
    assert ship.main([str(run(FINISHED)), "--out", str(tmp_path / "out")]) == 0
    assert "0.2" in capsys.readouterr().out
    config, models, opened, progress = shipped.open_shipped(tmp_path / "out")
    usual = presets.tiny()
    assert config == usual and "somewhere" not in (tmp_path / "out" / "config.json").read_text()
    for part in shipped.PARTS:
        jax.tree.map(np.testing.assert_array_equal, getattr(opened, part), getattr(learned, part))
    assert jax.tree.leaves((opened.policy_optimizer, opened.model_optimizer, opened.tracks)) == []
    assert models.vla.config == usual.policy and progress == FINISHED
    shutil.rmtree(tmp_path / "run")
    again = shipped.write_shipped(config, opened, progress, tmp_path / "again")
    assert again == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    for name in (shipped.SETTINGS, shipped.PROGRESS, shipped.ARRAYS):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("progress", "config", "message"),
    [
        (Progress(finished=UNITS[:-1], rounds=ACCEPTED), CONFIG, "missing are the stages post_train"),
        (Progress(finished=UNITS), CONFIG, "no round was accepted"),
        (Progress(finished=UNITS), dataclasses.replace(CONFIG, data=DataConfig(directory="x")), "on the starter set"),
    ],
)
def test_runs_that_do_not_ship(run, tmp_path, capsys, progress, config, message):
    assert ship.main([str(run(progress, config)), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_run_that_is_too_large_does_not_ship(learned, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "LARGEST", 200_000)
    with pytest.raises(ValueError, match=r"expected at most 0\.19\d* MiB to ship, found 0\.2"):
        shipped.write_shipped(CONFIG, learned, FINISHED, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_shipped_policy_is_evaluated_without_a_run(folder, learned, monkeypatch, tmp_path):
    evaluated = []

    def noted(self):
        evaluated.append(self)
        raise Interrupted("noted")

    for user in (evaluation, runs):
        monkeypatch.setattr(user, "open_shipped", functools.partial(shipped.open_shipped, folder))
    monkeypatch.setattr(Evaluation, "results", noted)
    arguments = ("--policy", "post_trained", "--policy", "idm", "--policy", "imitation", "--reasoning", "blank")
    with pytest.raises(Interrupted):
        command.main([*arguments, "--temperature", "0.5", "--scenes", "1", "--out", str(tmp_path / "out")])
    policies = evaluated[0].policies
    assert policies.keys() == {"idm", *(f"{n}{r}" for n in shipped_names() for r in ("", ", reasoning blank"))}
    for name, part in shipped_names().items():
        jax.tree.map(np.testing.assert_array_equal, policies[name].params, getattr(learned, part))
    assert policies["post_trained"].policy.temperature == 0.5
    run = tether.load_run()
    assert run.policies.keys() == shipped_names().keys()
    jax.tree.map(np.testing.assert_array_equal, run.world_model.params_of(np.arange(1)), learned.model)


def shipped_names():
    """What a shipped policy is called, and the part that holds it."""
    return {"post_trained": "best", "imitation": "imitation"}


def test_missing_or_damaged_files_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="no trained policy ships with this version"):
        shipped.open_shipped(tmp_path / "nowhere")
    settings = folder / shipped.SETTINGS
    settings.write_text(settings.read_text().replace('"value_width": 8', '"value_width": 16'))
    with pytest.raises(ValueError, match=r"config\.json: expected sha256 .*it is damaged"):
        shipped.open_shipped(folder)
    about = json.loads((folder / shipped.ABOUT).read_text())
    about["sha256"][shipped.SETTINGS] = hashlib.sha256(settings.read_bytes()).hexdigest()
    (folder / shipped.ABOUT).write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"arrays are not those of this version's models \(\['.*expected .*found"):
        shipped.open_shipped(folder)


def test_the_shipped_run_opens():
    """Once there is something: settings that change without it make it unreadable."""
    if not (shipped.FOLDER / shipped.ABOUT).is_file():
        pytest.skip("nothing ships yet")
    config, _, learned, _ = shipped.open_shipped()
    assert config.name == "cpu" and jax.tree.leaves(learned.best)
    assert sum(path.stat().st_size for path in shipped.FOLDER.iterdir()) < shipped.LARGEST + 10_000
