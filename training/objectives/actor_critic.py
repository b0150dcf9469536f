"""Actor-critic as in DreamerV3: the value's surprise over the range of returns."""

import dataclasses

import jax.numpy as jnp

from tether.data.scene import Array
from tether.training.experience import uniform
from tether.training.objectives.objective import ReturnWeighted
from tether.training.returns import Targets


@dataclasses.dataclass(frozen=True)
class ActorCritic(ReturnWeighted):
    """The range of returns is no less than 1, which keeps small returns from being blown up.

    Source: arXiv 2301.04104; its range is a running mean over batches, this one is the batch's.
    """

    def weights(self, targets: Targets, group: int) -> Array:
        """See `ReturnWeighted`."""
        returns = jnp.where(targets.valid, targets.returns, jnp.nan)
        span = jnp.nanpercentile(returns, 95) - jnp.nanpercentile(returns, 5)
        return uniform(targets.valid) * targets.advantage / jnp.maximum(jnp.nan_to_num(span), 1.0)
