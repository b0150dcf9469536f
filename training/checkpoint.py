"""Checkpoints: everything that a run needs to go on to the same numbers, verified when it is read.

A checkpoint holds two items: `state` (every array: parameters, optimisers, replay tracks) and `meta` (JSON: where the
run stands, its key, data iterators, ledger, and a crc32 of every array, because Orbax restores flipped bytes silently).

Old checkpoints are pruned. These are not: the newest ones, as many as the config says; the one with the best policy,
written when its round was over; and the one that this process went on from, the last whose arrays were read back and
found good. A checkpoint that cannot be restored is moved aside and never removed.
"""

import dataclasses
import itertools
import logging
import os
import pathlib
import tempfile
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from training.processes import is_first, to_host

log = logging.getLogger(__name__)


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
        return [i >= first_new or found.step in (self.best, self.verified) for i, found in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of one run directory.

    Attributes:
      directory: where they are; absolute.
    """

    def __init__(self, directory: pathlib.Path, keep: int):
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._held = os.open(self.directory, os.O_RDONLY)  # while it is open its inode goes to no other directory
        self._kept = Kept(keep)
        # Each process has a manager of its own that waits for no other one: the first writes, the others only read.
        index = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._kept if index == 0 else None,
            create=False,
            read_only=index > 0,
            enable_async_checkpointing=True,
            multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index}),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any, key: jax.Array, meta: dict[str, Any], best: int = 0) -> None:
        """Starts writing; the arrays are copied before it returns, the disk is written in the background.

        With several processes all have to call it, and the first one writes.

        Args: best: the step that holds the best policy so far, this one or an earlier one; 0 if there is none.
        Raises: ValueError if the step exists already, or if this or the write before it cannot be written; what was
          finished before stays.
        """
        host = to_host(state)
        if not is_first():
            return
        self._kept.best = best
        self._try_disk()
        # A copy of its own: on a CPU `to_host` shows the live buffers, and the disk is written later.
        host = jax.tree.map(np.array, host)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(host),
            meta=ocp.args.JsonSave({**meta, "key": jax.random.key_data(key).tolist(), "crc32": checksums(host)}),
        )
        try:
            saved = self._manager.save(step, args=items)
        except (ValueError, OSError) as error:  # of the last write as well, which ended in the background
            raise self._unwritable(error) from error
        if not saved:
            raise ValueError(f"checkpoint {step} was not written: {self.directory} already holds {self.steps()}")

    def _try_disk(self) -> None:
        """Raises: ValueError where nothing can be written: Orbax's threads would wait for each other for ever.

        A directory that vanished is not made again: it may be that a disk was unmounted, and what is written below its
        place would be out of sight when it is back.
        """
        self._check_identity()
        try:
            with tempfile.TemporaryFile(dir=self.directory) as file:
                file.write(b"0")
        except OSError as error:
            raise self._unwritable(error) from error

    def _check_identity(self) -> None:
        """Raises: ValueError where the directory vanished; TensorStore makes those anew that it writes to."""
        try:
            same = os.path.samestat(self.directory.stat(), os.fstat(self._held))
        except OSError as error:
            raise self._unwritable(error) from error
        if not same:
            raise self._unwritable(FileNotFoundError("it vanished, and another one is in its place"))

    def _unwritable(self, error: Exception) -> ValueError:
        reason = str(error).partition("\n")[0]
        return ValueError(f"checkpoints cannot be written to {self.directory}: {reason}")

    def steps(self) -> list[int]:
        """The finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def restore(self, template: Any, repair: bool = True) -> tuple[int, Any, jax.Array, dict[str, Any]] | None:
        """The newest undamaged checkpoint; damaged ones are named and walked past.

        Args:
          template: a tree of arrays with the shapes and dtypes to restore.
          repair: move the damaged ones aside, so that a run that goes on can save these steps again. Who only reads
            must not: to code of another version a sound checkpoint looks damaged.
        Returns: step, state as numpy, key and meta; None where no checkpoint exists.
        Raises: ValueError if checkpoints exist and all are damaged, or the damaged ones cannot be moved; all stay where
          they are.
        """
        found, damaged = self.steps(), []
        for step in reversed(found):
            try:
                read = self._read(step, template)
            except MemoryError:
                raise  # says nothing about the file
            # Orbax, TensorStore, zarr and JSON each raise their own kind for a damaged file, some a plain Exception.
            except Exception as error:
                log.warning("checkpoint %d in %s is damaged (%s): going back one", step, self.directory, error)
                damaged.append(step)
                continue
            if repair and damaged and is_first():
                self._move_aside(damaged)
            self._kept.verified = step
            return step, *read
        if found:
            raise ValueError(f"all checkpoints of {self.directory} are damaged: {found}; start again with --fresh")
        return None

    def _move_aside(self, steps: list[int]) -> None:
        for step in steps:
            try:
                moved = move_aside(self.directory / str(step), f"damaged-{step}")
            except OSError as error:
                raise self._unwritable(error) from error
            log.warning("checkpoint %d is kept as %s, in case it was only the reading that failed", step, moved)
        self._manager.reload()

    def _read(self, step: int, template: Any) -> tuple[Any, jax.Array, dict[str, Any]]:
        # Read to the host, whole: what was written on one mesh is checked and goes on on another.
        abstract = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), template)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
        read = self._manager.restore(step, args=items)
        expected, actual = read.meta.pop("crc32"), checksums(read.state)
        wrong = sorted(name for name in {*expected, *actual} if expected.get(name) != actual.get(name))
        if wrong:
            raise ValueError(f"crc32 differs in {wrong[:4]} ({len(wrong)} arrays)")
        if "key" in read.meta:
            return read.state, jax.random.wrap_key_data(np.array(read.meta.pop("key"), np.uint32)), read.meta
        # It was an item of its own until 2026-11, which Orbax cannot write in one of several processes alone.
        item = self._manager.restore(step, args=ocp.args.Composite(key=ocp.args.JaxRandomKeyRestore()))
        return read.state, item.key, read.meta

    def wait(self) -> None:
        """Until the last write is on the disk. Raises: ValueError if it could not be, or the directory vanished."""
        try:
            self._manager.wait_until_finished()
        except (ValueError, OSError) as error:
            raise self._unwritable(error) from error
        self._check_identity()

    def close(self) -> None:
        """Waits for the last write. Call it in a `finally`: an unfinished write is lost silently.

        Raises: ValueError if it could not be written.
        """
        try:
            self.wait()
        finally:
            self._manager.close()
            os.close(self._held)


def move_aside(path: pathlib.Path, name: str) -> pathlib.Path:
    """Renames a file or directory to `name`, or to the first free `<name>.<n>`. Returns: its new path."""
    names = itertools.chain([name], (f"{name}.{n}" for n in itertools.count(1)))
    target = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.rename(target)


def checksums(tree: Any) -> dict[str, int]:
    """crc32 of every leaf's bytes by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for path, leaf in leaves}
