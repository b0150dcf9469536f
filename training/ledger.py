"""The ledger: how many steps of the simulator a run has spent, and on what."""

import dataclasses

import numpy as np

from data.scene import Array

PURPOSES = ("fit_world_model", "cl_sft", "refit", "ground", "validate")


@dataclasses.dataclass(frozen=True)
class Ledger:
    """Simulator steps (of S sub-steps, while alive) by purpose; imagined steps cost nothing here.

    Attributes:
      spent: steps by purpose, one of `PURPOSES`.
    """

    spent: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(PURPOSES, 0))

    @property
    def total(self) -> int:
        """All steps so far."""
        return sum(self.spent.values())

    def charge(self, purpose: str, alive: Array) -> "Ledger":
        """Adds the steps that were driven: the number of ones in bool[H, B].

        Raises: KeyError for a purpose that is not in `PURPOSES`.
        """
        return Ledger({**self.spent, purpose: self.spent[purpose] + int(np.sum(alive))})
