import dataclasses

import numpy as np
import pytest
import sim_agents_scenes as made

from tether.data.scene import AgentType, LightState
from tether.evaluation.realism.features import FeatureMap, features, logged_tracks
from tether.evaluation.realism.interaction import FAR, Boxes, rectangle_distance, time_to_collision
from tether.evaluation.realism.kinematics import angular, difference_valid, linear
from tether.evaluation.realism.lights import Lanes, mirrored_distance
from tether.evaluation.realism.nearest import SegmentSearch
from tether.evaluation.realism.road import RoadEdges

SPIKE = np.array([(0, 0, 0), (10, 0, 0), (0, 3, 0)], float)
CLOSED = np.array([(0, 0, 0), (10, 0, 0), (10, 10, 0), (0, 10, 0), (0, 0, 0)], float)


def logged(scene):
    """Features of the log, [E, H]."""
    seen = scene.valid[:, scene.current + 1 :]
    return {n: v[0] for n, v in features(scene, logged_tracks(scene), seen, FeatureMap(scene)).items()}


def boxes(x, y=0.0, heading=0.0, length=4.0, width=2.0):
    return Boxes(*np.broadcast_arrays(*(np.asarray(v, float) for v in (x, y, heading, length, width))))


def test_speed_and_acceleration_are_central_differences():
    x = np.array([0.0, 1.0, 4.0, 9.0, 16.0])
    speed, acceleration = linear(x, 0 * x, 0 * x, 1.0)
    np.testing.assert_allclose(speed, [np.nan, 2, 4, 6, np.nan])
    np.testing.assert_allclose(acceleration, [np.nan, np.nan, 2, np.nan, np.nan])


def test_speed_counts_the_climb():
    speed, _ = linear(3.0 * np.arange(3), np.zeros(3), 4.0 * np.arange(3), 1.0)
    assert speed[1] == 5.0


def test_a_turn_goes_the_shorter_way_round():
    speed, change = angular(np.array([3.1, 3.1 + 0.1, 3.3 - 2 * np.pi, 3.4 - 2 * np.pi, 3.5 - 2 * np.pi]), 0.1)
    np.testing.assert_allclose(speed[1:4], 1.0)
    np.testing.assert_allclose(change[2], 0.0, atol=1e-9)


def test_a_difference_is_valid_where_both_neighbours_are():
    valid = np.array([True, False, True, True, False, True, True])
    assert difference_valid(valid).tolist() == [False, True, False, False, True, False, False]


@pytest.mark.parametrize(
    ("other", "distance"),
    [
        (boxes(7.0), 3.0),
        (boxes(7.0, 6.0), 5.0),  # corner to corner, 3 and 4 m
        (boxes(3.5), -0.5),
        (boxes(0.0, 1.5), -0.5),
        (boxes(5.0, 0.0, np.pi / 2), 2.0),
        (boxes(2.0 + np.sqrt(2) + 1.0, 0.0, np.pi / 4, 2.0, 2.0), 1.0),  # corner to side
    ],
)
def test_rectangle_distance(other, distance):
    np.testing.assert_allclose(rectangle_distance(boxes(0.0), other), distance, atol=1e-9)
    np.testing.assert_allclose(rectangle_distance(other, boxes(0.0)), distance, atol=1e-9)


def test_the_nearest_object_has_round_corners():
    """Radius 0.7 m each: side by side nothing changes, across the corners the cores are 2 * 0.7 m farther apart."""
    ahead = logged(made.scene([made.cruise(0.0), made.cruise(0.0, 7.0)]))
    across = logged(made.scene([made.cruise(0.0), made.cruise(0.0, 7.0)], y=[[0.0], [6.0]]))
    np.testing.assert_allclose(ahead["distance_to_nearest_object"], 3.0)
    np.testing.assert_allclose(across["distance_to_nearest_object"], np.hypot(3 + 1.4, 4 + 1.4) - 1.4)


def test_the_nearest_object_is_another_one_that_is_there():
    valid = np.ones((3, made.STEPS), bool)
    valid[1, 50:] = False
    scene = made.scene([made.cruise(0.0), made.cruise(0.0, 7.0), made.cruise(0.0, 20.0)], valid=valid)
    distance = logged(scene)["distance_to_nearest_object"][0]
    np.testing.assert_allclose(distance[:39], 3.0)
    np.testing.assert_allclose(distance[39:], 16.0)
    assert (logged(made.scene(made.cruise(0.0)))["distance_to_nearest_object"] == FAR).all()


def test_a_collision_lasts_while_boxes_overlap():
    """At 10 m/s, 20.25 m behind a box: fronts meet after 16.25 m, rears part after 24.25 m."""
    scene = made.scene([made.cruise(10.0), made.cruise(0.0, 20.25)])
    hit = logged(scene)["collision_indication"][0]
    time = np.arange(1, 81)
    np.testing.assert_array_equal(hit, (time > 16.25) & (time < 24.25))


def test_time_to_collision_of_a_follower():
    """10 m behind the rear of one that is 4 m/s slower: 2.5 s at first; the leader itself follows no agent."""
    scene = made.scene([made.cruise(10.0), made.cruise(6.0, 14.0)], evaluated=(0, 1))
    seconds = logged(scene)["time_to_collision"]
    np.testing.assert_allclose(seconds[0, :20], 2.5 - 0.1 * np.arange(1, 21))
    assert (seconds[1, :20] == 5.0).all()
    assert seconds[0, -1] == 5.0  # no speed is known at the last step


def test_an_absent_agent_is_not_followed():
    valid = np.ones((2, made.STEPS), bool)
    valid[1, 20:] = False
    scene = made.scene([made.cruise(10.0), made.cruise(5.0, 20.0)], valid=valid)
    seconds = logged(scene)["time_to_collision"][0]
    assert (seconds[:8] < 5).all()
    assert (seconds[9:] == 5).all()


@pytest.mark.parametrize(
    ("y", "turned", "follows"),
    [
        (0.0, 0.0, True),
        (0.0, np.radians(74), True),
        (0.0, np.radians(76), False),
        (1.4, 0.0, True),  # reaches 0.6 m into the way
        (1.6, np.radians(9), True),
        (2.1, 0.0, False),  # beside the way
        (2.1, np.radians(12), False),  # reaches in by less than 0.5 m, and is turned
        (0.0, 2 * np.pi, False),  # headings are not wrapped
    ],
)
def test_which_agent_is_followed(y, turned, follows):
    pair = Boxes(*(np.array(v)[:, None] for v in ([0.0, 10.0], [0.0, y], [0.0, turned], [4.0, 4.0], [2.0, 2.0])))
    seconds = time_to_collision(pair, np.array([[10.0], [5.0]]), np.ones((2, 1), bool), np.array([0]))
    assert (seconds[0, 0] < 5) == follows


@pytest.mark.parametrize(("y", "heading", "distance"), [(0.0, 0.0, -3.0), (3.5, 0.0, 0.5), (-3.0, np.pi / 2, 1.0)])
def test_distance_to_the_road_edge_is_that_of_the_worst_corner(y, heading, distance):
    features = logged(made.scene(made.cruise(1.0), y=y, heading=heading))
    np.testing.assert_allclose(features["distance_to_road_edge"], distance, atol=1e-9)
    assert (features["offroad_indication"] == (distance > 0)).all()


@pytest.mark.parametrize(
    ("line", "point", "distance"),
    [
        (CLOSED, (5, 1), -1),  # inside of a ring that runs counter-clockwise
        (CLOSED, (5, -1), 1),
        (CLOSED, (-3, -4), 5),  # past the corner where the ring closes
        (CLOSED, (13, 14), 5),
        (CLOSED[::-1], (13, 14), -5),
        (CLOSED[::-1], (-3, -4), -5),
        (CLOSED[:3], (13, -4), 5),  # past a left turn
        (CLOSED[:2], (13, -4), 5),  # past a free end the line goes on
        (CLOSED[:2], (13, 4), -5),
        (SPIKE, (13, 1), np.sqrt(10)),  # past a sharp left turn, to the left of the segment before it
        (SPIKE[::-1], (13, 1), -np.sqrt(10)),
    ],
)
def test_the_side_of_an_edge(line, point, distance):
    signed = RoadEdges((line,)).signed_distance(np.array([(*point, 0.0)], float))
    np.testing.assert_allclose(signed, [distance])


def test_a_ring_closes_only_if_it_has_the_most_points():
    """At the spike where it begins; beside a line of more points it does not close, as in the official code."""
    ring = SPIKE[[1, 2, 0, 1]]
    point = np.array([[13.0, -1.0, 0.0]])
    np.testing.assert_allclose(RoadEdges((ring,)).signed_distance(point), [np.sqrt(10)])
    np.testing.assert_allclose(RoadEdges((ring, made.line(90.0, 0, 100))).signed_distance(point), [-np.sqrt(10)])


def test_an_edge_below_a_bridge_is_not_the_nearest():
    """In the plane 1 m from the edge below, 4 m from the bridge's own: 2 m of height count as 6."""
    below, own = made.line(1.0, 100, -100) - [0, 0, 2], made.line(4.0, 100, -100)
    np.testing.assert_allclose(RoadEdges((below, own)).signed_distance(np.zeros((1, 3))), [-4.0])
    np.testing.assert_allclose(RoadEdges((below, own)).signed_distance(np.array([[0.0, 0, -2]])), [-1.0])


def test_the_bottom_of_a_box_finds_its_edge():
    """4 m high, its middle at 2 m, as high as an edge 1 m beside it."""
    above = made.line(2.0, 300, -100) + np.array([0, 0, 2])
    scene = made.scene(made.cruise(1.0), z=np.full((1, made.STEPS), 2.0), height=np.array([4.0]))
    features = logged(dataclasses.replace(scene, road_edges=(*scene.road_edges, above)))
    np.testing.assert_allclose(features["distance_to_road_edge"], -3.0)


def test_road_edges_are_needed():
    with pytest.raises(ValueError, match="road edges"):
        RoadEdges((CLOSED[:1],))


def test_a_red_light_is_run_in_the_step_that_passes_its_stop_point():
    run = logged(made.scene(made.cruise(10.0, 0.5)))["traffic_light_violation"][0]
    assert np.flatnonzero(run).tolist() == [29]  # from x = 29.5 to x = 30.5, 30 steps after the current one


@pytest.mark.parametrize(
    "change",
    [
        {"light_state": np.full((1, made.STEPS), LightState.GO)},
        {"light_lane": np.array([8])},  # not the lane that it is on
        {"light_lane": np.array([8]), "lanes": (made.line(0.0, -100, 300), made.line(-3.0, -100, 300))},
        {"light_lane": np.array([9])},  # a lane that is no surface street
        {"x": made.cruise(-10.0, 50.5)[None]},  # backwards
        {"lanes": (), "lane_id": np.array([], int)},
    ],
)
def test_no_red_light_is_run(change):
    scene = dataclasses.replace(made.scene(made.cruise(10.0, 0.5)), **change)
    assert not logged(scene)["traffic_light_violation"].any()


def test_the_projection_on_a_lane_is_mirrored_as_in_the_official_code():
    """3 m along a segment and 4 m aside are 6 m along from 3 m behind its start. From behind the start: as it is."""
    start, step = np.zeros(2), np.array([10.0, 0.0])
    np.testing.assert_allclose(mirrored_distance(np.array([3.0, 4.0]), start, step), np.hypot(6, 4))
    np.testing.assert_allclose(mirrored_distance(np.array([-3.0, 4.0]), start, step), 5.0)


@pytest.mark.parametrize(("point", "lane"), [((12.0, 50.5), 0), ((9.5, 48.0), 1)])
def test_a_shorter_lane_goes_on_to_the_origin_as_in_the_official_code(point, lane):
    """2.1 m past its end it is nearest; 2.1 m beside its end, towards the origin, its mirrored distance is 4.1 m."""
    short, longer = np.array([(0, 50), (10, 50)], float), np.array([(10, 45), (20, 45), (30, 45)], float)
    assert Lanes((short, longer), np.array([3, 4])).lane_at(np.array([point])) == [lane]


def test_the_nearest_segment_may_have_the_farthest_sample(rng):
    """A long one, 0.1 m away between its ends at 2.5 m, among 50 whose samples are all nearer than these."""
    angle, radius = rng.uniform(-np.pi, np.pi, 50), rng.uniform(0.5, 2.4, 50)
    samples = np.concatenate(
        [np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1), [(-2.5, 0.1), (2.5, 0.1)]]
    )
    search = SegmentSearch(samples, np.append(np.arange(51), 50), 5.0)
    assert search.nearest(np.zeros((1, 2)), lambda p, s: np.append(radius, 0.1)[s]) == [50]


@pytest.mark.parametrize("spacing", [0.5, 5.0])
def test_the_nearest_segment_is_the_one_that_trying_all_finds(rng, spacing):
    start, step = rng.uniform(-20, 20, (200, 2)), rng.normal(0, 2, (200, 2))
    points = rng.uniform(-30, 30, (500, 2))

    def distance(p, s):
        way = points[p] - start[s]
        t = np.clip((way * step[s]).sum(-1) / (step[s] ** 2).sum(-1), 0, 1)
        return np.hypot(*np.moveaxis(way - t[..., None] * step[s], -1, 0))

    pieces = np.ceil(np.hypot(*step.T) / spacing).astype(int) + 1
    parts = zip(start, step, pieces, strict=True)
    samples = np.concatenate([a + np.linspace(0, 1, n)[:, None] * b for a, b, n in parts])
    search = SegmentSearch(samples, np.repeat(np.arange(200), pieces), spacing)
    expected = distance(np.arange(500)[:, None], np.arange(200)[None]).argmin(axis=1)
    np.testing.assert_array_equal(search.nearest(points, distance), expected)


def test_only_evaluated_agents_have_features():
    scene = made.scene([made.cruise(1.0), made.cruise(2.0, 20.0), made.cruise(3.0, 50.0)], evaluated=(1, 2))
    features = logged(dataclasses.replace(scene, agent_type=np.full(3, AgentType.PEDESTRIAN)))
    assert {values.shape for values in features.values()} == {(2, 80)}
    np.testing.assert_allclose(features["linear_speed"][:, :-1], [[2.0] * 79, [3.0] * 79])
