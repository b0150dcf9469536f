import numpy as np
import pytest
import scenes

from tether.data.scene import Record
from tether.evaluation.realism.features import FeatureMap, features, logged_tracks
from tether.evaluation.realism.of_record import dense, joined, scene_of, simulated_rows, to_world, tracks_of
from tether.evaluation.realism.score import realism

ORIGIN = np.array([1000.0, 500.0, 0.3])


@pytest.fixture(scope="module")
def record():
    """The ego at 10 m/s behind a vehicle, before a red light at 40.5 m; another agent appears too late."""
    scene = scenes.with_light(scenes.lead_vehicle(), 40.5)
    scene = scenes.with_agent(scene, 2, x=-20.0, y=3.5, speed=5.0, steps=range(20, 60))
    return Record(scene, "made", "hand", "road", "straight", ORIGIN)


@pytest.fixture(scope="module")
def scene(record):
    """The same; only the ego is evaluated."""
    return scene_of(record, np.arange(4) == record.scene.ego, scenes.TINY)


@pytest.fixture(scope="module")
def logged(scene):
    """Features of its log, [1, 80]."""
    seen = scene.valid[:, scene.current + 1 :]
    return {n: v[0] for n, v in features(scene, logged_tracks(scene), seen, FeatureMap(scene)).items()}


def test_agents_at_the_current_step_are_simulated(record, scene):
    assert simulated_rows(record, scenes.TINY).tolist() == scene.agent_id.tolist() == [0, 1]
    assert scene.evaluated.tolist() == [True, False]


def test_the_scene_is_in_the_world(scene):
    np.testing.assert_allclose([scene.x[0, 10], scene.y[0, 10], scene.heading[0, 10]], ORIGIN)
    np.testing.assert_allclose(np.diff(scene.x[0]), np.cos(0.3), atol=1e-5)


def test_distances_are_those_of_the_record(logged):
    np.testing.assert_allclose(logged["distance_to_road_edge"], 0.9 + scenes.RIGHT_EDGE_Y, atol=1e-4)
    np.testing.assert_allclose(logged["distance_to_nearest_object"], 20.0, atol=1e-4)
    np.testing.assert_allclose(logged["linear_speed"][:, :-1], 10.0, atol=1e-3)


def test_the_red_light_is_on_its_lane(logged):
    assert np.flatnonzero(logged["traffic_light_violation"][0]).tolist() == [40]


def test_a_worlds_rollouts_are_scored_in_the_same_frame(record, scene):
    future = (np.repeat(getattr(record.scene, name)[None, :, 11:], 3, 0) for name in ("x", "y", "heading"))
    tracks = tracks_of(record, *future, scenes.TINY)
    np.testing.assert_allclose(tracks.x[2], scene.x[:, 11:])
    np.testing.assert_allclose(tracks.heading[0], scene.heading[:, 11:])
    score = realism(scene, tracks)
    assert score["average_displacement_error"] < 1e-9
    np.testing.assert_allclose(score["traffic_light_violation"], 3.001 / 3.002)


def test_to_world_turns_and_moves(record):
    x, y = to_world(record, np.array([2.0]), np.array([1.0]))
    np.testing.assert_allclose(x, 1000 + 2 * np.cos(0.3) - np.sin(0.3))
    np.testing.assert_allclose(y, 500 + 2 * np.sin(0.3) + np.cos(0.3))


def test_parts_are_joined_where_only_one_goes_on():
    points = np.array([(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (4, 0)], float)
    fork = [points[[3, 4]], points[[3, 5]]]
    whole = joined([points[2:4], points[:2], points[1:3], *fork])
    assert [line.tolist() for line in whole] == [line.tolist() for line in (points[:4], *fork)]


def test_a_ring_in_parts_is_one_line():
    ring = np.array([(0, 0), (1, 0), (1, 1), (0, 0)], float)
    (line,) = joined([ring[:2], ring[1:3], ring[2:]])
    np.testing.assert_array_equal(line, ring)


def test_dense_keeps_the_ends():
    line = dense(np.array([(0.0, 0.0), (3.2, 0.0)]))
    assert len(line) == 8
    np.testing.assert_allclose(line[[0, -1]], [(0, 0), (3.2, 0)])
