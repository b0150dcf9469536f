"""The ledger: how many steps of the simulator a run has spent, and on what."""

import dataclasses

import numpy as np

from tether.data.scene import Array
from tether.training.processes import to_host

PURPOSES = ("fit_world_model", "cl_sft", "refit", "practise", "ground", "validate")


@dataclasses.dataclass(frozen=True)
class Ledger:
    """Simulator steps (of S sub-steps, while alive) by purpose; imagined steps and logs as they are cost nothing here.

    Attributes:
      spent: steps by purpose, one of `PURPOSES`, as far as they are counted.
      uncounted: rollouts that are not counted yet: a purpose and bool[H, B] or int[B] each. To count is to wait for the
        device, which the loop over batches must not do in every step.
    """

    spent: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(PURPOSES, 0))
    uncounted: tuple[tuple[str, Array], ...] = ()

    @property
    def total(self) -> int:
        """All steps so far."""
        return sum(self.count().spent.values())

    def add(self, purpose: str, alive: Array) -> "Ledger":
        """With the steps of a rollout: the number of ones in bool[H, B], or the sum of int[B].

        Raises: KeyError for a purpose that is not in `PURPOSES`.
        """
        if purpose not in self.spent:
            raise KeyError(f"purpose {purpose!r}: expected one of {PURPOSES}")
        return dataclasses.replace(self, uncounted=(*self.uncounted, (purpose, alive)))

    def count(self) -> "Ledger":
        """With everything counted; with several processes all have to call it."""
        spent = dict(self.spent)
        for purpose, alive in self.uncounted:
            spent[purpose] += int(np.sum(to_host(alive)))
        return Ledger(spent)
