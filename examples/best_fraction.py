"""Your own objective in one file: the policy imitates the best of its own imagined rollouts.

    python train.py cpu --rounds.objective examples.best_fraction:BestFraction --rounds.group 4 --rounds.scenes 16

Of the rollouts from one start only those of the highest undiscounted return are learned from. All of their decisions
have the same weight.
"""

import dataclasses

import jax.numpy as jnp

from tether.data.scene import Array
from tether.training.experience import uniform
from tether.training.objectives.objective import ReturnWeighted
from tether.training.returns import Targets


@dataclasses.dataclass(frozen=True)
class BestFraction(ReturnWeighted):
    """Filtered behaviour cloning.

    Attributes:
      reasoning_weight: weight of the reasoning's log-probability, where the action's is 1.
      fraction: of each group's rollouts that are learned from, at least one.
    """

    fraction: float = 0.25

    least_group = 2

    def weights(self, targets: Targets, group: int) -> Array:
        """Equal weights of the best rollouts' decisions, see `ReturnWeighted`."""
        returns = targets.undiscounted.reshape(-1, group)
        count = max(round(self.fraction * group), 1)
        least = jnp.sort(returns, axis=-1)[:, -count]
        best = (returns >= least[:, None]).reshape(-1)
        return uniform(targets.valid & best)
