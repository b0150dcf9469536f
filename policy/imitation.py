"""Imitation of the logged ego: what it saw, what it did, why, and the loss.

A policy that only ever saw the log's own states does not learn to return to them. So a fraction of the batch starts
beside the log, with the ego shifted, turned, or faster. The image is rendered from there; the label is the decision
that leads back to the log's future (DAgger by geometry, without an expert).

Two kinds of causal confusion are kept away: the ego's acceleration and curvature are no inputs
(`VLAConfig.see_motion`), because in logs they nearly determine the next action, and a perturbed speed breaks the copy
`same speed as now`.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.geometry import from_frame, wrap_angle
from tether.data.scene import Array, Observation, Scene
from tether.data.settings import setting
from tether.policy.action_head import ActionHead, Decision
from tether.policy.action_space import ActionSpace, logged_waypoints, reach
from tether.policy.language import LabelConfig, label
from tether.policy.vla import REASONING, VLA
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import last_valid_step, log_ego
from tether.simulator.observe import observe
from tether.simulator.rollout import fold_in
from tether.simulator.transition import start_state, with_ego
from tether.simulator.world import EgoState, Params


@dataclasses.dataclass(frozen=True)
class ImitationConfig:
    """Augmentation and weights.

    Attributes:
      perturbed: fraction of the examples whose ego starts beside the log.
      across_m: standard deviation of the lateral shift of a perturbed ego [m].
      heading_rad: standard deviation of the turn of a perturbed ego [rad].
      speed_fraction: standard deviation of the change of a perturbed ego's speed, as a fraction of that speed.
      reasoning: weight of the cross-entropy of the reasoning tokens, where the committed action has weight 1.
      plan: weight of the plan's knots after the committed one, which has weight 1.
    """

    perturbed: float = setting(0.5, most=1)
    across_m: float = 0.4
    heading_rad: float = 0.05
    speed_fraction: float = 0.1
    reasoning: float = 0.25
    plan: float = 0.1


@flax.struct.dataclass
class ImitationBatch:
    """Labelled examples of imitation.

    Attributes:
      observation: `Observation` [B, ...].
      decision: `Decision`, reasoning and action labels.
      plan: float32[B, knots, 2], the later knots; plan_valid: bool[B, knots].
      valid: bool[B], the log has all steps of the label.
    """

    observation: Observation
    decision: Decision
    plan: Array
    plan_valid: Array
    valid: Array


def perturb(ego: EgoState, key: jax.Array, config: ImitationConfig) -> EgoState:
    """Moves a fraction of the egos [B] beside the log; key: key[B]. A standing car stays where it is."""

    def draw(key: jax.Array) -> Array:
        chosen, noise = jax.random.split(key)
        return jax.random.normal(noise, (3,)) * jax.random.bernoulli(chosen, config.perturbed)

    # A car moves sideways only while it rolls: the shift fades out towards standstill.
    across, turn, pace = jnp.moveaxis(jax.vmap(draw)(key), -1, 0) * jnp.minimum(ego.speed / 3.0, 1.0)
    x, y = from_frame(0.0, across * config.across_m, ego.x, ego.y, ego.heading)
    heading = wrap_angle(ego.heading + turn * config.heading_rad)
    speed = ego.speed * jnp.maximum(1 + pace * config.speed_fraction, 0.0)
    return ego.replace(x=x, y=y, heading=heading, speed=speed)


def plan_targets(space: ActionSpace, scene: Scene, time: Array, knots: int) -> tuple[Array, Array]:
    """The log's own acceleration and fraction of kappa_max at the ends of the next `knots` steps after the first.

    Returns: float32[B, knots, 2] and validity bool[B, knots].
    """
    steps = time + space.commit * jnp.arange(2, knots + 2)[:, None]
    last = last_valid_step(scene)
    later = jax.vmap(lambda step: log_ego(scene, jnp.minimum(step, last)))(steps)
    fraction = jnp.clip(later.curvature / space.max_curvature_at(later.speed), -1.0, 1.0)
    knots = jnp.stack([later.acceleration, fraction], axis=-1)
    return jnp.swapaxes(knots, 0, 1), (steps <= last).T


def imitation_targets(
    scene: Scene,
    start: Array,
    key: jax.Array,
    vla: VLA,
    simulator: SimulatorConfig,
    config: ImitationConfig,
    labels: LabelConfig,
) -> ImitationBatch:
    """Inputs and labels at log step `start`, or beside the log there.

    Args: scene: `Scene` [B, ...]; start: int32[B], between the current step and the log's end; key: key[B].
    """
    space = vla.config.actions
    state = start_state(scene, start, ())
    ego = perturb(state.ego, key, config)
    observation = observe(with_ego(state, ego), simulator)
    waypoints = logged_waypoints(scene, start, space.horizon)
    knot = vla.head.towards(ego, waypoints, simulator.limits)
    plan, plan_valid = plan_targets(space, scene, start, vla.config.plan_knots)
    knots = jnp.concatenate([knot[:, None], plan], axis=1)
    decision = demonstration(vla.head, labels, fold_in(key, 2), observation, knots)
    return ImitationBatch(observation, decision, plan, plan_valid, waypoints.valid.all(-1))


def demonstration(
    head: ActionHead, labels: LabelConfig, key: jax.Array, observation: Observation, knots: Array
) -> Decision:
    """The decision, reasoning included, that commits the first of some knots and plans the others.

    Args: key: key[B]; observation: [B, ...]; knots: float32[B, N, 2], 1 of them or 1 and the plan's.
    """
    knot, decision = head.demonstrate(key, knots)
    reasoning = label(labels, observation, *reach(head.space, knot, observation.ego[:, 0]))
    return decision.replace(tokens=jnp.concatenate([reasoning, decision.tokens], axis=-1))


def imitation_loss(
    vla: VLA, params: Params, batch: ImitationBatch, config: ImitationConfig
) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of every token, and the head's errors of the action and of the later knots.

    Returns: the scalar loss, and metrics of per-row arrays float32[B] (0 where invalid).
    """
    scores = vla.evaluate(params, batch.observation, batch.decision)
    weight = jnp.where(jnp.arange(vla.tokens) < REASONING, config.reasoning, 1.0)
    metrics = {
        "reasoning_cross_entropy": -scores["reasoning_log_prob"],
        **vla.head.errors(scores, batch.plan, batch.plan_valid),
    }
    rows = -scores["token_log_prob"] @ weight - scores["motion_log_prob"] + config.plan * metrics["plan_error"]
    count = jnp.maximum(batch.valid.sum(), 1)
    return jnp.sum(jnp.where(batch.valid, rows, 0.0)) / count, {
        name: jnp.where(batch.valid, value, 0.0) for name, value in metrics.items()
    }
