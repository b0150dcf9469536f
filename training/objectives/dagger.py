"""DAgger: what a teacher would do in the states that the imagining policy got itself into."""

import dataclasses

import jax

from tether.simulator.world import Rollout
from tether.training.experience import Experience, demonstrated
from tether.training.returns import Targets
from tether.training.teacher import Asked


@dataclasses.dataclass(frozen=True)
class DAgger:
    """Learns the teacher's decisions, action and reasoning. Source: arXiv 1011.0686."""

    least_group = 1
    clip = 0.0
    learns_drawn = False
    imagines = True

    def build(self) -> "DAgger":
        """See `Objective`."""
        return self

    def experience(self, driven: Rollout, targets: Targets, group: int, teacher: Asked, key: jax.Array) -> Experience:
        """See `Objective`."""
        keys = jax.vmap(lambda k: jax.random.split(k, driven.alive.shape[0]), out_axes=1)(key)
        decision = jax.vmap(teacher)(keys, driven.observation)
        return demonstrated(driven, decision, targets.valid, targets.returns)
