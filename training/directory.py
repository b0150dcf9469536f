"""A run's directory: one process owns it at a time, and what it holds was made under one set of settings."""

import contextlib
import fcntl
import logging
import os
import pathlib
import shlex
import socket
import sys
from collections.abc import Iterator

import numpy as np
from jax.experimental import multihost_utils

from tether.training import settings
from tether.training.checkpoint import move_aside, read_meta
from tether.training.config import Config
from tether.training.log import now
from tether.training.processes import is_first

LOCK_FILE = "owner"  # never removed: a process that waits for it would hold a file that no other one sees

log = logging.getLogger(__name__)


@contextlib.contextmanager
def claim(config: Config) -> Iterator[pathlib.Path]:
    """Holds the run's directory, which is made where there is none; with `fresh` an earlier run is moved aside.

    With several processes the first one holds it for all.

    Raises: ValueError where it cannot be made, another process holds it, or a run with other settings is in it.
    """
    lock, refusal = None, ""
    if is_first():
        try:
            lock = _take(config)
        except ValueError as error:
            refusal = str(error)
    if np.any(multihost_utils.process_allgather(np.bool_(bool(refusal)))):
        raise ValueError(refusal or f"{config.run_directory}: the first process was refused it")
    try:
        yield config.run_directory
    finally:
        if lock is not None:
            os.close(lock)


def _take(config: Config) -> int:
    """Returns: the open lock file. Raises: ValueError as `claim`."""
    directory = config.run_directory
    lock = _lock(directory)
    try:
        if not config.fresh:
            check_settings(config, directory)
        elif any((directory / name).exists() for name in ("config.json", "checkpoints")):
            move_aside(directory, directory.name)  # with its lock, which stays held until the new one is
            before, lock = lock, _lock(directory)
            os.close(before)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _lock(directory: pathlib.Path) -> int:
    """Makes the directory and locks it; the lock ends with the process. Returns: the open lock file."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        reason = "it is a file" if directory.is_file() else error.strerror
        raise ValueError(f"{directory} cannot hold a run ({reason}): name another --directory") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 1000, 0).decode("utf-8", "replace").strip() or "another process"
        os.close(lock)
        hint = "wait for it, end it, or name another --directory"
        raise ValueError(f"{directory} is in use by {holder}\n{hint}") from error
    except OSError as error:  # some network file systems have no locks
        log.warning("%s cannot be locked (%s): see to it that no other process uses it", directory, error.strerror)
    holder = f"process {os.getpid()} on {socket.gethostname()} since {now()}: {shlex.join(sys.argv)}\n"
    os.ftruncate(lock, 0)
    os.pwrite(lock, holder.encode("utf-8", "replace"), 0)
    return lock


def check_settings(config: Config, directory: pathlib.Path) -> None:
    """Raises: ValueError listing the fields that differ from those of the run that is there."""
    earlier = read_settings(directory)
    changed = settings.differences(config, earlier) if earlier else []
    if changed:
        listed = "\n  ".join(changed)
        raise ValueError(
            f"{directory} holds a run with other settings:\n  {listed}\n"
            "take them back, name another --directory, or start anew with --fresh"
        )


def write_settings(config: Config, directory: pathlib.Path) -> None:
    """Writes `config.json` where there is none. It is never written again: all that may change later is free."""
    path = directory / "config.json"
    if is_first() and not path.exists():
        settings.write(config, path)


def read_settings(directory: pathlib.Path) -> Config | None:
    """The settings of a run: `config.json`, held against those that its checkpoints were written under.

    Where the file is missing the checkpoints decide. None where there is neither.

    Raises: ValueError where the two differ, or `config.json` cannot be read.
    """
    path, written_under = directory / "config.json", _of_checkpoints(directory / "checkpoints")
    if not path.exists():
        return written_under
    try:
        config = settings.read(path)
        changed = settings.differences(config, written_under) if written_under else []
        if changed:
            listed = "\n  ".join(changed)
            raise ValueError(f"{path} does not hold the settings of the run's checkpoints:\n  {listed}")
    except ValueError as error:
        hint = "\nremove it to go on with the settings of the checkpoints" if written_under else ""
        raise ValueError(f"{error}{hint}") from None
    return config


def _of_checkpoints(folder: pathlib.Path) -> Config | None:
    """The settings in the newest checkpoint whose meta is whole and of this version; None without one."""
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    for step in sorted(steps, reverse=True):
        try:
            return settings.from_json(read_meta(folder / str(step))["settings"], f"checkpoint {step}")
        except (ValueError, KeyError) as error:
            log.debug("settings are not read from checkpoint %d: %s", step, error)  # which reading it will name
    return None
