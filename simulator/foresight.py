"""Extrapolates the ego as other road users expect it to move: at constant speed and turn, or braking on to a stop."""

import jax
import jax.numpy as jnp

from tether.data.geometry import rotate, wrap_angle
from tether.data.scene import Array, SceneSpec
from tether.simulator.config import VehicleLimits
from tether.simulator.corridor import Boxes
from tether.simulator.dynamics import move, velocity
from tether.simulator.transition import HISTORY_STEPS
from tether.simulator.world import Agents, EgoState

SEEN_STEPS = 3  # log steps over which others observe a turn
LEAST_WAY_M = 0.5  # others observe a turn only over some distance


def seen(track: Agents, length: Array, width: Array) -> EgoState:
    """The ego [S] as others observe it before each of S sub-steps, from its track [K + S], which includes them.

    Others observe motion, not the action. Braking is the change of speed over the last step, as brake lights show it;
    the curvature is the turn over the last few steps. An acceleration is not extrapolated.
    """
    present = slice(HISTORY_STEPS - 1, -1)
    past = slice(HISTORY_STEPS - 1 - SEEN_STEPS, -1 - SEEN_STEPS)
    just_before = slice(HISTORY_STEPS - 2, -2)
    speed = jnp.abs(rotate(track.vel_x, track.vel_y, -track.heading)[0])
    way = (speed[present] + speed[past]) / 2 * SEEN_STEPS * SceneSpec.dt
    braking = jnp.minimum(speed[present] - speed[just_before], 0.0) / SceneSpec.dt
    turn = wrap_angle(track.heading[present] - track.heading[past])
    return EgoState(
        x=track.x[present],
        y=track.y[present],
        heading=track.heading[present],
        speed=speed[present],
        acceleration=jnp.where(track.valid[just_before], braking, 0.0),
        curvature=jnp.where(track.valid[past] & (way > LEAST_WAY_M), turn / jnp.maximum(way, LEAST_WAY_M), 0.0),
        length=jnp.full_like(way, length),
        width=jnp.full_like(way, width),
    )


def extrapolate(track: Agents, length: Array, width: Array, in_s: Array, limits: VehicleLimits) -> Boxes:
    """The ego [S, P], extrapolated from the start of each sub-step to times `in_s` [P] after it.

    Args: track: fields [K + S], the ego at the steps of the history and after each sub-step.  length, width: scalars.
    """
    ego = seen(track, length, width)
    ego = jax.tree.map(lambda field: jnp.broadcast_to(field[:, None], (len(field), len(in_s))), ego)
    ego = move(ego, ego.acceleration, ego.curvature, limits, in_s)
    vel_x, vel_y = velocity(ego)
    return Boxes(
        x=ego.x,
        y=ego.y,
        heading=ego.heading,
        vel_x=vel_x,
        vel_y=vel_y,
        length=ego.length,
        width=ego.width,
        in_s=jnp.broadcast_to(in_s, ego.x.shape),
        visible=jnp.broadcast_to(track.valid[HISTORY_STEPS - 1 : -1, None], ego.x.shape),
    )
