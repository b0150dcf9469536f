import dataclasses

import numpy as np
import pytest
import sim_agents_scenes as made

from worldmodel.submission import Method, check_proto, check_submission, rollouts_proto, write_submission

pb2 = pytest.importorskip("waymo_open_dataset.protos.sim_agents_submission_pb2")
METHOD = Method("someone@example.org", "straight on", ("A", "B"), "1M", True)


def scene(name="made"):
    return dataclasses.replace(made.scene([made.drive(5.0), made.drive(7.0, 20.0)]), scenario_id=name)


@pytest.fixture
def message():
    """A valid `ScenarioRollouts`."""
    return rollouts_proto(scene(), made.repeated(scene(), 32))


def test_a_message_holds_all_agents_and_steps(message):
    trajectory = message.joint_scenes[31].simulated_trajectories[1]
    assert (message.scenario_id, trajectory.object_id, len(message.joint_scenes)) == ("made", 101, 32)
    np.testing.assert_allclose(trajectory.center_x, 20 + 0.7 * np.arange(1, 81), rtol=1e-6)
    np.testing.assert_allclose(trajectory.center_z, 0.75)
    assert len(trajectory.heading) == 80


def first(message):
    return message.joint_scenes[0].simulated_trajectories[0]


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda m: setattr(m, "scenario_id", "other"), "found those of scenario 'other'"),
        (lambda m: m.joint_scenes.pop(), "expected 32 rollouts, found 31"),
        (lambda m: m.joint_scenes[3].simulated_trajectories.pop(), r"rollout 3: agents \[101\] are missing"),
        (lambda m: m.joint_scenes[0].simulated_trajectories.add(object_id=5), r"\[5\] are not to be simulated"),
        (lambda m: m.joint_scenes[0].simulated_trajectories.append(first(m)), r"\[100\] are there twice"),
        (lambda m: first(m).heading.pop(), "agent 100: expected 80 steps of heading, found 79"),
        (lambda m: first(m).center_y.__setitem__(7, float("inf")), "expected finite center_y"),
    ],
)
def test_a_broken_message_is_named(message, break_it, complaint):
    break_it(message)
    with pytest.raises(ValueError, match=complaint):
        check_proto(message, scene())


def test_rollouts_of_another_number_are_refused():
    with pytest.raises(ValueError, match="expected 32 rollouts, found 2"):
        rollouts_proto(scene(), made.repeated(scene(), 2))


def test_a_submission_is_read_as_it_was_written(tmp_path):
    scenes = {name: scene(name) for name in ("a", "b", "c")}
    drives = [(one, made.repeated(one, 32)) for one in scenes.values()]
    assert write_submission(tmp_path / "new", METHOD, drives, shards=2) == 3
    check_submission(tmp_path / "new", scenes)
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["submission.binproto-00000-of-00002", "submission.binproto-00001-of-00002"]
    shard = pb2.SimAgentsChallengeSubmission.FromString(files[0].read_bytes())
    assert [rollouts.scenario_id for rollouts in shard.scenario_rollouts] == ["a", "c"]
    assert (list(shard.authors), shard.submission_type) == (["A", "B"], shard.SIM_AGENTS_SUBMISSION)
    assert shard.acknowledge_complies_with_closed_loop_requirement
    with pytest.raises(ValueError, match=r"1 missing \['d'\]"):
        check_submission(tmp_path / "new", scenes | {"d": scene("d")})
    with pytest.raises(ValueError, match="'c' is not one of the split"):
        check_submission(tmp_path / "new", {name: scenes[name] for name in "ab"})
    with pytest.raises(FileExistsError):
        write_submission(tmp_path / "new", METHOD, drives)


def test_an_unfinished_submission_does_not_appear(tmp_path):
    drives = [(scene(), made.repeated(scene(), 32))] * 2
    with pytest.raises(ValueError, match="scenario made is there twice"):
        write_submission(tmp_path / "new", METHOD, drives, shards=1)
    assert not (tmp_path / "new").exists()
