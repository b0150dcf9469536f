"""The discrete action head: two more tokens, an acceleration bin and a curvature bin, and a regression of the plan.

The tokens share the reasoning's softmax and suffix (`policy/vla.py`), so there is nothing left to draw or to score
here: their log-probabilities, entropy and KL are exact.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.policy.action_head import Decision, Memory
from tether.policy.action_space import ActionSpace, Waypoints, dithered, encode_towards, knot_of
from tether.policy.transformer import Network
from tether.simulator.config import VehicleLimits
from tether.simulator.world import EgoState


@dataclasses.dataclass(frozen=True)
class DiscreteHead:
    """See `policy.action_head.ActionHead`."""

    space: ActionSpace
    plan_knots: int

    @property
    def bins(self) -> tuple[int, ...]:
        """Acceleration bins, curvature bins."""
        return self.space.shape

    @property
    def regressed(self) -> int:
        """Two floats for each later knot."""
        return 2 * self.plan_knots

    def expert(self, heads: int, head_width: int) -> None:
        """No further network."""

    def draw(self, network: Network, key: jax.Array, tokens: Array, memory: Memory, temperature: float) -> tuple:
        """The last two tokens are the action."""
        return knot_of(self.space, tokens[:, -2:]), (), 0.0

    def score(self, network: Network, motion: Any, hidden: Array, memory: Memory) -> dict[str, Array | float]:
        """Regresses the plan; the tokens hold all of the motion."""
        return {"motion_log_prob": 0.0, "plan": self.plan(network, hidden, memory)}

    def kl(self, now: dict[str, Array], before: dict[str, Array]) -> float:
        """0: the motion has no part beyond the tokens."""
        return 0.0

    def plan(self, network: Network, hidden: Array, memory: Memory) -> Array:
        """Regressed from the last token."""
        return network.plan(hidden).reshape(hidden.shape[0], -1, 2)

    def towards(self, ego: EgoState, waypoints: Waypoints, limits: VehicleLimits) -> Array:
        """The nearest joint bin."""
        return knot_of(self.space, encode_towards(self.space, ego, waypoints, limits))

    def demonstrate(self, key: jax.Array, knots: Array) -> tuple[Array, Decision]:
        """Tokens whose mean is the knot."""
        tokens = dithered(self.space, knots[:, 0], key)
        return knot_of(self.space, tokens), Decision(tokens)

    def errors(self, scores: dict[str, Array], plan: Array, valid: Array) -> dict[str, Array]:
        """Cross-entropy of the action, Huber error of the plan, and whether both bins are the likeliest."""
        error = jnp.abs(scores["plan"] - plan) * jnp.array([1.0, 4.0])  # [m/s^2] against fractions of kappa_max
        huber = jnp.where(error < 1, 0.5 * error**2, error - 0.5).mean(-1)
        likeliest = scores["token_log_prob"] == scores["logits"].max(-1)
        return {
            "action_cross_entropy": -scores["log_prob"],
            "plan_error": jnp.sum(huber * valid, -1) / jnp.maximum(valid.sum(-1), 1),
            "exact_action": likeliest[:, -len(self.bins) :].all(-1),
        }
