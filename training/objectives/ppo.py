"""PPO: generalised advantages, which lambda-returns minus values are, in a clipped surrogate."""

import dataclasses

import jax.numpy as jnp

from tether.data.scene import Array
from tether.training.experience import uniform
from tether.training.objectives.advantages import scaled
from tether.training.objectives.objective import ReturnWeighted
from tether.training.returns import Targets


@dataclasses.dataclass(frozen=True)
class PPO(ReturnWeighted):
    """The advantages of a batch have mean 0 and spread 1.

    Attributes:
      reasoning_weight: weight of the reasoning's log-probability, where the action's is 1; with 0 the reasoning is held
        by the KL alone.
      clip: largest change of the ratio of probabilities that is rewarded.
    Source: arXiv 1707.06347.
    """

    clip: float = 0.2

    def weights(self, targets: Targets, group: int) -> Array:
        """See `ReturnWeighted`."""
        mean = jnp.sum(targets.advantage) / jnp.maximum(targets.valid.sum(), 1)
        return uniform(targets.valid) * scaled(targets.advantage - mean, targets.valid)
