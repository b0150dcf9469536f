"""Chains of causation: the policy's reasoning about its decision, labelled by rules and scored by rules.

A reasoning is four tokens: a longitudinal decision, a lateral decision, the cause, and the distance to the cause. The
labels look only at the `Observation` (the observed past) and at the decision (a*, kappa*) itself, never at what
happened next, so the inputs of the policy determine every label. All labels are traced by JAX.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.scene import Array, Observation
from tether.data.settings import setting
from tether.data.text import (
    CAUSES,
    DISTANCES,
    DISTANCES_M,
    LATERAL,
    LONGITUDINAL,
    PLACELESS,
    TOKEN_ID,
    VOCABULARY,
    compose,
)
from tether.policy.hazards import CAUSE, FollowerConfig, Hazards, curvature_ahead, hazards, path_of
from tether.simulator.dynamics import along_arc
from tether.simulator.observe import ego_of
from tether.simulator.route import walk
from tether.simulator.world import Action

SLOTS = (LONGITUDINAL, LATERAL, CAUSES, DISTANCES)

GIVEN_WAY = ("crossing vehicle", "pedestrian", "cyclist")
TRAFFIC = ("lead vehicle", *GIVEN_WAY, "red light", "yellow light")
LEAST_PREVIEW_M, MOST_PREVIEW_M = 3.0, 25.0
BEND_AT_M = (2.0, 6.0, 10.0)  # ahead of the ego, where the route's curvature is averaged
UNHINDERED = 0.95  # fraction of the follower's acceleration; a cause that allows at least this much does not limit

# Range of the acceleration in which a longitudinal decision is true, in units of `LabelConfig.steady`.
HONEST_ACCELERATION = {
    "stop": (-np.inf, -0.75),
    "wait": (-np.inf, 0.75),
    "yield": (-np.inf, 0.0),
    "slow down": (-np.inf, -0.5),
    "keep distance": (-3.0, 2.0),
    "keep speed": (-1.5, 1.5),
    "speed up": (0.5, np.inf),
}
# The sign that a lateral decision promises: of the curvature, or 0 for nearly straight.
HONEST_SIDE = {
    "keep lane": 0,
    "steer left": 1,
    "steer right": -1,
    "change lane left": 1,
    "change lane right": -1,
    "nudge left": 1,
    "nudge right": -1,
}


@dataclasses.dataclass(frozen=True)
class LabelConfig:
    """Thresholds of the labelling rules.

    Attributes:
      follower: car follower whose allowed accelerations rank the causes of a decision.
      standing_mps: speed below which the ego is standing [m/s].
      steady: absolute acceleration below which a decision keeps the speed [m/s^2].
      binding: a cause matters when it allows less acceleration than this [m/s^2].
      follow_m: traffic and lights nearer than this plus `follow_s` times the speed matter in any case [m]; farther ones
        matter only to an ego that brakes.
      follow_s: time of driving by which the distance `follow_m` grows with the speed [s].
      ignored_excess: acceleration beyond what a curve or a crossing vehicle allows, from which on an ego that does not
        brake ignores it [m/s^2].
      stop_s: braking that reaches standstill within this time is called a stop [s].
      turn_curvature: least absolute curvature of a turn at a junction [1/m].
      bend_curvature: least absolute curvature of a bend worth naming [1/m].
      turn_rad: least change of heading within the preview that is a turn [rad]; at a crawl the curvature alone is
        noise.
      preview_s: time for which a decision is held to see where it leads [s].
      lane_change_m: least lateral shift towards the route that is a lane change [m].
      nudge_m: least lateral shift towards the route that is a nudge [m].
    """

    follower: FollowerConfig = setting(FollowerConfig())
    standing_mps: float = 0.4
    steady: float = 0.4
    binding: float = 1.0
    follow_m: float = 10.0
    follow_s: float = 3.0
    ignored_excess: float = 1.0
    stop_s: float = 2.5
    turn_curvature: float = 0.03
    bend_curvature: float = 0.003
    turn_rad: float = 0.15
    preview_s: float = 1.5
    lane_change_m: float = 1.5
    nudge_m: float = 0.5


def _token(phrase: str) -> int:
    return TOKEN_ID[phrase]


def slot_masks() -> np.ndarray:
    """bool[4, V]: the closed set of each reasoning slot."""
    return np.stack([np.isin(VOCABULARY, slot) for slot in SLOTS])


def preview(config: LabelConfig, speed: Array) -> Array:
    """Distance over which a decision is extrapolated [m]."""
    return jnp.clip(speed * config.preview_s, LEAST_PREVIEW_M, MOST_PREVIEW_M)


def turns(config: LabelConfig, speed: Array, curvature: Array) -> Array:
    """Whether a curvature is a turn; a standing ego never turns, wherever its wheels point."""
    sharp = jnp.abs(curvature) > config.turn_curvature
    moving = speed > config.standing_mps
    return moving & sharp & (jnp.abs(curvature) * preview(config, speed) > config.turn_rad)


def _lateral(config: LabelConfig, o: Observation, curvature: Array) -> Array:
    """Lateral decision of one scene: where holding kappa* for a moment leads, relative to the route."""
    path = path_of(o)
    here = ego_of(o.replace(pose=jnp.zeros(3)))
    there = along_arc(here, curvature, preview(config, o.ego[0]))
    _, offset = walk(path.route, o.route_s, jnp.stack([here.x, there.x]), jnp.stack([here.y, there.y]))
    shift = offset[0] - o.route_offset
    bend = jnp.mean(curvature_ahead(path, o.route_s + jnp.array(BEND_AT_M)))
    moving = o.ego[0] > config.standing_mps
    # In a bend, or with the heading off, the route comes nearer on a side to which the ego does not steer.
    steered = jnp.sign(shift) * curvature > -config.bend_curvature
    returning = shift * o.route_offset < 0
    rules = [  # in order of precedence: condition, phrase on the left, phrase on the right, side
        (turns(config, o.ego[0], curvature), "steer", curvature),
        (steered & returning & (jnp.abs(o.route_offset) > config.lane_change_m), "change lane", shift),
        (moving & (curvature * bend > config.bend_curvature**2) & (jnp.abs(bend) > config.bend_curvature), "", bend),
        (steered & moving & (jnp.abs(shift) > config.nudge_m), "nudge", shift),
    ]
    token = jnp.asarray(_token("keep lane"))
    for condition, phrase, side in reversed(rules):
        sides = (f"{phrase} left", f"{phrase} right") if phrase else ("follow the curve", "follow the curve")
        token = jnp.where(condition, jnp.where(side > 0, _token(sides[0]), _token(sides[1])), token)
    return token


def _binding(config: LabelConfig, o: Observation, limits: Hazards, acceleration: Array) -> tuple[Array, Array]:
    """The cause that allows the least acceleration among those that explain the decision, and whether there is one."""
    speed, limit = o.ego[0], o.ego[3]
    stops = speed + jnp.minimum(acceleration, 0.0) * config.stop_s < config.standing_mps
    braking = acceleration <= -config.steady
    ignored = ~braking & (acceleration - limits.acceleration > config.ignored_excess)
    meant = among(*TRAFFIC) & ~(among("crossing vehicle") & ignored)
    meant |= among("curve") & ~stops & ~ignored
    meant |= among("speed limit") & ~stops & (limit > 0)
    traffic = among(*TRAFFIC)
    near = traffic & (limits.distance < config.follow_m + config.follow_s * speed)
    near &= limits.acceleration < UNHINDERED * config.follower.acceleration
    matters = near | ((braking | ~traffic) & (limits.acceleration < config.binding))
    # Only a leading vehicle that moves on is a cause to speed up.
    matters &= (acceleration < config.steady) | (near & among("lead vehicle"))
    allowed = jnp.where(meant & matters, limits.acceleration, jnp.inf)
    return jnp.argmin(allowed), jnp.isfinite(jnp.min(allowed))


def among(*causes: str) -> Array:
    """bool[C], True for these causes."""
    return jnp.isin(jnp.arange(len(CAUSES)), jnp.array([CAUSE[cause] for cause in causes]))


def _longitudinal(config: LabelConfig, speed: Array, acceleration: Array, cause: Array, binds: Array) -> Array:
    """Longitudinal decision of one scene."""
    lights, people_and_crossers = among("red light", "yellow light")[cause], among(*GIVEN_WAY)[cause]
    braking = acceleration <= -config.steady
    rules = [  # in order of precedence
        ((speed < config.standing_mps) & (acceleration < config.steady), "wait"),
        (braking & binds & lights, "stop"),
        (braking & binds & people_and_crossers, "yield"),
        (braking & (speed + acceleration * config.stop_s < 0), "stop"),
        (braking, "slow down"),
        (acceleration >= config.steady, "speed up"),
        (binds & (cause == CAUSE["lead vehicle"]), "keep distance"),
    ]
    token = jnp.asarray(_token("keep speed"))
    for condition, phrase in reversed(rules):
        token = jnp.where(condition, _token(phrase), token)
    return token


def _unbound(longitudinal: Array, lateral: Array) -> Array:
    """The cause where nothing ahead is one: turning off, a reason that cannot be seen, or none."""
    turns = jnp.isin(lateral, jnp.array([_token(p) for p in LATERAL if p.startswith(("steer", "change"))]))
    halts, slows = (
        jnp.isin(longitudinal, jnp.array([_token(p) for p in ps])) for ps in (("stop", "wait"), ("slow down",))
    )
    otherwise = jnp.where(halts | slows, CAUSE["unseen cause"], CAUSE["free road"])
    return jnp.where(turns & ~halts, CAUSE["route"], otherwise)


def _label(config: LabelConfig, o: Observation, limits: Hazards, acceleration: Array, curvature: Array) -> Array:
    cause, binds = _binding(config, o, limits, acceleration)
    lateral = _lateral(config, o, curvature)
    longitudinal = _longitudinal(config, o.ego[0], acceleration, cause, binds)
    cause = jnp.where(binds, cause, _unbound(longitudinal, lateral))
    distance = jnp.argmin(jnp.abs(jnp.array(DISTANCES_M) - limits.distance[cause]))
    bucket = jnp.where(among(*PLACELESS)[cause], 0, distance)
    names = jnp.array([_token(c) for c in CAUSES]), jnp.array([_token(d) for d in DISTANCES])
    return jnp.stack([longitudinal, lateral, names[0][cause], names[1][bucket]]).astype(jnp.int32)


def label(config: LabelConfig, observation: Observation, acceleration: Array, curvature: Array) -> Array:
    """The reasoning behind a decision.

    Args: observation: [B, ...]; acceleration a*, curvature kappa*: float32[B].
    Returns: int32[B, 4], token ids of `data.text.VOCABULARY`.
    """
    speed, limit = observation.ego[:, 0], observation.ego[:, 3]
    # Without a known limit no speed is too high: the follower's default would be a cause for every ego on a motorway.
    pace = jnp.where(limit > 0, limit, jnp.maximum(speed, config.follower.default_speed_mps))
    limits = hazards(config.follower, observation.replace(ego=observation.ego.at[:, 3].set(pace)))
    return jax.vmap(lambda *row: _label(config, *row))(observation, limits, acceleration, curvature)


def sentence(tokens: np.ndarray) -> str:
    """The sentence of four reasoning tokens (host side). Raises: ValueError for a token outside of its slot."""
    phrases = [VOCABULARY[int(token)] for token in np.asarray(tokens)[: len(SLOTS)]]
    for phrase, slot in zip(phrases, SLOTS, strict=True):
        if phrase not in slot:
            raise ValueError(f"expected one of {slot}, found {phrase!r}")
    return compose(*phrases)


def consistency(config: LabelConfig, tokens: Array, action: Action, speed: Array) -> Array:
    """Agreement of reasoning and action.

    Half of the score is for an acceleration at the end of the step within the range that the longitudinal decision
    promises, half for a curvature on the promised side. Whether the cause is real does not count.

    Args:
      config: thresholds of the policy's labels.
      tokens: int32[..., 4 or more], reasoning first.   action: [..., S].   speed: float32[...], at the decision.
    Returns: float32[...] in [0, 1].
    """
    low, high, side = np.full((3, len(VOCABULARY)), np.nan, np.float32)
    for phrase, bounds in HONEST_ACCELERATION.items():
        low[_token(phrase)], high[_token(phrase)] = np.array(bounds) * config.steady
    for phrase, sign in HONEST_SIDE.items():
        side[_token(phrase)] = sign
    acceleration, curvature = action.acceleration[..., -1], action.curvature[..., -1]
    longitudinal, promised = tokens[..., 0], jnp.asarray(side)[tokens[..., 1]]
    kept = (jnp.asarray(low)[longitudinal] <= acceleration) & (acceleration <= jnp.asarray(high)[longitudinal])
    straight = ~turns(config, speed, curvature)
    sided = jnp.where(promised == 0, straight, promised * curvature > -config.bend_curvature)
    follows = jnp.isnan(promised)  # `follow the curve` promises either side
    return 0.5 * kept + 0.5 * (sided | follows)
