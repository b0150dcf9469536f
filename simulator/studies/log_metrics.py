"""Divergence of a rollout from its log, and kinematic infeasibility. One value per agent and step.

Both work on any track with fields [..., K]: all agents of a scene, or the ego alone (`transition.ego_track_of`). A
value counts only where it is valid.

Waymax's off-route is missing: a `Scene` has the one route that the ego is to follow, and `Outcome.corridor` already
measures the departure from it.
"""

import jax.numpy as jnp

from tether.data.geometry import wrap_angle
from tether.data.scene import Array
from tether.simulator.studies.config import KinematicBounds
from tether.simulator.world import Agents


def log_divergence(track: Agents, log: Agents) -> tuple[Array, Array]:
    """Distance between the driven and the logged box centre [m] (Waymax's log divergence).

    Both tracks cover the same steps. Returns: float32[..., K], 0 where not valid, and bool[..., K], valid where the
    agent is in both tracks.
    """
    valid = track.valid & log.valid
    return jnp.where(valid, jnp.hypot(track.x - log.x, track.y - log.y), 0.0), valid


def kinematic_infeasibility(track: Agents, dt: float, bounds: KinematicBounds) -> tuple[Array, Array]:
    """Whether each step takes more acceleration or curvature than the bounds allow (Waymax's kinematic infeasibility).

    The unclipped inverse of a step: acceleration is the change of speed over `dt`, curvature the turn over the way at
    the mean speed. Three differences from Waymax:
    - Both headings are the box's. Waymax takes the velocity's direction after the step, which reads side-slip as
      curvature.
    - Speed is the velocity along the heading, negative in reverse, so that passing through standstill is no jump.
    - The turn is compared with the curvature's bound times the way, so that nothing is divided by a small way.
    As in Waymax, a turn does not count below `standing_speed` at either end, and positions are not read: a jump shows
    in the log divergence. The motion is that of a vehicle: the result means little for a pedestrian.

    Returns: bool[..., K - 1], of the step that leads to each box but the first, False where not valid, and
      bool[..., K - 1], valid where the agent is there before and after it.
    """
    valid = track.valid[..., 1:] & track.valid[..., :-1]
    speed = track.vel_x * jnp.cos(track.heading) + track.vel_y * jnp.sin(track.heading)
    before, after = speed[..., :-1], speed[..., 1:]
    turn = wrap_angle(jnp.diff(track.heading, axis=-1))
    way = jnp.abs(before + after) / 2 * dt
    too_hard = jnp.abs(after - before) > (bounds.acceleration + bounds.slack) * dt
    moves = jnp.minimum(jnp.abs(before), jnp.abs(after)) >= bounds.standing_speed
    too_tight = moves & (jnp.abs(turn) > (bounds.curvature + bounds.slack) * way)
    return valid & (too_hard | too_tight), valid
