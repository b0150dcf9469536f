"""The policy's candidate nearest the log: rollouts near the log that meet the policy's own errors."""

import dataclasses

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Observation, Scene
from tether.policy.action_space import deviation, drive_to, logged_waypoints
from tether.policy.imitation import demonstration
from tether.policy.language import LabelConfig
from tether.policy.vla import VLA
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import ego_of
from tether.simulator.world import Params


@dataclasses.dataclass(frozen=True)
class ClosestToLog:
    """Draws K candidates from the policy and drives the one nearest the logged continuation.

    What it drives stays within reach of the policy and near the log, so the rollout meets the policy's own errors but
    does not run away with them; where every candidate diverges, the action nearest the log is driven instead. What
    is learned there is the action nearest the log out of all: the log, tokenised anew from the rolled-out pose.

    Attributes:
      policy: the VLA.
      simulator: for the vehicle's limits.
      labels: rules that say why the learned action is taken, so that a demonstration's reasoning fits its action.
      candidates: K.
      recover_above: see `ClosedLoopConfig`.
    Source: RoaD, arXiv 2512.01993; CAT-K, arXiv 2412.05334.
    """

    policy: VLA
    simulator: SimulatorConfig
    labels: LabelConfig
    candidates: int
    recover_above: float

    def reset(self, params: Params, scene: Scene) -> Scene:
        """The scene, for its log."""
        return scene.replace(map_tile=(), road_index=())

    def act(self, params: Params, key: jax.Array, observation: Observation, carry: Scene) -> tuple:
        """Extras: decision, what is to be learned; recovered bool[B]; deviation float32[B] of the choice."""
        space, limits, ego = self.policy.config.actions, self.simulator.limits, ego_of(observation)
        keys = jax.vmap(lambda k: jax.random.split(k, self.candidates + 1))(key).T
        # The observation is not mapped over: the network reads it once for all candidates.
        _, _, drawn = jax.vmap(lambda k: self.policy.act(params, k, observation, ()))(keys[:-1])
        waypoints, candidates = logged_waypoints(carry, observation.time, space.horizon), drawn["knot"].swapaxes(0, 1)
        chosen, distance = nearest(candidates, deviation(space, candidates, ego, waypoints, limits))
        recovered = distance > self.recover_above
        best = self.policy.head.towards(ego, waypoints, limits)
        driven = jnp.where(recovered[:, None], best, chosen)
        decision = demonstration(self.policy.head, self.labels, keys[-1], observation, best[:, None])
        action = drive_to(space, driven, observation.ego, self.simulator.substeps)
        return action, carry, {"decision": decision, "recovered": recovered, "deviation": distance}


def nearest(knots: Array, distance: Array) -> tuple[Array, Array]:
    """The candidate that deviates least.

    Args: knots: float32[B, K, 2]; distance: float32[B, K].
    Returns: float32[B, 2] and its deviation float32[B].
    """
    best = jnp.argmin(distance, axis=1)[:, None]
    chosen = jnp.take_along_axis(knots, best[..., None], axis=1)[:, 0]
    return chosen, jnp.take_along_axis(distance, best, axis=1)[:, 0]
