"""What a way asks of an agent, and the habits that agree with what it did."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.data.scene import RoadType, Scene
from tether.simulator.config import SimulatorConfig
from tether.worldmodel.batch import log_window
from tether.worldmodel.guidance import CHOICES, guide_columns, guide_frames, habits_shown
from tether.worldmodel.window import substep_boxes, window_frames

SIMULATOR, CURRENT, Y = SimulatorConfig(), scenes.TINY.current, 60.0
TIMES = scenes.TINY.dt * (np.arange(scenes.TINY.steps) - CURRENT)
LANES = ((20.0, 0.0), (0.0, -20.0), (-20.0, 0.0))


def fork() -> Scene:
    """Three agents at 8 m/s, 10 m before a lane ends where three begin; each takes another one. A fourth is parked."""
    scene = scenes.with_polyline(
        scenes.straight(speed=0.0), np.linspace(-60, 10, 16), np.full(16, Y), RoadType.LANE_SURFACE
    )
    for slope in (0.5, 0.0, -0.5):
        x = np.linspace(10, 90, 16)
        scene = scenes.with_polyline(scene, x, Y + slope * (x - 10), RoadType.LANE_SURFACE)
    along = 8.0 * TIMES
    for row, slope in ((1, 0.5), (2, 0.0), (3, -0.5)):
        scene = scenes.with_agent(scene, row, x=0.0, y=Y, speed=8.0)
        angle = np.where(along > 10, np.arctan(slope), 0.0)
        beyond = np.maximum(along - 10, 0.0)
        x = np.minimum(along, 10) + beyond * np.cos(np.arctan(slope))
        fields = {"x": x, "y": Y + beyond * np.sin(np.arctan(slope)), "heading": angle}
        scene = scenes.with_rows(scene, row, fields | {"vel_x": 8 * np.cos(angle), "vel_y": 8 * np.sin(angle)})
    return scene


@pytest.fixture(scope="module")
def frames():
    """The scene [1, ...], its frames and what followed them."""
    scene = jax.tree.map(jnp.asarray, scenes.stack([scenes.indexed(fork(), SIMULATOR)]))
    start = jnp.array([CURRENT])
    boxes = log_window(scene, start, 10, 30)
    return scene, window_frames(boxes, scene, start - 10, SIMULATOR), substep_boxes(boxes, SIMULATOR.substeps)


@pytest.fixture(scope="module")
def shown(frames):
    scene, seen, after = frames
    return jax.jit(lambda *a: habits_shown(*a, SIMULATOR))(seen, after, scene)


def test_the_choice_is_the_route_that_was_taken(shown):
    choice = np.asarray(shown.choice)[0]
    assert (choice == choice[0]).all() and set(choice[0]) <= set(np.float32(CHOICES))
    assert choice[0, 1] < 1 / 3 < choice[0, 2] < 2 / 3 < choice[0, 3]


def test_the_desired_speed_never_knows_what_follows(frames, shown):
    """It is the usual one, or the fastest so far; of the ego, which stands throughout, it is 0."""
    scene, seen, after = frames
    np.testing.assert_allclose(shown.desired[0, :, 1:], 8.0)
    np.testing.assert_array_equal(shown.desired[0, :, 0], 0.0)
    faster = dataclasses.replace(
        seen.now, vel_x=seen.now.vel_x.at[:, 5].mul(2.0), vel_y=seen.now.vel_y.at[:, 5].mul(2.0)
    )
    later = jax.jit(lambda *a: habits_shown(*a, SIMULATOR))(seen.replace(now=faster), after, scene).desired[0, :, 2]
    np.testing.assert_allclose(later, [8.0] * 5 + [16.0] * (len(later) - 5), rtol=1e-5)


def test_guides_turn_agents_into_their_lanes(frames, shown):
    """At 8 m/s before the fork: to the left, straight on, to the right."""
    scene, seen, _ = frames
    guide = jax.jit(lambda *a: guide_frames(*a, SIMULATOR))(seen, scene, shown)
    turns = np.asarray(guide.turn_rate)[0, 4, 1:]
    assert turns[0] > 0.02 and abs(turns[1]) < 1e-3 and turns[2] < -0.02
    assert float(jnp.abs(guide.acceleration[0, 1:, 1:]).max()) < 0.1  # at the desired speed, nothing to reach


def test_what_is_parked_is_asked_to_stand(frames, shown):
    scene, seen, _ = frames
    parked = shown.replace(desired=jnp.zeros_like(shown.desired))
    guide = jax.jit(lambda *a: guide_frames(*a, SIMULATOR))(seen, scene, parked)
    np.testing.assert_allclose(guide.acceleration[0, 1:, 1:], -8.0, rtol=1e-4)


def test_networks_read_nothing_of_an_agent_that_is_not_seen(frames, shown):
    scene, seen, _ = frames
    guide = jax.jit(lambda *a: guide_frames(*a, SIMULATOR))(seen, scene, shown)
    columns = guide_columns(guide, seen.now.valid & (jnp.arange(seen.now.x.shape[-1]) != 2))
    assert np.isfinite(columns).all() and np.abs(columns[0, 1:, 1]).max() > 0
    np.testing.assert_array_equal(columns[0, :, 2], 0.0)
