"""GRPO: whole rollouts against the others of their group, without a value."""

import dataclasses

import jax.numpy as jnp

from tether.data.scene import Array
from tether.data.settings import setting
from tether.training.experience import uniform
from tether.training.objectives.advantages import leave_one_out, scaled
from tether.training.objectives.objective import ReturnWeighted
from tether.training.returns import Targets


@dataclasses.dataclass(frozen=True)
class GRPO(ReturnWeighted):
    """The return of a rollout minus the mean of the others, over the batch's spread.

    The batch's spread scales, not the group's: dividing by a group's own would inflate near-ties.

    Attributes:
      dead_band: groups whose returns differ by less than this many standard deviations of the batch are left out.
      clip: largest change of the probability ratio that GRPO rewards.
    Source: arXiv 2402.03300; leave-one-out mean and no division by the group's spread as in Dr. GRPO, 2503.20783.
    """

    dead_band: float = 0.25
    clip: float = setting(0.2, above=0, below=1)

    least_group = 2

    def weights(self, targets: Targets, group: int) -> Array:
        """See `ReturnWeighted`."""
        total = jnp.broadcast_to(targets.undiscounted, targets.valid.shape)
        everyone = jnp.ones_like(targets.valid)
        better = scaled(total - leave_one_out(total, everyone, group), everyone)
        groups = better.reshape(better.shape[0], -1, group)
        clear = jnp.repeat(jnp.ptp(groups, axis=-1) > self.dead_band, group, axis=-1)
        return uniform(targets.valid) * jnp.where(clear, better, 0.0)
