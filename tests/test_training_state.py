"""Configs, checkpoints, ledger, replay tracks, schedule: what lets a run be named, stopped and gone on with."""

import dataclasses
import json
import resource
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import config as configs
from training import loop, presets, replay
from training.checkpoint import Checkpoints, checksums, move_aside
from training.ledger import Ledger
from training.log import Logger, read_lines
from training.state import Progress


def test_overrides_are_typed_and_nested():
    config = presets.parse(["tiny", "--rounds.group", "4", "--policy.actions.effort", "0.5", "--seed", "3"])
    assert (config.rounds.group, config.policy.actions.effort, config.seed, config.name) == (4, 0.5, 3, "tiny")


def test_the_preset_may_be_left_out():
    assert presets.parse(["--seed", "5"]) == dataclasses.replace(presets.cpu(), seed=5)


@pytest.mark.parametrize("arguments", [["tiny", "--rounds.gruop", "4"], ["tiny", "--rounds.group", "x"], ["tinny"]])
def test_typos_end_the_process_with_a_suggestion(arguments, capsys):
    with pytest.raises(SystemExit):
        presets.parse(arguments)
    said = capsys.readouterr()
    assert any(hint in said.out + said.err for hint in ("--rounds.group", "tiny"))


def test_values_that_cannot_work_are_listed():
    config = presets.tiny()
    wrong = dataclasses.replace(config, rounds=dataclasses.replace(config.rounds, group=1, minibatch=7))
    with pytest.raises(ValueError, match=r"(?s)rounds\.group: expected at least 2, found 1.*rounds\.minibatch"):
        configs.validate(wrong)


@pytest.mark.parametrize("preset", presets.PRESETS.values())
def test_presets_are_valid_and_survive_json(preset, tmp_path):
    config = preset()
    configs.validate(config)
    configs.write(config, tmp_path / "config.json")
    assert configs.read(tmp_path / "config.json") == config


def test_an_unknown_field_of_a_saved_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"sed": 1}))
    with pytest.raises(ValueError, match=r"unknown field 'sed'.*did you mean seed"):
        configs.read(tmp_path / "config.json")


def test_resuming_with_other_settings_is_refused_with_the_list(tmp_path):
    config = dataclasses.replace(presets.tiny(), directory=str(tmp_path / "run"))
    loop.claim_directory(config)
    loop.claim_directory(dataclasses.replace(config, log_every=7))  # changes no numbers
    with pytest.raises(ValueError, match=r"seed: 0 -> 1"):
        loop.claim_directory(dataclasses.replace(config, seed=1))


def test_fresh_moves_the_earlier_run_aside(tmp_path):
    config = dataclasses.replace(presets.tiny(), directory=str(tmp_path / "run"))
    (loop.claim_directory(config) / "metrics.jsonl").write_text("{}\n")
    loop.claim_directory(dataclasses.replace(config, fresh=True, seed=1))
    assert (tmp_path / "run.1" / "metrics.jsonl").exists()
    assert configs.read(tmp_path / "run" / "config.json").seed == 1


def test_a_stage_alone_needs_what_comes_before():
    config = presets.tiny()
    only = dataclasses.replace(config, stage="cl_sft")
    with pytest.raises(ValueError, match="0/fit_world_model"):
        loop.pending(only, ("0/imitate",))
    assert [unit.name for unit in loop.pending(only, ("0/fit_world_model", "0/imitate"))] == ["0/cl_sft"]
    assert loop.pending(dataclasses.replace(config, stage="imitate"), ())[0].part == "imitate"


def test_the_schedule_grounds_before_and_after_each_round():
    names = [unit.name for unit in loop.schedule(presets.tiny())]
    assert names[:5] == ["0/fit_world_model", "0/imitate", "0/cl_sft", "0/fit_value", "0/ground"]
    assert names[5:8] == ["1/refit", "1/improve", "1/ground"]


def test_progress_survives_json():
    progress = Progress(finished=("0/imitate",), step=3, horizon=8, grounded_return=(1.5,), rounds=({"round": 1},))
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


def test_the_ledger_counts_driven_steps_only():
    ledger = Ledger().charge("ground", np.array([[1, 1], [1, 0]], bool)).charge("refit", np.ones((2, 2), bool))
    assert (ledger.total, ledger.settle().spent["ground"]) == (7, 3)
    assert Progress.from_json(json.loads(json.dumps(Progress(ledger=ledger).to_json()))).ledger == ledger.settle()
    with pytest.raises(KeyError):
        ledger.charge("elsewhere", np.ones(1))


def state(value: float) -> dict:
    return {"a": jnp.full((3,), value), "b": {"c": jnp.arange(4)}}


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state(0.1), jax.random.key(7), {"step": 5})
    step, found, key, meta = checkpoints.restore(state(0.0))
    checkpoints.close()
    assert (step, meta) == (1, {"step": 5})
    assert checksums(found) == checksums(state(0.1))
    assert jax.random.key_data(key).tolist() == jax.random.key_data(jax.random.key(7)).tolist()


def test_a_damaged_checkpoint_is_walked_past(tmp_path, monkeypatch, caplog):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), jax.random.key(0), {"step": 1})
    with monkeypatch.context() as patch:  # what flipped bytes look like: the arrays do not match their checksums
        patch.setattr("training.checkpoint.checksums", lambda tree: dict.fromkeys(checksums(tree), 0))
        checkpoints.save(2, state(2.0), jax.random.key(0), {"step": 2})
        checkpoints.wait()
    step, found, _, meta = checkpoints.restore(state(0.0))
    assert (step, meta["step"], float(found["a"][0])) == (1, 1, 1.0)
    assert "checkpoint 2" in caplog.text and "kept as" in caplog.text
    assert checkpoints.steps() == [1]
    checkpoints.save(2, state(3.0), jax.random.key(0), {"step": 2})  # the bad one is out of the way
    checkpoints.close()
    assert (tmp_path / "damaged-2" / "state").is_dir()


def test_a_checkpoint_that_could_not_be_read_once_can_be_put_back(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(step, state(float(step)), jax.random.key(0), {})
    checkpoints.wait()
    read = checkpoints._read

    def failing_once(step, template):
        if step == 2:
            raise OSError("Input/output error")
        return read(step, template)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_read", failing_once)
        assert checkpoints.restore(state(0.0))[0] == 1
    checkpoints.close()
    (tmp_path / "damaged-2").rename(tmp_path / "2")
    checkpoints = Checkpoints(tmp_path, keep=3)
    step, found, _, _ = checkpoints.restore(state(0.0))
    assert (step, checksums(found)) == (2, checksums(state(2.0)))
    checkpoints.close()


def test_what_is_moved_aside_never_replaces_what_was_before(tmp_path):
    for _ in range(3):
        (tmp_path / "12").mkdir()
        move_aside(tmp_path / "12", "damaged-12")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged-12", "damaged-12.1", "damaged-12.2"]


def test_pruning_keeps_the_newest_the_best_and_the_one_gone_on_from(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, best in ((1, 0), (2, 0), (3, 3), (4, 3), (5, 3)):
        checkpoints.save(step, state(float(step)), jax.random.key(0), {}, best)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.steps() == [3, 4, 5]
    assert checkpoints.restore(state(0.0))[0] == 5
    for step, best in ((6, 3), (7, 3), (8, 8), (9, 8), (10, 8)):
        checkpoints.save(step, state(float(step)), jax.random.key(0), {}, best)
    checkpoints.close()
    kept = sorted(int(path.name) for path in tmp_path.iterdir())
    assert kept == [5, 8, 9, 10]


def test_too_little_memory_removes_nothing(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), jax.random.key(0), {})
    checkpoints.wait()

    def out_of_memory(tree):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("training.checkpoint.checksums", out_of_memory)
        checkpoints.restore(state(0.0))
    assert checkpoints.restore(state(0.0))[0] == 1
    checkpoints.close()


def test_who_only_reads_removes_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), jax.random.key(0), {})
    checkpoints.wait()
    another_version = {"a": jnp.zeros(3), "d": jnp.zeros(2)}
    with pytest.raises(ValueError, match="all checkpoints"):
        checkpoints.restore(another_version, repair=False)
    assert checkpoints.steps() == [1]
    checkpoints.close()


def test_a_disk_that_takes_no_more_is_an_error_and_the_last_checkpoint_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), jax.random.key(0), {})
    checkpoints.wait()
    large = state(2.0) | {"d": np.random.default_rng(0).normal(size=200_000)}  # does not compress
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ValueError, match=rf"cannot be written to {tmp_path}.*"):
            for step in (2, 3):  # the disk is written in the background: the next save at the latest tells
                checkpoints.save(step, large, jax.random.key(0), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.restore(state(0.0))[0] == 1
    checkpoints.close()


def test_a_directory_that_vanished_is_told_and_not_made_again(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", keep=3)
    checkpoints.save(1, state(1.0), jax.random.key(0), {})
    checkpoints.wait()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"cannot be written to {tmp_path}.*No such file or directory"):
        checkpoints.save(2, state(2.0), jax.random.key(0), {})
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(ValueError, match="cannot be written"):
        checkpoints.save(3, state(3.0), jax.random.key(0), {})
    checkpoints.close()


def test_a_directory_that_vanishes_while_it_is_written_is_told(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", keep=3)
    checkpoints.save(1, state(1.0), jax.random.key(0), {})
    checkpoints.wait()
    large = state(2.0) | {"d": np.random.default_rng(0).normal(size=4_000_000)}
    checkpoints.save(2, large, jax.random.key(0), {})
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    for act in (lambda: checkpoints.save(3, large, jax.random.key(0), {}), checkpoints.close):
        with pytest.raises(ValueError, match=rf"checkpoints cannot be written to {tmp_path}"):
            act()
    found = Checkpoints(tmp_path / "elsewhere", keep=3)
    assert found.steps() == [1] and found.restore(state(0.0))[0] == 1
    found.close()


@pytest.fixture
def mountpoint(tmp_path):
    """A file system of its own: who is root may write into any directory, but not into one mounted read-only."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "none", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_becomes_read_only_is_told_and_keeps_what_was_there(mountpoint):
    checkpoints = Checkpoints(mountpoint / "run", keep=1)
    checkpoints.save(1, state(1.0), jax.random.key(0), {})
    checkpoints.wait()
    subprocess.run(["mount", "-o", "remount,ro", mountpoint], check=True)
    with pytest.raises(ValueError, match=rf"cannot be written to {mountpoint}.*Read-only file system"):
        checkpoints.save(2, state(2.0), jax.random.key(0), {})
    checkpoints.close()
    reader = Checkpoints(mountpoint / "run", keep=1)
    assert reader.restore(state(0.0), repair=False)[0] == 1
    reader.close()


def test_nothing_is_moved_on_a_read_only_disk(mountpoint):
    checkpoints = Checkpoints(mountpoint / "run", keep=2)
    checkpoints.save(1, state(1.0), jax.random.key(0), {})
    checkpoints.save(2, state(2.0), jax.random.key(0), {})
    checkpoints.wait()
    (mountpoint / "run" / "2" / "meta" / "metadata").write_text("{")
    subprocess.run(["mount", "-o", "remount,ro", mountpoint], check=True)
    with pytest.raises(ValueError, match=r"cannot be written to .*Read-only file system"):
        checkpoints.restore(state(0.0))
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def test_all_damaged_is_an_error_not_a_new_beginning(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), jax.random.key(0), {})
    checkpoints.wait()
    monkeypatch.setattr("training.checkpoint.checksums", lambda tree: {"a": 0})
    for _ in range(2):  # and it stays one: nothing was moved out of sight
        with pytest.raises(ValueError, match="all checkpoints"):
            checkpoints.restore(state(0.0))
    assert checkpoints.steps() == [1]
    checkpoints.close()


def test_log_lines_say_where_they_come_from(tmp_path):
    logger = Logger(tmp_path)
    where = {"round_index": 1, "stage": "improve", "step": 2, "total": 9, "simulator_steps": 64, "wall_s": 1.5}
    logger.write(**where, metrics={"kl": jnp.float32(0.5), "bad": float("nan")})
    with pytest.raises(ValueError, match="kl must be one number"):
        logger.write(**where, metrics={"kl": np.zeros(2)})
    logger.close()
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    expected = {"round": 1, "stage": "improve", "step": 2, "simulator_steps": 64, "wall_s": 1.5, "kl": 0.5, "bad": None}
    assert line == expected


@dataclasses.dataclass
class Bare:
    """Stands in for a `ModelBatch`: only `replace` and leaves matter to the ring."""

    value: object
    scene: object = ()

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


jax.tree_util.register_dataclass(Bare, ["value", "scene"], [])


def test_the_ring_overwrites_the_oldest_tracks():
    ring = replay.empty(Bare(np.zeros((2, 1), np.float32)), 3)
    with pytest.raises(ValueError, match="no policy rollout"):
        replay.draw(ring, jax.random.key(0), 1)
    for first in (0, 2):
        batch = Bare(np.array([[first], [first + 1]], np.float32))
        ring = replay.add(ring, np.array([first, first + 1]), batch)
    assert ring.scene.tolist() == [3, 1, 2]
    scenes, batch = replay.draw(ring, jax.random.key(0), 8)
    np.testing.assert_array_equal(batch.value[:, 0], scenes)
