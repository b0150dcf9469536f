"""How good a world model is: measured by imagining held-out logs, the ego driving as it did there.

The same functions judge every World. B batch, H steps, S sub-steps, A agents.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.simulator.dynamics import log_ego
from tether.simulator.transition import replace_row
from tether.simulator.world import Action, Agents, Outcome, Params, State, World
from tether.worldmodel.batch import ModelBatch, log_window
from tether.worldmodel.window import ego_row

MOVED_M = 2.0  # an agent whose log stays within this of its first place is not moving


@flax.struct.dataclass
class Imagined:
    """A log as a World continues it.

    Attributes:
      agents: `Agents` [B, A, H * S].
      outcome: `Outcome` [B, H, ...].
      alive: bool[B, H], before the step.
    """

    agents: Agents
    outcome: Outcome
    alive: Array


def imagine_log(
    world: World,
    params: Params,
    key: jax.Array,
    batch: ModelBatch,
    between: Callable[[State], State] = lambda state: state,
) -> Imagined:
    """Repeats a batch's actions in a World.

    Args: key: key[B].   between: what is done to the state after each step, `on_log` or nothing.
    """
    state = world.reset(params, key, batch.scene, batch.start)
    substeps = batch.action.acceleration.shape[-1]

    def step(state: Any, inputs: tuple[Array, Action]) -> tuple[Any, tuple]:
        index, action = inputs
        keys = jax.vmap(jax.random.fold_in, (0, None))(key, index)
        following, outcome = world.step(params, keys, state.replace(scene=batch.scene), action)
        following = between(following.replace(scene=batch.scene))
        return following.replace(scene=()), (following.history[..., -substeps:], outcome, state.alive)

    actions = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), batch.action)
    inputs = (jnp.arange(batch.alive.shape[1]), actions)
    _, (boxes, outcome, alive) = jax.lax.scan(step, state.replace(scene=()), inputs)
    boxes = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 2).reshape(*a.shape[1:3], -1), boxes)
    return Imagined(boxes, *jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (outcome, alive)))


def on_log(state: State) -> State:
    """The state with the ego where its log has it, alive whatever happened: what becomes of the others alone counts.

    Without it a box that drifts into the ego's way would end the rollout, and what is most wrong would not be seen.
    """
    log = log_window(state.scene, state.time, state.history.x.shape[-1] - 1, 0)
    track = jax.tree.map(lambda field: ego_row(field, state.scene.ego, -2), log)
    history = replace_row(state.history, state.scene.ego, track)
    return state.replace(ego=log_ego(state.scene, state.time), history=history, alive=jnp.ones_like(state.alive))


def keep_moving(now: Agents, after: Agents, dt: float) -> Agents:
    """The boxes with those that are out of sight going on at the velocity at which they were last seen.

    Where a model takes an agent to be out of sight it says nothing of its place; a box that stood still from then on
    would be as wrong as nothing on a road ever is, and no box at all would hide errors.

    Args: now: `Agents` [..., 1], at the start; after: `Agents` [..., T], one every dt [s].
    Returns: `Agents` [..., T], seen where `after` is.
    """
    joined = now.then(after)
    steps = jnp.arange(joined.valid.shape[-1])
    last = jax.lax.cummax(jnp.where(joined.valid, steps, 0), axis=joined.valid.ndim - 1)
    seen = jax.tree.map(lambda a: jnp.take_along_axis(a, last, axis=-1)[..., 1:], joined)
    since = ((steps - last) * dt)[..., 1:]
    return seen.replace(x=seen.x + seen.vel_x * since, y=seen.y + seen.vel_y * since, valid=after.valid)


def displacement(imagined: Imagined, batch: ModelBatch, dt: float) -> tuple[Array, Array]:
    """Distance of the imagined others from the log [m], and where it counts. Each [B, A, H * S].

    Counted: agents other than the ego that are seen at the start and move, while the log sees them and the rollout is
    alive, also where the model takes them to be out of sight (`keep_moving`).   Args: dt: of a sub-step [s].
    """
    substeps = batch.action.acceleration.shape[-1]
    logged = log_window(batch.scene, batch.start, 0, imagined.agents.x.shape[-1])
    first, after = logged[..., :1], logged[..., 1:]
    moved = jnp.where(after.valid, jnp.hypot(after.x - first.x, after.y - first.y), 0.0).max(-1, keepdims=True)
    other = (jnp.arange(after.x.shape[1]) != batch.scene.ego[:, None])[..., None]
    alive = jnp.repeat(imagined.alive, substeps, axis=1)[:, None]
    counted = after.valid & first.valid & (moved > MOVED_M) & other & alive
    boxes = keep_moving(first, imagined.agents, dt)
    distance = jnp.hypot(boxes.x - after.x, boxes.y - after.y)
    return jnp.where(counted, distance, 0.0), counted
