"""Policies that training drives beside its own: a disturbed expert, the candidate nearest the log, and a teacher."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Observation, Scene, SceneSpec
from tether.policy.action_head import ActionHead, Decision
from tether.policy.action_space import deviation, drive_to, logged_waypoints
from tether.policy.baselines import IDM, LogExpert, follow_route
from tether.policy.imitation import demonstration
from tether.policy.language import LabelConfig
from tether.policy.vla import VLA
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import ego_of
from tether.simulator.world import Action, Params

HELD_MPS2 = 0.7  # standard deviation of the acceleration held in a lapse


@flax.struct.dataclass
class Disturbance:
    """How each row's expert is disturbed; float32[B].

    Attributes:
      acceleration: standard deviation [m/s^2], 0 is none.
      curvature: standard deviation, as lateral acceleration at the current speed [m/s^2], 0 is none.
      lapse_s: from this time of the scene on the driver heeds neither traffic nor lights; infinite is never.
      held: acceleration that it holds then [m/s^2].
    """

    acceleration: Array
    curvature: Array
    lapse_s: Array
    held: Array

    @property
    def none(self) -> Array:
        """bool[B], the expert itself."""
        return (self.acceleration == 0) & (self.curvature == 0) & jnp.isinf(self.lapse_s)


@dataclasses.dataclass(frozen=True)
class DisturbedExpert:
    """The log's ego under slowly varying disturbances, so that crashes and departures happen and can be learned.

    Its params are a `Disturbance`. The noise is an Ornstein-Uhlenbeck process over steps: white noise would average
    out before the ego leaves its lane. Noise alone hardly ever meets another agent or a red light, for the expert
    corrects it: in a lapse the driver goes on along its route as if nobody were there, as policies do that overlook
    somebody.

    Attributes:
      config: of the simulator.
      memory: share of the noise that the next step keeps.
    """

    config: SimulatorConfig
    memory: float = 0.8

    def reset(self, params: Disturbance, scene: Scene) -> tuple[Scene, Array, Array]:
        """The logged scene and no noise yet."""
        nothing = jnp.zeros_like(params.acceleration)
        return scene.replace(map_tile=(), road_index=()), nothing, nothing

    def act(self, params: Disturbance, key: jax.Array, observation: Observation, carry: tuple) -> tuple:
        """The expert's action plus noise."""
        scene, *noise = carry
        action, _, _ = LogExpert(self.config).act((), key, observation, scene)
        fresh = jax.vmap(lambda k: jax.random.normal(k, (2,)))(key)
        pushes = [self.memory * old + (1 - self.memory**2) ** 0.5 * fresh[:, i] for i, old in enumerate(noise)]
        held = jnp.broadcast_to(params.held[:, None], action.acceleration.shape)
        lapsed = (observation.time * SceneSpec.dt >= params.lapse_s)[:, None]
        action = jax.tree.map(
            lambda blind, expert: jnp.where(lapsed, blind, expert), follow_route(self.config, observation, held), action
        )
        speed = jnp.maximum(observation.ego[:, 0], 3.0)
        disturbed = Action(
            acceleration=action.acceleration + (params.acceleration * pushes[0])[:, None],
            curvature=action.curvature + (params.curvature * pushes[1] / speed**2)[:, None],
        )
        return disturbed, (scene, *pushes), {}


def undisturbed(count: int) -> Disturbance:
    """Rows of the expert itself."""
    nothing = jnp.zeros(count)
    return Disturbance(nothing, nothing, jnp.full(count, jnp.inf), nothing)


def disturbance(key: jax.Array, count: int) -> Disturbance:
    """Rows from hardly to badly disturbed: magnitudes up to 3 m/s^2 along and 4 m/s^2 across, squared towards 0.

    All lapse at some time of the scene, rather early than late, and hold about their speed then.
    """
    along, across, late = jax.random.uniform(key, (3, count)) ** 2
    lapse_s = (SceneSpec.current + late * (SceneSpec.steps - SceneSpec.current)) * SceneSpec.dt
    held = HELD_MPS2 * jax.random.normal(jax.random.fold_in(key, 1), (count,))
    return Disturbance(3.0 * along, 4.0 * across, lapse_s, held)


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


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Says what a rule-based driver would do, and why, wherever the policy has got to.

    The log has no answer beside the log: it only knows how to come back to it. Rules do, and theirs agree with the
    reasoning, because both come from the same hazards.

    Attributes:
      head: of the policy that is taught.
      simulator: for the vehicle's limits.
      labels: the driver that is asked, and the rules that say why.
    Source: DAgger, arXiv 1011.0686.
    """

    head: ActionHead
    simulator: SimulatorConfig
    labels: LabelConfig

    def label(self, key: jax.Array, observation: Observation) -> Decision:
        """Reasoning and action. key: key[B]; observation: [B, ...]."""
        wanted, _, _ = IDM(self.simulator, self.labels.driver).act((), key, observation, ())
        fraction = wanted.curvature[:, -1] / self.head.space.max_curvature_at(observation.ego[:, 0])
        knot = jnp.stack([wanted.acceleration[:, -1], fraction], axis=-1)
        return demonstration(self.head, self.labels, key, observation, knot[:, None])
