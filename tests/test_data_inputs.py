"""What `--womd` may name: literal paths, folders, globs and buckets, and what identifies the files' content."""

import errno
import gzip
import io
import sys

import pytest

from tether.data import inputs, tfrecord
from tether.data.errors import DataError


def logs(folder, *names):
    """One record in each file: its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(tfrecord.frame(name.encode()))
    return folder


def names(pattern):
    return [path.rpartition("/")[2] for path in inputs.list_files(str(pattern))]


def test_a_glob_and_a_folder_name_the_same_files(tmp_path):
    folder = logs(tmp_path / "training", "b.tfrecord-00001", "a.tfrecord-00000")
    (folder / "LICENSE").write_text("not a record")
    assert names(folder) == names(folder / "*.tfrecord*") == ["a.tfrecord-00000", "b.tfrecord-00001"]


@pytest.mark.parametrize("name", ["in [v1]", "what?", "star*"])
def test_a_path_that_exists_is_meant_literally(tmp_path, name):
    folder = logs(tmp_path / name, "a.tfrecord")
    assert names(folder) == names(folder / "a.tfrecord") == ["a.tfrecord"]


def test_home_and_nested_folders_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    logs(tmp_path / "womd" / "training", "a.tfrecord")
    assert names("~/womd/training/a.tfrecord") == names("~/womd/**/*.tfrecord") == ["a.tfrecord"]


def test_a_path_without_records_is_named_before_anything_is_read(tmp_path):
    folder = logs(tmp_path / "logs", "a.tfrecord")
    with pytest.raises(DataError, match=r"none\*.*no file matches"):
        inputs.list_files(str(tmp_path / "none*"))
    with pytest.raises(DataError, match="found one that holds logs"):
        inputs.list_files(str(tmp_path))
    (folder / "empty.tfrecord").touch()
    with pytest.raises(DataError, match=r"found empty ones \(0 bytes\): .*logs/empty\.tfrecord"):
        inputs.list_files(str(folder))
    (folder / "empty.tfrecord").unlink()
    (folder / "x.tfrecord").mkdir()
    with pytest.raises(DataError, match=r"found folders among them: .*logs/x\.tfrecord"):
        inputs.list_files(str(folder / "*"))


def test_remote_files_are_listed_and_read():
    """A file system in memory takes the same way as gs://."""
    import fsspec

    files = fsspec.filesystem("memory")
    for number, payload in enumerate((b"first", b"second")):
        files.pipe(f"/logs [1]/part-{number}.tfrecord", tfrecord.frame(payload))
    files.pipe("/logs [1]/part-2.tfrecord.gz", gzip.compress(tfrecord.frame(b"third")))
    for pattern in ("memory://logs [1]", "memory://logs*/*.tfrecord*"):
        paths = inputs.list_files(pattern)
        assert [next(iter(tfrecord.read_records(path))) for path in paths] == [b"first", b"second", b"third"]
    assert names("memory://logs [1]/part-0.tfrecord") == ["part-0.tfrecord"]
    assert inputs.fingerprints(paths)[0]["bytes"] == 16 + len(b"first")
    with pytest.raises(DataError, match="no file matches"):
        inputs.list_files("memory://logs*/*.proto")


def test_a_bucket_that_cannot_be_read_is_one_error(monkeypatch):
    class Denied(Exception):
        """As a file system's own types of errors."""

    def denied(*_args, **_kwargs):
        raise Denied("401: Anonymous caller does not have storage.objects.list access\nand a page of it")

    import fsspec

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "isdir", denied)
    with pytest.raises(DataError, match=r"memory://bucket/\*: cannot be reached \(Denied: 401: Anonymous.*access\)$"):
        inputs.list_files("memory://bucket/*")
    with pytest.raises(DataError, match=r"cannot be reached \(ValueError: Protocol not known: nowhere"):
        inputs.list_files("nowhere://bucket/*")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for reach in (inputs.list_files, inputs.check_reachable):
        with pytest.raises(DataError, match=r'pip install -e "\.\[gcs\]"'):
            reach("gs://bucket/*")


def test_a_disk_that_fails_in_the_middle_is_no_damaged_record(tmp_path, monkeypatch):
    path = logs(tmp_path, "a.tfrecord") / "a.tfrecord"

    class Failing(io.BytesIO):
        """The disk fails after the first record."""

        def read(self, count=-1):
            if self.tell() == len(self.getvalue()):
                raise OSError(errno.EIO, "Input/output error")
            return super().read(count)

    monkeypatch.setattr(tfrecord, "open_file", lambda name: Failing(path.read_bytes()))
    records = tfrecord.read_records(str(path))
    assert next(records) == b"a.tfrecord"
    with pytest.raises(DataError, match=r"a\.tfrecord: cannot be reached \(OSError: .*Input/output error\)"):
        next(records)


def test_compressed_files_are_read(tmp_path):
    payloads = [bytes([i]) * 1000 for i in range(5)]
    path = tmp_path / "a.tfrecord.gz"
    path.write_bytes(gzip.compress(b"".join(map(tfrecord.frame, payloads))))
    assert list(tfrecord.read_records(str(path))) == payloads
    path.write_bytes(path.read_bytes()[:-20])
    *whole, damaged = tfrecord.read_records(str(path))
    assert whole == payloads[: len(whole)] and "damaged gzip compression" in damaged.reason


def test_a_record_as_long_as_gzip_begins_is_no_gzip(tmp_path):
    payload = bytes(0x8B1F)
    path = tmp_path / "a.tfrecord"
    path.write_bytes(tfrecord.frame(payload))
    assert path.read_bytes().startswith(tfrecord.GZIP) and list(tfrecord.read_records(str(path))) == [payload]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04 and so on", "a zip archive"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"# Read me first, please", "another kind"),
        (gzip.compress(b"", mtime=0), "found none"),
        (gzip.compress(b"a tape archive", mtime=0), "another kind"),
        (b"short", "another kind"),
    ],
)
def test_other_kinds_of_files_are_named_by_their_kind(tmp_path, content, kind):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(content)
    (error,) = tfrecord.read_records(str(path))
    assert kind in error.reason and error.file == str(path)


def test_a_fingerprint_is_of_the_content_wherever_it_lies(tmp_path, monkeypatch):
    first, second = tmp_path / "v1" / "a.tfrecord", tmp_path / "v2" / "a.tfrecord"
    for path in (first, second):
        logs(path.parent, path.name)
    (known,) = inputs.fingerprints([str(first)])
    assert inputs.fingerprints([str(second)]) == [known] and known["name"] == "a.tfrecord"
    second.write_bytes(first.read_bytes()[:-1] + b"x")
    assert inputs.fingerprints([str(second)]) != [known]
    monkeypatch.setattr(inputs, "WHOLE_BYTES", 100)
    monkeypatch.setattr(inputs, "END_BYTES", 10)
    content = bytearray(1000)
    for place, seen in ((0, True), (500, False), (995, True)):
        first.write_bytes(content)
        (before,) = inputs.fingerprints([str(first)])
        first.write_bytes(content[:place] + b"x" + content[place + 1 :])
        assert (inputs.fingerprints([str(first)]) != [before]) == seen


def test_a_file_that_vanishes_is_named(tmp_path):
    with pytest.raises(OSError, match=r"gone\.tfrecord") as caught:
        inputs.fingerprints([str(tmp_path / "gone.tfrecord")])
    assert caught.value.errno == errno.ENOENT
