"""Counterfactual rollouts: the ego does not act as logged, and a World predicts the others.

B batch, H steps, S sub-steps, K = H * S, A agents.
"""

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.evaluation.world_models.forecasts import keep_moving, moving
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import advance, log_actions, log_ego
from tether.simulator.events import PREDICTED
from tether.simulator.replay import replay_actions
from tether.simulator.rollout import joined
from tether.simulator.unending import Unending
from tether.simulator.world import Action, Agents, EgoState, Params, Rollout, World
from tether.worldmodel.batch import ModelBatch, log_window
from tether.worldmodel.costs import LEAST
from tether.worldmodel.nets import symlog

NEAR_M = 15.0  # an agent that comes this near the logged ego counts as near


def drive_on(
    world: World,
    params: Params,
    key: jax.Array,
    scene: Scene,
    start: Array,
    action: Action,
    simulator: SimulatorConfig,
) -> Rollout:
    """Repeats actions [B, H, S] in a World that ends at no failure of the ego: the others are observed while the ego is
    in their way. Two rollouts of one key differ only because the ego's actions do.

    Args: key: key[B]; start: int32[B].
    """
    return replay_actions(Unending(world, simulator), params, key, scene, start, action)


def logged_plan(scene: Scene, start: Array, substeps: int, simulator: SimulatorConfig) -> tuple[Action, EgoState]:
    """The logged ego's actions in K sub-steps, and the states that they lead to, [B, K]."""
    action = log_actions(scene, start, substeps, simulator)
    return action, advance(log_ego(scene, start), action, simulator.limits, simulator.dt)


def retimed(
    ego: EgoState, logged: tuple[Action, EgoState], acceleration: float, simulator: SimulatorConfig
) -> tuple[Action, EgoState]:
    """Drives the path of a plan [B, K] at a constant acceleration [m/s^2], down to standstill; straight beyond its end.

    Args: ego: [B], the state in which both begin.
    """
    action, driven = logged
    constant = jnp.full_like(action.acceleration, acceleration)
    straight = Action(constant, jnp.zeros_like(constant))
    other = advance(ego, straight, simulator.limits, simulator.dt)
    way, other_way = (middles(ego.speed, track.speed, simulator.dt) for track in (driven, other))
    look_up = jax.vmap(lambda at, places, values: jnp.interp(at, places, values, right=0.0))
    action = Action(constant, look_up(other_way, way, action.curvature))
    return action, advance(ego, action, simulator.limits, simulator.dt)


def middles(first: Array, speed: Array, dt: float) -> Array:
    """Distance covered by the middle of each sub-step [m]. Args: first: float32[B], the speed before; speed: [B, K]."""
    mean = (jnp.concatenate([first[:, None], speed[:, :-1]], 1) + speed) / 2
    return jnp.cumsum(mean, -1) * dt - mean * dt / 2


def by_step(action: Action, substeps: int) -> Action:
    """[B, K] -> [B, H, S]."""
    return jax.tree.map(lambda a: a.reshape(a.shape[0], -1, substeps), action)


def losses_under(
    action: Action, world: World, params: Params, key: jax.Array, batch: ModelBatch, simulator: SimulatorConfig
) -> dict[str, Array]:
    """A World's error against the log when the ego drives actions [B, H, S], the batch's or others.

    Returns: sums over the batch's first H steps, float32[B]: `all` and `near`, distances of the others from the log
      [m], near being those within `NEAR_M`; `heads`, in Worlds with learned heads, the heads' losses against the
      batch's outcomes.
    """
    steps = action.acceleration.shape[1]
    outcome, alive = jax.tree.map(lambda a: a[:, :steps], (batch.outcome, batch.alive))
    batch = batch.replace(action=action, outcome=outcome, alive=alive)
    driven = drive_on(world, params, key, batch.scene, batch.start, action, simulator)
    agents, predicted = joined(driven.agents), jax.tree.map(jnp.transpose, driven.outcome.predicted)
    by_agent = distance_by_agent(agents, batch, simulator.dt)
    losses = {"all": by_agent.sum(-1), "near": jnp.sum(by_agent * comes_near(batch, agents.x.shape[-1]), -1)}
    return losses | ({"heads": head_losses(predicted, batch)} if predicted else {})


def distance_by_agent(agents: Agents, batch: ModelBatch, dt: float) -> Array:
    """Distance of the moving others from the log [m], summed over the batch's sub-steps: float32[B, A].

    Args: agents: boxes [B, A, K].   dt: of a sub-step [s].
    """
    log, substeps = log_window(batch.scene, batch.start, 0, agents.x.shape[-1]), batch.action.acceleration.shape[-1]
    after = log[..., 1:]
    alive = jnp.repeat(batch.alive, substeps, axis=1)[:, None]
    counted = after.valid & alive & moving(log.x, log.y, log.valid, batch.scene.ego)[..., None]
    boxes = keep_moving(log[..., :1], agents, dt)
    return jnp.where(counted, jnp.hypot(boxes.x - after.x, boxes.y - after.y), 0.0).sum(-1)


def comes_near(batch: ModelBatch, substeps: int) -> Array:
    """Agents that come near the ego in the log's next `substeps` steps: bool[B, A]."""
    log = log_window(batch.scene, batch.start, 0, substeps)
    row = batch.scene.ego[:, None, None]
    ego_x, ego_y, there = (jnp.take_along_axis(field, row, 1) for field in (log.x, log.y, log.valid))
    return jnp.any((jnp.hypot(log.x - ego_x, log.y - ego_y) < NEAR_M) & log.valid & there, -1)


def head_losses(predicted: dict[str, Array], batch: ModelBatch) -> Array:
    """Squared symlog error of the reward and cross-entropy of the events, summed over heads and steps: float32[B]."""
    outcome = batch.outcome
    happened = {name: outcome.happened(name) for name in PREDICTED}
    happened["cont"] = ~outcome.termination
    loss = jnp.square(symlog(predicted["reward"]) - symlog(outcome.reward)) / 2
    for name, truth in happened.items():
        chance = jnp.clip(predicted[name], LEAST, 1 - LEAST)
        loss -= jnp.log(jnp.where(truth, chance, 1 - chance))
    return jnp.sum(jnp.where(batch.alive, loss, 0.0), -1)
