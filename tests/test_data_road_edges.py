"""Road edges keep the road on their left, however a converter drew them."""

import dataclasses

import numpy as np
import pytest

from tests.raw_scenes import straight_road
from tether.data.padding import pad
from tether.data.road_edges import fraction_on_right, road_on_left
from tether.data.scene import RoadType, SceneSpec

X = np.linspace(0, 40, 9)
LANE = np.stack([X, np.zeros_like(X)], 1)
RIGHT_EDGE = np.stack([X, np.full_like(X, -2.0)], 1)  # along the lane: the road is on its left
LEFT_EDGE = np.stack([X[::-1], np.full_like(X, 2.0)], 1)
TYPES = np.array([RoadType.LANE_SURFACE, RoadType.EDGE_BOUNDARY, RoadType.EDGE_MEDIAN, RoadType.CROSSWALK])
CROSSWALK = np.array([[10.0, -2], [12, -2], [12, 2], [10, 2]])


def test_fraction_on_right_by_hand():
    assert fraction_on_right([LANE], [RIGHT_EDGE]) == 0.0
    assert fraction_on_right([LANE], [RIGHT_EDGE[::-1]]) == 1.0
    assert fraction_on_right([LANE], [RIGHT_EDGE - np.array([0, 50])]) == 0.0, (
        "an edge far from every lane does not count"
    )
    assert fraction_on_right([], [RIGHT_EDGE]) == 0.0


@pytest.mark.parametrize("reverse", [False, True])
def test_edges_end_with_the_road_on_the_left(reverse):
    turn = slice(None, None, -1 if reverse else 1)
    scene = (LANE, RIGHT_EDGE[turn], LEFT_EDGE[turn], CROSSWALK)
    lane, right, left, crosswalk = road_on_left(TYPES, scene)
    np.testing.assert_array_equal(right, RIGHT_EDGE)
    np.testing.assert_array_equal(left, LEFT_EDGE)
    np.testing.assert_array_equal(lane, LANE)
    np.testing.assert_array_equal(crosswalk, CROSSWALK)


@pytest.mark.parametrize(("north", "off"), [(0.0, False), (-2.9, False), (-3.1, True), (-60.0, True)])
def test_an_ego_whose_box_begins_beyond_an_edge_is_marked(north, off):
    """The edge runs 4 m to the right of its lane, and the box is 2 m wide."""
    raw = straight_road()
    lane, right, left, crosswalk = raw.road_points
    y = raw.y + north * (np.arange(len(raw.y)) == raw.ego)[:, None]
    moved = dataclasses.replace(raw, y=y, road_points=(lane, right, left[::-1], crosswalk))
    assert pad(moved, SceneSpec()).starts_off_road == off


def test_where_no_edge_is_mapped_nothing_is_marked():
    raw = straight_road()
    bare = np.where(raw.road_type == RoadType.EDGE_BOUNDARY, RoadType.DRIVEWAY, raw.road_type)
    assert not pad(dataclasses.replace(raw, road_type=bare, y=raw.y - 60.0), SceneSpec()).starts_off_road
