"""Decisions, and the interface of action heads: no code outside of a head depends on which head a policy has."""

from typing import Any, Protocol

import flax.struct
import jax

from tether.data.scene import Array
from tether.policy.action_space import ActionSpace, Waypoints
from tether.policy.expert import ExpertShape
from tether.policy.transformer import Network
from tether.simulator.config import VehicleLimits
from tether.simulator.world import EgoState


@flax.struct.dataclass
class Decision:
    """The reasoning and the action of a policy: its own, or those that it is to learn.

    Attributes:
      tokens: int32[B, K], the reasoning, then the head's own tokens.
      motion: the part of the decision that is no token. () for `discrete`; for `flow` a `Chain`, if the policy drew it,
        or `NoisyCopies`, if it is a label.
    """

    tokens: Array
    motion: Any = ()


@flax.struct.dataclass
class Memory:
    """The backbone's keys and values over [prefix][reasoning], to which a head may attend, and the mask of the prefix.

    Attributes:
      cache: keys and values, float32[layers, B, P + K + 1, heads, D / heads] each.
      visible: bool[B, P], over the prefix.
    """

    cache: tuple[Array, Array]
    visible: Array


class ActionHead(Protocol):
    """Makes a knot (`policy/action_space.py`) from observation and reasoning. All methods are pure.

    Attributes:
      space: the actions.
      bins: sizes of the token slots that follow the reasoning; () for a head without tokens.
      regressed: floats that are regressed from the last token.
    """

    space: ActionSpace

    @property
    def bins(self) -> tuple[int, ...]: ...

    @property
    def regressed(self) -> int: ...

    def expert(self, heads: int, head_width: int) -> ExpertShape | None:
        """Sizes of the network that the head needs beside the backbone. heads, head_width: the backbone's."""

    def draw(
        self, network: Network, key: jax.Array, tokens: Array, memory: Memory, temperature: float
    ) -> tuple[Array, Any, Array | float]:
        """The knot float32[B, 2], the decision's `motion`, and its log-probability [B] at temperature 1.

        Args: key: key[B]; tokens: int32[B, K]; memory: without the last token.
        """

    def score(self, network: Network, motion: Any, hidden: Array, memory: Memory) -> dict[str, Array | float]:
        """Scores a decision's motion: `motion_log_prob` [B], as `draw`'s, and what `kl` and `teach` need.

        Args: hidden: float32[B, D], of the last token; memory: with the last token.
        """

    def kl(self, now: dict[str, Array], before: dict[str, Array]) -> Array | float:
        """KL(now || before) of the motion given the tokens, [B], from two results of `score` [nats]."""

    def plan(self, network: Network, hidden: Array, memory: Memory) -> Array:
        """The knots after the committed one, float32[B, knots, 2], not drawn; arguments as `score`."""

    def towards(self, ego: EgoState, waypoints: Waypoints, limits: VehicleLimits) -> Array:
        """The knot float32[B, 2], among those that this head can decide for, that ends nearest the waypoints."""

    def demonstrate(self, key: jax.Array, knots: Array) -> tuple[Array, Decision]:
        """The knot float32[B, 2] that is committed, and the decision for it as a label, without its reasoning.

        Args: key: key[B]; knots: float32[B, N, 2], the committed one and, where they are known, N - 1 later ones.
        """

    def errors(self, scores: dict[str, Array], plan: Array, valid: Array) -> dict[str, Array]:
        """Errors of a decision that is a label, by name, float32[B]; `plan_error` is that of the later knots.

        Args: scores: of `VLA.evaluate`; plan: float32[B, knots, 2], the later knots; valid: bool[B, knots].
        """
