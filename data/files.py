"""Files that are written whole or not at all, links in their place replaced and never followed."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
TRIED = 1 << 16  # bytes


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text in UTF-8, see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes beside the file, to the disk, then replaces the file: no reader ever gets half of it.

    Raises: OSError that names the file; what stood there before is left as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def check_writable(directory: pathlib.Path) -> None:
    """Checks by a trial that files can be made in a folder, or where it would be made. Leaves nothing behind.

    Raises: ValueError naming the folder and the reason.
    """
    existing = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(TRIED))  # a full disk still makes empty files
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(f"{directory} cannot be written: {existing}: {error.strerror}") from error


def is_writable(directory: pathlib.Path) -> bool:
    """Whether `check_writable` passes."""
    try:
        check_writable(directory)
    except ValueError:
        return False
    return True


def publish(directory: pathlib.Path, write: Callable[[pathlib.Path], Result]) -> Result:
    """Has `write` fill an empty folder, then moves each file to its place below `directory`.

    A file replaces what has its name, a folder replaces a link that has its name. Files with other names stay.

    Returns: what `write` returns.
    Raises: ValueError where `directory` cannot be written; `write` has then filled a temporary folder, which the error
      names. Whatever `write` raises for other reasons.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staged = pathlib.Path(tempfile.mkdtemp(prefix=".part-", dir=directory))
        try:
            result = write(staged)
            for file in sorted(path for path in staged.rglob("*") if path.is_file()):
                _move(file, directory, file.relative_to(staged))
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        elsewhere = pathlib.Path(tempfile.mkdtemp(prefix="report-"))
        write(elsewhere)
        raise ValueError(f"{directory} cannot be written ({error.strerror}); the report is in {elsewhere}") from error
    return result


def _move(file: pathlib.Path, directory: pathlib.Path, name: pathlib.Path) -> None:
    for folder in reversed([directory / parent for parent in name.parents[:-1]]):
        if folder.is_symlink():
            folder.unlink()
        folder.mkdir(exist_ok=True)
    file.replace(directory / name)
