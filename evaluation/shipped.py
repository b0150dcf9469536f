"""The run that ships with the repository, so that a learned policy can be evaluated before anything is trained.

`shipped_run/` holds what the evaluation of a finished run needs, but not what further training needs: the settings in
`config.json`, rounds and ledger in `progress.json`, arrays in `arrays.npz` (float32, no pickle), and the origin and
sha256 of each file in `about.json`. `python -m tether.evaluation.ship RUN` makes it again.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.errors import read_json
from tether.data.files import write_bytes
from tether.data.sources import STARTER, open_split
from tether.evaluation.provenance import made_here
from tether.evaluation.restore import template
from tether.training import settings
from tether.training.config import Config
from tether.training.models import Models, build
from tether.training.scenes import PreparedRecords
from tether.training.state import Learned, Progress

FOLDER = pathlib.Path(__file__).with_name("shipped_run")
ABOUT, SETTINGS, PROGRESS, ARRAYS = "about.json", "config.json", "progress.json", "arrays.npz"
PARTS = ("imitation", "best", "model")  # fields of `Learned`
LARGEST = 3 * 2**20  # bytes of the folder: it is in every clone and every wheel
AGAIN = "make it again: python -m tether.evaluation.ship RUN"


def open_shipped(folder: pathlib.Path = FOLDER) -> tuple[Config, Models, Learned, Progress]:
    """The shipped run, as `restore` returns any run; fields of `Learned` that only training needs are ().

    Raises: ValueError where no run ships, for damaged files, and for arrays of other models.
    """
    if not (folder / ABOUT).is_file():
        none = f"no trained policy ships with this version, {folder.name} is empty"
        raise ValueError(f"{none}: name the run directory that holds one")
    check_files(folder)
    config = settings.read(folder / SETTINGS)
    models = build(config)
    # Any scene of these sizes will do: only its shapes are used.
    records = PreparedRecords(open_split(STARTER, "test", config.spec), config.simulator, 1, 1)
    with np.load(folder / ARRAYS, allow_pickle=False) as file:
        arrays = dict(file)
    shapes = template(config, models, records)
    filled = fill({part: getattr(shapes, part) for part in PARTS}, arrays, folder / ARRAYS)
    nothing = dict.fromkeys((field.name for field in dataclasses.fields(Learned)), ())
    return config, models, Learned(**nothing | filled), Progress.from_json(read_json(folder / PROGRESS))


def check_files(folder: pathlib.Path) -> None:
    """Raises: ValueError for a file whose sha256 is not that of the file that was written."""
    written = read_json(folder / ABOUT)["sha256"]
    for name in (SETTINGS, PROGRESS, ARRAYS):
        computed = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if computed != written[name]:
            raise ValueError(
                f"{folder / name}: expected sha256 {written[name]}, found {computed}: it is damaged; {AGAIN}"
            )


def fill(expected: Any, arrays: dict[str, np.ndarray], where: pathlib.Path) -> Any:
    """Arrays by name as the tree of shapes `expected`. Raises: ValueError for arrays of another tree."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(expected)
    shapes = {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
    present = {name: array.shape for name, array in arrays.items()}
    wrong = sorted(name for name in shapes.keys() | present.keys() if shapes.get(name) != present.get(name))
    if wrong:
        some = ", ".join(f"{name}: expected {shapes.get(name)}, found {present.get(name)}" for name in wrong[:3])
        raise ValueError(f"{where}: {len(wrong)} arrays are not those of this version's models ({some}); {AGAIN}")
    return jax.tree_util.tree_unflatten(structure, [jnp.asarray(arrays[name]) for name in shapes])


def as_json(values: dict[str, Any]) -> bytes:
    """Indented JSON, with a newline at its end."""
    return f"{json.dumps(values, indent=2)}\n".encode()


def write_shipped(config: Config, learned: Learned, progress: Progress, folder: pathlib.Path = FOLDER) -> int:
    """Writes what `open_shipped` reads. Returns: its size in bytes.

    Raises: ValueError for arrays that are not float32, and, before anything is written, where it is too large to ship.
    """
    leaves = jax.tree_util.tree_leaves_with_path({part: getattr(learned, part) for part in PARTS})
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    if wrong := sorted(name for name, array in arrays.items() if array.dtype != np.float32):
        raise ValueError(f"expected float32 arrays, found others: {wrong[:3]}")
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    files = {SETTINGS: as_json(dataclasses.asdict(config)), PROGRESS: as_json(progress.to_json())}
    files[ARRAYS] = packed.getvalue()
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[ABOUT] = as_json(made_here() | {"sha256": sums})
    size = sum(map(len, files.values()))
    if size > LARGEST:
        raise ValueError(f"expected at most {LARGEST / 2**20:g} MiB to ship, found {size / 2**20:.2f} MiB")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_bytes(folder / name, data)
    return size
