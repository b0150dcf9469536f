"""Places along routes that close, cross themselves or pass beside themselves, walked on the device and on the host."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.data.polyline import arc_length, interpolate
from tether.data.polyline import walk as walk_on_host
from tether.policy.hazards import path_of, where_first
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.dynamics import log_ego
from tether.simulator.observe import observe
from tether.simulator.route import Route, first_place, log_places, project, walk
from tether.simulator.transition import start_state, with_ego

CONFIG = SimulatorConfig(render=RenderConfig(height=8, width=8, tile_height=32, tile_width=32))
ROUND = np.linspace(0, 3.5 * np.pi, 800)
BOTH = np.linspace(0.05, 15.0, 2000)
# Dense lines, float64[K, 2]: a circle of 10 m, a figure of eight that crosses itself at the origin (Bernoulli's
# lemniscate), a spiral whose laps are 3 m apart.
LINES = {
    "circle": np.stack([10 * np.sin(2 * ROUND), 10 * (1 - np.cos(2 * ROUND))], axis=1),
    "eight": 16 * (np.stack([np.cos(BOTH), np.sin(BOTH) * np.cos(BOTH)]) / (1 + np.sin(BOTH) ** 2)).T,
    "spiral": (12 + 3 * ROUND / (2 * np.pi))[:, None] * np.stack([np.sin(ROUND), -np.cos(ROUND)], axis=1),
}
SPEEDS = {"circle": 8.0, "eight": 6.0, "spiral": 8.0}  # below 7 m/s^2 across


def line_of(name):
    """The line, at most the 157 m that 64 points 2.5 m apart reach."""
    dense = LINES[name]
    return interpolate(dense, np.arange(0.0, min(arc_length(dense)[-1], 157.0), 0.25))


def route_along(line):
    """A route with a point every 2.5 m."""
    points = jnp.asarray(line[::10], jnp.float32)
    return Route(points[:, 0], points[:, 1], jnp.ones(len(points), bool))


def scene_along(name):
    """A scene without roads whose log follows a line, from 10 m along it and at its constant speed."""
    line, speed = line_of(name), SPEEDS[name]
    along = 10.0 + speed * 0.1 * np.arange(91)
    (x, y), (ahead_x, ahead_y) = interpolate(line, along).T, interpolate(line, along + 0.1).T
    heading = np.arctan2(ahead_y - y, ahead_x - x)
    track = {"x": x, "y": y, "heading": heading, "vel_x": speed * np.cos(heading), "vel_y": speed * np.sin(heading)}
    scene = dataclasses.replace(scenes.straight(), road_valid=np.zeros_like(scenes.straight().road_valid))
    return scenes.with_route(scenes.with_rows(scene, 0, track), *line[::10].T)


def test_project_between_points_and_beyond_the_ends():
    route = Route(jnp.array([0.0, 10.0, 20.0]), jnp.zeros(3), jnp.ones(3, bool))
    np.testing.assert_allclose(project(route, 13.7, 1.5, 12.0, 5.0), [13.7, 1.5], rtol=1e-6)
    np.testing.assert_allclose(project(route, 25.0, -2.0, 24.0, 5.0), [25.0, -2.0], rtol=1e-6)
    np.testing.assert_allclose(project(route, -3.0, 0.0, -2.0, 5.0), [-3.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(project(route, 13.7, 0.0, 6.0, 5.0), [11.0, 2.7], rtol=1e-6)  # out of reach


def test_without_a_route_places_are_zero():
    nothing = Route(jnp.zeros(4), jnp.zeros(4), jnp.zeros(4, bool))
    for place in (project(nothing, 3.0, 4.0, 0.0, 9.0), first_place(nothing, 3.0, 4.0, 0.0)):
        assert [float(value) for value in place] == [0.0, 0.0]


def test_the_first_place_is_the_first_of_those_that_are_about_as_near():
    """A lane that is left and joined again after 160 m: 0.3 m beside its first lap, on its second."""
    lap = np.array([(0, 0), (40, 0), (40, 40), (0, 40), (0, 0.3), (40, 0.3)], np.float32)
    route = Route(*jnp.asarray(lap).T, jnp.ones(6, bool))
    np.testing.assert_allclose(first_place(route, 10.0, 0.3, 0.0), [10.0, 0.3], atol=1e-5)
    np.testing.assert_allclose(first_place(route, 0.0, 20.0, -np.pi / 2)[0], 140.0, atol=1e-5)
    np.testing.assert_allclose(first_place(route, 10.0, 0.3, 0.0, from_s=100.0)[0], 169.7, atol=1e-4)


@pytest.mark.parametrize("beside", [0.0, 2.0, -2.0])
@pytest.mark.parametrize("name", LINES)
def test_a_track_is_walked_once_around(name, beside):
    """The arc length grows by the way along the line, at an offset of up to 2 m, which in the spiral is nearer to the
    next lap's line than to its own; on the host as on the device."""
    line = line_of(name)
    along = np.arange(20.0, arc_length(line)[-1] - 5.0, 1.5)
    direction = interpolate(line, along + 0.1) - interpolate(line, along - 0.1)
    aside = np.stack([-direction[:, 1], direction[:, 0]], axis=1) / np.hypot(*direction.T)[:, None]
    points = interpolate(line, along) + beside * aside
    route = route_along(line)
    x, y = (jnp.asarray(column, jnp.float32) for column in points.T)
    s, offset = jax.jit(walk)(route, jnp.float32(20.0), x, y)
    np.testing.assert_allclose(s, along[1:], atol=1.0)  # chords of 2.5 m are shorter than the line
    np.testing.assert_allclose(offset, beside, atol=0.3)
    on_route = np.asarray(route.x, float), np.asarray(route.y, float)
    on_host = walk_on_host(interpolate(line, along), np.stack(on_route, axis=1))
    np.testing.assert_allclose(on_host, along, atol=1.0)


@pytest.mark.parametrize("name", LINES)
def test_the_log_and_every_state_begin_on_their_own_lap(name):
    """More than a lap of the circle (63 m), the crossing of the eight twice."""
    scene = scenes.stack([scene_along(name)])
    expected = 10.0 + 0.1 * SPEEDS[name] * np.arange(91)
    np.testing.assert_allclose(log_places(scene)[0], expected, atol=1.0)
    for step in (10, 60, 90):
        state = start_state(scene, jnp.array([step]), ())
        np.testing.assert_allclose(state.route_s, expected[step], atol=1.0)
        ego = log_ego(scene, jnp.array([step]))
        moved = with_ego(state, ego.replace(x=ego.x - jnp.sin(ego.heading), y=ego.y + jnp.cos(ego.heading)))
        np.testing.assert_allclose(moved.route_s, expected[step], atol=1.2)


def test_places_in_an_observation_are_right_after_a_lap():
    """After a lap of the circle: a car 20 m ahead of it is met at once, and stays ahead when the lap begins anew."""
    scene = scenes.stack([scenes.indexed(scene_along("circle"), CONFIG)])
    for step in (10, 85):
        observation = observe(start_state(scene, jnp.array([step]), ()), CONFIG)
        here = 10.0 + 0.8 * step
        np.testing.assert_allclose(observation.route_s, here, atol=1.0)
        assert abs(float(observation.route_offset[0])) < 0.1
        seen = observation[0]
        path, ahead = path_of(seen), np.array([15.0, -8.0])
        x, y = 10 * np.sin(ahead / 10), 10 * (1 - np.cos(ahead / 10))
        place = where_first(path, jnp.asarray(x), jnp.asarray(y), seen.route_s - 15.0)
        np.testing.assert_allclose(place.arc - seen.route_s, ahead, atol=1.0)
        np.testing.assert_allclose(place.offset, 0.0, atol=0.1)


def test_where_the_log_is_not_seen_it_stays():
    scene = scene_along("circle")
    gap = scenes.with_rows(scene, 0, {"valid": (np.arange(91) < 40) | (np.arange(91) > 50)})
    junk = scenes.with_rows(gap, 0, {"x": np.where(gap.valid[0], gap.x[0], 99.0)})
    places = log_places(scenes.stack([gap, junk]))
    np.testing.assert_array_equal(places[0], places[1])
    np.testing.assert_allclose(places[0, 39:51], places[0, 39])
    np.testing.assert_allclose(places[0, 51:], 10.0 + 0.8 * np.arange(51, 91), atol=1.0)
