"""Routes on hand-made lanes and the instructions of hand-made routes."""

import itertools

import numpy as np

from tether.data.polyline import project
from tether.data.route import Lane, derive_route, navigation


def line(*points):
    """A polyline through the points, 1 m apart."""
    points = np.array(points, float)
    parts = [np.linspace(a, b, int(np.hypot(*(b - a))) + 1)[:-1] for a, b in itertools.pairwise(points)]
    return np.concatenate([*parts, points[-1:]])


def arc(start, heading, radius, angle):
    """A turn from `start` by `angle`, left positive."""
    side = np.sign(angle)
    centre = np.array(start) + side * radius * np.array([-np.sin(heading), np.cos(heading)])
    turn = heading - side * np.pi / 2 + np.linspace(0, angle, max(int(radius * abs(angle)), 8))
    return centre + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def drive(path, steps=91):
    """A log along a path: x, y, heading."""
    along = np.linspace(0, len(path) - 1, steps)
    x, y = (np.interp(along, np.arange(len(path)), path[:, i]) for i in (0, 1))
    return x, y, np.unwrap(np.arctan2(np.gradient(y), np.gradient(x)))


def largest_offset(log, route):
    return np.abs(project(np.stack(log[:2], axis=1), route.points)[1]).max()


def largest_bend(points):
    heading = np.unwrap(np.arctan2(*np.diff(points, axis=0).T[::-1]))
    return np.abs(np.diff(heading)).max()


def test_route_is_the_lane_centre_not_the_log():
    lanes = {1: Lane(line((-50, 0), (300, 0)), speed_limit=13.0)}
    x, y, heading = drive(line((0, 0.8), (80, 0.8)))
    route = derive_route(x, y, heading, lanes)
    np.testing.assert_allclose(route.points[:, 1], 0.0, atol=1e-6)
    np.testing.assert_allclose(route.points[[0, -1], 0], [-20, 200], atol=1.5)
    assert route.lanes == {1} and (route.speed_limit == 13.0).all()


def test_lane_change_follows_the_log():
    lanes = {
        1: Lane(line((-50, 0), (300, 0)), neighbors=(2,)),
        2: Lane(line((-50, 3.5), (300, 3.5)), neighbors=(1,)),
    }
    log = drive(line((0, 0), (30, 0), (60, 3.5), (100, 3.5)))
    route = derive_route(*log, lanes)
    assert route.lanes == {1, 2}
    assert largest_offset(log, route) < 1.0 and largest_bend(route.points) < 0.1
    np.testing.assert_allclose(route.points[[5, -5], 1], [0, 3.5], atol=0.1)


def fork():
    """Lane 1 forks at x = 50 into straight lane 2 and left turn 3 (radius 12), which leads into lane 4 northwards."""
    turn = arc((50, 0), 0.0, 12.0, np.pi / 2)
    return {
        1: Lane(line((-50, 0), (50, 0)), exits=(3, 2)),
        2: Lane(line((50, 0), (250, 0)), entries=(1,)),
        3: Lane(turn, exits=(4,), entries=(1,)),
        4: Lane(line((62, 12), (62, 200)), entries=(3,)),
    }


def test_fork_follows_the_log_and_else_goes_straight():
    straight = derive_route(*drive(line((-20, 0), (40, 0))), fork())
    assert straight.lanes == {1, 2}
    assert straight.points[-1, 0] > 120
    log = drive(np.concatenate([line((0, 0), (50, 0)), arc((50, 0), 0.0, 12.0, np.pi / 2)]))
    left = derive_route(*log, fork())
    assert left.lanes == {1, 3, 4}
    assert largest_offset(log, left) < 0.5 and left.points[-1, 1] > 100


def test_u_turn_is_followed():
    turn = arc((40, 0), 0.0, 6.0, np.pi)
    lanes = {
        1: Lane(line((-50, 0), (40, 0)), exits=(2,)),
        2: Lane(turn, exits=(3,), entries=(1,)),
        3: Lane(line((40, 12), (-150, 12)), entries=(2,)),
    }
    log = drive(np.concatenate([line((0, 0), (40, 0)), turn, line((39, 12), (10, 12))]))
    route = derive_route(*log, lanes)
    assert largest_offset(log, route) < 0.7 and route.points[-1, 0] < -80


def test_without_lanes_the_log_is_the_route():
    log = drive(np.concatenate([line((0, 0), (30, 0)), arc((30, 0), 0.0, 15.0, 1.2)]))
    route = derive_route(*log, {})
    assert largest_offset(log, route) < 0.5 and not route.lanes
    assert np.hypot(*np.diff(route.points, axis=0).T).sum() > 150


def test_a_standing_ego_has_the_route_of_its_lane():
    x, y = np.full(91, 10.0), np.full(91, 0.4)
    route = derive_route(x, y, np.zeros(91), {1: Lane(line((-50, 0), (300, 0)))})
    assert np.hypot(*(route.points[-1] - route.points[0])) > 130
    np.testing.assert_allclose(route.points[:, 1], 0.0, atol=0.01)


def test_lane_end_is_continued_straight():
    route = derive_route(*drive(line((0, 0), (80, 0))), {1: Lane(line((-50, 0), (90, 0)))})
    np.testing.assert_allclose(route.points[-1], [200, 0], atol=1.5)


def turning(angle, before=20.0, radius=10.0):
    bend = arc((before, 0), 0.0, radius, angle)
    ahead = bend[-1] + 80 * np.array([np.cos(angle), np.sin(angle)])
    return np.concatenate([line((0, 0), (before, 0)), bend[1:], line(bend[-1], ahead)[1:]])


def test_instructions():
    assert navigation(line((0, 0), (100, 0))) == "follow the road"
    assert navigation(turning(np.pi / 2)) == "turn left in 20 m"
    assert navigation(turning(-np.pi / 2, before=40)) == "turn right in 40 m"
    assert navigation(turning(np.pi, radius=6, before=10)) == "turn around in 10 m"
    assert navigation(turning(np.pi / 2, before=70)) == "follow the road"  # beyond 60 m
    assert navigation(arc((0, 0), 0.0, 80.0, 1.0)) == "follow the road"  # a long bend
    assert navigation(line((0, 0), (1, 0))) == "follow the road"


def test_a_roundabout_is_named_by_its_heading():
    entry = arc((10, 0), 0.0, 12.0, -0.8)
    ring = arc(entry[-1], -0.8, 14.0, 1.6)
    leave = arc(ring[-1], 0.8, 12.0, -0.8)
    through = np.concatenate([line((0, 0), (10, 0)), entry, ring, leave, line(leave[-1], leave[-1] + [40, 0])])
    assert navigation(through) == "follow the road"
