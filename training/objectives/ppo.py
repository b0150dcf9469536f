"""PPO: generalised advantages, which lambda-returns minus values are, in a clipped surrogate."""

import dataclasses

import jax.numpy as jnp

from tether.data.scene import Array
from tether.data.settings import setting
from tether.training.experience import uniform
from tether.training.objectives.advantages import scaled
from tether.training.objectives.objective import ReturnWeighted
from tether.training.returns import Targets


@dataclasses.dataclass(frozen=True)
class PPO(ReturnWeighted):
    """The advantages of a batch have mean 0 and spread 1.

    Attributes:
      clip: largest change of the probability ratio that PPO rewards.
    Source: arXiv 1707.06347.
    """

    clip: float = setting(0.2, above=0, below=1)

    def weights(self, targets: Targets, group: int) -> Array:
        """See `ReturnWeighted`."""
        mean = jnp.sum(targets.advantage) / jnp.maximum(targets.valid.sum(), 1)
        return uniform(targets.valid) * scaled(targets.advantage - mean, targets.valid)
