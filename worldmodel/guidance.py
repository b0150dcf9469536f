"""What its way ahead asks of each agent: the motion that `lanes` has and that learned models correct, and a bound.

A model of logs that corrects constant turn rate and speed has to learn from little data where lanes lead, and its
errors add up. One that corrects lane following (`lane_following.py`) need not, and is drawn back to it. Logs hold
little hard braking, and none that answers an ego that does what it never did, so the way bounds an agent's acceleration
as well, whatever a model predicts.

What the way asks depends on an agent's habits: which lane it takes where lanes part, and how fast it would like to be.
They are drawn when imagination starts; in a fit they are those that agree best with what the agent did.
Letters: B batch, F frames (one per world step), A agents, S sub-steps.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import AgentType, Array, Indexed, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Agents, State
from tether.worldmodel.features import Frame
from tether.worldmodel.lane_following import highest_acceleration, steering
from tether.worldmodel.lane_paths import paths_ahead
from tether.worldmodel.motion import STILL_SPEED, estimate_motion, move
from tether.worldmodel.noise import agent_noise

CHOICES = (0.125, 0.375, 0.625, 0.875)  # one for each of up to four lanes that a lane leads to
HABIT_STREAM = 0x7FFFFFFE  # of the habits' noise, beyond the rank of any agent
USUAL_SPEED, CYCLIST_SPEED = 8.0, 4.0  # m/s; the least that vehicles and cyclists desire
SPEED_NOISE = 0.1  # standard deviation of the logarithm of desired speeds
NONREACTIVE = 0.5  # fraction of the agents that drive as if the ego were not there
FREE_ACCELERATION = 1.5  # m/s^2, on a free road from standstill
EXPONENT = 4.0  # of speed over desired speed, as in the intelligent driver model
SLOWING = -1.0  # m/s^2, of an agent that is faster than it desires
PERSISTENCE = 0.7  # fraction of an acceleration that lasts from one world step to the next
LASTING = (-3.0, 2.0)  # m/s^2; stronger accelerations do not last
TURN_RATE, ACCELERATION = 2.0, 3.0  # s/rad and m/s^2: bring what networks read near 1


@flax.struct.dataclass
class Habits(Indexed):
    """What each agent does alike throughout a rollout; fields [..., A].

    Attributes:
      choice: float32, of its route, in [0, 1), see `lane_paths.py`.
      desired: float32, speed on a free road [m/s]; 0 of what is parked.
      reacts: bool, to the ego; the others drive as if it were not there.
    """

    choice: Array
    desired: Array
    reacts: Array


@flax.struct.dataclass
class Guide(Indexed):
    """What the way ahead asks; fields float32[..., A].

    Attributes:
      turn_rate: that follows the way [rad/s].
      acceleration: that lasts, or leads to the desired speed [m/s^2]; 0 off lanes and of pedestrians.
      bound: the highest acceleration that the way allows [m/s^2]; inf where nothing bounds it.
    """

    turn_rate: Array
    acceleration: Array
    bound: Array


@functools.partial(jax.jit, static_argnames="simulator")  # traced once for all programs that contain it
def guide_frames(frames: Frame, scene: Scene, habits: Habits, simulator: SimulatorConfig) -> Guide:
    """What the ways ask in every frame. Args: frames, habits: fields [B, F, A]. Returns: fields [B, F, A]."""

    def one(frame: Frame, scene: Scene, habits: Habits) -> Guide:
        motion = estimate_motion(frame.now, frame.before, simulator.step_s)
        path = paths_ahead(frame.now, motion, scene, habits.choice, simulator)
        lights = frame.light_state, frame.light_valid
        bound, _ = highest_acceleration(frame.now, motion, scene, *lights, path, habits.reacts)
        follows = path.on_lane & (scene.agent_type != AgentType.PEDESTRIAN)
        wanted = jnp.where(follows, wanted_acceleration(frame, habits.desired, simulator.step_s), 0.0)
        return Guide(steering(frame.now, motion, scene, path), wanted, bound)

    return jax.lax.stop_gradient(jax.vmap(jax.vmap(one, (0, None, 0)))(frames, scene, habits))


def wanted_acceleration(frame: Frame, desired: Array, span_s: float) -> Array:
    """The acceleration on a free road, of one frame: float32[A] [m/s^2]. span_s: from `frame.before` to `frame.now`."""
    now, before = frame.now, frame.before
    lasting = jnp.where(now.valid & before.valid, now.speed - before.speed, 0.0) / span_s
    free = FREE_ACCELERATION * (1 - jnp.power(now.speed / jnp.maximum(desired, STILL_SPEED), EXPONENT))
    wanted = PERSISTENCE * jnp.clip(lasting, *LASTING) + (1 - PERSISTENCE) * jnp.maximum(free, SLOWING)
    return jnp.where(desired > 0, wanted, -now.speed)


def usual_speed(scene: Scene) -> Array:
    """float32[B, A] [m/s]."""
    return jnp.where(scene.agent_type == AgentType.CYCLIST, CYCLIST_SPEED, USUAL_SPEED)


@functools.partial(jax.jit, static_argnames="simulator")
def draw_habits(
    keys: jax.Array,
    rank: Array,
    state: State,
    simulator: SimulatorConfig,
    nonreactive: float,
    speed_noise: float = SPEED_NOISE,
) -> Habits:
    """Habits of the agents of a state [B, A].

    A vehicle that stood throughout the history is parked, unless it is on a lane and has something to wait for, which
    the ego is only for those that react to it. Others see where the ego is going to: its choice is not drawn but that
    of its route.

    Args:
      keys: key[B].   rank: int32[B, A], see `noise.agent_noise`.
      nonreactive: fraction of the agents that do not react to the ego.   speed_noise: see `SPEED_NOISE`.
    """
    drawn = agent_noise(jax.vmap(lambda key: jax.random.fold_in(key, HABIT_STREAM))(keys), rank, (3,))
    is_ego = jnp.arange(rank.shape[1]) == state.scene.ego[:, None]
    along_route = jax.vmap(lambda now, scene: choice_along_route(now, scene, simulator))(state.now, state.scene)
    choice, noise = jnp.where(is_ego, along_route[:, None], drawn[..., 0]), (drawn[..., 1] - 0.5) * 12**0.5
    reacts = drawn[..., 2] >= nonreactive

    def waits(state: State, choice: Array, reacts: Array) -> Array:
        now, before = state.history[..., -1], state.history[..., -1 - simulator.substeps]
        motion = estimate_motion(now, before, simulator.step_s)
        path = paths_ahead(now, motion, state.scene, choice, simulator)
        _, held = highest_acceleration(now, motion, state.scene, state.light_state, state.light_valid, path, reacts)
        return held & path.on_lane

    fastest = jnp.max(jnp.where(state.history.valid, state.history.speed, 0.0), -1)
    drives = (fastest > STILL_SPEED) | jax.vmap(waits)(state, choice, reacts)
    desired = jnp.maximum(fastest, usual_speed(state.scene)) * jnp.exp(speed_noise * noise)
    return Habits(choice, jnp.where(drives, desired, 0.0), reacts)


def choice_along_route(now: Agents, scene: Scene, simulator: SimulatorConfig) -> Array:
    """The ego's choice whose way stays nearest to its route, of one scene: float32."""
    ego, alone = jax.tree.map(lambda field: field[scene.ego][None], (now, scene.length))
    motion, scene = estimate_motion(ego, ego, simulator.step_s), scene.replace(length=alone)

    def apart(choice: Array) -> Array:
        path = paths_ahead(ego, motion, scene, choice[None], simulator)[0]
        square = jnp.square(path.x[:, None] - scene.route_x) + jnp.square(path.y[:, None] - scene.route_y)
        return jnp.sum(jnp.min(jnp.where(scene.route_valid, square, jnp.inf), -1))

    return jnp.asarray(CHOICES)[jnp.argmin(jax.vmap(apart)(jnp.asarray(CHOICES)))]


@functools.partial(jax.jit, static_argnames="simulator")  # traced once for all programs that contain it
def habits_shown(frames: Frame, after: Agents, scene: Scene, simulator: SimulatorConfig) -> Habits:
    """Habits that agree with what the agents did: fields [B, F, A], the choice the same in all frames.

    The desired speed is what an agent has reached up to a frame, or the usual one if that is higher. An agent that
    stands in all frames is parked.

    Args: frames: [B, F, A]; after: `Agents` [B, F - 1, A, S], what followed all but the last.
    """
    choice = choices_made(frames[:, :-1], after, scene, simulator)
    speed = jnp.where(frames.now.valid, frames.now.speed, 0.0)
    drives = jnp.any(speed > STILL_SPEED, 1, keepdims=True)
    desired = jnp.maximum(jax.lax.cummax(speed, axis=1), usual_speed(scene)[:, None])
    desired = jnp.where(drives, desired, 0.0)
    return Habits(jnp.broadcast_to(choice[:, None], speed.shape), desired, jnp.ones(speed.shape, bool))


def choices_made(frames: Frame, after: Agents, scene: Scene, simulator: SimulatorConfig) -> Array:
    """The choices of routes that lead nearest to where the agents were after each frame: float32[B, A].

    Args: frames: [B, F, A]; after: `Agents` [B, F, A, S].
    """

    def missed(frame: Frame, after: Agents, scene: Scene, choice: Array) -> Array:
        motion = estimate_motion(frame.now, frame.before, simulator.step_s)
        path = paths_ahead(frame.now, motion, scene, jnp.full(motion.speed.shape, choice), simulator)
        acceleration = (after.speed[:, -1] - motion.speed) / simulator.step_s
        turn_rate = steering(frame.now, motion, scene, path)
        moved = move(frame.now, motion, acceleration, turn_rate, simulator.substeps, simulator.dt)[..., -1]
        apart = jnp.square(moved.x - after.x[:, -1]) + jnp.square(moved.y - after.y[:, -1])
        return jnp.where(frame.now.valid & after.valid[:, -1], apart, 0.0)

    every_choice = jax.vmap(missed, (None, None, None, 0))
    every_frame = jax.vmap(every_choice, (0, 0, None, None))
    apart = jax.vmap(every_frame, (0, 0, 0, None))(frames, after, scene, jnp.asarray(CHOICES))  # [B, F, choices, A]
    return jnp.asarray(CHOICES)[jnp.argmin(apart.sum(1), axis=1)]


def guide_columns(guide: Guide, valid: Array) -> Array:
    """What networks read of it, 0 where an agent is not seen. Fields [...] -> float32[..., 3]."""
    asked = [guide.turn_rate * TURN_RATE, guide.acceleration / ACCELERATION, jnp.tanh(guide.bound / ACCELERATION)]
    return jnp.where(valid[..., None], jnp.stack(asked, -1), 0.0)
