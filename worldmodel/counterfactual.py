"""Drives in which the ego does something else than in its log, and what a World then makes of the others.

B batch, H steps, S sub-steps, K = H * S, A agents.
"""

import jax
import jax.numpy as jnp

from data.scene import Array, Scene
from simulator.config import SimulatorConfig
from simulator.dynamics import advance, log_actions, log_ego
from simulator.transition import ego_track_of, replace_row, sweep
from simulator.world import Action, Agents, EgoState, Params, State, World
from worldmodel.batch import ModelBatch, log_window
from worldmodel.heads import outcome_targets
from worldmodel.nets import symlog
from worldmodel.quality import Imagined, displacement

NEAR_M = 15.0  # who comes this near the logged ego has to do with it
SURE = 1e-6  # a head's probability is no nearer to 0 or 1 than this


def drive_on(
    world: World,
    params: Params,
    key: jax.Array,
    scene: Scene,
    start: Array,
    action: Action,
    simulator: SimulatorConfig,
) -> tuple[Agents, dict[str, Array]]:
    """Drives actions [B, H, S] in a World, to their end whatever happens to the ego.

    What ends a rollout does not end this one: the others are watched while the ego stands in their way. The World's
    noise is that of its key alone, so that two drives by one key differ only because the ego does.

    Args: key: key[B]; start: int32[B].
    Returns: all boxes `Agents` [B, A, K], and what the learned heads say of each step, dict of float32[B, H].
    """
    first = world.reset(params, key, scene, start)

    def body(state: State, inputs: tuple[Array, Action]) -> tuple[State, tuple[Agents, dict]]:
        index, action = inputs
        state = state.replace(scene=scene)
        keys = jax.vmap(jax.random.fold_in, (0, None))(key, index)
        following, outcome = world.step(params, keys, state, action)
        swept = sweep(state, action, simulator)
        boxes = jax.tree.map(lambda a: a[..., -action.acceleration.shape[-1] :], following.history)
        boxes = replace_row(boxes, scene.ego, ego_track_of(swept))
        return go_on(following, swept, boxes), (boxes, outcome.predicted)

    actions = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), action)
    inputs = (jnp.arange(action.acceleration.shape[1]), actions)
    _, (boxes, predicted) = jax.lax.scan(body, first.replace(scene=()), inputs)
    boxes = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 2).reshape(*a.shape[1:3], -1), boxes)
    return boxes, jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), predicted)


def go_on(state: State, swept: EgoState, boxes: Agents) -> State:
    """The state after a step, as if nothing had ended in it; without its scene."""

    def latest(history: Array, new: Array) -> Array:
        return jnp.concatenate([history[..., : -new.shape[-1]], new], -1)

    return state.replace(
        scene=(),
        ego=jax.tree.map(lambda field: field[:, -1], swept),
        history=jax.tree.map(latest, state.history, boxes),
        alive=jnp.ones_like(state.alive),
    )


def logged_plan(scene: Scene, start: Array, substeps: int, simulator: SimulatorConfig) -> tuple[Action, EgoState]:
    """What the logged ego does in K sub-steps, and where it leads, [B, K]."""
    action = log_actions(scene, start, substeps, simulator)
    return action, advance(log_ego(scene, start), action, simulator.limits, simulator.dt)


def retimed(
    ego: EgoState, logged: tuple[Action, EgoState], acceleration: float, simulator: SimulatorConfig
) -> tuple[Action, EgoState]:
    """The way of a plan [B, K] at another constant acceleration [m/s^2], until the ego stands; straight on beyond it.

    Args: ego: [B], where both begin.
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
    """Way covered by the middle of each sub-step [m]. Args: first: float32[B], the speed before; speed: [B, K]."""
    mean = (jnp.concatenate([first[:, None], speed[:, :-1]], 1) + speed) / 2
    return jnp.cumsum(mean, -1) * dt - mean * dt / 2


def by_step(action: Action, substeps: int) -> Action:
    """[B, K] -> [B, H, S]."""
    return jax.tree.map(lambda a: a.reshape(a.shape[0], -1, substeps), action)


def losses_under(
    action: Action, world: World, params: Params, key: jax.Array, batch: ModelBatch, simulator: SimulatorConfig
) -> dict[str, Array]:
    """How far a World is from what happened when the ego drives actions [B, H, S], the batch's or others.

    Returns: sums over the batch's first H steps, float32[B]: `all` and `near`, distances of the others from the log
      [m], those of `NEAR_M` being near; `heads`, of Worlds with learned heads, their losses against the batch's
      outcomes.
    """
    steps = action.acceleration.shape[1]
    outcome, alive = jax.tree.map(lambda a: a[:, :steps], (batch.outcome, batch.alive))
    batch = batch.replace(action=action, outcome=outcome, alive=alive)
    boxes, predicted = drive_on(world, params, key, batch.scene, batch.start, action, simulator)
    distance, _ = displacement(Imagined(boxes, outcome, alive), batch)
    by_agent = distance.sum(-1)
    found = {"all": by_agent.sum(-1), "near": jnp.sum(by_agent * comes_near(batch, boxes.x.shape[-1]), -1)}
    return found | ({"heads": head_losses(predicted, batch)} if predicted else {})


def comes_near(batch: ModelBatch, substeps: int) -> Array:
    """Who comes near the ego in the log's next `substeps` steps: bool[B, A]."""
    log = log_window(batch.scene, batch.start, 0, substeps)
    row = batch.scene.ego[:, None, None]
    ego_x, ego_y, there = (jnp.take_along_axis(field, row, 1) for field in (log.x, log.y, log.valid))
    return jnp.any((jnp.hypot(log.x - ego_x, log.y - ego_y) < NEAR_M) & log.valid & there, -1)


def head_losses(predicted: dict[str, Array], batch: ModelBatch) -> Array:
    """Squared symlog error of the reward and cross-entropy of the events, summed over heads and steps: float32[B]."""
    truth = outcome_targets(batch)
    reward = jnp.square(symlog(predicted["reward"]) - symlog(truth["reward"])) / 2
    events = [name for name in truth if name != "reward"]
    said = {name: jnp.clip(predicted[name], SURE, 1 - SURE) for name in events}
    crosses = [-truth[name] * jnp.log(said[name]) - (1 - truth[name]) * jnp.log1p(-said[name]) for name in events]
    return jnp.sum(jnp.where(batch.alive, reward + sum(crosses), 0.0), -1)
