"""The files that a name on the command line means, on this machine or in a bucket, and hashes of their content."""

import concurrent.futures
import contextlib
import fnmatch
import glob
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from tether.data.errors import DataError

RECORD_FILES = "*tfrecord*"
INSTALL = {"gs": 'pip install -e ".[gcs]"', "gcs": 'pip install -e ".[gcs]"'}  # by protocol
MOST_NAMED = 5
# Files up to the first size are hashed whole, of larger ones as much as the second at either end: all of WOMD is half a
# terabyte, often in a bucket, and is to be compared within seconds. Another version of a large file differs in its
# length, first or last records; one that differs in its middle alone is a damaged copy, which the checksum of each
# record finds when it is read.
WHOLE_BYTES, END_BYTES = 16 << 20, 256 << 10
READERS = 8  # buckets answer many requests at a time


def list_files(pattern: str) -> list[str]:
    """The files that a path or a glob names, sorted; remote ones (`gs://...`) through fsspec.

    A path that exists is meant literally, brackets included; a folder stands for its files that match `RECORD_FILES`.

    Raises: DataError if none matches, for folders and empty files among the matches, or if a bucket cannot be reached.
    """
    matches = _remote_matches(pattern) if "://" in pattern else _local_matches(os.path.expanduser(pattern))
    if not matches:
        raise DataError("no file matches", file=pattern)
    folders = [name for name, size in matches.items() if size is None]
    if folders:
        reason = f"expected files, found folders among them: {_listed(folders)}; name one folder, or files alone"
        raise DataError(reason, file=pattern)
    empty = [name for name, size in matches.items() if size == 0]
    if empty:
        reason = f"expected TFRecord files, found empty ones (0 bytes): {_listed(empty)}; fetch or remove them"
        raise DataError(reason, file=pattern)
    return sorted(matches)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(sorted(names)[:MOST_NAMED]) + more


def _local_matches(pattern: str) -> dict[str, int | None]:
    """Size in bytes by name, None for folders."""
    path = pathlib.Path(pattern)
    if path.is_dir():
        names = [str(path / name) for name in _record_names(pattern, os.listdir(path))]
    else:
        names = [pattern] if path.exists() else glob.glob(pattern, recursive=True)
    return {name: None if os.path.isdir(name) else os.path.getsize(name) for name in names}


def _record_names(folder: str, names: Sequence[str]) -> list[str]:
    """The names in a folder that are records. Raises: DataError for a folder without any."""
    records = fnmatch.filter(names, RECORD_FILES)
    if not records:
        holds = _listed(names) if names else "nothing"
        raise DataError(f"expected a folder with files {RECORD_FILES}, found one that holds {holds}", file=folder)
    return records


def _remote_matches(pattern: str) -> dict[str, int | None]:
    system, path = _remote(pattern)
    with reached(pattern):
        if system.isdir(path):
            listed = {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in system.ls(path, detail=True)}
            entries = [listed[name] for name in _record_names(pattern, list(listed))]
        else:
            entries = [system.info(path)] if system.exists(path) else list(system.glob(path, detail=True).values())
    return {system.unstrip_protocol(e["name"]): None if e["type"] == "directory" else e["size"] for e in entries}


def _remote(path: str) -> tuple[Any, str]:
    """The file system of a path and the path in it."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        hint = INSTALL.get(path.partition("://")[0])
        raise DataError(f"{error}: {hint}" if hint else str(error), file=path) from error
    except Exception as error:  # a file system without credentials raises a type of its own
        raise unreachable(path, error) from error


def unreachable(path: str, error: Exception) -> DataError:
    """The error for a file that its disk or its bucket does not give. Args: error: of whatever type they raise."""
    reason = str(error).partition("\n")[0][:200]
    return DataError(f"cannot be reached ({type(error).__name__}: {reason})", file=path)


@contextlib.contextmanager
def reached(path: str) -> Iterator[None]:
    """Turns the errors of a file system, which have types of their own, into `unreachable`. Raises: DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # file systems of buckets raise types of their own
        raise unreachable(path, error) from error


def check_reachable(path: str) -> None:
    """Raises: DataError for a remote path whose file system is not installed or does not answer."""
    system, name = _remote(path)
    with reached(path):
        system.exists(name)


def open_file(path: str) -> BinaryIO:
    """The bytes of a local or remote file as they are stored. Raises: DataError if its bucket cannot be reached."""
    if "://" not in path:
        return open(path, "rb")
    system, name = _remote(path)
    with reached(path):
        return system.open(name, "rb")


def fingerprints(paths: Sequence[str]) -> list[dict[str, str | int]]:
    """The identity of files' content, wherever they lie: `name` without folders, `bytes`, and `sha256` of all of
    it or of both its ends (`WHOLE_BYTES`).

    Raises: DataError or OSError for a file that cannot be read.
    """
    with concurrent.futures.ThreadPoolExecutor(READERS) as threads:
        return list(threads.map(_fingerprint, paths))


def _fingerprint(path: str) -> dict[str, str | int]:
    if "://" in path:
        system, name = _remote(path)
        with reached(path):
            size, digest = _digest(system.size(name), lambda first, end: system.cat_file(name, start=first, end=end))
    else:
        with open(path, "rb") as file:
            place = file.fileno()
            size, digest = _digest(os.path.getsize(path), lambda first, end: os.pread(place, end - first, first))
    return {"name": pathlib.PurePath(path).name, "bytes": size, "sha256": digest}


def _digest(size: int, read: Callable[[int, int], bytes]) -> tuple[int, str]:
    """Size and hash. Args: read: the bytes from a place to another."""
    parts = [(0, size)] if size <= WHOLE_BYTES else [(0, END_BYTES), (size - END_BYTES, size)]
    return size, hashlib.sha256(b"".join(read(*part) for part in parts)).hexdigest()[:32]
