"""What an objective is: how imagined rollouts become experience to learn from."""

import abc
import dataclasses
from typing import Protocol

import jax

from tether.data.scene import Array
from tether.simulator.world import Rollout
from tether.training.experience import Experience, drawn
from tether.training.returns import Targets
from tether.training.teacher import Asked


class Objective(Protocol):
    """How the policy learns from imagined rollouts. A frozen dataclass whose fields are its settings, with defaults.

    Attributes:
      least_group: how many rollouts from one start it compares at least.
      clip: of the ratio of probabilities in the surrogate (`learning.surrogate`); 0 for none.
      learns_drawn: whether the decisions that it learns are those that were drawn.
      imagines: whether it learns from imagined rollouts; else from demonstrations in the simulator
        (`training/stages/closed_loop.py`).
    """

    def build(self) -> "Objective":
        """Itself: an objective is what its settings build."""
        ...

    @property
    def least_group(self) -> int: ...

    @property
    def clip(self) -> float: ...

    @property
    def learns_drawn(self) -> bool: ...

    @property
    def imagines(self) -> bool: ...

    def experience(self, driven: Rollout, targets: Targets, group: int, teacher: Asked, key: jax.Array) -> Experience:
        """What is to be learned.

        Args:
          driven: `Rollout` [H, R, ...].   targets: of it, [H, R].
          group: rollouts from one start, which stand next to each other.
          teacher: for objectives that ask one, a decision [R] of keys [R] and observations [R].   key: key[R].
        """
        ...


@dataclasses.dataclass(frozen=True)
class ReturnWeighted(abc.ABC):
    """Learns the decisions that were drawn, each weighted by what it led to. An objective of this kind says `weights`.

    Attributes:
      reasoning_weight: weight of the reasoning's log-probability, where the action's is 1; with 0 only the KL holds the
        reasoning.
    """

    reasoning_weight: float = 0.0

    least_group = 1
    clip = 0.0
    learns_drawn = True
    imagines = True

    def build(self) -> "ReturnWeighted":
        """See `Objective`."""
        return self

    @abc.abstractmethod
    def weights(self, targets: Targets, group: int) -> Array:
        """How much each decision's log-probability weighs: float32[H, R], 0 where `targets.valid` is False."""

    def experience(self, driven: Rollout, targets: Targets, group: int, teacher: Asked, key: jax.Array) -> Experience:
        """See `Objective`."""
        return drawn(driven, targets, self.weights(targets, group), self.reasoning_weight)
