"""A run's directory: who owns it, and under which settings it was made."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tether.training import presets, settings
from tether.training.checkpoint import Checkpoints
from tether.training.directory import LOCK_FILE, claim, read_settings, write_settings

HOLD = """
import sys
from tether.training import presets
from tether.training.directory import claim
import dataclasses
with claim(dataclasses.replace(presets.tiny(), directory=sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def tiny(directory, **changes):
    return dataclasses.replace(presets.tiny(), directory=str(directory), **changes)


def make(config):
    """A run that has begun."""
    with claim(config) as directory:
        write_settings(config, directory)
    return directory


def save(config, step=1):
    """A checkpoint of the run, as small as can be."""
    checkpoints = Checkpoints(config.run_directory / "checkpoints", 2)
    meta = {"progress": {}, "settings": dataclasses.asdict(config)}
    checkpoints.save(step, {"a": np.zeros(2)}, meta)
    checkpoints.close()


def test_other_settings_are_refused_with_the_list(tmp_path):
    config = tiny(tmp_path / "run")
    make(config)
    make(dataclasses.replace(config, log_every=7))  # changes no numbers
    assert settings.read(tmp_path / "run" / "config.json") == config  # written once
    with pytest.raises(ValueError, match=r"seed: 0 -> 1"):
        make(dataclasses.replace(config, seed=1))


def test_fresh_moves_the_earlier_run_aside(tmp_path):
    config = tiny(tmp_path / "run")
    (make(config) / "metrics.jsonl").write_text("{}\n")
    make(dataclasses.replace(config, fresh=True, seed=1))
    assert (tmp_path / "run.1" / "metrics.jsonl").exists()
    assert settings.read(tmp_path / "run" / "config.json").seed == 1


def test_a_directory_that_holds_no_run_is_not_moved(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    make(tiny(tmp_path, fresh=True))
    assert (tmp_path / "mine.txt").exists() and (tmp_path / "config.json").exists()


def test_a_directory_has_one_owner_and_the_lock_dies_with_it(tmp_path):
    config = tiny(tmp_path / "run")
    command = [sys.executable, "-c", HOLD, config.directory]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        for mine in (config, dataclasses.replace(config, fresh=True)):
            with pytest.raises(
                ValueError, match=rf"run is in use by process {holder.pid} on \S+ since 20.*\n.*--direct"
            ):
                make(mine)
    finally:
        holder.kill()
        holder.communicate()
    make(config)
    assert os.listdir(tmp_path) == ["run"]  # nothing was moved


def test_settings_that_were_refused_leave_no_claim(tmp_path):
    """The corrected command is not refused where the first one failed before its run began."""
    with claim(tiny(tmp_path / "run", seed=1)):
        pass  # data, model or memory were not there
    make(tiny(tmp_path / "run"))
    assert os.listdir(tmp_path / "run") != [LOCK_FILE]


@pytest.mark.parametrize(("name", "reason"), [("file", "it is a file"), ("file/run", "Not a directory")])
def test_a_path_that_cannot_hold_a_run_is_named(tmp_path, name, reason):
    (tmp_path / "file").write_text("")
    for fresh in (False, True):
        with pytest.raises(ValueError, match=rf"{tmp_path}/{name} cannot hold a run \({reason}\): name another"):
            make(tiny(tmp_path / name, fresh=fresh))


def test_without_a_config_the_checkpoints_decide(tmp_path):
    config = tiny(tmp_path)
    make(config)
    save(config)
    (tmp_path / "config.json").unlink()
    assert read_settings(tmp_path) == config
    with pytest.raises(ValueError, match=r"other settings:\n  seed: 0 -> 5\n"):
        make(dataclasses.replace(config, seed=5))
    assert not (tmp_path / "config.json").exists()
    make(config)
    assert settings.read(tmp_path / "config.json") == config


def test_a_changed_config_is_held_against_the_checkpoints(tmp_path):
    config = tiny(tmp_path)
    path = make(config) / "config.json"
    save(config)
    path.write_text(path.read_text().replace('"penalty": 0.5', '"penalty": 4.5'))
    with pytest.raises(ValueError, match=r"config\.json does not hold .*\n  rounds.penalty: 0.5 -> 4.5\nremove it"):
        read_settings(tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"config\.json: expected JSON .*\nremove it to go on"):
        make(config)
    path.unlink()
    make(config)


def test_a_damaged_checkpoint_does_not_decide(tmp_path):
    config = tiny(tmp_path)
    make(config)
    save(config, 1)
    save(config, 2)
    meta = tmp_path / "checkpoints" / "2" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace('"seed": 0', '"seed": 4'))
    assert json.loads(meta.read_text())["settings"]["seed"] == 4
    (tmp_path / "config.json").unlink()
    assert read_settings(tmp_path) == config
