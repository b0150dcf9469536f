"""Closed-loop supervised fine-tuning in the rounds: the stage `cl_sft` again, in place of imagination."""

import dataclasses

import jax.numpy as jnp

from tether.data.scene import Array
from tether.training.objectives.objective import ReturnWeighted
from tether.training.returns import Targets


@dataclasses.dataclass(frozen=True)
class ClosedLoopSFT(ReturnWeighted):
    """Learns from demonstrations in the simulator. Imagination serves the value and the gap alone."""

    imagines = False

    def weights(self, targets: Targets, group: int) -> Array:
        """None: no imagined decision is learned from."""
        return jnp.zeros_like(targets.advantage)
