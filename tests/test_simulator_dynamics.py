import jax
import jax.numpy as jnp
import numpy as np
import scenes

from data.geometry import wrap_angle
from simulator.config import SimulatorConfig, VehicleLimits
from simulator.dynamics import advance, last_valid_step, log_actions, log_ego, track_log
from simulator.world import Action, EgoState

LIMITS = VehicleLimits()


def ego(speed=10.0, x=0.0, y=0.0, heading=0.0):
    values = dict(x=x, y=y, heading=heading, speed=speed, acceleration=0.0, curvature=0.0, length=4.5, width=1.8)
    return EgoState(**{name: jnp.array([value], jnp.float32) for name, value in values.items()})


def drive(start, acceleration, curvature, steps, dt=0.1):
    action = Action(jnp.full((1, steps), acceleration), jnp.full((1, steps), curvature))
    return jax.tree.map(lambda field: np.asarray(field[0]), advance(start, action, LIMITS, dt))


def test_straight_line_and_constant_acceleration():
    swept = drive(ego(10.0), 2.0, 0.0, 10)
    np.testing.assert_allclose(swept.x, [10 * t + t * t for t in np.arange(1, 11) * 0.1], rtol=1e-5)
    np.testing.assert_allclose(swept.speed[-1], 12.0, rtol=1e-6)


def test_a_full_circle_closes_and_heading_wraps():
    # radius 10 m at 2 pi m/s: 10 s for the circumference of 20 pi m
    swept = drive(ego(2 * np.pi), 0.0, 0.1, 100)
    np.testing.assert_allclose([swept.x[-1], swept.y[-1]], [0.0, 0.0], atol=1e-3)
    np.testing.assert_allclose([swept.x[49], swept.y[49]], [0.0, 20.0], atol=1e-3)
    assert np.all((swept.heading >= -np.pi) & (swept.heading < np.pi))


def test_one_long_arc_equals_many_short_ones():
    long, short = drive(ego(), 1.0, 0.05, 1, dt=1.0), drive(ego(), 1.0, 0.05, 100, dt=0.01)
    np.testing.assert_allclose([long.x[0], long.y[0]], [short.x[-1], short.y[-1]], atol=1e-3)


def test_braking_stops_inside_the_substep_and_stays():
    # from 0.3 m/s at -6 m/s^2: standstill after 0.05 s and 0.3^2 / 12 = 7.5 mm
    swept = drive(ego(0.3), -6.0, 0.2, 5)
    np.testing.assert_allclose(np.hypot(swept.x, swept.y), 0.0075, rtol=1e-4)
    assert np.all(swept.speed == 0) and np.all(np.isfinite(swept.heading))
    np.testing.assert_allclose(swept.acceleration, [-3.0, 0, 0, 0, 0], atol=1e-5)


def test_limits_hold_at_speed():
    swept = drive(ego(20.0), 100.0, 1.0, 1)
    np.testing.assert_allclose(swept.acceleration, LIMITS.acceleration_max, rtol=1e-5)
    np.testing.assert_allclose(swept.curvature * 20.0**2, LIMITS.lateral_acceleration_max, rtol=1e-5)
    np.testing.assert_allclose(drive(ego(1.0), 0.0, -1.0, 1).curvature, -LIMITS.curvature_max, rtol=1e-6)


def turning_scene():
    """A log that speeds up from standstill, turns left on a radius of 12 m and slows down again."""
    time = np.arange(91) * 0.1
    speed = np.interp(time, [0, 2, 5, 7, 9], [0, 0, 6, 6, 1])
    kappa = np.interp(time, [0, 4, 5, 7, 8], [0, 0, 1 / 12, 1 / 12, 0])
    heading = np.cumsum(kappa * speed * 0.1)
    x, y = np.cumsum(speed * np.cos(heading)) * 0.1, np.cumsum(speed * np.sin(heading)) * 0.1
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
