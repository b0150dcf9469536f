"""The smoothing inverse on logs whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import scenes

from tether.data.scene import SceneSpec
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import advance, ego_track, limited, log_ego
from tether.simulator.studies.config import SmoothingConfig
from tether.simulator.studies.exact_inverse import inverse
from tether.simulator.studies.inverse import smooth_log_actions
from tether.simulator.world import Action

CONFIG, SETTINGS = SimulatorConfig(), SmoothingConfig()
START, STEPS = SceneSpec.current, SceneSpec().future_steps
LENGTH_M = 4.5  # of the ego of `scenes.straight`
NOISE_M, NOISE_RAD, NOISE_MPS = 0.02, 0.005, 0.1
TIME_S = np.arange(SceneSpec.steps) * SceneSpec.dt
LOGS = ("turns", "noisy", "wrapped", "stop", "stands", "jump", "too_hard", "ends", "ends_in_noise", "gap", "again")


def scene_of(x, y, heading, speed, valid=True):
    """The ego's row of a scene; velocity along the heading."""
    course = dict(vel_x=speed * np.cos(heading), vel_y=speed * np.sin(heading))
    wrapped = (heading + np.pi) % (2 * np.pi) - np.pi
    return scenes.with_rows(scenes.straight(), 0, dict(x=x, y=y, heading=wrapped, **course, valid=valid))


def turning_and_braking(heading=0.0):
    """A path with turns and braking, within the limits."""
    acceleration, curvature = np.sin(TIME_S[1:]), 0.08 * np.sin(0.7 * TIME_S[1:])
    return oracle.drive((0.0, 0.0, heading, 8.0, 0.0, 0.0), acceleration, curvature, CONFIG.limits, LENGTH_M)


def along_x(x, speed, valid=True):
    return scene_of(x, np.zeros_like(x), np.zeros_like(x), speed, valid)


def logs() -> dict:
    """Scenes by name, `LOGS`; noise is seeded."""
    rng = np.random.default_rng(0)
    straight, speed = 10.0 * TIME_S, np.full_like(TIME_S, 10.0)
    log, turned = turning_and_braking(), turning_and_braking(heading=np.pi - 0.05)
    noise = rng.normal(0, NOISE_M, (2, len(TIME_S)))
    stop_speed = np.clip(6.0 - 2.0 * (TIME_S - 2.0), 0.0, 6.0) + np.clip(TIME_S - 7.0, 0.0, None)
    early, junk = TIME_S < 6.0, rng.normal(0, 50, len(TIME_S))
    turn, change = NOISE_RAD * rng.normal(size=len(TIME_S)), NOISE_MPS * rng.normal(size=len(TIME_S))
    noisy = scene_of(log.x + noise[0], log.y + noise[1], log.heading + turn, log.speed + change)
    return {
        "turns": scene_of(log.x, log.y, log.heading, log.speed),
        "noisy": noisy,
        "again": noisy,
        "wrapped": scene_of(turned.x, turned.y, turned.heading, turned.speed),
        "stop": along_x(np.cumsum(stop_speed) * 0.1, stop_speed),
        "stands": scene_of(noise[0] / 4, noise[1] / 4, noise[0], np.abs(noise[1])),
        "jump": along_x(straight + 3.0 * (TIME_S > 5.0), speed),
        "too_hard": along_x(np.where(TIME_S < 3.0, straight, 30.0), speed * (TIME_S < 3.0)),
        "ends": along_x(straight * early, speed * early, early),
        "ends_in_noise": along_x(np.where(early, straight, junk), np.where(early, speed, junk), early),
        "gap": along_x(np.where((TIME_S > 3) & (TIME_S < 4), 0.0, straight), speed, (TIME_S <= 3) | (TIME_S >= 4)),
    }


SOLVE = jax.jit(smooth_log_actions, static_argnums=(2, 3, 4))
ADVANCE = jax.jit(advance, static_argnums=(2, 3))


def solved(settings=SETTINGS):
    """Start, actions and path for every log, and the path's distance from the log [N] (0 where not valid)."""
    every = scenes.stack([logs()[name] for name in LOGS])
    ego, action = SOLVE(every, jnp.full(len(LOGS), START), STEPS, CONFIG, settings)
    swept = ADVANCE(ego, action, CONFIG.limits, CONFIG.dt)
    x, y, valid = (ego_track(every, name)[:, START + 1 :] for name in ("x", "y", "valid"))
    beside = np.where(valid, np.hypot(swept.x - x, swept.y - y), 0.0)
    every = (ego, action, swept, beside)
    return {name: jax.tree.map(lambda field, row=row: np.asarray(field[row]), every) for row, name in enumerate(LOGS)}


@pytest.fixture(scope="module")
def solutions():
    return solved()


@pytest.mark.parametrize(("log", "within_m"), [("noisy", 0.1), ("wrapped", 0.08), ("stop", 0.05), ("turns", 0.08)])
def test_the_path_stays_by_the_log(solutions, log, within_m):
    assert solutions[log][3].max() < within_m


def test_actions_behind_a_log_are_recovered(solutions):
    """The log is made by the dynamics: the recovered actions are those of the rear axle."""
    _, action, _, beside = solutions["turns"]
    assert beside.max() < 0.04  # what smoothing costs
    wanted = np.sin(TIME_S[START + 1 :])
    np.testing.assert_allclose(action.acceleration[3:-3], wanted[3:-3], atol=0.1)
    np.testing.assert_allclose(action.curvature[3:-3], turning_and_braking().curvature[START + 1 :][3:-3], atol=0.005)


def test_the_solution_is_smoother_than_the_raw_inverse_which_drifts(solutions):
    scene = scenes.stack([logs()["noisy"]])
    log = jax.vmap(log_ego, (None, 0), 1)(scene, START + jnp.arange(STEPS + 1)[:, None])
    raw = Action(*inverse(log[:, :-1], log[:, 1:], CONFIG.dt))
    swept = advance(log[:, 0], raw, CONFIG.limits, CONFIG.dt)
    _, smooth, _, beside = solutions["noisy"]
    assert np.hypot(swept.x - log.x[:, 1:], swept.y - log.y[:, 1:]).max() > 2 * beside.max()
    for name in ("acceleration", "curvature"):
        jitter = [np.abs(np.diff(actions, n=2)).mean() for actions in (getattr(smooth, name), getattr(raw, name)[0])]
        assert jitter[0] < 0.2 * jitter[1], name


def test_actions_keep_to_the_limits_at_every_speed(solutions):
    for ego, action, swept, _ in solutions.values():
        speed = np.concatenate([[ego.speed], swept.speed[:-1]])
        kept = limited(speed, action.acceleration, action.curvature, CONFIG.limits)
        np.testing.assert_allclose(kept, (action.acceleration, action.curvature), rtol=1e-3, atol=1e-5)


def test_an_impossible_log_is_left_and_joined_again(solutions):
    *_, beside = solutions["jump"]
    assert beside.max() > 0.1 and beside[-1] < 0.1 and np.all(np.isfinite(beside))


def test_a_log_that_brakes_too_hard_is_missed_by_as_little_as_possible(solutions):
    # 10 m/s to 0 takes 6.25 m, the log none: at best half of it too early, half too late, and no way back
    _, _, swept, beside = solutions["too_hard"]
    assert beside.max() < 6.25 / 2 + 0.1 and np.all(np.diff(swept.x) >= 0)


def test_a_standing_ego_stands(solutions):
    _, _, swept, beside = solutions["stands"]
    assert beside.max() < 0.05
    assert np.ptp(swept.x) < 0.05 and np.abs(swept.heading).max() < 0.1


def test_the_start_is_the_log_but_for_noise(solutions):
    for name, (ego, *_) in solutions.items():
        log = log_ego(scenes.stack([logs()[name]]), jnp.array([START]))[0]
        np.testing.assert_allclose([ego.x, ego.y], [log.x, log.y], atol=1e-6)
        assert abs(np.sin(ego.heading - log.heading)) < 0.06 and abs(ego.speed - log.speed) < 1.5


def test_without_start_noise_it_starts_exactly_where_the_log_does():
    fixed = solved(SmoothingConfig(start_heading=0.0, start_speed=0.0))
    for name, (ego, *_) in fixed.items():
        log = log_ego(scenes.stack([logs()[name]]), jnp.array([START]))[0]
        np.testing.assert_allclose([ego.heading, ego.speed], [log.heading, log.speed], atol=1e-5, err_msg=name)
    assert fixed["noisy"][3].max() < 0.1


def test_nothing_beyond_the_logs_end_or_in_a_gap_is_followed(solutions):
    jax.tree.map(np.testing.assert_array_equal, solutions["ends"][1], solutions["ends_in_noise"][1])
    assert solutions["ends"][3].max() < 0.01 and solutions["gap"][3].max() < 0.01


def test_heading_wrap_changes_nothing(solutions):
    there, back = solutions["turns"][1], solutions["wrapped"][1]
    np.testing.assert_allclose(there.acceleration, back.acceleration, atol=0.02)
    np.testing.assert_allclose(there.curvature, back.curvature, atol=1e-3)


def test_a_row_does_not_depend_on_its_neighbours(solutions):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), solutions["noisy"][1], solutions["again"][1])
