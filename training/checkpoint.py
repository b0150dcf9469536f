"""Checkpoints: everything that a run needs to go on to the same numbers, verified when it is read.

A checkpoint holds two items: `state` (every array: parameters, optimisers, replay tracks) and `meta` (JSON: where the
run stands, the settings it was written under, a crc32 of every array, because Orbax restores flipped bytes silently,
and a sha256 of all the rest). The keys of coming steps follow from the seed and from where the run stands.

Old checkpoints are pruned. These are not: the newest ones, as many as the config says; the one with the best policy,
written when its round was over; and the one that this process went on from, the last whose arrays were read back and
found good. A checkpoint that cannot be restored is moved aside and never removed.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from tether.data.errors import read_json
from tether.training.processes import is_first, to_host

log = logging.getLogger(__name__)

TRIAL_FILES = 64  # more than a checkpoint has
LONGEST_REASON = 200  # characters of an error that are repeated: Orbax quotes whole files


@dataclasses.dataclass
class Kept(PreservationPolicy):
    """What pruning leaves.

    Attributes:
      newest: how many of the newest.
      best: the step that holds the best policy; 0 before there is one.
      verified: the step that was read back last; 0 where none was.
    """

    newest: int
    best: int = 0
    verified: int = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Args: checkpoints: oldest first, each with its `step`. Returns: which to keep."""
        first_new = len(checkpoints) - self.newest
        return [i >= first_new or one.step in (self.best, self.verified) for i, one in enumerate(checkpoints)]


class Restored(NamedTuple):
    """A checkpoint that was read back.

    Attributes:
      step: its number.
      state: the tree of arrays, numpy.
      progress: what `parse` made of its meta.
    """

    step: int
    state: Any
    progress: Any


class Checkpoints:
    """The checkpoints of one run directory.

    Attributes:
      directory: where they are; absolute.

    Raises: ValueError where the directory cannot be made or has a name that Orbax cannot read back from.
    """

    def __init__(self, directory: pathlib.Path, keep: int):
        self.directory = directory.absolute()
        _quieten()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._held = os.open(self.directory, os.O_RDONLY)  # while it is open its inode goes to no other directory
        except OSError as error:
            raise self._unwritable(error) from error
        self._place = _held_place(self.directory, self._held)
        self._kept = Kept(keep)
        self._read_back = False  # whether this process has read a checkpoint of this directory
        self._first: tuple[int, Any] | None = None  # the first one that it wrote: step, shapes
        # Each process has a manager of its own that waits for no other one: the first writes, the others only read.
        index = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._kept if index == 0 else None,
            create=False,
            read_only=index > 0,
            # In a thread of ours instead: where a disk fails, Orbax's own wait for each other for five minutes.
            enable_async_checkpointing=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index}),
        )
        self._manager = ocp.CheckpointManager(self._place, options=options)
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._writing: concurrent.futures.Future | None = None

    def save(self, step: int, state: Any, meta: dict[str, Any], best: int = 0) -> None:
        """Starts writing; the arrays are copied before it returns, the disk is written in the background.

        Before the second checkpoint is written, the first is read back.
        With several processes all have to call it, and the first one writes.

        Args:
          meta: JSON beside the arrays.
          best: the step that holds the best policy so far, this one or an earlier one; 0 if there is none.
        Raises: ValueError if the step exists already, or if this or the write before it cannot be written, or not be
          read back; what was finished before stays.
        """
        host = to_host(state)
        if not is_first():
            return
        self.wait()
        if step in self.steps():
            raise ValueError(f"checkpoint {step} was not written: {self.directory} already holds {self.steps()}")
        if self._first is not None and not self._read_back:
            self._check_readable(*self._first)
        self._kept.best = best
        self._try_disk()
        # A copy of its own: on a CPU `to_host` shows the live buffers, and the disk is written later.
        host = jax.tree.map(np.array, host)
        self._first = self._first or (step, _shapes(host))
        whole = {**meta, "crc32": checksums(host)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(host),
            meta=ocp.args.JsonSave({**whole, "sha256": digest(whole)}),
        )
        self._writing = self._writer.submit(self._manager.save, step, args=items)

    def _check_readable(self, step: int, template: Any) -> None:
        """Raises: ValueError if the first checkpoint that this process wrote cannot be read back."""
        try:
            self._read(step, template)
        except MemoryError:
            raise  # says nothing about the file
        except Exception as error:  # of any type, as in `restore`: one error says what is wrong
            reason = self._reason(error)
            raise ValueError(
                f"checkpoint {step} was written to {self.directory} and cannot be read back: {reason}; it stays there, "
                "and nothing more is written: name another --directory, on another disk"
            ) from error
        self._read_back = True

    def _try_disk(self) -> None:
        """Raises: ValueError where not even empty files can be made, as many as a checkpoint has.

        A directory that vanished is not made again: it may be that a disk was unmounted, and what is written below its
        place would be out of sight when it is back.
        """
        self._check_identity()
        trial = self._place / "trial"
        try:
            shutil.rmtree(trial, ignore_errors=True)
            trial.mkdir()
            for number in range(TRIAL_FILES):
                (trial / str(number)).touch()
            with tempfile.TemporaryFile(dir=trial) as file:
                file.write(b"0")
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            shutil.rmtree(trial, ignore_errors=True)

    def _check_identity(self) -> None:
        """Raises: ValueError where the directory vanished, or another one is in its place."""
        try:
            same = os.path.samestat(self.directory.stat(), os.fstat(self._held))
        except OSError as error:
            raise self._unwritable(error) from error
        if not same:
            raise self._unwritable(FileNotFoundError("it vanished, and another one is in its place"))

    def _unwritable(self, error: Exception) -> ValueError:
        return ValueError(f"checkpoints cannot be written to {self.directory}: {self._reason(error)}")

    def _reason(self, error: Exception) -> str:
        """An error's first line, cut, with the directory by its name."""
        lines = str(error).splitlines() or [type(error).__name__]
        line = lines[0].replace(str(getattr(self, "_place", self.directory)), str(self.directory))
        half = LONGEST_REASON // 2  # TensorStore puts the system's error last
        return line if len(line) <= LONGEST_REASON else f"{line[:half]} ... {line[-half:]}"

    def steps(self) -> list[int]:
        """The finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def restore(
        self, template: Any, parse: Callable[[dict[str, Any]], Any] = dict, repair: bool = True
    ) -> Restored | None:
        """The newest undamaged checkpoint; those that cannot be read are named and walked past.

        Args:
          template: a tree of arrays with the shapes and dtypes to restore.
          parse: makes of meta what the caller needs; where it raises, the checkpoint cannot be read.
          repair: move the damaged ones aside, so that a run that goes on can save these steps again. A program that
            only reads must not: to code of another version a sound checkpoint looks damaged.
        Returns: None where no checkpoint exists.
        Raises: ValueError if checkpoints exist and none can be read, or the damaged ones cannot be moved; all stay
          where they are.
        """
        self.wait()
        steps, reasons = self.steps(), {}
        for step in reversed(steps):
            try:
                state, meta = self._read(step, template)
                parsed = parse(meta)
            except MemoryError:
                raise  # says nothing about the file
            # Orbax, TensorStore, zarr and JSON each raise their own kind for a damaged file, some a plain Exception.
            except Exception as error:
                reasons[step] = self._reason(error)
                log.warning("checkpoint %d in %s is damaged (%s): going back one", step, self.directory, reasons[step])
                continue
            if repair and reasons and is_first():
                self._move_aside(list(reasons))
            self._kept.verified, self._read_back = step, True
            return Restored(step, state, parsed)
        if steps:
            raise ValueError(
                f"all checkpoints of {self.directory} are damaged, or of another version: {steps}, the newest: "
                f"{reasons[steps[-1]]}; nothing was changed: put back a copy, or name another --directory"
            )
        return None

    def _move_aside(self, steps: list[int]) -> None:
        for step in steps:
            try:
                moved = move_aside(self.directory / str(step), f"damaged-{step}")
            except OSError as error:
                raise self._unwritable(error) from error
            log.warning("checkpoint %d is kept as %s, in case it was only the reading that failed", step, moved)
        self._manager.reload()

    def _read(self, step: int, template: Any) -> tuple[Any, dict[str, Any]]:
        meta = read_meta(self._place / str(step))
        # Read to the host, whole: what was written on one mesh is checked and goes on on another.
        items = ocp.args.Composite(state=ocp.args.StandardRestore(_shapes(template)))
        state = self._manager.restore(step, args=items).state
        expected, actual = meta.pop("crc32"), checksums(state)
        wrong = sorted(name for name in {*expected, *actual} if expected.get(name) != actual.get(name))
        if wrong:
            raise ValueError(f"crc32 differs in {wrong[:4]} ({len(wrong)} arrays)")
        return state, meta

    def wait(self) -> None:
        """Until the last write is on the disk. Raises: ValueError if it could not be, or the directory vanished."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except (ValueError, OSError, RuntimeError) as error:
            for part in self._place.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(part, ignore_errors=True)  # what else is written may need the room
            raise self._unwritable(error) from error
        self._check_identity()

    def close(self) -> None:
        """Waits for the last write. Call it in a `finally`: an unfinished write is lost silently.

        Raises: ValueError if it could not be written.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._manager.close()
            os.close(self._held)


def _shapes(tree: Any) -> Any:
    """A tree of the same shapes and dtypes that takes no memory."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), tree)


def _held_place(directory: pathlib.Path, descriptor: int) -> pathlib.Path:
    """A path to an open directory that stays the same whatever the directory is called and wherever it is moved.

    Orbax looks for its files by patterns, without escaping square brackets and backslashes in a path, and makes
    directories anew that vanished.
    """
    place = pathlib.Path(f"/proc/self/fd/{descriptor}")
    if place.exists():
        return place
    if set("[]\\") & set(str(directory)):
        raise ValueError(f"{directory}: expected a path without square brackets and backslashes on this system")
    return directory


def _quieten() -> None:
    """Silences what Orbax and asyncio log, with tracebacks, beside the one error that a failing disk raises."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if getattr(sys.unraisablehook, "func", None) is not _unraisable:
        sys.unraisablehook = functools.partial(_unraisable, sys.unraisablehook)


def _unraisable(before: Callable[[Any], Any], error: Any) -> None:
    """Leaves out TensorStore's writes that report to an event loop which has ended by the error of another one."""
    if not (isinstance(error.exc_value, RuntimeError) and str(error.exc_value) == "Event loop is closed"):
        before(error)


def move_aside(path: pathlib.Path, name: str) -> pathlib.Path:
    """Renames a file or directory to `name`, or to the first free `<name>.<n>`. Returns: its new path."""
    names = itertools.chain([name], (f"{name}.{n}" for n in itertools.count(1)))
    target = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.rename(target)


def checksums(tree: Any) -> dict[str, int]:
    """crc32 of every leaf's bytes by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for path, leaf in leaves}


def digest(meta: dict[str, Any]) -> str:
    """sha256 of JSON, however it is laid out."""
    plain = json.loads(json.dumps(meta))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_meta(checkpoint: pathlib.Path) -> dict[str, Any]:
    """What stands beside a checkpoint's arrays, as it was written; read here, since Orbax would only parse it.

    Raises: ValueError where it is anything else.
    """
    meta = read_json(checkpoint / "meta" / "metadata")
    expected = meta.pop("sha256", None) if isinstance(meta, dict) else None
    if expected is None:
        raise ValueError("expected a sha256 in its meta, found none: it is damaged, or of a version that wrote none")
    if digest(meta) != expected:
        raise ValueError("its meta is not what was written: another sha256")
    return meta
