"""PMPO: good and bad decisions balanced by count; magnitude is ignored."""

import dataclasses

import jax.numpy as jnp

from tether.data.scene import Array
from tether.data.settings import setting
from tether.training.objectives.advantages import leave_one_out, scaled
from tether.training.objectives.objective import ReturnWeighted
from tether.training.returns import Targets


@dataclasses.dataclass(frozen=True)
class PMPO(ReturnWeighted):
    """The advantage is the value's surprise minus the same averaged over the other members of the group.

    The value takes care of members having diverged to different states; the group mean takes care of the value's error
    in this scene, which all members share.

    Attributes:
      alpha: weight of the decisions with a positive advantage; those with a negative one have the rest of 1.
      dead_band: decisions whose advantage is within this many standard deviations of zero are not learned from. A split
        by sign would otherwise give near-ties the weight of a collision.
    Source: arXiv 2410.04166; Dreamer 4, arXiv 2509.24527.
    """

    alpha: float = setting(0.5, most=1)
    dead_band: float = 0.25

    least_group = 2

    def weights(self, targets: Targets, group: int) -> Array:
        """See `ReturnWeighted`."""
        surprise = targets.advantage
        centred = jnp.where(targets.valid, surprise - leave_one_out(surprise, targets.valid, group), 0.0)
        clear = jnp.where(jnp.abs(scaled(centred, targets.valid)) > self.dead_band, centred, 0.0)
        return balanced(clear, self.alpha)


def balanced(advantage: Array, alpha: float) -> Array:
    """alpha * N / |D+| on D+ = {advantage > 0}, -(1 - alpha) * N / |D-| on D- = {advantage < 0}, else 0.

    Args:
      advantage: float32[...], N entries, 0 where a transition is invalid or not learned from.
      alpha: in [0, 1], the weight of the positive set.
    """
    good, bad = advantage > 0, advantage < 0
    push = alpha * advantage.size / jnp.maximum(good.sum(), 1)
    pull = (1 - alpha) * advantage.size / jnp.maximum(bad.sum(), 1)
    # In the advantage's own dtype, not a weak one: an update is compiled once for all objectives.
    return (push * good - pull * bad).astype(advantage.dtype)
