import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from tether.simulator.geometry import (
    Box,
    corners,
    penetration,
    segments,
    signed_edge_distance,
    time_to_collision,
)


def box(x, y, heading=0.0, length=4.0, width=2.0):
    return Box(*(jnp.asarray(value, jnp.float32) for value in (x, y, heading, length, width)))


@pytest.mark.parametrize(
    ("other", "depth"),
    [
        (box(3.5, 0.0), 0.5),
        (box(4.0, 0.0), 0.0),  # touching is no overlap
        (box(0.0, 1.5), 0.5),
        (box(5.0, 0.0), -1.0),
        (box(2.5, 0.0, np.pi / 2), 0.5),  # turned: reaches 1 m along x
        (box(3.0, 0.0, np.pi), 1.0),
        (box(2.0 + np.sqrt(2.0) - 0.1, 0.0, np.pi / 4, 2.0, 2.0), 0.1),  # a corner points at the side
        (box(2.0 + 0.9, 1.0 + 0.9, np.pi / 4, 2.0, 2.0), -0.9 * np.sqrt(2.0) + 1.0),  # parted by its own axis only
    ],
)
def test_penetration(other, depth):
    np.testing.assert_allclose(penetration(box(0.0, 0.0), other), depth, atol=1e-5)
    np.testing.assert_allclose(penetration(other, box(0.0, 0.0)), depth, atol=1e-5)


def test_penetration_agrees_with_sampled_points(rng):
    """Boxes share a point exactly where the depth is positive, up to the sampling's resolution."""
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 60), np.linspace(-0.5, 0.5, 60)), -1).reshape(-1, 2)
    for x, y, heading, length, width in rng.uniform([-4, -4, -3, 0.5, 0.5], [4, 4, 3, 6, 3], (100, 5)):
        depth = float(penetration(box(0.0, 0.0), box(x, y, heading, length, width)))
        along, across = grid[:, 0] * length, grid[:, 1] * width
        inside_x = x + along * np.cos(heading) - across * np.sin(heading)
        inside_y = y + along * np.sin(heading) + across * np.cos(heading)
        shared = np.any((np.abs(inside_x) < 2) & (np.abs(inside_y) < 1))
        assert not shared or depth > 0
        assert shared or depth < 0.15


def test_corners_are_counter_clockwise_from_the_front_left():
    x, y = corners(box(1.0, 1.0, np.pi / 2))
    np.testing.assert_allclose(x, [0, 2, 2, 0], atol=1e-6)
    np.testing.assert_allclose(y, [3, 3, -1, -1], atol=1e-6)


def test_time_to_collision():
    ego = box(0.0, 0.0)
    # bumpers 10 m apart, closing at 5 m/s
    np.testing.assert_allclose(time_to_collision(ego, 10.0, box(14.0, 0.0), 5.0, 0.0), 2.0, rtol=1e-5)
    assert np.isinf(time_to_collision(ego, 10.0, box(14.0, 0.0), 12.0, 0.0))
    assert np.isinf(time_to_collision(ego, 10.0, box(14.0, 3.0), 5.0, 0.0))
    # crossing: bumpers meet after 1.1 s, while the crosser (2 m wide path) is in the lane from 0.9 s to 2.1 s
    np.testing.assert_allclose(time_to_collision(ego, 10.0, box(14.0, -7.5, np.pi / 2), 0.0, 5.0), 1.1, rtol=1e-4)


def line(points):
    x, y = np.asarray(points, np.float32).T
    return segments(jnp.asarray(x), jnp.asarray(y), jnp.ones(len(x), bool))


def edge_distance(points, x, y):
    return float(signed_edge_distance(line(points), jnp.float32(x), jnp.float32(y)))


def test_signed_edge_distance_on_segments_and_at_vertices():
    straight = [(0, 0), (10, 0)]  # road on the left
    np.testing.assert_allclose(edge_distance(straight, 5, 2), -2.0)
    np.testing.assert_allclose(edge_distance(straight, 5, -2), 2.0)
    right_turn = [(0, 0), (10, 0), (10, -10)]  # the road keeps outside of this corner
    np.testing.assert_allclose(edge_distance(right_turn, 13, 4), -5.0)
    np.testing.assert_allclose(edge_distance(right_turn, 9, -1), 1.0)
    left_turn = [(0, 0), (10, 0), (10, 10)]  # the road is inside
    np.testing.assert_allclose(edge_distance(left_turn, 13, -4), 5.0)
    np.testing.assert_allclose(edge_distance(left_turn, 9, 1), -1.0)
    # sharp vertices: the nearer line of the two is the wrong one to ask
    spike = [(0, 0), (10, 0), (0, 1)]
    np.testing.assert_allclose(edge_distance(spike, 12, -0.5), np.hypot(2, 0.5), rtol=1e-6)


def test_an_edge_does_not_count_far_past_its_free_end():
    one = segments(*(jnp.asarray(v, jnp.float32) for v in ([0.0, 10.0], [0.0, 0.0])), jnp.array([True, True]))
    x, y = jnp.array([5.0, 11.0, 13.0, -3.0]), jnp.full(4, -1.0)
    np.testing.assert_array_equal(signed_edge_distance(one, x, y) > 0, [True, True, False, False])
    corner = segments(*(jnp.asarray(v, jnp.float32) for v in ([0.0, 10.0, 10.0], [0.0, 0.0, 10.0])), jnp.ones(3, bool))
    assert signed_edge_distance(corner, jnp.float32(15.0), jnp.float32(-5.0)) > 0, "a vertex is no free end"


def test_no_edge_means_nothing_is_off_road():
    nothing = line([(0, 0), (10, 0)])._replace(valid=jnp.zeros(1, bool))
    assert float(signed_edge_distance(nothing, jnp.float32(5), jnp.float32(-2))) == -np.inf


def test_signed_distance_to_a_closed_ring_matches_its_inside(rng):
    """A counter-clockwise ring keeps the road inside: the sign is the point-in-polygon test."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
    radius = rng.uniform(4, 10, 12)
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    closed = np.concatenate([ring, ring[:1]])
    points = rng.uniform(-12, 12, (400, 2)).astype(np.float32)
    inside = np.zeros(len(points), bool)
    for (ax, ay), (bx, by) in itertools.pairwise(closed):
        straddles = (ay > points[:, 1]) != (by > points[:, 1])
        inside ^= straddles & (points[:, 0] < (bx - ax) * (points[:, 1] - ay) / (by - ay) + ax)
    distance = signed_edge_distance(line(closed), jnp.asarray(points[:, 0]), jnp.asarray(points[:, 1]))
    np.testing.assert_array_equal(np.asarray(distance) < 0, inside)
