"""The regulator inside ADMM against one dense linear system, and what ADMM makes of bounds and tube."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.simulator.studies.config import SmoothingConfig
from tether.simulator.studies.tracking import PREVIOUS, Plan, Problem, Split, Weights, linearise, solve

STEPS = 7
FAR = 1e3


def random_problem(rng, start_variance):
    """A linear drive, a log, a plan that is not consistent, and copies beside it; float32."""

    def draw(*shape):
        return jnp.float32(rng.normal(size=shape))

    a, b = jnp.eye(6).at[4:].set(0.0) + 0.2 * draw(6, 6).at[4:].set(0.0), draw(6, 2).at[4:].set(jnp.eye(2))

    def advance(state, action):
        return a @ state + b @ action

    plan, logged = (Plan(draw(STEPS + 1, 6), draw(STEPS, 2)) for _ in range(2))
    split = Split(draw(STEPS, 2), draw(STEPS, 2), draw(STEPS, 2), draw(STEPS, 2))
    weights = Weights(
        change=jnp.float32(rng.uniform(0.5, 2.0, (STEPS, 2))),
        state=jnp.float32(rng.uniform(0.5, 2.0, (STEPS, 6)) * (np.arange(6) < 3)),
        tube=jnp.float32(rng.uniform(0.5, 2.0, STEPS) * (np.arange(STEPS) != 3)),
        start=jnp.full(6, start_variance),
    )
    bound = jnp.full((STEPS, 2), FAR)
    problem = Problem(plan, logged, weights, *linearise(advance, plan, weights), -bound, bound)
    return problem, split, np.float64(a), np.float64(b)


def dense_solution(problem, split, a, b):
    """First state and actions [6 + 2 N] of the same problem as one least-squares problem in float64."""
    weights, log = jax.tree.map(np.float64, problem.weights), np.float64(problem.logged.states)
    state, states = np.eye(6, 6 + 2 * STEPS), []  # each state as a matrix times the unknowns
    rows, right = [np.diag(weights.start**-0.5) @ state], [weights.start**-0.5 * log[0]]
    for step in range(STEPS):
        action = np.eye(2, 6 + 2 * STEPS, 6 + 2 * step)
        change = np.sqrt(weights.change[step])[:, None]
        rows += [change * (action - PREVIOUS @ state), change * action]
        right += [np.zeros(2), change[:, 0] * np.float64(split.actions[step] - split.action_dual[step])]
        state = a @ state + b @ action
        states.append(state)
        pull = np.sqrt(weights.tube[step])
        rows += [np.sqrt(weights.state[step])[:, None] * state, pull * state[:2]]
        wanted = np.float64(split.positions[step] - split.position_dual[step])
        right += [np.sqrt(weights.state[step]) * log[step + 1], pull * wanted]
    return np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=None)[0]


def test_one_step_is_the_least_squares_solution(rng):
    problem, split, a, b = random_problem(rng, start_variance=0.5)
    plan, _ = solve(problem, split, SmoothingConfig(steps=1))
    expected = dense_solution(problem, split, a, b)
    np.testing.assert_allclose(plan.states[0], expected[:6], atol=1e-3)
    np.testing.assert_allclose(plan.actions.ravel(), expected[6:], atol=1e-3)
    states = [expected[:6]]
    for action in expected[6:].reshape(-1, 2):
        states.append(a @ states[-1] + b @ action)
    np.testing.assert_allclose(plan.states, states, atol=2e-3)


def test_without_variance_the_first_state_is_the_logs(rng):
    problem, split, *_ = random_problem(rng, start_variance=0.0)
    plan, _ = solve(problem, split, SmoothingConfig(steps=1))
    np.testing.assert_allclose(plan.states[0], problem.logged.states[0], atol=1e-6)


@pytest.mark.parametrize("bound", [0.75, 10.0])
def test_admm_keeps_to_bounds_and_tube(bound):
    """A double integrator at rest, to be 1 m on after 2 s and after 4 s.

    0.75 m/s^2 for 0.85 s, coasting and -0.63 would do; the smoothest way there takes 0.88.
    """
    steps = 40

    def advance(state, action):
        x, speed = state[0] + 0.1 * state[3] + 0.005 * action[0], state[3] + 0.1 * action[0]
        return jnp.stack([x, 0.0, 0.0, speed, *action])

    zeros, asked = jnp.zeros((steps, 2)), jnp.isin(jnp.arange(1, steps + 1), jnp.array([20, 40]))
    plan = Plan(jnp.zeros((steps + 1, 6)), zeros)
    logged = Plan(plan.states.at[1:, 0].set(asked), zeros)
    weights = Weights(jnp.full((steps, 2), 1.0), jnp.zeros((steps, 6)), asked / 0.03**2, jnp.zeros(6))
    most = jnp.full((steps, 2), bound)
    problem = Problem(plan, logged, weights, *linearise(advance, plan, weights), -most, most)
    plan, _ = solve(problem, Split(zeros, zeros, zeros, zeros), SmoothingConfig(tube=0.05, steps=200))
    np.testing.assert_allclose(plan.states[np.array([20, 40]), 0], 1.0, atol=0.06)
    assert (np.abs(plan.actions[:, 0]).max() < 0.77) == (bound == 0.75)
