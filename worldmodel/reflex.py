"""A rule that bounds the acceleration of imagined agents, so that they brake for what stands in their way.

Logs hold little hard braking, and none that answers an ego that does what it never did. A model of logs is therefore
nearly always right when an agent keeps its acceleration, and its agents drive through an ego that stops. The rule: an
agent accelerates at most as a car follower (IDM) would that keeps a shorter headway than logged drivers. Nothing is
learned.
"""

import jax.numpy as jnp

from tether.data.geometry import rotate, to_frame
from tether.data.scene import Array, Scene
from tether.simulator.car_following import CarFollowing, idm
from tether.simulator.world import Agents
from tether.worldmodel.motion import Motion

FOLLOWING = CarFollowing(headway_s=0.5, gap_m=1.5)  # closer than logged drivers follow
AHEAD_M = 60.0
GRAZE_M = 0.3  # boxes that would overlap by less than this pass each other, as cyclists do
BEND_SPEED = 2.0  # m/s; the turns of slower agents are noise


def reflex(now: Agents, scene: Scene, motion: Motion) -> Array:
    """The highest acceleration that the boxes in its way allow each agent [m/s^2]; inf where none requires braking.

    A box ahead is in the way if the agent would reach it both going straight on and keeping its present turn.

    Args: of one scene, [A]. Returns: float32[A].
    """
    frame = now.x[:, None], now.y[:, None], now.heading[:, None]
    x, y = to_frame(now.x, now.y, *frame)
    cos, sin = (jnp.abs(part) for part in (jnp.cos(now.heading - frame[2]), jnp.sin(now.heading - frame[2])))
    bend = motion.turn_rate / jnp.maximum(motion.speed, BEND_SPEED)
    # Both ways count, because a turn that is extrapolated for long leads into cars beside the road.
    aside = jnp.maximum(jnp.abs(y), jnp.abs(y - bend[:, None] * jnp.square(x) / 2))
    reach = (scene.width[:, None] + cos * scene.width + sin * scene.length) / 2
    gap = x - (scene.length[:, None] + cos * scene.length + sin * scene.width) / 2
    other = now.valid & ~jnp.eye(*x.shape, dtype=bool)
    in_way = other & (x > 0) & (aside < reach - GRAZE_M) & (gap < AHEAD_M)
    lead_speed, _ = rotate(now.vel_x, now.vel_y, -frame[2])
    left = idm(FOLLOWING, motion.speed[:, None], jnp.inf, gap, jnp.maximum(lead_speed, 0.0))
    allowed = jnp.where(in_way & (left < 0), left, jnp.inf)
    return jnp.min(allowed, -1)
