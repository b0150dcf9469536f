"""The smoothing inverse of a log: limited actions that keep within centimetres of the logged track.

Differences of a log's poses (`exact_inverse`) copy its noise: they jump, exceed the limits and drift away when
driven. Here the smoothest actions are searched for, by Tikhonov regularisation as in Alpamayo's action space, subject
to the vehicle's limits and to a tube around the logged positions, so that 8 s driven open loop still end in the tube:

  minimise  sum_t |u_t - u_(t-1)|^2 / change^2 + |p_t - log p_t|^2 / position^2 + (h_t - log h_t)^2 / heading^2
  subject to  |p_t - log p_t| <= tube,  u_t within the limits,  p_t and h_t centre and heading of the box as driven.

Sequential quadratic programming: linearise the motion, solve by ADMM (`tracking.py`), drive the plan through the
simulator's own dynamics with the limits and the regulator's feedback, and linearise anew around the resulting motion.
Where no motion within the limits can stay in the tube (logs jump), the result keeps to the limits and leaves the tube.

N steps.
"""

import jax
import jax.numpy as jnp

from tether.data.geometry import rotate, wrap_angle
from tether.data.scene import Array, Scene, SceneSpec
from tether.simulator.config import SimulatorConfig, VehicleLimits
from tether.simulator.dynamics import ego_track, last_valid_step, limited, log_ego, move, rear_axle
from tether.simulator.studies.config import SmoothingConfig
from tether.simulator.studies.exact_inverse import inverse
from tether.simulator.studies.tracking import Plan, Problem, Split, Weights, linearise, solve
from tether.simulator.world import Action, EgoState

START_CHANGE = 10.0  # the first action may differ from the log's by the change of this many steps: it is hardly weighed


def smooth_log_actions(
    scene: Scene, start: Array, substeps: int, config: SimulatorConfig, settings: SmoothingConfig
) -> tuple[EgoState, Action]:
    """Actions that lead the ego along its log, by the smoothing inverse.

    Steps beyond the ego's last valid one are free. The ego may stand.

    Args:
      scene: [B, ...].  start: int32[B], log step.  substeps: N.
    Returns: the ego [B] at the start, `log_ego` but for heading and speed, which may differ within their noise; and
      `Action` with fields [B, N], within the limits at the speeds driven. `dynamics.advance` drives them.
    """
    steps = start[:, None] + jnp.arange(substeps + 1)
    in_log = jnp.minimum(steps, scene.x.shape[-1] - 1)
    valid = jnp.take_along_axis(ego_track(scene, "valid"), in_log, axis=1) & (steps <= last_valid_step(scene)[:, None])
    log = jax.vmap(log_ego, (None, 1), 1)(scene, in_log)
    return jax.vmap(lambda *row: smooth_actions(*row, config.limits, settings))(log, valid)


def smooth_actions(
    log: EgoState, valid: Array, limits: VehicleLimits, settings: SmoothingConfig
) -> tuple[EgoState, Action]:
    """The smoothing inverse of one logged track [N + 1] with its validity; the first step must be valid."""
    log = _held(log, valid)
    logged, axle = _logged_plan(log, valid, limits), rear_axle(log.length[0])
    weights = _weights(logged, valid[1:], settings)

    def improve(carry, _):
        plan, split = carry
        regulator, first = linearise(lambda *at: _next(*at, axle), plan, weights)
        bounds = _bounds(plan, limits, settings.planned_fraction)
        target, split = solve(Problem(plan, logged, weights, regulator, first, *bounds), split, settings)
        return (_simulate(target, regulator.gain, log, limits), split), None

    zeros = jnp.zeros_like(logged.actions)
    split = Split(logged.actions, logged.states[1:, :2], zeros, zeros)
    (plan, _), _ = jax.lax.scan(improve, (logged, split), None, length=settings.linearisations)
    return _start(plan.states[0], log), Action(acceleration=plan.actions[:, 0], curvature=plan.actions[:, 1])


def _held(log: EgoState, valid: Array) -> EgoState:
    """The track with each invalid step replaced by the last valid one before it."""
    last = jax.lax.cummax(jnp.where(valid, jnp.arange(valid.shape[0]), 0))
    return log[last]


def _logged_plan(log: EgoState, valid: Array, limits: VehicleLimits) -> Plan:
    """The log's states and the raw inverse of each step, limited: not consistent, but a start for the iteration."""
    actions = (
        jnp.stack(limited(log.speed[:-1], *inverse(log[:-1], log[1:], SceneSpec.dt), limits), -1) * valid[1:, None]
    )
    turned = jnp.cumsum(wrap_angle(jnp.diff(log.heading, prepend=log.heading[:1])))
    states = jnp.stack([log.x, log.y, log.heading[0] + turned, log.speed], axis=-1)
    return Plan(jnp.concatenate([states, jnp.concatenate([actions[:1], actions])], axis=-1), actions)


def _weights(logged: Plan, valid: Array, settings: SmoothingConfig) -> Weights:
    speed = jnp.maximum(logged.states[1:, 3], settings.least_speed)
    change = jnp.stack([jnp.full_like(speed, settings.acceleration_change), settings.lateral_change / speed**2], -1)
    deviation = jnp.array([settings.position, settings.position, settings.heading, jnp.inf, jnp.inf, jnp.inf])
    start = jnp.array([0.0, 0.0, settings.start_heading, settings.start_speed, *(START_CHANGE * change[0])])
    return Weights(
        change=1 / change**2,
        state=valid[:, None] / deviation**2,
        tube=valid / settings.tube_penalty**2,
        start=start**2,
    )


def _next(state: Array, action: Array, axle: Array) -> Array:
    """One step without limits and without the stop at standstill, which have no useful derivative.

    Two terms of sin(half_turn) / half_turn are exact to 1e-6 within the limits, and have a derivative at 0.
    """
    x, y, heading, speed = state[:4]
    distance = (speed + action[0] * SceneSpec.dt / 2) * SceneSpec.dt
    half_turn = action[1] * distance / 2
    chord = distance * (1 - half_turn**2 / 6)
    step_x, step_y = rotate(chord, 2 * axle * jnp.sin(half_turn), heading + half_turn)
    return jnp.stack([x + step_x, y + step_y, heading + 2 * half_turn, speed + action[0] * SceneSpec.dt, *action])


def _bounds(plan: Plan, limits: VehicleLimits, fraction: float) -> tuple[Array, Array]:
    """Least and greatest planned actions [N, 2] at the plan's speeds."""
    speed = plan.states[:-1, 3]
    far = jnp.full_like(speed, jnp.inf)
    return tuple(fraction * jnp.stack(limited(speed, end, end, limits), axis=-1) for end in (-far, far))


def _start(state: Array, log: EgoState) -> EgoState:
    """The logged ego at the first step, with heading and speed of a state [6]."""
    return log[0].replace(heading=wrap_angle(state[2]), speed=jnp.maximum(state[3], 0.0))


def _simulate(target: Plan, gain: Array, log: EgoState, limits: VehicleLimits) -> Plan:
    """Drives a plan through the simulator's dynamics with feedback: the limited actions and the states they lead to."""

    def step(carry, planned):
        ego, state = carry
        expected, action, gain = planned
        action = jnp.stack(limited(ego.speed, *(action + gain @ (state - expected)), limits))
        ego = move(ego, *action, limits, SceneSpec.dt)
        heading = state[2] + wrap_angle(ego.heading - state[2])
        state = jnp.stack([ego.x, ego.y, heading, ego.speed, *action])
        return (ego, state), (state, action)

    ego = _start(target.states[0], log)
    first = jnp.stack([ego.x, ego.y, target.states[0, 2], ego.speed, *target.states[0, 4:]])
    _, (states, actions) = jax.lax.scan(step, (ego, first), (target.states[:-1], target.actions, gain))
    return Plan(jnp.concatenate([first[None], states]), actions)
