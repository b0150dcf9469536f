"""Checkpoints: what comes back, what is kept, and what happens to disks."""

import json
import os
import resource
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from tether.training.checkpoint import Checkpoints, _held_place, checksums, move_aside


def state(value: float) -> dict:
    return {"a": jnp.full((3,), value), "b": {"c": jnp.arange(4)}}


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state(0.1), {"step": 5})
    step, restored, meta = checkpoints.restore(state(0.0))
    checkpoints.close()
    assert (step, meta) == (1, {"step": 5})
    assert checksums(restored) == checksums(state(0.1))


def test_a_damaged_checkpoint_is_skipped(tmp_path, monkeypatch, caplog):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), {"step": 1})
    checkpoints.restore(state(0.0))
    with monkeypatch.context() as patch:  # what flipped bytes look like: the arrays do not match their checksums
        patch.setattr("tether.training.checkpoint.checksums", lambda tree: dict.fromkeys(checksums(tree), 0))
        checkpoints.save(2, state(2.0), {"step": 2})
        checkpoints.wait()
    step, restored, meta = checkpoints.restore(state(0.0))
    assert (step, meta["step"], float(restored["a"][0])) == (1, 1, 1.0)
    assert "checkpoint 2" in caplog.text and "kept as" in caplog.text
    assert checkpoints.steps() == [1]
    checkpoints.save(2, state(3.0), {"step": 2})  # the bad one is out of the way
    checkpoints.close()
    assert (tmp_path / "damaged-2" / "state").is_dir()


def test_a_checkpoint_that_could_not_be_read_once_can_be_put_back(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(step, state(float(step)), {})
    checkpoints.wait()
    read = checkpoints._read

    def failing_once(step, template):
        if step == 2:
            raise OSError("Input/output error")
        return read(step, template)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_read", failing_once)
        assert checkpoints.restore(state(0.0)).step == 1
    checkpoints.close()
    (tmp_path / "damaged-2").rename(tmp_path / "2")
    checkpoints = Checkpoints(tmp_path, keep=3)
    step, restored, _ = checkpoints.restore(state(0.0))
    assert (step, checksums(restored)) == (2, checksums(state(2.0)))
    checkpoints.close()


def test_moving_aside_never_replaces_an_earlier_folder(tmp_path):
    for _ in range(3):
        (tmp_path / "12").mkdir()
        move_aside(tmp_path / "12", "damaged-12")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged-12", "damaged-12.1", "damaged-12.2"]


def test_pruning_keeps_the_newest_the_best_and_the_one_resumed_from(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, best in ((1, 0), (2, 0), (3, 3), (4, 3), (5, 3)):
        checkpoints.save(step, state(float(step)), {}, best)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.steps() == [3, 4, 5]
    assert checkpoints.restore(state(0.0)).step == 5
    for step, best in ((6, 3), (7, 3), (8, 8), (9, 8), (10, 8)):
        checkpoints.save(step, state(float(step)), {}, best)
    checkpoints.close()
    kept = sorted(int(path.name) for path in tmp_path.iterdir())
    assert kept == [5, 8, 9, 10]


def test_too_little_memory_removes_nothing(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()

    def out_of_memory(tree):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("tether.training.checkpoint.checksums", out_of_memory)
        checkpoints.restore(state(0.0))
    assert checkpoints.restore(state(0.0)).step == 1
    checkpoints.close()


def test_reading_alone_removes_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()
    another_version = {"a": jnp.zeros(3), "d": jnp.zeros(2)}
    with pytest.raises(ValueError, match="all checkpoints"):
        checkpoints.restore(another_version, repair=False)
    assert checkpoints.steps() == [1]
    checkpoints.close()


def test_a_disk_that_takes_no_more_is_an_error_and_the_last_checkpoint_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()
    large = state(2.0) | {"d": np.random.default_rng(0).normal(size=200_000)}  # does not compress
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ValueError, match=rf"cannot be written to {tmp_path}.*"):
            for step in (2, 3):  # the disk is written in the background: the next save at the latest reports it
                checkpoints.save(step, large, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.restore(state(0.0)).step == 1
    checkpoints.close()


def test_a_vanished_directory_is_reported_and_not_made_again(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", keep=3)
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"cannot be written to {tmp_path}.*No such file or directory"):
        checkpoints.save(2, state(2.0), {})
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(ValueError, match="cannot be written"):
        checkpoints.save(3, state(3.0), {})
    with pytest.raises(ValueError, match="another one is in its place"):
        checkpoints.close()


def test_a_directory_that_vanishes_during_a_write_is_reported(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", keep=3)
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()
    large = state(2.0) | {"d": np.random.default_rng(0).normal(size=4_000_000)}
    checkpoints.save(2, large, {})
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    for act in (lambda: checkpoints.save(3, large, {}), checkpoints.close):
        with pytest.raises(ValueError, match=rf"checkpoints cannot be written to {tmp_path}"):
            act()
    moved = Checkpoints(tmp_path / "elsewhere", keep=3)
    assert moved.restore(large).step == 2  # what was being written went where the directory went
    moved.close()


@pytest.fixture
def mountpoint(tmp_path):
    """A file system of its own: root may write into any directory, but not into one mounted read-only."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "none", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_becomes_read_only_is_reported_and_stays_unchanged(mountpoint):
    checkpoints = Checkpoints(mountpoint / "run", keep=1)
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()
    subprocess.run(["mount", "-o", "remount,ro", mountpoint], check=True)
    with pytest.raises(ValueError, match=rf"cannot be written to {mountpoint}.*Read-only file system"):
        checkpoints.save(2, state(2.0), {})
    checkpoints.close()
    reader = Checkpoints(mountpoint / "run", keep=1)
    assert reader.restore(state(0.0), repair=False).step == 1
    reader.close()


def test_nothing_is_moved_on_a_read_only_disk(mountpoint):
    checkpoints = Checkpoints(mountpoint / "run", keep=2)
    checkpoints.save(1, state(1.0), {})
    checkpoints.save(2, state(2.0), {})
    checkpoints.wait()
    (mountpoint / "run" / "2" / "meta" / "metadata").write_text("{")
    subprocess.run(["mount", "-o", "remount,ro", mountpoint], check=True)
    with pytest.raises(ValueError, match=r"cannot be written to .*Read-only file system"):
        checkpoints.restore(state(0.0))
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def test_all_damaged_is_an_error_not_a_new_beginning(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()
    monkeypatch.setattr("tether.training.checkpoint.checksums", lambda tree: {"a": 0})
    for _ in range(2):  # and it stays one: nothing was moved out of sight
        with pytest.raises(ValueError, match="all checkpoints"):
            checkpoints.restore(state(0.0))
    assert checkpoints.steps() == [1]
    checkpoints.close()


@pytest.mark.parametrize("name", ["run[1]", "exp [lr=1e-4]", "back\\slash", "ünï *?#%", "[a/b]"])
def test_a_path_of_any_characters_can_be_read_back(tmp_path, name):
    checkpoints = Checkpoints(tmp_path / name / "checkpoints", keep=2)
    checkpoints.save(1, state(1.0), {})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / name / "checkpoints", keep=2)
    assert checksums(checkpoints.restore(state(0.0)).state) == checksums(state(1.0))
    checkpoints.close()


def test_without_a_path_of_its_own_such_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"run\[1\]: expected a path without square brackets"):
        _held_place(tmp_path / "run[1]", 10**6)  # as where there is no /proc
    assert _held_place(tmp_path, 10**6) == tmp_path


def test_the_first_checkpoint_is_read_back_before_the_second_is_written(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()
    for file in (tmp_path / "1" / "state").rglob("*"):
        if file.name == "manifest.ocdbt":
            file.unlink()  # as where the store merges nothing
    with pytest.raises(ValueError, match=r"checkpoint 1 was written .* cannot be read back: .*name another") as refused:
        checkpoints.save(2, state(2.0), {})
    assert "--fresh" not in str(refused.value) and len(str(refused.value)) < 600
    assert checkpoints.steps() == [1]
    checkpoints.close()


def test_meta_is_summed(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(step, state(1.0), {"penalty": 1.0, "trust": float("inf"), "of": (1, 2)})
    checkpoints.wait()
    path = tmp_path / "2" / "meta" / "metadata"
    path.write_text(path.read_text().replace('"penalty": 1.0', '"penalty": 5.0'))
    step, _, meta = checkpoints.restore(state(0.0))
    assert (step, meta) == (1, {"penalty": 1.0, "trust": float("inf"), "of": [1, 2]})
    assert "checkpoint 2" in caplog.text and "its meta is not what was written" in caplog.text
    checkpoints.close()


def test_meta_of_a_version_without_a_sum_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()
    path = tmp_path / "1" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["sha256"]
    path.write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"expected a sha256 in its meta, found none: .*; nothing was changed"):
        checkpoints.restore(state(0.0))
    checkpoints.close()


def test_meta_that_the_caller_cannot_parse_is_skipped(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(step, state(1.0), {"name": "known" if step == 1 else "knowm"})
    restored = checkpoints.restore(state(0.0), lambda meta: {"known": 7}[meta["name"]])
    assert (restored.step, restored.progress) == (1, 7)
    checkpoints.close()


@pytest.mark.parametrize("free", [0, 1, 2, 6, 12, 40])
def test_a_disk_without_room_for_files_is_one_error_at_once(mountpoint, free, capfd):
    """Orbax would wait for five minutes where it can make some of its folders."""
    subprocess.run(["mount", "-o", "remount,nr_inodes=200", mountpoint], check=True)
    checkpoints = Checkpoints(mountpoint / "run", keep=2)
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()
    for number in range(os.statvfs(mountpoint).f_favail - free):
        (mountpoint / str(number)).touch()
    with pytest.raises(
        ValueError, match=rf"cannot be written to {mountpoint}/run: .*No space left on device: '{mountpoint}"
    ):
        checkpoints.save(2, state(2.0), {})
    checkpoints.close()
    assert checkpoints_of(mountpoint / "run") == ["1"]
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_is_one_error(mountpoint, capfd):
    subprocess.run(["mount", "-o", "remount,size=4m", mountpoint], check=True)
    checkpoints = Checkpoints(mountpoint / "run", keep=2)
    many = {str(i): np.random.default_rng(i).normal(size=100_000) for i in range(20)}  # 16 MB
    with pytest.raises(ValueError, match=rf"cannot be written to {mountpoint}/run: .*No space left on device") as full:
        checkpoints.save(1, many, {})
        checkpoints.wait()
    assert len(str(full.value)) < 500
    checkpoints.close()
    assert not any(name.isdecimal() for name in checkpoints_of(mountpoint / "run"))
    assert capfd.readouterr() == ("", "")


def checkpoints_of(directory):
    return sorted(path.name for path in directory.iterdir())
