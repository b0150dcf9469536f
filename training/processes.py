"""Several processes that train one run together, one per host (`jax.distributed`): how they meet and agree.

All of them run the same programs in the same order and hold the same numbers; only the first writes files.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tether.data.files import is_writable
from tether.data.settings import setting


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Several processes that train one run, one per host (`training/processes.py`, `docs/scaling.md`).

    Attributes:
      detect: whether the launcher (SLURM, Open MPI, Kubernetes or Cloud TPU) is asked for coordinator, number of
        processes and index.
      coordinator: `host:port` of the first process; None for a process on its own.
      processes: number of processes that train the run together.
      index: number of this process among the processes of the run, from 0.
    """

    detect: bool = False
    coordinator: str | None = None
    processes: int = 1
    index: int = setting(0, least=0)


def join(config: DistributedConfig) -> None:
    """Meets the other processes, if there are any; before anything else of JAX is used.

    Raises: ValueError where the launcher does not name the other processes; RuntimeError where they do not come.
    """
    # Its handler of SIGTERM would stand in the way of `stop.Stop`, which tells the other processes itself.
    jax.config.update("jax_enable_preemption_service", False)
    if config.detect:
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise ValueError(
                f"distributed.detect: no launcher of several processes is here (SLURM, Open MPI, Kubernetes, Cloud "
                f"TPU): {error} Leave it out for a process on its own, or name distributed.coordinator"
            ) from error
    elif config.coordinator is not None:
        jax.distributed.initialize(config.coordinator, config.processes, config.index)


def devices() -> list[jax.Device]:
    """JAX's devices; the first call starts them.

    Raises: ValueError for one that `JAX_PLATFORMS` asks for and this machine does not have.
    """
    asked = jax.config.jax_platforms
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without a word, where JAX's plugin is missing
        jax.config.update("jax_platforms", "")
        there = sorted({device.platform for device in jax.devices()})
        jax.config.update("jax_platforms", asked)
        raise ValueError(f"JAX_PLATFORMS asks for {asked!r}: expected one of {there} on this machine") from error


def cache_programs(directory: pathlib.Path) -> None:
    """Keeps compiled programs beside the runs, unless the user has named a place for them.

    Args: directory: a run's; programs go into `.compiled` beside it. Where that cannot be written none are kept.
    """
    place = directory.absolute().parent / ".compiled"
    if jax.config.jax_compilation_cache_dir is None and is_writable(place):
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def leave() -> None:
    """Lets the other processes go, once all are here; what follows, each computes alone on its own devices."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this process writes the run's files."""
    return jax.process_index() == 0


def to_host(tree: Any) -> Any:
    """Whole arrays as numpy. With several processes all have to call it: rows and parameters lie on all of them."""
    return jax.device_get(jax.tree.map(_whole, tree))


def _whole(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return multihost_utils.process_allgather(leaf, tiled=True)
    return leaf


class Votes:
    """What any process wants, made known to all of them, so that they do it at the same step.

    With several processes each learns it a step later: what was voted on in the last step is read while the device
    works on this one.
    """

    def __init__(self) -> None:
        self._cast: jax.Array | None = None

    def cast(self, *wishes: bool) -> tuple[bool, ...]:
        """Votes, and returns for each wish whether any process had it: of this step, or of the one before."""
        if jax.process_count() == 1:
            return wishes
        last, self._cast = self._cast, _any_process(np.array(wishes))
        return tuple(map(bool, np.asarray(last))) if last is not None else (False,) * len(wishes)


def _any_process(wishes: np.ndarray) -> jax.Array:
    mesh = Mesh(np.array(jax.devices()), ("device",))
    each = np.tile(wishes, (jax.local_device_count(), 1))
    cast = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("device")), each)
    return _any(cast, NamedSharding(mesh, PartitionSpec()))


def _any(cast: jax.Array, copied: NamedSharding) -> jax.Array:
    return jax.jit(lambda votes: votes.any(axis=0), out_shardings=copied)(cast)
