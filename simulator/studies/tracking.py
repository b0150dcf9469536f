"""Following a logged track with bounded actions: a linear-quadratic regulator inside ADMM, for `inverse.py`.

The motion is linear here, around a plan; its cost is quadratic; actions have bounds, positions a tube around the log.
ADMM keeps copies of the bounded quantities and pulls plan and copies together. The pull is quadratic, so each step of
ADMM is one regulator, whose matrices stay the same: two passes over vectors of 6.

ADMM: Boyd et al. 2011, doi 10.1561/2200000016 (scaled form; over-relaxation, section 3.4.3).

One track, without batch axis; batch with `jax.vmap`. N steps. A state is float32[6]: x, y, heading (not wrapped), speed
and the action before it; an action float32[2]: acceleration, curvature.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.scene import Array
from tether.simulator.studies.config import SmoothingConfig

PREVIOUS = np.eye(2, 6, 4, dtype=np.float32)  # PREVIOUS @ state is the action before it


class Plan(NamedTuple):
    """States [N + 1, 6] and actions [N, 2]; they need not be consistent with each other."""

    states: Array
    actions: Array


class Weights(NamedTuple):
    """Inverse squares of the cost's scales.

    Attributes:
      change: [N, 2], of an action's change, and of ADMM's pull into the bounds.
      state: [N, 6], of deviations from the log after each step; 0 where the log is not valid.
      tube: [N], of ADMM's pull into the tube; 0 where the log is not valid.
      start: [6], variances of the first state.
    """

    change: Array
    state: Array
    tube: Array
    start: Array


class Regulator(NamedTuple):
    """A linearised motion and its regulator, by step.

    Attributes:
      a: [N, 6, 6], b: [N, 6, 2], gap: [N, 6]: next deviation = a deviation + b change of action + gap.
      value: [N, 6, 6], cost to go after the step, that of the state included.
      inverse: [N, 2, 2] and cross: [N, 2, 6], of the cost's curvature in the action.   gain: [N, 2, 6].
    """

    a: Array
    b: Array
    gap: Array
    value: Array
    inverse: Array
    cross: Array
    gain: Array


class Problem(NamedTuple):
    """The inputs that stay the same while ADMM runs.

    Attributes:
      plan: linearised around.   logged: to be followed.   weights, regulator: see there.
      first: [6, 6], cost to go of the first state.   least, most: [N, 2], bounds of the actions.
    """

    plan: Plan
    logged: Plan
    weights: Weights
    regulator: Regulator
    first: Array
    least: Array
    most: Array


class Split(NamedTuple):
    """ADMM's copies of the bounded quantities, actions [N, 2] and positions [N, 2], and their scaled duals."""

    actions: Array
    positions: Array
    action_dual: Array
    position_dual: Array


def linearise(advance: Callable[[Array, Array], Array], plan: Plan, weights: Weights) -> tuple[Regulator, Array]:
    """The motion linearised around a plan and its regulator; also the cost to go of the first state [6, 6].

    Args: advance: the state after one action, from state and action.
    """
    a, b = jax.vmap(jax.jacfwd(advance, (0, 1)))(plan.states[:-1], plan.actions)
    gap = jax.vmap(advance)(plan.states[:-1], plan.actions) - plan.states[1:]
    pull = weights.state.at[:, :2].add(weights.tube[:, None])

    def back(value, step):
        a, b, pull, change = step
        value = value + jnp.diag(pull)
        inverse = jnp.linalg.inv(b.T @ value @ b + jnp.diag(2 * change))
        cross = b.T @ value @ a - change[:, None] * PREVIOUS
        gain = -inverse @ cross
        closed, changed = a + b @ gain, gain - PREVIOUS
        # Joseph's form is a sum of squares: float32 cannot make it indefinite.
        to_go = closed.T @ value @ closed + changed.T @ (change[:, None] * changed) + gain.T @ (change[:, None] * gain)
        return to_go, (value, inverse, cross, gain)

    first, solved = jax.lax.scan(back, jnp.zeros((6, 6)), (a, b, pull, weights.change), reverse=True)
    return Regulator(a, b, gap, *solved), first


def solve(problem: Problem, split: Split, settings: SmoothingConfig) -> tuple[Plan, Split]:
    """Runs ADMM from `split` on. Returns: the plan with the least cost, within bounds and tube to a small residual."""

    def step(carry, _):
        _, split = carry
        plan = _least_cost(problem, split)
        return (plan, _project(plan, problem, split, settings)), None

    return jax.lax.scan(step, (problem.plan, split), None, length=settings.steps)[0]


def _least_cost(problem: Problem, split: Split) -> Plan:
    """The plan with the least cost, the pull towards the copies included."""
    plan, weights = problem.plan, problem.weights
    apart = plan.states[1:, :2] - split.positions + split.position_dual
    slope = weights.state * (plan.states[1:] - problem.logged.states[1:])
    slope = slope.at[:, :2].add(weights.tube[:, None] * apart)
    change = weights.change * (plan.actions - plan.states[:-1] @ PREVIOUS.T)
    pull = weights.change * (plan.actions - split.actions + split.action_dual)

    def back(to_go, step):
        regulator, slope, change, pull = step
        ahead = to_go + slope + regulator.value @ regulator.gap
        push = -regulator.inverse @ (regulator.b.T @ ahead + change + pull)
        return regulator.a.T @ ahead - PREVIOUS.T @ change + regulator.cross.T @ push, push

    def forward(deviation, step):
        regulator, push = step
        action = push + regulator.gain @ deviation
        deviation = regulator.a @ deviation + regulator.b @ action + regulator.gap
        return deviation, (deviation, action)

    to_go, push = jax.lax.scan(back, jnp.zeros(6), (problem.regulator, slope, change, pull), reverse=True)
    first = _first_deviation(problem, to_go)
    _, (states, actions) = jax.lax.scan(forward, first, (problem.regulator, push))
    return Plan(plan.states + jnp.concatenate([first[None], states]), plan.actions + actions)


def _first_deviation(problem: Problem, slope: Array) -> Array:
    """The best first state's deviation from the plan's; in variances, so that a variance of 0 holds it at the log."""
    beside = problem.plan.states[0] - problem.logged.states[0]
    variance = problem.weights.start
    return jnp.linalg.solve(jnp.eye(6) + variance[:, None] * problem.first, -beside - variance * slope)


def _project(plan: Plan, problem: Problem, split: Split, settings: SmoothingConfig) -> Split:
    """Moves the copies to the nearest actions within the bounds and the nearest positions in the tube."""
    new, log = settings.relaxation, problem.logged.states[1:, :2]
    wanted = new * plan.actions + (1 - new) * split.actions + split.action_dual
    place = new * plan.states[1:, :2] + (1 - new) * split.positions + split.position_dual
    actions = jnp.clip(wanted, problem.least, problem.most)
    distance = jnp.linalg.norm(place - log, axis=-1, keepdims=True)
    inside = log + (place - log) * jnp.minimum(1.0, settings.tube / jnp.maximum(distance, 1e-6))
    outside = jnp.where(problem.weights.tube[:, None] > 0, place - inside, 0.0)
    return Split(actions, inside, wanted - actions, outside)
