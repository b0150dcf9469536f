"""A teacher, which can be asked in any state: a policy whose actions are to be learned."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tether.data.scene import Observation
from tether.policy.action_head import ActionHead, Decision
from tether.policy.imitation import demonstration
from tether.policy.language import LabelConfig
from tether.simulator.world import Params, Policy

Asked = Callable[[jax.Array, Observation], Decision]  # `Teacher.label` of the parameters that it has


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Gives the decision of a policy, with the reasoning that agrees with it, in any state.

    The log has no answer off the logged trajectory but how to come back to it. Rules have one, and so has a coach that
    has learned from consequences.

    Attributes:
      policy: that teaches, as it is deployed, without a carry.
      head: of the policy that is taught.   labels: rules that label the reasoning.
    Source: DAgger, arXiv 1011.0686.
    """

    policy: Policy
    head: ActionHead
    labels: LabelConfig

    def label(self, params: Params, key: jax.Array, observation: Observation) -> Decision:
        """Reasoning and action. params: of the teaching policy; key: key[B]; observation: [B, ...]."""
        wanted, _, _ = self.policy.act(params, key, observation, ())
        fraction = wanted.curvature[:, -1] / self.head.space.max_curvature_at(observation.ego[:, 0])
        knot = jnp.stack([wanted.acceleration[:, -1], fraction], axis=-1)
        return demonstration(self.head, self.labels, key, observation, knot[:, None])
