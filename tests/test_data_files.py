"""Files and folders of files: written whole, or what was there before stays and the work is kept elsewhere."""

import os
import resource

import pytest

from tether.data import files


@pytest.fixture
def small_disk():
    """No file of this process grows beyond 1,000 bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_does_not_fit_leaves_the_one_before(tmp_path, small_disk):
    path = tmp_path / "config.json"
    files.write_text(path, "ü" * 500)
    with pytest.raises(OSError, match=r"config\.json"):
        files.write_text(path, "x" * 1001)
    assert path.read_text("utf-8") == "ü" * 500
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "report.md").symlink_to(tmp_path / "elsewhere" / "a.png")

    def write(folder):
        (folder / "figures").mkdir()
        (folder / "figures" / "a.png").write_text("new")
        (folder / "report.md").write_text("new")
        return 7

    assert files.publish(tmp_path / "out", write) == 7
    assert (tmp_path / "elsewhere" / "a.png").read_text() == "mine"
    assert (tmp_path / "out" / "figures" / "a.png").read_text() == (tmp_path / "out" / "report.md").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "out")) == ["figures", "report.md"]


def test_files_of_other_names_stay(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    files.publish(tmp_path, lambda folder: (folder / "report.md").write_text("x"))
    assert (tmp_path / "config.json").read_text() == "{}"


def test_a_report_that_cannot_be_put_in_place_is_kept_in_a_named_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=rf"{tmp_path}/file cannot be written .*the report is in ") as refused:
        files.publish(tmp_path / "file", lambda folder: (folder / "report.md").write_text("kept"))
    (kept,) = tmp_path.glob("report-*/report.md")
    assert kept.read_text() == "kept" and str(kept.parent) in str(refused.value)


def test_an_unwritable_directory_is_reported_before_the_work(tmp_path):
    files.check_writable(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("in the way")
    for wrong in (tmp_path / "file" / "out", tmp_path / "file"):
        with pytest.raises(ValueError, match=rf"{wrong} cannot be written: {tmp_path}/file: Not a directory"):
            files.check_writable(wrong)
