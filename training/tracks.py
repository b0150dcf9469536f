"""Replayed policy rollouts that the world model is refitted on.

Only what was driven is kept; the scenes themselves are read again, so a track is a few kilobytes. The store has a
fixed size: it is part of the checkpoint, whose shapes must not depend on how far the run got.
"""

import flax.struct
import jax
import numpy as np

from tether.data.scene import Array
from tether.training.processes import to_host
from tether.worldmodel.batch import ModelBatch


@flax.struct.dataclass
class Tracks:
    """A ring of N tracks.

    Attributes:
      scene: int32[N], index of the scene in the train split.
      count: int32[], tracks written so far; those beyond N replaced the oldest.
      batch: `ModelBatch` [N, ...] without its scene.
    """

    scene: Array
    count: Array
    batch: ModelBatch


def empty(batch: ModelBatch, size: int) -> Tracks:
    """A ring for `size` tracks like those of `batch`."""
    bare = jax.tree.map(lambda a: np.zeros((size, *a.shape[1:]), a.dtype), batch.replace(scene=()))
    return Tracks(np.zeros(size, np.int32), np.zeros((), np.int32), bare)


def add(tracks: Tracks, scene: Array, batch: ModelBatch) -> Tracks:
    """Writes B tracks of the scenes int[B], over the oldest ones where the ring is full.

    With several processes all have to call it: each has the whole ring, on the host, for any may draw any track.
    """
    size = tracks.scene.shape[0]
    where = (int(tracks.count) + np.arange(len(scene))) % size
    written = jax.tree.map(lambda ring, new: _written(ring, where, new), tracks.batch, to_host(batch.replace(scene=())))
    return Tracks(_written(tracks.scene, where, scene), np.int32(tracks.count + len(scene)), written)


def _written(ring: Array, where: np.ndarray, new: Array) -> np.ndarray:
    ring = np.array(ring)
    ring[where] = np.asarray(new)
    return ring


def draw(tracks: Tracks, key: jax.Array, count: int) -> tuple[np.ndarray, ModelBatch]:
    """Draws tracks with replacement.

    Returns: scene indices int32[count], and their `ModelBatch`, still without the scenes.
    Raises: ValueError where nothing was written yet.
    """
    filled = min(int(tracks.count), tracks.scene.shape[0])
    if filled == 0:
        raise ValueError("no policy rollout was replayed yet")
    rows = np.asarray(jax.random.randint(key, (count,), 0, filled))
    return tracks.scene[rows], jax.tree.map(lambda ring: ring[rows], tracks.batch)
