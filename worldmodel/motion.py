"""Constant turn rate and speed: the motion that learned models correct and that `kinematic` is."""

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.geometry import wrap_angle
from tether.data.scene import Array, Indexed
from tether.simulator.world import Agents

MAX_TURN_RATE = 1.5  # rad/s; faster turns are annotation noise of slow agents
STILL_SPEED = 0.5  # m/s; below it the direction of a velocity is noise
FULL_TURN_SPEED = 1.0  # m/s; below it turning fades out: a standing box does not rotate
START_ACCELERATION = 0.5  # m/s^2; an agent that starts to move accelerates by more


@flax.struct.dataclass
class Motion(Indexed):
    """The motion of boxes; fields float32[...].

    Attributes:
      speed: [m/s], never negative.
      slip: [rad], direction of motion relative to the heading: pi in reverse.
      turn_rate: [rad/s].
    """

    speed: Array
    slip: Array
    turn_rate: Array


def estimate_motion(now: Agents, before: Agents, span_s: float) -> Motion:
    """The motion of boxes seen now and `span_s` seconds ago; turn rate 0 where they were not seen then.

    Args: now, before: `Agents` with fields [...].
    """
    speed = now.speed
    slip = wrap_angle(jnp.arctan2(now.vel_y, now.vel_x) - now.heading)
    turn_rate = wrap_angle(now.heading - before.heading) / span_s
    turn_rate = jnp.clip(turn_rate, -MAX_TURN_RATE, MAX_TURN_RATE)
    return Motion(
        speed=speed,
        slip=jnp.where(speed > STILL_SPEED, slip, 0.0),
        turn_rate=jnp.where(now.valid & before.valid, turn_rate, 0.0),
    )


def move(now: Agents, motion: Motion, acceleration: Array, turn_rate: Array, substeps: int, dt: float) -> Agents:
    """Moves boxes along arcs at constant acceleration [m/s^2] and turn rate [rad/s]; speed stops at 0.

    Within a sub-step the mean speed and the turn rate are constant, so the displacement is the arc's chord.

    Args: now: `Agents` [...]; acceleration, turn_rate: float32[...]; `motion.turn_rate` is not read.
    Returns: `Agents` [..., substeps]; validity is that of now.
    """
    times = dt * jnp.arange(substeps + 1, dtype=jnp.float32)
    unbounded = motion.speed[..., None] + acceleration[..., None] * times
    # The gradient passes the bound, or a standing agent could never learn to start.
    speed = unbounded + jax.lax.stop_gradient(jnp.maximum(unbounded, 0.0) - unbounded)
    mean_speed = (speed[..., 1:] + speed[..., :-1]) / 2
    turn = turn_rate[..., None] * dt * jnp.clip(mean_speed / FULL_TURN_SPEED, 0.0, 1.0)
    heading = now.heading[..., None] + running_sum(turn)
    course = heading + motion.slip[..., None]
    chord = mean_speed * dt * jnp.sinc(turn / (2 * jnp.pi))
    return Agents(
        x=now.x[..., None] + running_sum(chord * jnp.cos(course - turn / 2)),
        y=now.y[..., None] + running_sum(chord * jnp.sin(course - turn / 2)),
        heading=wrap_angle(heading),
        vel_x=speed[..., 1:] * jnp.cos(course),
        vel_y=speed[..., 1:] * jnp.sin(course),
        valid=jnp.broadcast_to(now.valid[..., None], heading.shape),
    )


def standing(speed: Array, acceleration: Array) -> Array:
    """The acceleration of imagined agents; an agent that stands and would hardly accelerate keeps standing.

    A speed is never below 0, so at standstill the errors of a model that is right on average have one sign and add up:
    queues would creep.

    Args: speed [m/s] and acceleration [m/s^2], of one shape. Returns: [m/s^2], of that shape.
    """
    creeps = (speed < STILL_SPEED) & (acceleration < START_ACCELERATION)
    return jnp.where(creeps, jnp.minimum(acceleration, -speed), acceleration)


def running_sum(x: Array) -> Array:
    """Along the last axis; a product, because cumsum and its gradient are slow on CPU.

    In full precision: tensor cores would round metres to a thousandth of their value.
    """
    return jnp.matmul(x, jnp.triu(jnp.ones((x.shape[-1], x.shape[-1]), x.dtype)), precision="highest")
