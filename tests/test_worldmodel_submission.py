import dataclasses

import numpy as np
import pytest
import sim_agents_scenes as made

from tether.evaluation.submission import Method, Submission, check_proto, check_submission, rollouts_proto

pb2 = pytest.importorskip("waymo_open_dataset.protos.sim_agents_submission_pb2")
METHOD = Method("someone@example.org", "straight on", ("A", "B"), "1M", True)


def scene(name="made"):
    return dataclasses.replace(made.scene([made.cruise(5.0), made.cruise(7.0, 20.0)]), scenario_id=name)


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
        check_proto(message, "made", scene().agent_id)


def test_rollouts_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"expected shape \[32, 2, 80\], found \[2, 2, 80\]"):
        rollouts_proto(scene(), made.repeated(scene(), 2))


@pytest.mark.parametrize("steps", [11, 91])
def test_the_log_may_end_now(steps):
    """The test split of WOMD has no future; a submission has 80 steps all the same."""
    whole = scene()
    fields = {name: getattr(whole, name)[:, :steps] for name in ("x", "y", "z", "heading", "valid")}
    message = rollouts_proto(dataclasses.replace(whole, **fields), made.repeated(whole, 32))
    assert len(message.joint_scenes[0].simulated_trajectories[0].center_x) == 80


def agents(names):
    return {name: scene().agent_id for name in names}


def begin(directory, names="abc", **request):
    return Submission(directory, METHOD, agents(names), 2, request)


def write(submission, names):
    for name in names:
        submission.add(scene(name), made.repeated(scene(name), 32))


def test_a_submission_is_read_as_it_was_written(tmp_path):
    submission = begin(tmp_path / "new")
    write(submission, "abc")
    submission.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    check_submission(tmp_path / "new", agents("abc"))
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["submission.binproto-00000-of-00002", "submission.binproto-00001-of-00002"]
    shard = pb2.SimAgentsChallengeSubmission.FromString(files[0].read_bytes())
    assert [rollouts.scenario_id for rollouts in shard.scenario_rollouts] == ["a", "c"]
    assert (list(shard.authors), shard.submission_type) == (["A", "B"], shard.SIM_AGENTS_SUBMISSION)
    assert shard.acknowledge_complies_with_closed_loop_requirement
    with pytest.raises(ValueError, match=r"1 missing \['d'\]"):
        check_submission(tmp_path / "new", agents("abcd"))
    with pytest.raises(ValueError, match="'c' is not one of the split"):
        check_submission(tmp_path / "new", agents("ab"))
    with pytest.raises(ValueError, match="is there already"):
        begin(tmp_path / "new")
    files[1].write_bytes(files[1].read_bytes()[:-1])
    with pytest.raises(ValueError, match="00001-of-00002: expected part of a submission, found damaged bytes"):
        check_submission(tmp_path / "new", agents("abc"))


def test_a_killed_submission_goes_on_to_the_same_bytes(tmp_path):
    whole, pieces = begin(tmp_path / "whole"), begin(tmp_path / "pieces")
    write(whole, "abc")
    whole.finish()
    write(pieces, "ab")
    with pytest.raises(ValueError, match="in use by another process"):
        begin(tmp_path / "pieces")
    pieces.close()
    assert not (tmp_path / "pieces").exists()
    shards, journal = pieces.partial / "shards", pieces.partial / "journal"
    with (shards / "submission.binproto-00000-of-00002").open("ab") as file:
        file.write(b"half a scenario")  # killed amid the third one
    journal.write_bytes(journal.read_bytes() + b'["c", 0')
    again = begin(tmp_path / "pieces")
    assert again.done == {"a", "b"}
    write(again, "c")
    again.finish()
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "pieces" / file.name).read_bytes()


def test_the_files_of_another_request_are_left_alone(tmp_path):
    begun = begin(tmp_path / "new", policy="idm")
    begun.close()
    with pytest.raises(ValueError, match="begun with other policy: take them back"):
        begin(tmp_path / "new", policy="go_straight")
    (begun.partial / "journal").write_text("[]\n")
    with pytest.raises(ValueError, match="journal: expected lines of scenario, shard and size"):
        begin(tmp_path / "new", policy="idm")
    (begun.partial / "journal").write_text('["a", 0, 1000000]\n')
    with pytest.raises(ValueError, match="00000-of-00002'] damaged"):
        begin(tmp_path / "new", policy="idm")


def test_each_scenario_is_written_once(tmp_path):
    submission = begin(tmp_path / "new")
    write(submission, "a")
    for name in ("a", "d"):
        with pytest.raises(ValueError, match=f"scenario {name}: expected one of the split, once"):
            write(submission, name)
    with pytest.raises(ValueError, match=r"2 missing \['b', 'c'\]"):
        submission.finish()
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        begin(tmp_path / "file" / "new")
