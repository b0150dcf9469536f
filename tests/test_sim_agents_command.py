"""From a scenario's history to the tracks that the sim agents challenge wants."""

import dataclasses

import numpy as np
import pytest

from tests.raw_scenes import scenario
from tether.data.errors import DataError
from tether.data.padding import pad
from tether.data.polyline import wrap
from tether.data.scene import SceneSpec
from tether.data.sim_agents import read_sim_agents
from tether.data.tfrecord import frame
from tether.data.validation import validate
from tether.data.womd_history import history_scene
from tether.evaluation import sim_agents
from tether.evaluation.submission import Submission
from tether.evaluation.world_models.study import Subject
from tether.training import settings
from tether.training.config import Config
from tether.training.stop import Interrupted
from tether.worldmodel.kinematic import KinematicConfig

pb2 = pytest.importorskip("waymo_open_dataset.protos.sim_agents_submission_pb2")
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
    padded = pad(history_scene(cut(proto, "made"), SPEC.steps, SPEC.dt), SPEC)
    validate(padded, SPEC)
    np.testing.assert_array_equal(padded.scene.x, record.scene.x)


def test_a_track_without_size_that_is_gone_by_now_costs_nothing(proto, record):
    """Real records of WOMD hold pedestrians of length and width 0 that leave before the current step."""
    short = cut(proto, "made")
    for step, state in enumerate(short.tracks[1].states):
        state.length, state.width, state.valid = 0.0, 0.0, step < 5
    padded = pad(history_scene(short, SPEC.steps, SPEC.dt), SPEC)
    validate(padded, SPEC)
    assert read_sim_agents(short).agent_id.tolist() == [0, 2]


def test_the_ego_goes_on_along_its_route_and_the_others_are_unseen(record):
    ego = int(record.scene.ego)
    np.testing.assert_allclose(record.scene.x[ego, 11:], np.arange(1, 81), atol=0.01)
    np.testing.assert_allclose(record.scene.y[ego], 0, atol=0.01)
    assert not np.delete(record.scene.valid, ego, axis=0)[:, 11:].any()
    assert not record.scene.light_valid[:, 11:].any()


def test_an_agent_that_is_left_out_keeps_its_velocity(proto, record):
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


def cut(proto, scenario_id):
    """A record as WOMD's test split has it: the log ends at the current step."""
    short = type(proto)()
    short.CopyFrom(proto)
    short.scenario_id = scenario_id
    del short.timestamps_seconds[11:]
    for track in short.tracks:
        del track.states[11:]
    del short.dynamic_map_states[11:]
    return short


def write(path, *payloads):
    """A TFRecord file."""
    path.write_bytes(
        b"".join(frame(each if isinstance(each, bytes) else each.SerializeToString()) for each in payloads)
    )
    return path


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command for a run of the kinematic model, which needs no fit: (records, more options) -> status."""
    simulator = Config(name="cpu").simulator
    subject = Subject("kinematic", KinematicConfig().build(simulator), ())
    monkeypatch.setattr(sim_agents, "fitted", lambda *_: subject)
    settings.write(Config(name="cpu", world_model="kinematic"), tmp_path / "config.json")

    def run(records, *more):
        arguments = (
            f"{tmp_path} --womd {records} --out {tmp_path / 'out'} --account a --method m --authors A --parameters 1M"
        )
        return sim_agents.main([*arguments.split(), "--agents", "2", "--shards", "1", *more])

    return run


def test_records_that_end_now_become_a_submission(tmp_path, proto, command, monkeypatch, capsys):
    """The whole command, stopped by the disk and by a signal: what was computed is kept, and the rest is added."""
    records = write(tmp_path / "test.tfrecord", cut(proto, "a"), cut(proto, "b"))
    add = Submission.add

    def stopped_by(error):
        def stopped(submission, scene, rollouts):
            if submission.done:
                raise error
            add(submission, scene, rollouts)

        return stopped

    with monkeypatch.context() as patch:
        patch.setattr(Submission, "add", stopped_by(OSError(28, "No space left on device", "shard")))
        assert command(records) == 2
        patch.setattr(Submission, "add", stopped_by(Interrupted("stopped by SIGTERM")))
        with pytest.raises(Interrupted, match=r"stopped by SIGTERM\n1 of 2 scenarios are kept in .*: the same command"):
            command(records)
    error = capsys.readouterr().err
    assert "No space left on device: 'shard'\n1 of 2 scenarios are kept in" in error
    assert not (tmp_path / "out").exists()
    assert command(records) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 2 scenarios, 32 rollouts each\n"
    (shard,) = (tmp_path / "out").iterdir()
    submission = pb2.SimAgentsChallengeSubmission.FromString(shard.read_bytes())
    assert [one.scenario_id for one in submission.scenario_rollouts] == ["a", "b"]
    for one in submission.scenario_rollouts:
        assert [each.object_id for each in one.joint_scenes[31].simulated_trajectories] == [0, 1, 2]
        follower = one.joint_scenes[0].simulated_trajectories[1].center_x
        np.testing.assert_allclose(follower, 2 + np.arange(1, 81), atol=0.05)  # 10 m/s, from 2 m on
    assert command(records) == 2
    assert "is there already" in capsys.readouterr().err


def test_all_records_are_looked_at_before_the_first_rollout(tmp_path, proto, command, monkeypatch, capsys):
    monkeypatch.setattr(sim_agents, "continue_all", lambda *_: pytest.fail("a rollout"))
    unseen = cut(proto, "unseen")
    unseen.tracks[0].states[4].valid = False
    odd = cut(proto, "odd")
    monkeypatch.setattr(sim_agents, "read_sim_agents", lambda s: 1 // (s.scenario_id != "odd") and read_sim_agents(s))
    write(tmp_path / "1.tfrecord", cut(proto, "a"), unseen, odd, b"none")
    write(tmp_path / "2.tfrecord", cut(proto, "a"), cut(proto, "b"))
    damaged = bytearray((tmp_path / "2.tfrecord").read_bytes())
    damaged[-10] ^= 1
    (tmp_path / "2.tfrecord").write_bytes(damaged)
    assert command(tmp_path / "*.tfrecord") == 2
    message = capsys.readouterr().err
    for fault in (
        "5 of 6 records cannot be submitted:",
        "1.tfrecord, record 1 (unseen), field tracks: expected the SDC valid at every step up to the current one",
        "1.tfrecord, record 2: unexpected ZeroDivisionError",
        "1.tfrecord, record 3: expected a WOMD Scenario proto",
        "2.tfrecord, record 0 (a): expected each scenario once, found it before",
        "2.tfrecord, record 1: corrupt record",
    ):
        assert fault in message
    assert not list(tmp_path.glob("out*"))


def test_corrections_of_records_are_printed(tmp_path, proto, capsys):
    bare = cut(proto, "bare")
    for state in bare.tracks[1].states:
        state.length = -1.3
    path = write(tmp_path / "some.tfrecord", cut(proto, "a"), bare)
    agents = sim_agents.survey([str(path)], SPEC, Config(name="cpu").simulator)
    assert agents["bare"].tolist() == [0, 1, 2]
    line = f"agents without a size that have their type's usual box: 1 in 1 records, such as {path}, record 1\n"
    assert capsys.readouterr().out == line


def test_agents_that_are_nowhere_are_named(proto, record):
    sim = read_sim_agents(proto)
    sim.z[1, 10] = np.nan
    with pytest.raises(DataError, match=r"record made, field z: .* agents \[1\]"):
        sim_agents.check_places(sim, record, SPEC)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--shards", "0"), "--shards: expected at least 1, found 0"),
        (("--agents", "-3"), "--agents: expected at least 1, found -3"),
        (("--policy", "imitation"), "unknown policy 'imitation', expected one of"),
        (("--womd", "nothing*"), "nothing*: no file matches"),
    ],
)
def test_impossible_settings_are_reported_in_one_line(tmp_path, command, capsys, more, complaint):
    assert command(tmp_path / "test.tfrecord", *more) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_runs_of_other_steps_are_refused():
    config = Config(name="cpu")
    sim_agents.check_steps(config)
    for field, value in (("dt", 0.2), ("substeps", 3)):
        simulator = dataclasses.replace(config.simulator, **{field: value})
        with pytest.raises(ValueError, match=r"80 steps of 0.1 s"):
            sim_agents.check_steps(dataclasses.replace(config, simulator=simulator))
