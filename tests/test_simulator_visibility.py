"""Lines of sight: cases computed by hand, and what must not change what is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.data.geometry import Box, rotate
from tether.simulator.visibility import in_sight

EGO = (0.0, 0.0, 0.0, 4.0, 2.0)
see = jax.jit(in_sight, static_argnames="reach")


def seen(*agents, valid=None, blocks=None, reach=80.0, eye=(0.0, 0.0)):
    """What an eye sees of agents given as (x, y, heading, length, width)."""
    boxes = Box(*jnp.asarray(agents, jnp.float32).T)
    everyone = np.ones(len(agents), bool)
    flags = (everyone if given is None else np.asarray(given) for given in (valid, blocks))
    return see(boxes, *flags, *jnp.asarray(eye, jnp.float32), reach=reach).tolist()


def test_a_vehicle_ahead_hides_what_is_behind_it():
    ahead, behind_it = (10.0, 0.0, 0.0, 4.0, 2.0), (20.0, 0.0, 0.0, 4.0, 1.6)
    assert seen(EGO, ahead, behind_it) == [True, True, False]
    assert seen(EGO, ahead, behind_it, blocks=[True, False, True]) == [True, True, True], "seen past a cyclist"
    assert seen(EGO, ahead, behind_it, valid=[True, False, True]) == [True, False, True], "not there"


@pytest.mark.parametrize(("left", "expected"), [(2.9, False), (3.1, True)])
def test_one_corner_in_sight_is_enough(left, expected):
    """The shadow ends on the line through the blocker's near corner (8, 1): at y = 3 where x = 24."""
    ahead, rear_left_corner = (10.0, 0.0, 0.0, 4.0, 2.0), (24.0, left)
    far = (rear_left_corner[0] + 2.0, rear_left_corner[1] - 1.0, 0.0, 4.0, 2.0)
    assert seen(EGO, ahead, far) == [True, True, expected]


def test_what_stands_in_a_gap_of_a_parked_row_is_seen_only_from_beside_it():
    row = [(x, 3.0, 0.0, 4.5, 2.0) for x in (5.0, 10.5, 22.0)]
    child = (13.2, 3.0, 0.0, 0.5, 0.5)
    blocks = [True, True, True, True, False]
    assert seen(EGO, *row, child, blocks=blocks)[-1] is False
    assert seen((13.0, 0.0, 0.0, 4.0, 2.0), *row, child, blocks=blocks, eye=(13.0, 0.0))[-1] is True


def test_reach_counts_to_the_nearest_of_centre_and_corners():
    far = (50.0, 0.0, 0.0, 4.0, 2.0)  # its rear corners are sqrt(48^2 + 1) = 48.0104 m away
    assert seen(EGO, far, reach=48.02) == [True, True]
    assert seen(EGO, far, reach=48.0) == [True, False]


def test_the_view_is_the_same_wherever_the_scene_lies_and_in_whatever_order(rng):
    boxes = np.concatenate(
        [rng.uniform(-40, 40, (6, 24, 2)), rng.uniform(-3, 3, (6, 24, 1)), rng.uniform(0.5, 6, (6, 24, 2))], axis=-1
    ).astype(np.float32)
    valid, blocks = rng.random((2, 6, 24)) < 0.8
    eye = np.zeros((2, 6), np.float32)
    before = see(Box(*np.moveaxis(boxes, -1, 0)), valid, blocks, *eye, reach=50.0)
    assert 0.2 < before[valid].mean() < 0.9
    order, turn, shift = rng.permutation(24), 0.7, (5.0, -3.0)
    x, y, heading, length, width = np.moveaxis(boxes[:, order], -1, 0)
    turned_x, turned_y = rotate(x, y, turn)
    moved = Box(turned_x + shift[0], turned_y + shift[1], heading + turn, length, width)
    after = see(moved, valid[:, order], blocks[:, order], eye[0] + shift[0], eye[1] + shift[1], reach=50.0)
    np.testing.assert_array_equal(after, before[:, order])


def test_lines_of_sight_agree_with_sampled_points(rng):
    """A line is blocked exactly where one of its points lies within a box, up to the sampling's resolution."""
    t = np.linspace(0, 1, 4001)
    for _ in range(50):
        blocker = rng.uniform([3, -6, -3, 1, 1], [15, 6, 3, 5, 3])
        target = rng.uniform([18, -12, 0, 0, 0], [30, 12, 0, 0, 0])  # a point: one line of sight
        dx, dy = target[0] * t - blocker[0], target[1] * t - blocker[1]
        cos, sin = np.cos(blocker[2]), np.sin(blocker[2])
        along, across = np.abs(cos * dx + sin * dy), np.abs(cos * dy - sin * dx)
        slack = np.minimum(blocker[3] / 2 - along, blocker[4] / 2 - across).max()
        if abs(slack) > 0.02 and max(abs(blocker[0]), abs(blocker[1])) > 3:
            assert seen(blocker, target)[1] == (slack < 0)
