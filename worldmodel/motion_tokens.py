"""Motion tokens: a vocabulary of 0.5 s motions for each type of agent, relative to what its way asks (`guidance.py`).

A token is a pair of changes, of the acceleration and of the turn rate, from a grid that is denser near zero.
`motion.move` turns it into a motion. So a token means the same at any speed and in any place, and the vocabulary does
not depend on data. Vehicles, pedestrians and cyclists have equally many tokens, on grids of different width.
Letters: A agents, S sub-steps, V vocabulary.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tether.data.geometry import wrap_angle
from tether.data.scene import Array
from tether.data.settings import setting
from tether.simulator.world import Agents
from tether.worldmodel.features import TYPES
from tether.worldmodel.guidance import Guide
from tether.worldmodel.motion import Motion, move

DENSITY = 2.5  # how much denser the grid is near zero: sinh(DENSITY * u) over u in [-1, 1]
# Weights of the errors of heading [m per rad] and velocity [m per m/s], relative to those of the place. Without the
# velocity, tokens that follow a log one after the other oscillate around it with growing amplitude: each fits the place
# at the cost of the speed and heading with which it ends.
HEADING_M, VELOCITY_S = 1.0, 0.3
PRIOR_ACCELERATION, PRIOR_TURN = 1.0, 0.15  # m/s^2 and rad/s, scales of the motion before any fitting


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The grid. V = accelerations * turns; a token is acceleration index * turns + turn index.

    Attributes:
      accelerations: grid points of the acceleration, an odd number, so that zero is one of them.
      turns: grid points of the change of the turn rate, an odd number, so that zero is one of them.
      max_acceleration: ends of the acceleration grid for vehicles, pedestrians and cyclists [m/s^2].
      max_turn: ends of the turn-rate grid for vehicles, pedestrians and cyclists [rad/s].
    """

    accelerations: int = 17
    turns: int = 15
    max_acceleration: tuple[float, float, float] = setting((8.0, 5.0, 6.0), above=0)
    max_turn: tuple[float, float, float] = setting((1.0, 2.0, 1.5), above=0)

    @property
    def size(self) -> int:
        """V."""
        return self.accelerations * self.turns

    @property
    def grids(self) -> tuple[np.ndarray, np.ndarray]:
        """Accelerations [m/s^2] float32[types, accelerations] and changes of the turn rate [rad/s] [types, turns]."""
        return _grid(self.max_acceleration, self.accelerations), _grid(self.max_turn, self.turns)


def _grid(ends: tuple[float, ...], count: int) -> np.ndarray:
    unit = np.sinh(DENSITY * np.linspace(-1, 1, count)) / np.sinh(DENSITY)
    return (np.asarray(ends)[:, None] * unit).astype(np.float32)


def type_rows(agent_type: Array) -> Array:
    """Rows of the grids: those of `features.TYPES`, a vehicle's for any other type. int32[...] -> int32[...]."""
    return sum(row * (agent_type == kind) for row, kind in enumerate(TYPES))


def token_controls(vocabulary: Vocabulary, tokens: Array, rows: Array) -> tuple[Array, Array]:
    """Changes of acceleration [m/s^2] and turn rate [rad/s] by tokens. int32[...] each -> float32[...] each."""
    acceleration, turn = (jnp.asarray(grid) for grid in vocabulary.grids)
    return acceleration[rows, tokens // vocabulary.turns], turn[rows, tokens % vocabulary.turns]


def mean_controls(vocabulary: Vocabulary, log_probs: Array, rows: Array) -> tuple[Array, Array]:
    """Expected changes of the acceleration and of the turn rate. float32[..., V], int32[...] -> float32[...] each."""
    acceleration, turn = (jnp.asarray(grid)[rows] for grid in vocabulary.grids)
    probs = jnp.exp(log_probs).reshape(*log_probs.shape[:-1], vocabulary.accelerations, vocabulary.turns)
    return jnp.sum(probs.sum(-1) * acceleration, -1), jnp.sum(probs.sum(-2) * turn, -1)


def prior_logits(vocabulary: Vocabulary, rows: Array) -> Array:
    """Logits before any fitting: motion near what the way asks is likelier. int32[...] -> [..., V]."""
    acceleration, turn = vocabulary.grids
    cost = np.abs(acceleration)[:, :, None] / PRIOR_ACCELERATION + np.abs(turn)[:, None] / PRIOR_TURN
    return jnp.asarray(-cost.reshape(len(cost), -1))[rows]


def nearest_token(
    vocabulary: Vocabulary, now: Agents, motion: Motion, guide: Guide, rows: Array, after: Agents, dt: float
) -> tuple[Array, Agents]:
    """The token whose motion is nearest to the log, and that motion.

    The acceleration is chosen first, at the turn rate that the heading shows, then the turn rate, then the acceleration
    again: 2 * accelerations + turns motions are tried instead of V. `motion_distance` measures; the result is arbitrary
    where the agent is not seen after.

    Args: now: `Agents` [...]; motion: `Motion` [...]; guide: `Guide` [...], what tokens change;
      rows: int32[...], see `type_rows`; after: `Agents` [..., S].
    Returns: int32[...] and `Agents` [..., S].
    """
    substeps = after.x.shape[-1]
    accelerations, turns = (jnp.asarray(grid)[rows] for grid in vocabulary.grids)
    turned = wrap_angle(after.heading[..., -1] - now.heading) / (substeps * dt) - guide.turn_rate
    seen_turn = jnp.where(after.valid[..., -1], turned, 0.0)[..., None]

    def best(acceleration: Array, turn: Array) -> Array:
        controls = guide.acceleration[..., None] + acceleration, guide.turn_rate[..., None] + turn
        tried = move(now[..., None], motion[..., None], *controls, substeps, dt)
        return jnp.argmin(motion_distance(tried, after), -1)[..., None]

    def pick(grid: Array, index: Array) -> Array:
        return jnp.take_along_axis(grid, index, -1)

    first = best(accelerations, jnp.broadcast_to(seen_turn, accelerations.shape))
    turn = best(jnp.broadcast_to(pick(accelerations, first), turns.shape), turns)
    chosen = pick(turns, turn)
    acceleration = best(accelerations, jnp.broadcast_to(chosen, accelerations.shape))
    picked = pick(accelerations, acceleration)[..., 0], chosen[..., 0]
    moved = move(now, motion, guide.acceleration + picked[0], guide.turn_rate + picked[1], substeps, dt)
    return (acceleration * vocabulary.turns + turn)[..., 0], moved


def motion_distance(tried: Agents, after: Agents) -> Array:
    """Mean squared error of place, heading and velocity [m^2] over the sub-steps at which the truth is seen.

    Args: tried: `Agents` [..., N, S]; after: `Agents` [..., S]. Returns: float32[..., N].
    """
    truth = after[..., None, :]
    square = jnp.square(tried.x - truth.x) + jnp.square(tried.y - truth.y)
    square += jnp.square(HEADING_M * wrap_angle(tried.heading - truth.heading))
    square += VELOCITY_S**2 * (jnp.square(tried.vel_x - truth.vel_x) + jnp.square(tried.vel_y - truth.vel_y))
    return jnp.sum(square * truth.valid, -1) / jnp.maximum(truth.valid.sum(-1), 1)
