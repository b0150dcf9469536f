"""How arrays lie on many devices: one mesh, one rule for rows, one for parameters.

The rows of a batch are cut into equal parts over the axes `data` and `fsdp`. Large parameters are cut over `fsdp`,
which saves memory, and over `tensor`, which shares the work of a row; optimisers' moments have their parameter's shape
and so its layout. Programs are compiled for the layouts of what they are given; only what XLA would be free to lay out
otherwise is held in place by `keep`, `spread` and `gathered`.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tether.data.settings import setting

AXES = ("data", "fsdp", "tensor")
ROWS = PartitionSpec(("data", "fsdp"))


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices share what (`training/mesh.py`); their product is the number of devices of all processes.

    Attributes:
      data: number of parts that the rows of a batch are split into; -1 for as many as the other axes leave devices for.
      fsdp: number of parts that the rows of a batch and the large parameters are split into.
      tensor: number of parts that the features of large parameters are split into.
      whole_below: parameters with fewer elements than this are copied to every device instead of being split.
    """

    data: int = setting(-1, least=-1)
    fsdp: int = 1
    tensor: int = 1
    whole_below: int = setting(16384, least=0)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where arrays belong.

    Attributes:
      mesh: of all devices of all processes, `AXES`. None for a single device, which needs no layout: arrays without one
        meet in any program without compiling it anew.
      whole_below: parameters with fewer elements are copied, not cut.
    """

    mesh: Mesh | None = None
    whole_below: int = 0

    @property
    def row_parts(self) -> int:
        """Into how many equal parts the rows of a batch are cut."""
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def own(self, count: int) -> np.ndarray:
        """Which of `count` rows this process has to read: sorted int[own]."""
        if self.mesh is None:
            return np.arange(count)
        parts = NamedSharding(self.mesh, ROWS).addressable_devices_indices_map((count,)).values()
        return np.unique(np.concatenate([np.arange(count)[part] for part in parts]))

    def place(self, rows: Any) -> Any:
        """Spreads arrays [R, ...] over the devices; every process has all of them."""
        sharding = None if self.mesh is None else NamedSharding(self.mesh, ROWS)
        return jax.tree.map(lambda leaf: _put(leaf, sharding), rows)

    def assemble(self, rows: Any) -> Any:
        """Spreads arrays [R, ...] over the devices; each process has its `own` rows of them."""
        if self.mesh is None:
            return jax.device_put(rows)
        return jax.make_array_from_process_local_data(NamedSharding(self.mesh, ROWS), rows)

    def place_parameters(self, tree: Any) -> Any:
        """Puts parameters and optimiser states where they belong; every process has all of them."""
        return jax.tree.map(lambda leaf: _put(leaf, self._of(leaf.shape)), tree)

    def keep(self, tree: Any) -> Any:
        """Within a program: parameters and optimiser states lie where they belong."""
        return self._hold(tree, lambda leaf: self._of(leaf.shape))

    def gathered(self, tree: Any) -> Any:
        """Within a program: parameters cut over `tensor` alone, gathered once and not in each step of a rollout.

        Rows are cut over `fsdp` as well. Where both meet in one product XLA may not only choose badly: jax 0.10.1 has
        compiled wrong gradients for a mesh of 2 x 2 x 2.
        """
        return self._hold(tree, lambda leaf: self._of(leaf.shape, fsdp=1))

    def spread(self, tree: Any) -> Any:
        """Within a program: arrays [R, ...] are spread over the devices."""
        return self._hold(tree, lambda _: NamedSharding(self.mesh, ROWS))

    def _hold(self, tree: Any, sharding_of: Any) -> Any:
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, jax.tree.map(sharding_of, tree))

    def _of(self, shape: tuple[int, ...], **sizes: int) -> NamedSharding | None:
        if self.mesh is None:
            return None
        return NamedSharding(self.mesh, parameter_spec(shape, {**self.mesh.shape, **sizes}, self.whole_below))


ALONE = Layout()


def parameter_spec(shape: tuple[int, ...], sizes: dict[str, int], whole_below: int) -> PartitionSpec:
    """The one rule for parameters: which axis of the mesh cuts which dimension.

    `tensor` cuts the last dimension, which holds a layer's features; `fsdp` cuts the largest of the others. A dimension
    that an axis does not divide is not cut. Vectors, and anything small, are copied.

    Args: sizes: of the mesh's axes.   whole_below: number of elements.
    """
    if len(shape) < 2 or math.prod(shape) < whole_below:
        return PartitionSpec()
    cut: list[str | None] = [None] * len(shape)
    if sizes["tensor"] > 1 and shape[-1] % sizes["tensor"] == 0:
        cut[-1] = "tensor"
    free = [i for i, size in enumerate(shape) if cut[i] is None and size % sizes["fsdp"] == 0]
    if sizes["fsdp"] > 1 and free:
        cut[max(free, key=lambda i: shape[i])] = "fsdp"
    while cut and cut[-1] is None:  # as programs return it: equal layouts have to compare equal
        cut.pop()
    return PartitionSpec(*cut)


def _put(leaf: Any, sharding: NamedSharding | None) -> jax.Array:
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def make(config: MeshConfig) -> Layout:
    """The layout over all devices of all processes.

    Raises: ValueError where the mesh has another number of devices than there are.
    """
    count, shared = jax.device_count(), config.fsdp * config.tensor
    data = count // shared if config.data == -1 else config.data
    if data * shared != count:
        sizes = f"{config.data} x {config.fsdp} x {config.tensor}"
        raise ValueError(f"mesh.data x mesh.fsdp x mesh.tensor: expected the {count} devices found here, found {sizes}")
    if count == 1:
        return ALONE
    mesh = jax.make_mesh((data, config.fsdp, config.tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    return Layout(mesh, config.whole_below)
