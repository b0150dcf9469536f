"""Drives that simulator and oracle judge: the log's own actions, or the same disturbed."""

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


class Drive(NamedTuple):
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
    driven = rollout(LogReplay(CONFIG), (), Script(), action, scene, HORIZON, keys, keys, start)
    return driven.ego, driven.outcome, driven.alive, driving_score(driven, scene, CONFIG)


def changed(actions: Action, drives: list[Drive], rng: np.random.Generator) -> Action:
    """Actions [B, N] with errors that last a second, a little noise in each sub-step, and the push."""
    size, push = (np.array([getattr(drive, name) for drive in drives])[:, None] for name in ("disturbance", "push"))
    rows, count = actions.acceleration.shape

    def error():
        lasting = np.repeat(rng.normal(size=(rows, count // 10)), 10, axis=1)
        return size * (lasting + 0.2 * rng.normal(size=(rows, count)))

    acceleration = np.asarray(actions.acceleration) + 2.0 * error() + push
    curvature = np.asarray(actions.curvature) + 0.03 * error()
    return Action(acceleration.astype(np.float32), curvature.astype(np.float32))


def driven(drives: list[Drive], rng: np.random.Generator) -> Iterator[tuple[Drive, Action, tuple, int]]:
    """Each drive, the actions [B, N] and the results of `simulate` of its batch, and its row in it.

    Batches have one shape, the last one is filled with its first row.
    """
    for first in range(0, len(drives), ROWS):
        some = drives[first : first + ROWS]
        filled = some + some[:1] * (ROWS - len(some))
        start = np.array([drive.start for drive in filled])
        batch = scenes.stack([scenes.indexed(drive.scene, CONFIG) for drive in filled])
        action = changed(follow(batch, start), filled, rng)
        results = jax.tree.map(np.asarray, simulate(batch, start, action))
        yield from ((drive, action, results, row) for row, drive in enumerate(some))
