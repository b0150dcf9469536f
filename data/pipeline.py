"""Batches of scenes with Grain: deterministic, sharded over hosts, resumable to the exact next batch."""

import threading
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from data.scene import Record, Scene


def stack(scenes: Sequence[Scene]) -> Scene:
    """Stacks scenes of one spec along a new leading batch axis: `Scene` [B, ...] of numpy arrays."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *scenes)


class SceneBatches(Iterator):
    """Endless (or one-pass) iterator of (`Scene` [B, ...], int64[B] indices into the source).

    The order depends on the seed and the shard alone: every pass over the source is shuffled anew, shards are
    disjoint and together complete. `get_state` before a step and `set_state` later give the same batches again.

    Args:
      source: random access to `Record`s.
      batch_size: B, per shard.
      seed: of the shuffling, in [0, 2**32).
      prepare: host-side work on each scene (`simulator.prepare`).
      cache: keep prepared scenes in memory, so that reading and drawing happen once per scene.
      shard_index, shard_count: this host and how many there are.
      repeat: pass over the source for ever; otherwise once, where the last batch may be smaller.
    """

    def __init__(
        self,
        source: Sequence[Record],
        batch_size: int,
        seed: int,
        prepare: Callable[[Scene], Scene],
        *,
        cache: bool,
        shard_index: int = 0,
        shard_count: int = 1,
        repeat: bool = True,
    ):
        import grain

        if not 0 <= shard_index < shard_count <= len(source):
            raise ValueError(f"shard {shard_index} of {shard_count} does not fit a source of {len(source)} records")
        self._source = source
        self._prepare = prepare
        self._prepared: dict[int, Scene] | None = {} if cache else None
        self._lock = threading.Lock()
        order = grain.MapDataset.range(len(source)).shuffle(seed=seed)
        order = order.repeat() if repeat else order
        batches = order[shard_index::shard_count].map(self._load).batch(batch_size, batch_fn=_join)
        # The next batch is made by a thread while the device works on this one.
        self._iterator = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))

    def __next__(self) -> tuple[Scene, np.ndarray]:
        return next(self._iterator)

    def get_state(self) -> dict:
        """Where the iterator stands, as JSON types."""
        return self._iterator.get_state()

    def set_state(self, state: dict) -> None:
        """Continues from a state that an iterator of the same arguments returned."""
        self._iterator.set_state(state)

    def _load(self, index: int) -> tuple[Scene, int]:
        if self._prepared is None:
            return self._prepare(self._source[int(index)].scene), int(index)
        with self._lock:
            if int(index) not in self._prepared:
                self._prepared[int(index)] = self._prepare(self._source[int(index)].scene)
            return self._prepared[int(index)], int(index)


def _join(items: Sequence[tuple[Scene, int]]) -> tuple[Scene, np.ndarray]:
    return stack([scene for scene, _ in items]), np.array([index for _, index in items], np.int64)
