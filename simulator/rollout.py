"""The only loop that drives a policy: imagination, grounding, evaluation and data collection."""

from typing import Any

import jax
import jax.numpy as jnp

from tether.data.geometry import rotate, wrap_angle
from tether.data.scene import Array, Scene, SceneSpec
from tether.simulator.dynamics import at_rear_axle
from tether.simulator.transition import HISTORY_STEPS
from tether.simulator.world import Agents, EgoState, Params, Policy, Rollout, State, World


def fold_in(keys: jax.Array, step: Array | int) -> jax.Array:
    """The keys key[B] of one step."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)


def substep_motion(state: State, after: State, substeps: int) -> tuple[EgoState, Agents]:
    """The ego [B, S] and all boxes [B, A, S] after each sub-step of the step that led to `after`, from its history."""
    if substeps >= HISTORY_STEPS:
        raise ValueError(f"{substeps} sub-steps per step: the history of {HISTORY_STEPS} log steps must be longer")

    def recent(field):
        held = jnp.broadcast_to(field[..., -1:], (*field.shape[:2], substeps + 1))
        return jnp.where(state.alive[:, None, None], field[..., -substeps - 1 :], held)

    with_start = jax.tree.map(recent, after.history)
    row = state.scene.ego[:, None, None]
    track = jax.tree.map(lambda field: jnp.take_along_axis(field, row, axis=1)[:, 0], with_start)
    return ego_motion(track, state.ego.length, state.ego.width), with_start[..., 1:]


def joined(fields: Any) -> Any:
    """The steps of a `Rollout` one after the other: fields [H, B, ..., S] as [B, ..., H * S]."""

    def join(field: Array) -> Array:
        moved = jnp.moveaxis(field, 0, -2)
        return moved.reshape(*moved.shape[:-2], -1)

    return jax.tree.map(join, fields)


def ego_motion(track: Agents, length: Array, width: Array) -> EgoState:
    """The motion [B, S] from tracks [B, S + 1]: on the rear axle's arc, turn and chord give the curvature exactly.

    Speed is the size of the velocity along the heading, also in reverse.
    """
    length, width = (jnp.broadcast_to(size[:, None], track.x.shape) for size in (length, width))
    speed = jnp.abs(rotate(track.vel_x, track.vel_y, -track.heading)[0])
    zero = jnp.zeros_like(speed)
    states = EgoState(track.x, track.y, track.heading, speed, zero, zero, length, width)
    axle, turn = at_rear_axle(states), wrap_angle(jnp.diff(track.heading))
    distance = jnp.hypot(jnp.diff(axle.x), jnp.diff(axle.y)) / jnp.sinc(turn / (2 * jnp.pi))
    return states[:, 1:].replace(
        acceleration=jnp.diff(speed) / SceneSpec.dt,
        curvature=jnp.where(distance > 1e-3, turn / jnp.maximum(distance, 1e-3), 0.0),
    )


def rollout(
    world: World,
    world_params: Params,
    policy: Policy,
    policy_params: Params,
    scene: Scene,
    horizon: int,
    key: jax.Array,
    world_key: jax.Array,
    start: Array | None = None,
) -> Rollout:
    """Drives `policy` in `world` for `horizon` steps.

    A row whose rollout is over stays where it is, with `alive` False, until the others are done. Every step draws from
    the row's own keys, folded with the step: a row's rollout does not depend on the batch around it, and rows with
    equal `world_key` share the World's noise (common random numbers within a group).
    Call it inside a jitted function: XLA removes whatever of the `Rollout` that function does not return, images
    included.

    Args:
      scene: `Scene` [B, ...].  horizon: H, static.
      key, world_key: key[B], the policy's and the World's.
      start: int32[B], log step to start from; the current step if None.
    Returns: `Rollout`, time-major.
    """
    if start is None:
        start = jnp.full(scene.ego.shape, SceneSpec.current, jnp.int32)
    first = world.reset(world_params, fold_in(world_key, 0), scene, start)

    def act(state, carry, step):
        observation = world.observe(world_params, state)
        action, carry, extras = policy.act(policy_params, fold_in(key, step), observation, carry)
        return observation, action, carry, extras

    def body(loop, step):
        # The scene stays out of the loop's carry: it is constant, and map tiles are large.
        state, carry = loop[0].replace(scene=scene), loop[1]
        observation, action, carry, extras = act(state, carry, step)
        after, outcome = world.step(world_params, fold_in(world_key, step + 1), state, action)
        swept, agents = substep_motion(state, after, action.acceleration.shape[-1])
        record = (observation, action, extras, outcome, state.alive, swept, agents, state.light_state)
        return (after.replace(scene=None), carry), record

    loop = (first.replace(scene=None), policy.reset(policy_params, scene))
    (last, carry), record = jax.lax.scan(body, loop, jnp.arange(horizon))
    final, _, _, final_extras = act(last.replace(scene=scene), carry, horizon)
    return Rollout(*record, final=final, final_extras=final_extras)
