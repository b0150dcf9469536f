"""A rule-based teacher, which can be asked in any state."""

import dataclasses

import jax
import jax.numpy as jnp

from tether.data.scene import Observation
from tether.policy.action_head import ActionHead, Decision
from tether.policy.baselines import IDM
from tether.policy.imitation import demonstration
from tether.policy.language import LabelConfig
from tether.simulator.config import SimulatorConfig


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Gives the decision of a rule-based policy, with its reasoning, in any state.

    The log has no answer off the logged trajectory but how to come back to it. Rules have one, and it agrees with the
    reasoning, because both come from the same hazards.

    Attributes:
      head: of the policy that is taught.
      simulator: for the vehicle's limits.
      labels: settings of the car-following rules, and the rules that label the reasoning.
    Source: DAgger, arXiv 1011.0686.
    """

    head: ActionHead
    simulator: SimulatorConfig
    labels: LabelConfig

    def label(self, key: jax.Array, observation: Observation) -> Decision:
        """Reasoning and action. key: key[B]; observation: [B, ...]."""
        wanted, _, _ = IDM(self.simulator, self.labels.follower).act((), key, observation, ())
        fraction = wanted.curvature[:, -1] / self.head.space.max_curvature_at(observation.ego[:, 0])
        knot = jnp.stack([wanted.acceleration[:, -1], fraction], axis=-1)
        return demonstration(self.head, self.labels, key, observation, knot[:, None])
