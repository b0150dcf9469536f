"""Counterfactual probes: moments of logs at which the right reaction of an agent to another ego is known by rule.

At each moment the World is rolled out twice with the same noise: the ego drives as logged, then otherwise. The rules
know how far some others get in the second rollout, compared with the first. An agent whose path the ego blocks must
fall behind and not drive into it. An agent that the ego does not concern must get as far. Rules look only at the log
and at the ego's two paths, never at a World's output, so that all Worlds face the same cases.
B batch, A agents, K sub-steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tether.data.geometry import to_frame, wrap_angle
from tether.data.scene import AgentType, Array, Scene
from tether.evaluation.world_models.counterfactual import by_step, drive_on, logged_plan, retimed
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import log_ego
from tether.simulator.geometry import Box, penetration
from tether.simulator.rollout import joined
from tether.simulator.world import Action, Agents, EgoState, Params, World
from tether.worldmodel.batch import log_window

SECONDS = 5.0  # of a rollout
BRAKING = {"brakes": -4.0, "eases": -2.0}  # m/s^2, of plans that leave the log, down to a standstill
SAME_M = 1.0  # distances travelled that differ by less than this are the same
INTO_M = 0.5  # boxes that overlap by less than this only touch
FOLLOWS_S, FOLLOWS_M = 2.0, 5.0  # the largest gap of a follower: of time, or, if slow, of space
FILE_M = 2.0  # an agent whose centre is this near to the ego's line is in file with it
FAR_M, FREE_M = 40.0, 25.0  # an agent that far behind the ego, and never nearer than the second, is not concerned
NEAR_M = 60.0  # agents farther ahead are not probed
STANDS_MPS, MOVES_MPS = 0.1, 1.0
STOOD_S = 1.0  # an ego that has stood for so long can be seen to stand
SAME_WAY, OTHER_WAY, CROSSING = 0.87, -0.9, 0.7  # cosines of the turn between headings: 30, 154 and 45 to 135 degrees
STRAIGHT_RAD = 0.2  # an agent that turns less than this goes straight
MARGIN_M = 1.0  # on all sides of the ego: an agent that stays out of it is clear of the ego


class Kind(NamedTuple):
    """A kind of probe: what the ego does and what the agent must do.

    Attributes:
      plan: of `plans`, what the ego does instead of its log.
      reacts: whether the agent must get less far than with the logged ego, and not into the ego; else it must get as
        far.
      may_gain: whether the agent may also get farther.
      about: description for the report's reader.
    """

    plan: str
    reacts: bool
    may_gain: bool
    about: str


KINDS = {
    "follower, ego brakes": Kind("brakes", True, False, "in its lane within 2 s; on its log it would hit the ego"),
    "follower, ego eases": Kind("eases", True, False, "the same, at -2 m/s^2"),
    "follower, ego stays": Kind("brakes", True, False, "the logged ego sets off or rolls on, this one stands"),
    "way blocked": Kind("brakes", True, False, "from elsewhere; on its log it would hit the ego, which stands for 1 s"),
    "far behind": Kind("brakes", False, False, "same direction, 40 m behind and never within 25 m"),
    "leader": Kind("brakes", False, False, "ahead in file, the ego brakes behind it"),
    "oncoming": Kind("brakes", False, False, "straight on, at least 1 m clear of the ego's ways"),
    "crossing": Kind("brakes", False, True, "its way crosses that of the logged ego; this one stops short of it"),
}


def plans(scene: Scene, start: Array, simulator: SimulatorConfig) -> dict[str, tuple[Action, EgoState]]:
    """`log` and those of `BRAKING`: actions and ways [B, K] of the ego from log step `start` [B] on."""
    logged = logged_plan(scene, start, round(SECONDS / simulator.dt), simulator)
    ego = log_ego(scene, start)
    return {"log": logged} | {name: retimed(ego, logged, value, simulator) for name, value in BRAKING.items()}


def box_of(boxes: EgoState | Agents, length: Array, width: Array, margin: float = 0.0) -> Box:
    """Boxes of a size [m], grown by a margin [m] on all sides."""
    size = (jnp.broadcast_to(side + 2 * margin, boxes.x.shape) for side in (length, width))
    return Box(boxes.x, boxes.y, boxes.heading, *size)


def overlap(ego: EgoState, agents: Agents, scene: Scene, margin: float = 0.0) -> Array:
    """How deep the agents' boxes [B, A, K] reach into the ego's [B, K] with a margin [m]; negative without contact."""
    ego = ego[:, None]
    others = box_of(agents, scene.length[..., None], scene.width[..., None])
    depth = penetration(box_of(ego, ego.length, ego.width, margin), others)
    other = jnp.arange(agents.x.shape[1]) != scene.ego[:, None]
    return jnp.where(agents.valid & other[..., None], depth, -jnp.inf)


def cases(
    scene: Scene, start: Array, ways: dict[str, tuple[Action, EgoState]], simulator: SimulatorConfig
) -> dict[str, Array]:
    """Kind to the agents that are its cases, bool[B, A]. Args: ways: as `plans` returns them."""
    log = log_window(scene, start, 0, ways["log"][1].x.shape[-1])
    now, after, ego = log[..., 0], log[..., 1:], log_ego(scene, start)[:, None]
    x, y = to_frame(now.x, now.y, ego.x, ego.y, ego.heading)
    speed, turn = now.speed, jnp.cos(now.heading - ego.heading)
    gap = jnp.abs(x) - (scene.length + ego.length) / 2
    whole = log.valid.all(-1)
    seen = whole & jnp.take_along_axis(whole, scene.ego[:, None], 1) & (jnp.arange(x.shape[1]) != scene.ego[:, None])
    vehicle = seen & (scene.agent_type == AgentType.VEHICLE)
    straight = jnp.abs(wrap_angle(after.heading - now.heading[..., None])).max(-1) < STRAIGHT_RAD
    moves, ego_moves = speed > MOVES_MPS, ego.speed > MOVES_MPS

    hits = {name: overlap(way, after, scene) > 0 for name, (_, way) in ways.items()}
    apart = overlap(ego, now[..., None], scene)[..., 0] < 0
    clear = apart & ~hits["log"].any(-1)  # a logged contact is an error of the log
    stood = jnp.cumsum(ways["brakes"][1].speed < STANDS_MPS, -1) * simulator.dt >= STOOD_S
    out = ~jnp.stack([overlap(way, after, scene, MARGIN_M) > 0 for _, way in ways.values()]).any((0, -1))

    stop = ways["brakes"][1][:, None]
    far = jnp.hypot(after.x - stop.x, after.y - stop.y).min(-1) > FREE_M

    same_way = vehicle & (turn > SAME_WAY)
    in_file = same_way & (jnp.abs(y) < FILE_M)
    follows = in_file & (x < 0) & (gap <= jnp.maximum(FOLLOWS_S * speed, FOLLOWS_M)) & clear
    blocked = vehicle & clear & (turn < SAME_WAY) & (hits["brakes"] & stood[:, None]).any(-1)
    short = ~(overlap(ways["brakes"][1], after, scene, MARGIN_M) > 0).any(-1)
    crosses = vehicle & clear & short & (jnp.abs(turn) < CROSSING) & crosses_way(scene, ways["log"][1], after)
    return {
        "follower, ego brakes": follows & hits["brakes"].any(-1) & ego_moves,
        "follower, ego eases": follows & hits["eases"].any(-1) & ego_moves,
        "follower, ego stays": follows & hits["brakes"].any(-1) & ~ego_moves,
        "way blocked": blocked,
        "far behind": same_way & (x < -FAR_M) & far & moves & straight,
        "leader": in_file & (x > 0) & (x < NEAR_M) & moves & straight & clear & ego_moves,
        "oncoming": vehicle & (turn < OTHER_WAY) & (x > 0) & (x < NEAR_M) & moves & straight & out & ego_moves,
        "crossing": crosses & moves & ego_moves,
    }


def crosses_way(scene: Scene, ego: EgoState, agents: Agents) -> Array:
    """Agents that pass a place where the ego is at any time: bool[B, A]. Args: ego [B, K]; agents [B, A, K]."""
    every = slice(None, None, 5)  # boxes are longer than 0.5 s of a junction's speeds
    here, there = ego[:, every], agents[..., every]

    def meets(moment: EgoState) -> Array:
        return jnp.any(overlap(moment[:, None], there, scene) > 0, -1)

    return jax.vmap(meets, 1)(here).any(0)


def pose(
    scene: Scene, start: Array, simulator: SimulatorConfig
) -> tuple[dict[str, tuple[Action, EgoState]], dict[str, Array]]:
    """The ego's `plans` and the `cases` among the others at log step `start` [B]."""
    ways = plans(scene, start, simulator)
    return ways, cases(scene, start, ways, simulator)


def ask(
    world: World, params: Params, key: jax.Array, scene: Scene, start: Array, simulator: SimulatorConfig
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Rolls out every plan in a World. key: key[B].

    Returns: two dicts by kind of bool[B, A]: the agent is a case; it is one and does what it must.
    """
    ways, case = pose(scene, start, simulator)
    rollouts = {
        name: joined(drive_on(world, params, key, scene, start, by_step(action, simulator.substeps), simulator).agents)
        for name, (action, _) in ways.items()
    }
    right = {
        name: case[name] & answers(kind, rollouts["log"], rollouts[kind.plan], ways[kind.plan][1], scene)
        for name, kind in KINDS.items()
    }
    return case, right


def answers(kind: Kind, with_log: Agents, other: Agents, way: EgoState, scene: Scene) -> Array:
    """Agents that do what a kind asks for: bool[B, A].

    Args: with_log, other: the boxes [B, A, K] of both rollouts.   way: the ego's in the other one, [B, K].
    """
    less = travelled(with_log) - travelled(other)
    into = (overlap(way, other, scene) > INTO_M).any(-1)
    as_far = (less < SAME_M) & (kind.may_gain | (less > -SAME_M))
    stays = with_log.valid.all(-1) & other.valid.all(-1)
    return stays & jnp.where(kind.reacts, (less > SAME_M) & ~into, as_far)


def travelled(agents: Agents) -> Array:
    """Distance travelled by the agents [m]: [..., K] -> [...]."""
    return jnp.hypot(jnp.diff(agents.x), jnp.diff(agents.y)).sum(-1)
