"""The action space: a target acceleration and a target curvature for the end of the next 0.5 s.

A decision is a knot, float32[..., 2]: the acceleration a* [m/s^2] and the curvature kappa* as a fraction of what the
tyres allow at the current speed, kappa_max(v) = min(0.3, a_lat / v^2), so that the same numbers park a car and keep a
lane at 20 m/s. A linear ramp leads to it from the ego's current acceleration and curvature, so any sequence of
decisions is driven without jumps. The discrete head has bins of both numbers.

Labels come from the exact vehicle dynamics: every joint bin is driven for `horizon_s` and the one that ends nearest
the logged continuation wins (closest among all tokens; CAT-K, 2412.05334). It is evaluated over a longer time than it
is committed for, because the best 0.5 s alone overshoots every lateral correction.
"""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from tether.data.geometry import rotate, to_frame, wrap_angle
from tether.data.scene import Array, Scene
from tether.data.settings import setting
from tether.simulator.config import VehicleLimits
from tether.simulator.dynamics import advance, ego_track
from tether.simulator.world import Action, EgoState

REFINEMENTS = (0.5, 0.25, 0.125)  # strides of the search between bins


@dataclasses.dataclass(frozen=True)
class ActionSpace:
    """Bins, their decoding, and the weights of the distance to the log.

    Attributes:
      accelerations: bins of the acceleration at the end of a decision [m/s^2], rising, 0 included.
      curvatures: number of curvature bins, odd, so that straight ahead is one of them.
      finesse: exponent of the spacing of the curvature bins; above 1 they are finer near straight ahead.
      max_curvature: largest curvature of a decision at low speed [1/m].
      lateral_acceleration: lateral acceleration that bounds the curvature of a decision at higher speed [m/s^2].
      dt: length of a sub-step of an action [s]; the simulator's `dt` is the only value that works.
      commit: sub-steps that a decision is committed for; the simulator's `substeps` is the only value that works.
      horizon: sub-steps after which a decision is compared with the log, in addition to the end of the commit.
      along_m: longitudinal deviation from the log that counts as 1 [m].
      across_m: lateral deviation from the log that counts as 1 [m].
      heading_rad: deviation of the heading from the log that counts as 1 [rad].
      speed_mps: deviation of the speed from the log that counts as 1 [m/s].
      effort: cost of the largest curvature, and of 6 m/s^2, beside the deviations from the log; decides ties, as at
        standstill, where no curvature matters.
    """

    accelerations: tuple[float, ...] = setting(
        (-6.0, -4.5, -3.3, -2.4, -1.7, -1.1, -0.6, -0.25, 0.0, 0.25, 0.6, 1.0, 1.5, 2.2, 3.0),
        least=-math.inf,
    )
    curvatures: int = 29
    finesse: float = setting(2.0, above=0)
    max_curvature: float = setting(0.3, above=0)
    lateral_acceleration: float = setting(6.0, above=0)
    dt: float = setting(0.1, above=0)
    commit: int = 5
    horizon: int = 10
    along_m: float = setting(0.5, above=0)
    across_m: float = setting(0.25, above=0)
    heading_rad: float = setting(0.1, above=0)
    speed_mps: float = setting(0.9, above=0)
    effort: float = 0.02

    def __post_init__(self):
        if self.curvatures % 2 == 0 or 0.0 not in self.accelerations:
            raise ValueError(
                "curvatures must be odd and accelerations must hold 0.0, so that coasting straight is exact"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(NA, NK), the joint table of bins."""
        return len(self.accelerations), self.curvatures

    def acceleration_bins(self) -> Array:
        """float32[NA], [m/s^2]."""
        return jnp.asarray(self.accelerations, jnp.float32)

    def curvature_fractions(self) -> Array:
        """float32[NK] in [-1, 1], fractions of kappa_max; the middle one is 0 exactly, however it is compiled."""
        half = self.curvatures // 2
        even = np.arange(-half, half + 1) / half
        return jnp.asarray(np.sign(even) * np.abs(even) ** self.finesse, jnp.float32)

    def max_curvature_at(self, speed: Array) -> Array:
        """kappa_max(v) = min(max_curvature, a_lat / v^2) [1/m]."""
        return jnp.minimum(self.max_curvature, self.lateral_acceleration / jnp.maximum(speed, 1e-3) ** 2)


@flax.struct.dataclass
class Waypoints:
    """Targets of the ego after each of N sub-steps; float32[..., N], bool valid[..., N], in the scene's frame."""

    x: Array
    y: Array
    heading: Array
    speed: Array
    valid: Array


def ramp(now: Array, target: Array, count: int, commit: int) -> Array:
    """Values after each of `count` sub-steps: linear over the first `commit`, then held. [...] -> [..., count]."""
    fraction = jnp.minimum(jnp.arange(1, count + 1) / commit, 1.0)
    return now[..., None] + (target - now)[..., None] * fraction


def knot_of(space: ActionSpace, tokens: Array) -> Array:
    """The knot float32[..., 2] of action tokens int32[..., 2], acceleration bin and curvature bin."""
    return jnp.stack([space.acceleration_bins()[tokens[..., 0]], space.curvature_fractions()[tokens[..., 1]]], -1)


def reach(space: ActionSpace, knot: Array, speed: Array) -> tuple[Array, Array]:
    """(a*, kappa*) of a knot float32[..., 2] at a speed [...]."""
    return knot[..., 0], knot[..., 1] * space.max_curvature_at(speed)


def drive_to(space: ActionSpace, knot: Array, ego: Array, substeps: int) -> Action:
    """The sub-step action that reaches a knot.

    Args: knot: float32[..., 2]; ego: float32[..., 4] as in `Observation`.
    Returns: `Action` [..., substeps]; sub-steps past the commit hold the target.
    """
    acceleration, curvature = reach(space, knot, ego[..., 0])
    return Action(
        acceleration=ramp(ego[..., 1], acceleration, substeps, space.commit),
        curvature=ramp(ego[..., 2], curvature, substeps, space.commit),
    )


def dithered(space: ActionSpace, knot: Array, key: jax.Array) -> Array:
    """Action tokens of a wanted knot, rounded up or down at random so that the bins' mean is what was wanted.

    A policy that learns from many such tokens learns the decision itself, not its nearest bin. A knot that is a joint
    bin keeps its tokens, whatever the key.

    Args: knot: float32[B, 2]; beyond the outermost bins these are taken.   key: key[B].
    Returns: int32[B, 2].
    """
    uniforms = jax.vmap(lambda k: jax.random.uniform(k, (2,)))(key)
    bins = (space.acceleration_bins(), space.curvature_fractions())
    return jnp.stack([_rounded(bins[i], knot[:, i], uniforms[:, i]) for i in range(2)], axis=-1)


def _rounded(bins: Array, value: Array, uniforms: Array) -> Array:
    """The bin below or above each value [B], the one above with the fraction of the way to it as probability."""
    below = jnp.clip(jnp.searchsorted(bins, value, side="right") - 1, 0, bins.size - 2)
    fraction = (value - bins[below]) / (bins[below + 1] - bins[below])
    return (below + (uniforms < fraction)).astype(jnp.int32)


def extend(space: ActionSpace, committed: Action, ego: Array, later: Array) -> Action:
    """A committed action followed by later knots: linear between them.

    Args: committed: [B, S]; ego: float32[B, 4]; later: float32[B, knots, 2].
    Returns: `Action` [B, S * (knots + 1) - 1]: 64 sub-steps for S = 5 and 12 knots.
    """
    step = committed.acceleration.shape[-1]
    count = step * (later.shape[1] + 1) - 1
    acceleration = jnp.concatenate([committed.acceleration[:, -1:], later[..., 0]], axis=1)
    speed_then = ego[:, :1] + jnp.sum(committed.acceleration, -1, keepdims=True) * space.dt
    fraction = jnp.concatenate(
        [committed.curvature[:, -1:] / space.max_curvature_at(speed_then), later[..., 1]], axis=1
    )
    times = jnp.arange(1, count - step + 1) / step
    between = jax.vmap(lambda knots: jnp.interp(times, jnp.arange(knots.shape[0]), knots))
    later_acceleration = between(acceleration)
    speed = jnp.maximum(speed_then + jnp.cumsum(later_acceleration, axis=1) * space.dt, 0.0)
    return Action(
        acceleration=jnp.concatenate([committed.acceleration, later_acceleration], axis=1),
        curvature=jnp.concatenate([committed.curvature, between(fraction) * space.max_curvature_at(speed)], axis=1),
    )


def logged_waypoints(scene: Scene, time: Array, count: int) -> Waypoints:
    """The ego's log at steps time + 1 .. time + count; invalid past the log's end. scene [B], time: int32[B]."""

    steps = time[:, None] + jnp.arange(1, count + 1)

    def track(name: str) -> Array:
        values = ego_track(scene, name)
        return jnp.take_along_axis(values, jnp.minimum(steps, values.shape[1] - 1), axis=1)

    speed, _ = rotate(track("vel_x"), track("vel_y"), -track("heading"))
    valid = track("valid") & (steps < scene.valid.shape[-1])
    return Waypoints(track("x"), track("y"), track("heading"), jnp.maximum(speed, 0.0), valid)


def _distance(space: ActionSpace, swept: EgoState, waypoints: Waypoints) -> Array:
    """Mean over valid waypoints of the weighted squared distance; [..., N] -> [...]."""
    along, across = to_frame(swept.x, swept.y, waypoints.x, waypoints.y, waypoints.heading)
    terms = (
        along / space.along_m,
        across / space.across_m,
        wrap_angle(swept.heading - waypoints.heading) / space.heading_rad,
        (swept.speed - waypoints.speed) / space.speed_mps,
    )
    squared = jnp.where(waypoints.valid, sum(term**2 for term in terms), 0.0)
    return squared.sum(-1) / jnp.maximum(waypoints.valid.sum(-1), 1)


def deviation(space: ActionSpace, knots: Array, ego: EgoState, waypoints: Waypoints, limits: VehicleLimits) -> Array:
    """The deviation of each of some knots from the waypoints.

    Args:
      knots: float32[B, K, 2].   ego: `EgoState` [B].
      waypoints: `Waypoints` [B, horizon], e.g. from `logged_waypoints`.
    Returns: float32[B, K], dimensionless: 1 is one unit of deviation (`ActionSpace`) in one quantity.
    """
    motion = jnp.stack([ego.speed, ego.acceleration, ego.curvature], -1)
    ends = jnp.array([space.commit - 1, space.horizon - 1])

    def of_scene(knots: Array, ego: EgoState, motion: Array, waypoints: Waypoints) -> Array:
        count = knots.shape[0]
        action = drive_to(space, knots, jnp.broadcast_to(motion, (count, 3)), space.horizon)
        start = jax.tree.map(lambda field: jnp.broadcast_to(field, count), ego)
        swept = advance(start, action, limits, space.dt)
        return _distance(space, *(jax.tree.map(lambda v: v[..., ends], each) for each in (swept, waypoints)))

    effort = (knots[..., 0] / 6.0) ** 2 + knots[..., 1] ** 2
    return jax.vmap(of_scene)(knots, ego, motion, waypoints) + space.effort * effort


def encode_towards(space: ActionSpace, ego: EgoState, waypoints: Waypoints, limits: VehicleLimits) -> Array:
    """The action tokens that end nearest the waypoints: the imitation label, from logged and perturbed states alike.

    Args: ego: `EgoState` [B]; waypoints: `Waypoints` [B, horizon].
    Returns: int32[B, 2]; coasting straight where no waypoint is valid.
    """
    bins = jnp.stack(jnp.meshgrid(*(jnp.arange(n) for n in space.shape), indexing="ij"), -1).reshape(-1, 2)
    knots = jnp.broadcast_to(knot_of(space, bins), (*ego.speed.shape, *bins.shape))
    return bins[jnp.argmin(deviation(space, knots, ego, waypoints, limits), axis=-1)].astype(jnp.int32)


def knot_towards(space: ActionSpace, ego: EgoState, waypoints: Waypoints, limits: VehicleLimits) -> Array:
    """The knot that ends nearest the waypoints, to an eighth of a bin: the label of a head that has no bins.

    Args and tie-breaks as `encode_towards`. Returns: float32[B, 2].
    """
    place = encode_towards(space, ego, waypoints, limits).astype(jnp.float32)
    around = jnp.stack(jnp.meshgrid(*[jnp.arange(-1.0, 2.0)] * 2, indexing="ij"), -1).reshape(-1, 2)
    for stride in REFINEMENTS:
        places = jnp.clip(place[:, None] + stride * around, 0, jnp.array(space.shape) - 1)
        distance = deviation(space, _between(space, places), ego, waypoints, limits)
        place = jnp.take_along_axis(places, jnp.argmin(distance, axis=1)[:, None, None], axis=1)[:, 0]
    return _between(space, place)


def _between(space: ActionSpace, place: Array) -> Array:
    """The knot at fractional bins float32[..., 2]."""
    bins = (space.acceleration_bins(), space.curvature_fractions())
    return jnp.stack([jnp.interp(place[..., i], jnp.arange(bins[i].size), bins[i]) for i in range(2)], axis=-1)
