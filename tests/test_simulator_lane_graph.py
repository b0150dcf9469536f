"""Which lane segments follow which, on hand-made lanes."""

import numpy as np
import pytest
import scenes

from tether.data.scene import RoadType, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.lane_graph import FOLLOWING
from tether.simulator.road_index import index_road

INTO = ((-20, 0), (-10, 0), (0, 0))
STRAIGHT = ((0, 0), (10, 0), (20, 0))
LEFT = ((0, 0), (10, 1), (20, 10))  # begins straight: only farther on it leads to the left
RIGHT = ((0, 0), (10, -1), (20, -10))
BACK = ((0, 0), (-5, 5), (-10, 10))
FORK = (INTO, STRAIGHT, RIGHT, BACK, LEFT)


def map_of(*lines, kinds=None) -> Scene:
    """A scene of lanes through points; of other kinds where they are given."""
    scene = scenes.empty()
    for line, kind in zip(lines, kinds or [RoadType.LANE_SURFACE] * len(lines), strict=True):
        scene = scenes.with_polyline(scene, *np.array(line, float).T, kind)
    return scene


def following(scene: Scene) -> dict:
    """Beginning and end of a segment to the ends of those that follow it, in order."""
    index = index_road(scene, SimulatorConfig())
    assert index.following.shape == (index.segments.shape[0], FOLLOWING) and index.following.dtype == np.int32
    ends = [tuple(row) for row in index.segments.round(3).tolist()]
    listed = np.unique(index.lanes.entry[: index.lanes.count.sum()])
    assert (np.delete(index.following, listed, axis=0) == -1).all()
    return {ends[row]: [ends[after][2:] for after in index.following[row] if after >= 0] for row in listed}


def test_segments_of_a_polyline_follow_each_other_and_its_end_leads_nowhere():
    assert following(map_of(STRAIGHT)) == {(0, 0, 10, 0): [(20, 0)], (10, 0, 20, 0): []}


def test_lanes_follow_from_left_to_right_and_not_round_sharp_corners():
    assert following(map_of(*FORK))[-10, 0, 0, 0] == [(10, 1), (10, 0), (10, -1)]


def test_bike_lanes_and_what_only_comes_near_do_not_follow():
    beside = ((0, 0.5), (10, 0.5), (20, 0.5))
    kinds = (RoadType.LANE_SURFACE, RoadType.LANE_BIKE, RoadType.LANE_SURFACE)
    assert following(map_of(INTO, STRAIGHT, beside, kinds=kinds))[-10, 0, 0, 0] == []


def test_a_short_lane_does_not_follow_itself():
    short = ((0, 0), (0.5, 0))
    after = following(map_of(INTO, short, ((0.5, 0), (10, 0))))
    assert after[-10, 0, 0, 0] == [(0.5, 0)] and after[0, 0, 0.5, 0] == [(10, 0)]


@pytest.mark.parametrize("change", ["reversed", "padded", "cut"])
def test_order_padding_and_cuts_of_polylines_change_nothing(change):
    expected = following(map_of(*FORK))
    lines, scene = FORK, None
    if change == "reversed":
        lines = FORK[::-1]
    elif change == "cut":
        lines = [part for line in FORK for part in (line[:2], line[1:])]
    else:
        scene, whole = scenes.empty(), map_of(*FORK)
        rows = np.array([1, 3, 4, 7, 10])
        names = ("road_x", "road_y", "road_valid", "road_type")
        scene = scenes.with_rows(scene, rows, {name: getattr(whole, name)[: len(FORK)] for name in names})
    assert following(scene or map_of(*lines)) == expected


def test_a_closed_lane_goes_round_and_a_lane_of_many_ends_keeps_the_leftmost():
    angle = np.linspace(0, 2 * np.pi, 13)
    circle = list(zip(10 * np.cos(angle), 10 * np.sin(angle), strict=True))
    assert all(len(after) == 1 for after in following(map_of(circle)).values())
    fan = [((0, 0), (10, y)) for y in (-5, 5, -2, 2, 0)]
    assert following(map_of(INTO, *fan))[-10, 0, 0, 0] == [(10, 5), (10, 2), (10, 0), (10, -2)]
