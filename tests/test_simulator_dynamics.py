import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import scenes

from tether.data.geometry import wrap_angle
from tether.simulator.config import SimulatorConfig, VehicleLimits
from tether.simulator.dynamics import (
    action_towards,
    advance,
    along_arc,
    at_rear_axle,
    last_valid_step,
    log_actions,
    log_ego,
    rear_axle,
    track_log,
    velocity,
)
from tether.simulator.world import Action, EgoState

LIMITS = VehicleLimits()


AXLE = 1.25


def ego(speed=10.0, x=0.0, y=0.0, heading=0.0, length=5.0):
    values = dict(x=x, y=y, heading=heading, speed=speed, acceleration=0.0, curvature=0.0, length=length, width=1.8)
    return EgoState(**{name: jnp.array([value], jnp.float32) for name, value in values.items()})


def drive(start, acceleration, curvature, steps, dt=0.1):
    action = Action(jnp.full((1, steps), acceleration), jnp.full((1, steps), curvature))
    return jax.tree.map(lambda field: np.asarray(field[0]), advance(start, action, LIMITS, dt))


def test_straight_line_and_constant_acceleration():
    swept = drive(ego(10.0), 2.0, 0.0, 10)
    np.testing.assert_allclose(swept.x, [10 * t + t * t for t in np.arange(1, 11) * 0.1], rtol=1e-5)
    np.testing.assert_allclose(swept.speed[-1], 12.0, rtol=1e-6)


def test_a_full_circle_closes_and_heading_wraps():
    # The rear axle, from (-1.25, 0), on a radius of 10 m at 2 pi m/s: 10 s for the circumference of 20 pi m.
    swept = drive(ego(2 * np.pi), 0.0, 0.1, 100)
    np.testing.assert_allclose([swept.x[-1], swept.y[-1]], [0.0, 0.0], atol=1e-3)
    np.testing.assert_allclose([swept.x[49], swept.y[49]], [-2.5, 20.0], atol=1e-3)
    assert np.all((swept.heading >= -np.pi) & (swept.heading < np.pi))


def test_one_long_arc_equals_many_short_ones():
    long, short = drive(ego(), 1.0, 0.05, 1, dt=1.0), drive(ego(), 1.0, 0.05, 100, dt=0.01)
    np.testing.assert_allclose([long.x[0], long.y[0]], [short.x[-1], short.y[-1]], atol=1e-3)


def test_braking_stops_inside_the_substep_and_stays():
    # from 0.3 m/s at -6 m/s^2: standstill after 0.05 s and 0.3^2 / 12 = 7.5 mm
    swept = drive(ego(0.3), -6.0, 0.2, 5)
    rear = at_rear_axle(swept)
    np.testing.assert_allclose(np.hypot(rear.x + AXLE, rear.y), 0.0075, rtol=1e-4)
    assert np.all(swept.speed == 0) and np.all(np.isfinite(swept.heading))
    np.testing.assert_allclose(swept.acceleration, [-3.0, 0, 0, 0, 0], atol=1e-5)


def test_limits_hold_at_speed():
    swept = drive(ego(20.0), 100.0, 1.0, 1)
    np.testing.assert_allclose(swept.acceleration, LIMITS.acceleration_max, rtol=1e-5)
    np.testing.assert_allclose(swept.curvature * 20.0**2, LIMITS.lateral_acceleration_max, rtol=1e-5)
    np.testing.assert_allclose(drive(ego(1.0), 0.0, -1.0, 1).curvature, -LIMITS.curvature_max, rtol=1e-6)


def test_the_rear_axle_lies_a_quarter_of_the_length_behind():
    np.testing.assert_allclose(rear_axle(np.array([5.0, 13.8])), [1.25, 3.45])
    rear = at_rear_axle(ego(x=1.0, y=2.0, heading=np.pi / 2))
    np.testing.assert_allclose([rear.x[0], rear.y[0]], [1.0, 0.75], atol=1e-6)


def test_the_centre_swings_outside_the_rear_axle():
    # rear axle at (-1.25, 0) on a radius of 10 m about (-1.25, 10); a quarter circle at pi m/s takes 5 s
    swept = drive(ego(np.pi), 0.0, 0.1, 50)
    np.testing.assert_allclose(np.hypot(swept.x + 1.25, swept.y - 10), np.hypot(10, 1.25), rtol=1e-5)
    np.testing.assert_allclose([swept.x[-1], swept.y[-1]], [8.75, 11.25], atol=1e-3)
    np.testing.assert_allclose(swept.heading[-1], np.pi / 2, atol=1e-4)


def test_the_centre_slips_by_the_angle_of_its_place_on_the_circle():
    swept = drive(ego(5.0), 0.0, 0.2, 2)
    course = np.arctan2(np.diff(swept.y), np.diff(swept.x))
    np.testing.assert_allclose(course - swept.heading.mean(), np.arctan(AXLE * 0.2), atol=1e-4)
    vel_x, vel_y = velocity(swept)
    np.testing.assert_allclose(np.arctan2(vel_y, vel_x) - swept.heading, np.arctan(AXLE * 0.2), atol=1e-5)
    np.testing.assert_allclose(np.hypot(vel_x, vel_y), 5.0 * np.hypot(1, AXLE * 0.2), rtol=1e-5)


def test_braking_at_standstill_neither_creeps_nor_turns():
    swept = drive(ego(0.0, heading=2.0), -8.0, 0.3, 30)
    np.testing.assert_allclose(np.hypot(swept.x, swept.y), 0.0, atol=1e-6)
    np.testing.assert_allclose(swept.heading, 2.0, rtol=1e-6)
    assert np.all(swept.speed == 0)


def test_the_motion_agrees_with_the_numpy_oracle(rng):
    acceleration, curvature = rng.normal(0, 5, 200), rng.normal(0, 0.2, 200)
    track = oracle.drive((3.0, -2.0, 2.9, 4.0, 0.0, 0.0), acceleration, curvature, LIMITS, length=5.0)
    action = Action(jnp.float32(acceleration)[None], jnp.float32(curvature)[None])
    swept = advance(ego(4.0, 3.0, -2.0, 2.9), action, LIMITS, 0.1)
    for name, tolerance in (("x", 2e-3), ("y", 2e-3), ("speed", 1e-4)):
        np.testing.assert_allclose(getattr(swept, name)[0], getattr(track, name)[1:], atol=tolerance, err_msg=name)


@pytest.mark.parametrize("length", [0.0, 5.0, 13.8])
@pytest.mark.parametrize("target", [(6.0, 0.0), (5.0, 1.0), (8.0, -3.0)])
def test_the_arc_towards_a_place_leads_the_centre_there(length, target):
    """In 1 s, at the speed that needs no acceleration."""
    at = [jnp.array([value]) for value in target]
    acceleration, curvature = action_towards(ego(0.0, length=length), *at, 1.0)
    way = acceleration / 2  # what standing still for the second would leave to go
    there = along_arc(ego(0.0, length=length), curvature, way)
    np.testing.assert_allclose([there.x[0], there.y[0]], target, atol=1e-4)
    np.testing.assert_allclose(action_towards(ego(way, length=length), *at, 1.0)[0], 0.0, atol=1e-4)


def turning_scene():
    """A log that speeds up from standstill, turns left on a radius of 12 m and slows down again."""
    time = np.arange(91) * 0.1
    speed = np.interp(time, [0, 2, 5, 7, 9], [0, 0, 6, 6, 1])
    kappa = np.interp(time, [0, 4, 5, 7, 8], [0, 0, 1 / 12, 1 / 12, 0])
    heading = np.cumsum(kappa * speed * 0.1)
    x, y = np.cumsum(speed * np.cos(heading)) * 0.1, np.cumsum(speed * np.sin(heading)) * 0.1
    x, y = x + 1.125 * np.cos(heading), y + 1.125 * np.sin(heading)  # from the rear axle of a car of 4.5 m
    track = dict(x=x, y=y, heading=heading, vel_x=speed * np.cos(heading), vel_y=speed * np.sin(heading))
    return scenes.stack([scenes.with_rows(scenes.straight(), 0, track)])


def test_the_inverse_reproduces_the_log():
    scene, config = turning_scene(), SimulatorConfig()
    start = jnp.array([10])
    action = jax.jit(log_actions, static_argnums=(2, 3))(scene, start, 80, config)
    swept = advance(log_ego(scene, start), action, config.limits, config.dt)
    error = np.hypot(swept.x[0] - scene.x[0, 0, 11:], swept.y[0] - scene.y[0, 0, 11:])
    assert error.max() < 0.1
    assert np.abs(wrap_angle(swept.heading[0] - scene.heading[0, 0, 11:])).max() < 0.05


def test_tracking_recovers_from_a_displaced_start():
    scene, config = scenes.stack([scenes.straight()]), SimulatorConfig()
    start = log_ego(scene, jnp.array([10])).replace(y=jnp.array([1.0]))
    swept = advance(start, track_log(start, scene, jnp.array([10]), 40, config), config.limits, config.dt)
    np.testing.assert_allclose([swept.x[0, -1], swept.y[0, -1]], [40.0, 0.0], atol=0.05)


def test_initial_motion_comes_from_the_past():
    scene = turning_scene()
    state = log_ego(scene, jnp.array([65]))
    np.testing.assert_allclose(state.curvature, 1 / 12, rtol=0.02)
    accelerating = log_ego(scene, jnp.array([40]))
    np.testing.assert_allclose(accelerating.acceleration, 2.0, rtol=1e-3)
    changed = jax.tree.map(np.copy, scene)
    changed.x[..., 41:] += 100.0
    changed.vel_x[..., 41:] += 5.0
    jax.tree.map(np.testing.assert_array_equal, accelerating, log_ego(changed, jnp.array([40])))


def test_last_valid_step_is_the_egos():
    scene = scenes.with_agent(scenes.straight(ego=1), 1, 0.0, 0.0, steps=range(0, 60))
    assert int(last_valid_step(scenes.stack([scene]))[0]) == 59
