"""Ragged scenes become padded ones: frame, order of dropping, chunks, lights, instruction; and validation."""

import dataclasses

import numpy as np
import pytest

from tests.raw_scenes import straight_road, turned
from tether.data.errors import DataError
from tether.data.padding import pad, pad_counted
from tether.data.polyline import project, simplify
from tether.data.raw import localize
from tether.data.scene import RoadType, SceneSpec
from tether.data.validation import validate

SPEC = SceneSpec(agents=4, polylines=16, points=4, lights=2, route_points=100)


def padded(raw, spec):
    return pad(raw, spec)


def test_frame_is_the_ego_at_the_current_step():
    record = padded(straight_road(), SPEC)
    scene = record.scene
    assert record.origin.tolist() == [1010.0, 500.0, 0.0]
    assert scene.ego == 1
    np.testing.assert_allclose(scene.x[1, [0, 10, 90]], [-10.0, 0.0, 80.0])
    np.testing.assert_allclose(scene.route_x[[0, 1]], [-25.0, -23.0])  # 15 m behind the first pose, 2 m apart
    np.testing.assert_allclose(scene.light_route_s, [1030.0 - 985.0, -1.0])
    assert record.instruction == "follow the road, speed limit 50 km/h"


def test_the_world_may_be_turned():
    for angle in (1.0, 3.1, -2.0):
        scene, other = padded(straight_road(), SPEC).scene, padded(turned(straight_road(), angle), SPEC).scene
        for field in ("x", "y", "heading", "vel_x", "vel_y", "route_x", "light_x", "road_x"):
            np.testing.assert_allclose(getattr(other, field), getattr(scene, field), atol=1e-4, err_msg=field)


def test_invalid_entries_are_zero_and_padding_is_masked():
    scene = padded(straight_road(), dataclasses.replace(SPEC, agents=9)).scene
    for field in ("x", "y", "heading", "vel_x", "vel_y"):
        assert not getattr(scene, field)[~scene.valid].any(), field
    assert not scene.valid[4:].any() and not scene.length[4:].any()
    assert not scene.road_x[~scene.road_valid].any()


def test_a_larger_spec_only_adds_padding():
    small = padded(straight_road(), SPEC).scene
    large = padded(straight_road(), dataclasses.replace(SPEC, agents=9, polylines=30, lights=5, route_points=200)).scene
    np.testing.assert_array_equal(large.x[:4], small.x)
    np.testing.assert_array_equal(large.road_x[:16], small.road_x)
    np.testing.assert_array_equal(large.light_route_s[:2], small.light_route_s)
    np.testing.assert_array_equal(large.route_x[:100], small.route_x)


def test_nearest_agents_are_kept_in_order_and_the_rest_is_counted():
    record, dropped = pad_counted(localize(straight_road()), dataclasses.replace(SPEC, agents=2))
    assert record.scene.length.tolist() == [4.0, 4.5]  # 3.5 m away and the ego; those 30 and 90 m away are dropped
    assert record.scene.ego == 1
    assert dropped.agents == 2


def test_the_ego_is_kept_alone():
    scene = padded(straight_road(), dataclasses.replace(SPEC, agents=1)).scene
    assert scene.ego == 0 and scene.length.tolist() == [4.5]


def test_near_road_edges_are_dropped_last():
    raw = straight_road()
    marks = tuple(np.array([[1000.0 + i, 499.0], [1000.5 + i, 499.0]]) for i in range(20))
    types = np.concatenate([np.full(20, RoadType.LINE_UNKNOWN), raw.road_type])
    raw = dataclasses.replace(raw, road_type=types, road_points=marks + raw.road_points)
    record, dropped = pad_counted(localize(raw), dataclasses.replace(SPEC, polylines=3))
    assert record.scene.road_type.tolist() == [RoadType.EDGE_BOUNDARY] * 2 + [RoadType.LANE_SURFACE]
    assert dropped.polylines == 21
    assert dropped.nearest_polyline_m < 1.5


def test_chunks_share_end_points_and_rings_close():
    raw = straight_road()
    angle = np.linspace(0.0, 1.5, 200)
    arc = np.stack([1000 + 60 * np.sin(angle), 560 - 60 * np.cos(angle)], axis=1)
    raw = dataclasses.replace(raw, road_type=np.append(raw.road_type, 16), road_points=(*raw.road_points, arc))
    scene = padded(raw, SPEC).scene
    chunks = [i for i in range(16) if scene.road_type[i] == RoadType.EDGE_MEDIAN]
    ends = {(float(scene.road_x[i, n]), float(scene.road_y[i, n])) for i in chunks for n in (0,)}
    tails = {(float(scene.road_x[i, n - 1]), float(scene.road_y[i, n - 1])) for i in chunks for n in [_count(scene, i)]}
    assert len(chunks) > 2 and len(ends & tails) == len(chunks) - 1
    ring = int(np.flatnonzero(scene.road_type == RoadType.CROSSWALK)[0])
    assert _count(scene, ring) <= 4
    assert scene.road_x[ring, 0] == scene.road_x[ring, _count(scene, ring) - 1]


def _count(scene, row: int) -> int:
    return int(scene.road_valid[row].sum())


def test_simplify_stays_within_its_tolerance():
    rng = np.random.default_rng(0)
    lines = [np.stack([np.arange(n), np.cumsum(rng.normal(size=n))], axis=1) for n in (2, 50, 300)]
    for line, thin in zip(lines, simplify(lines, 0.7), strict=True):
        assert np.abs(project(line, thin)[1]).max() <= 0.7
        assert (thin[[0, -1]] == line[[0, -1]]).all()
        np.testing.assert_array_equal(simplify([thin], 0.7)[0], thin)
    assert len(simplify([np.stack([np.arange(99.0), np.zeros(99)], axis=1)], 0.01)[0]) == 2


def test_a_valid_record_passes():
    assert validate(padded(straight_road(), SPEC), SPEC) is None, "it raises or returns nothing"


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("x", lambda v: v[:, :50], r"field x: expected float32\[4, 91\], found float32\[4, 50\]"),
        ("x", lambda v: v.astype(np.float64), "expected float32"),
        ("y", lambda v: np.where(v == 0, np.nan, v).astype(np.float32), "field y: expected finite"),
        ("valid", lambda v: v & (np.arange(91) != 40), "ego valid from step 0"),
        ("length", lambda v: 0 * v, "length: expected sizes > 0"),
        ("agent_type", lambda v: v + 9, r"agent_type: expected known codes, found \[10\]"),
        ("heading", lambda v: v + np.float32(4), "heading"),
        ("route_x", lambda v: v[::-1].copy(), None),
        ("route_x", lambda v: (np.abs(v + 20) - 20).astype(np.float32), "folds back|apart"),
        ("ego", lambda v: np.int32(7), "ego: expected an index"),
    ],
)
def test_validation_names_the_field(field, change, message):
    record = padded(straight_road(), SPEC)
    broken = dataclasses.replace(record, scene=record.scene.replace(**{field: change(getattr(record.scene, field))}))
    if message is None:
        validate(broken, SPEC)  # a route may run either way along x
        return
    with pytest.raises(DataError, match=message):
        validate(broken, SPEC)


def test_short_logs_and_other_current_steps_are_named():
    with pytest.raises(DataError, match=r"straight \(ego 1\), field x: expected at least 99 steps, found 91"):
        padded(straight_road(), dataclasses.replace(SPEC, steps=99))
    with pytest.raises(DataError, match="field current: expected 5, found 10"):
        padded(straight_road(), dataclasses.replace(SPEC, current=5))


def test_a_scene_is_moved_to_its_frame_once():
    with pytest.raises(TypeError, match="origin"):
        localize(localize(straight_road()))
