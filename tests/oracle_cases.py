"""Rollouts that simulator and oracle measure: the log's own actions, or the same actions disturbed."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scenes

from tether.data.scene import Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import log_actions
from tether.simulator.log_replay import LogReplay
from tether.simulator.rollout import rollout
from tether.simulator.score import driving_score
from tether.simulator.world import Action

CONFIG = SimulatorConfig()
HORIZON, ROWS = 16, 32
SUBSTEPS = HORIZON * CONFIG.substeps


class Case(NamedTuple):
    """A scene, the log step to start from, and how the log's actions are changed.

    Attributes:
      disturbance: size of the errors of acceleration and curvature.   push: added to the acceleration [m/s^2].
    """

    scene: Scene
    start: int
    disturbance: float
    push: float = 0.0


class Script(NamedTuple):
    """A policy whose parameters are its actions [B, H * S]."""

    def reset(self, params, scene):
        return params

    def act(self, params, key, observation, carry):
        now = jax.tree.map(lambda actions: actions[:, : CONFIG.substeps], carry)
        return now, jax.tree.map(lambda actions: jnp.roll(actions, -CONFIG.substeps, axis=1), carry), {}


@jax.jit
def follow(scene, start):
    """The log's own actions [B, H * S] from log step `start` [B]."""
    return log_actions(scene, start, SUBSTEPS, CONFIG)


@jax.jit
def simulate(scene, start, action):
    """Ego, Outcome [H, B, ...] and alive [H, B] of the actions [B, H * S], and the score [B]."""
    keys = jax.random.split(jax.random.key(0), ROWS)
    result = rollout(LogReplay(CONFIG), (), Script(), action, scene, HORIZON, keys, keys, start)
    return result.ego, result.outcome, result.alive, driving_score(result, scene, CONFIG)


def changed(actions: Action, cases: list[Case], rng: np.random.Generator) -> Action:
    """Actions [B, N] with errors that last a second, a little noise in each sub-step, and the push."""
    size, push = (np.array([getattr(case, name) for case in cases])[:, None] for name in ("disturbance", "push"))
    rows, count = actions.acceleration.shape

    def error():
        lasting = np.repeat(rng.normal(size=(rows, count // 10)), 10, axis=1)
        return size * (lasting + 0.2 * rng.normal(size=(rows, count)))

    acceleration = np.asarray(actions.acceleration) + 2.0 * error() + push
    curvature = np.asarray(actions.curvature) + 0.03 * error()
    return Action(acceleration.astype(np.float32), curvature.astype(np.float32))


def simulated_cases(cases: list[Case], rng: np.random.Generator) -> Iterator[tuple[Case, Action, tuple, int]]:
    """Each case, the actions [B, N] and the results of `simulate` of its batch, and its row in the batch.

    Batches have one shape; the last one is filled with copies of its first row.
    """
    for first in range(0, len(cases), ROWS):
        some = cases[first : first + ROWS]
        filled = some + some[:1] * (ROWS - len(some))
        start = np.array([case.start for case in filled])
        batch = scenes.stack([scenes.indexed(case.scene, CONFIG) for case in filled])
        action = changed(follow(batch, start), filled, rng)
        results = jax.tree.map(np.asarray, simulate(batch, start, action))
        yield from ((case, action, results, row) for row, case in enumerate(some))
