"""Checkpoints: what comes back, what is kept, and what happens to disks."""

import resource
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.checkpoint import Checkpoints, checksums, move_aside


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
    with pytest.raises(ValueError, match="another one is in its place"):
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
