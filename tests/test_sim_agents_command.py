"""From a scenario's history to the tracks that the sim agents challenge wants."""

import dataclasses

import numpy as np
import pytest

from data.padding import pad
from data.polyline import wrap
from data.scene import SceneSpec
from data.sim_agents import read_sim_agents
from data.tfrecord import frame
from data.validation import validate
from data.womd_history import history_scene
from tests.raw_scenes import scenario
from training import sim_agents

pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")
SPEC = SceneSpec(agents=2, polylines=64)


@pytest.fixture(scope="module")
def proto():
    """Three vehicles, of which the spec has room for two."""
    return scenario(vehicles=3)


@pytest.fixture(scope="module")
def record(proto):
    return pad(history_scene(proto, SPEC.steps, SPEC.dt), SPEC)


def test_the_future_is_not_looked_at(proto):
    other = type(proto)()
    other.CopyFrom(proto)
    for track in other.tracks:
        for state in track.states[11:]:
            state.center_x, state.valid = 1e6, False
    for frame_ in other.dynamic_map_states[11:]:
        del frame_.lane_states[:]
    one, two = (history_scene(each, SPEC.steps, SPEC.dt) for each in (proto, other))
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(two, field.name)
        if field.name == "road_points":
            assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))
        else:
            np.testing.assert_array_equal(left, right, err_msg=field.name)


def test_a_scenario_that_ends_now_is_enough(proto, record):
    short = type(proto)()
    short.CopyFrom(proto)
    del short.timestamps_seconds[11:]
    for track in short.tracks:
        del track.states[11:]
    del short.dynamic_map_states[11:]
    found = pad(history_scene(short, SPEC.steps, SPEC.dt), SPEC)
    validate(found, SPEC)
    np.testing.assert_array_equal(found.scene.x, record.scene.x)


def test_the_ego_goes_on_along_its_route_and_the_others_are_unseen(record):
    ego = int(record.scene.ego)
    np.testing.assert_allclose(record.scene.x[ego, 11:], np.arange(1, 81), atol=0.01)
    np.testing.assert_allclose(record.scene.y[ego], 0, atol=0.01)
    assert not np.delete(record.scene.valid, ego, axis=0)[:, 11:].any()
    assert not record.scene.light_valid[:, 11:].any()


def test_who_is_left_out_keeps_its_velocity(proto, record):
    sim = read_sim_agents(proto)
    shape = (sim_agents.ROLLOUTS, 2, sim_agents.STEPS)
    boxes = tuple(np.full(shape, value) for value in (3.0, 4.0, 0.5))
    tracks = sim_agents.tracks_of(sim, record, boxes, SPEC)
    row = sim_agents.rows_of(sim, record, SPEC)
    assert sorted(row.tolist()) == [-1, 0, 1]
    left_out, moved = int(np.flatnonzero(row < 0)[0]), int(np.flatnonzero(row >= 0)[0])
    np.testing.assert_allclose(tracks.x[0, left_out], sim.x[left_out, 10] + np.arange(1, 81), atol=1e-6)
    cos, sin = np.cos(record.origin[2]), np.sin(record.origin[2])
    np.testing.assert_allclose(tracks.x[:, moved], record.origin[0] + 3 * cos - 4 * sin)
    np.testing.assert_allclose(wrap(tracks.heading[:, moved] - record.origin[2]), 0.5)


def test_a_damaged_record_stops_the_submission(tmp_path, proto, capsys):
    path = tmp_path / "some.tfrecord"
    data = bytearray(frame(proto.SerializeToString()))
    data[40] ^= 1
    path.write_bytes(data)
    (tmp_path / "config.json").write_text("{}")
    words = [str(tmp_path), "--womd", str(path), "--out", str(tmp_path / "out"), "--account", "a", "--method", "m"]
    assert sim_agents.main([*words, "--authors", "A", "--parameters", "1M"]) == 2
    assert "some.tfrecord, record 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
