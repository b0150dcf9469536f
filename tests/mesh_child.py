"""What `test_training_mesh.py` runs in processes of their own, for the number of devices is fixed when JAX starts:

python -m tests.mesh_child devices DIRECTORY
python -m tests.mesh_child process DIRECTORY PORT INDEX

Each prints one line of JSON.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.training import mesh, presets, processes
from tether.training.checkpoint import Checkpoints, checksums
from tether.training.learning import imitation_step, optimiser
from tether.training.learning import transitions as chosen
from tether.training.mesh import ALONE, Layout, MeshConfig
from tether.training.processes import DistributedConfig
from tether.training.scenes import open_splits, take

SMALL = 64  # elements: nearly all parameters of the tiny policy are cut
STEPS = 3


def on_devices(directory: pathlib.Path) -> dict[str, Any]:
    """Eight devices in one process."""
    layouts = [mesh.make(MeshConfig(*axes, whole_below=SMALL)) for axes in ((-1, 1, 1), (4, 2, 1), (2, 2, 2))]
    return {
        "imitation": {name: imitation(layout) for name, layout in (("alone", ALONE), ("cut", layouts[2]))},
        "restored": restored(directory, [ALONE, *layouts[:2]]),
        "transitions": transitions(layouts[1]),
    }


def imitation(layout: Layout) -> dict[str, Any]:
    """Losses of a few steps, how many leaves the axes cut, and whether they lie after the steps as before them."""
    config = presets.tiny()
    config = dataclasses.replace(config, imitation=dataclasses.replace(config.imitation, scenes=4, starts=1))
    vla = config.policy.build(config.simulator, config.spec)
    records, policy = open_splits(config.data, config.spec, config.simulator).train, vla.init(jax.random.key(0))
    state = layout.place_parameters((policy, optimiser().init(policy)))
    before, scene, losses = placement(state), layout.assemble(take(records, range(4))), []
    for step in range(STEPS):
        static = vla, config.simulator, config.imitation, layout
        *state, metrics = imitation_step(*static, *state, scene, jax.random.key(step), jnp.float32(1e-3))
        losses.append(float(metrics["action_cross_entropy"]))
    cut = {axis: sum(axis in spec for spec in before) for axis in ("fsdp", "tensor")}
    return {"losses": losses, "cut": cut, "kept": placement(tuple(state)) == before}


def placement(tree: Any) -> list[str]:
    """How each leaf is cut."""
    return [str(getattr(leaf.sharding, "spec", "")) for leaf in jax.tree.leaves(tree)]


def restored(directory: pathlib.Path, layouts: list[Layout]) -> list[bool]:
    """Whether the arrays are the same bit for bit after they have gone from one layout to the next by checkpoint."""
    arrays = {"kernel": np.random.default_rng(0).normal(size=(3, 8, 16)), "step": np.array(7), "ring": np.arange(5)}
    arrays = jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == float else a.astype(np.int32), arrays)
    checkpoints, state, same = Checkpoints(directory, 2), arrays, []
    for step, layout in enumerate(layouts):
        state = layout.place_parameters(state)
        checkpoints.save(step, state, {})
        state = checkpoints.restore(arrays).state
        same.append(checksums(state) == checksums(arrays))
    checkpoints.close()
    return same


def transitions(layout: Layout) -> bool:
    """Whether minibatches of spread transitions [H, R] hold what they would on one device, spread as well."""
    whole = np.arange(3 * 8 * 2).reshape(3, 8, 2)
    numbers = np.array([23, 0, 9, 8, 17, 1, 15, 16])
    placed = jax.device_put(whole, jax.sharding.NamedSharding(layout.mesh, jax.sharding.PartitionSpec(None, "data")))
    drawn = chosen(layout, {"a": placed}, numbers)["a"]
    rows = drawn.sharding.shard_shape(drawn.shape)[0]
    return bool((np.asarray(drawn) == whole.reshape(24, 2)[numbers]).all()) and rows == len(numbers) // layout.row_parts


def in_process(directory: pathlib.Path, port: str, index: str) -> dict[str, Any]:
    """One of two processes of two devices each."""
    processes.join(DistributedConfig(coordinator=f"127.0.0.1:{port}", processes=2, index=int(index)))
    layout = mesh.make(MeshConfig(data=1, fsdp=4, whole_below=SMALL))
    rows, own = np.arange(8.0).reshape(8, 1), layout.own(8)
    whole, joined = (
        layout.place({"rows": rows, "key": jax.random.split(jax.random.key(1), 8)}),
        layout.assemble(rows[own]),
    )
    kernel = np.arange(64.0, dtype=np.float32).reshape(8, 8)
    state = layout.place_parameters({"kernel": kernel, "bias": kernel[0]})
    checkpoints = Checkpoints(directory, 2)
    checkpoints.save(1, state, {})
    checkpoints.close()
    votes = processes.Votes()
    return {
        "own": own.tolist(),
        "addressable": state["kernel"].is_fully_addressable,
        "placed": processes.to_host(whole["rows"]).tolist() == rows.tolist(),
        "keys": processes.to_host(jax.random.key_data(whole["key"])).tolist(),
        "assembled": processes.to_host(joined).tolist() == rows.tolist(),
        "gathered": checksums(processes.to_host(state)) == checksums({"kernel": kernel, "bias": kernel[0]}),
        "votes": [votes.cast(False, int(index) == 1 and step == 1) for step in range(4)],
        "restored": None if (restored := reread(directory, state)) is None else checksums(restored),
    }


def reread(directory: pathlib.Path, state: Any) -> Any:
    """What the other process wrote as well, once it has."""
    jax.experimental.multihost_utils.sync_global_devices("written")
    checkpoints = Checkpoints(directory, 2)
    restored = checkpoints.restore(state)
    checkpoints.close()
    return restored and restored.state


if __name__ == "__main__":
    kind, folder, *rest = sys.argv[1:]
    print(json.dumps({"devices": on_devices, "process": in_process}[kind](pathlib.Path(folder), *rest)))
