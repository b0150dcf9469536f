"""Batches of scenes with Grain: deterministic, sharded over hosts, resumable to the exact next batch."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from tether.data.scene import Record, Scene


def stack(scenes: Sequence[Scene]) -> Scene:
    """Stacks scenes of one spec along a new leading batch axis: `Scene` [B, ...] of numpy arrays."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *scenes)


class SceneBatches(Iterator):
    """Endless iterator of one host's rows of every batch: (`Scene` [rows, ...], int64[B] indices into the source).

    The order of the whole batches depends on the seed alone: one permutation of the source after another, cut into
    batches of B. A host reads its own rows of each, so that no scene is read twice in one pass where the hosts' rows
    do not overlap, and another number of hosts sees the same batches. Every host knows the indices of the whole batch.
    `get_state` before a step and `set_state` later give the same batches again, on any number of hosts.

    Args:
      source: random access to `Record`s, whose scenes are taken as they are.
      batch_size: B, of all hosts together.
      seed: of the shuffling, in [0, 2**32).
      rows: which of a batch's B rows this host reads; all if None.
    Raises: ValueError for an empty source, an empty batch, or rows that are none of its own.
    """

    def __init__(
        self,
        source: Sequence[Record],
        batch_size: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ):
        import grain

        self._rows = np.arange(batch_size) if rows is None else np.asarray(rows)
        if not len(self._rows) or not np.isin(self._rows, np.arange(batch_size)).all():
            raise ValueError(f"rows {self._rows.tolist()[:8]} are none of a batch of {batch_size}")
        if not len(source):
            raise ValueError("expected a source of one record or more, found none")
        self._source = source
        order = grain.MapDataset.range(len(source)).shuffle(seed=seed).repeat()
        batches = order.batch(batch_size).map(self._load_rows)
        # The next batch is made by a thread while the device works on this one.
        self._iterator = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))

    def __next__(self) -> tuple[Scene, np.ndarray]:
        return next(self._iterator)

    def get_state(self) -> dict:
        """The iterator's position, as JSON types."""
        return self._iterator.get_state()

    def set_state(self, state: dict) -> None:
        """Continues from a state that an iterator of the same arguments returned."""
        self._iterator.set_state(state)

    def _load_rows(self, batch: np.ndarray) -> tuple[Scene, np.ndarray]:
        indices = np.asarray(batch, np.int64)
        return stack([self._source[int(index)].scene for index in indices[self._rows]]), indices
