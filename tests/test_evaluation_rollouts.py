"""Rollouts in hand-made scenes: the expert's score, padding, paired keys, traces, figures, and the command line."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest
import scenes
from PIL import Image

from tests.raw_scenes import bare_road
from tether import eval as command
from tether.data.builder import write_dataset
from tether.data.errors import DataError
from tether.data.raw import localize
from tether.data.scene import Record
from tether.evaluation import figures, findings
from tether.evaluation import policies as evaluation
from tether.evaluation.judges import BASELINES, Evaluation, baseline, named, open_judge
from tether.evaluation.policies import Request, open_records
from tether.policy.baselines import ConstantSpeed
from tether.simulator.log_replay import LogReplay
from tether.simulator.prepare import prepare
from tether.training.config import Config
from tether.training.drives import Judge, NamedPolicy, Scored, drive, row_keys
from tether.training.scenes import DataConfig
from tether.training.state import Progress
from tether.training.stop import Interrupted

STEPS = 16


@pytest.fixture(scope="module")
def records(sim_config) -> list[Record]:
    """Three scenes: free road, a vehicle standing 20 m ahead, a vehicle 30 m ahead at the ego's speed."""
    made = {"free": scenes.straight(), "blocked": scenes.lead_vehicle(speed=0.0), "lead": scenes.lead_vehicle(30.0)}
    return [
        Record(prepare(scene, sim_config), name, "hand", name, "follow the road", np.zeros(3))
        for name, scene in made.items()
    ]


@pytest.fixture(scope="module")
def evaluated(records, sim_config) -> Evaluation:
    """All of them under two policies, in two batches of two: the last row is padding."""
    policies = {name: baseline(name, sim_config) for name in ("expert", "constant_speed")}
    return Evaluation(policies, records, ("log_replay",), sim_config, 2, STEPS)


def test_the_expert_scores_one_where_its_log_is_free(evaluated):
    scores = evaluated.scores("log_replay", "expert")
    np.testing.assert_allclose(scores["score"], [1, 0, 1])
    np.testing.assert_allclose(scores["progress"][[0, 2]], 1, atol=0.01)
    np.testing.assert_array_equal(scores["at_fault"], [False, True, False])
    assert not scores["off_road"].any() and not scores["uncomfortable"].any()


def test_rows_that_pad_a_batch_are_dropped_and_change_nothing(evaluated, records, sim_config):
    whole, traces = (
        evaluated.scores("log_replay", "constant_speed"),
        evaluated.traces("log_replay", "constant_speed", range(3)),
    )
    assert len(traces) == 3 and [trace.record.scenario_id for trace in traces] == ["free", "blocked", "lead"]
    given = evaluated.policies["constant_speed"], records, Judge(LogReplay(sim_config)), Scored(sim_config)
    settings = {"batch": 2, "steps": STEPS, "keys": functools.partial(row_keys, 0)}
    turned, alone = (drive(*given, **settings, rows=rows)[0] for rows in ([2, 1, 0], [2]))
    for name, values in whole.items():
        assert values.shape == (3,)
        np.testing.assert_allclose(turned[name][::-1], values, atol=1e-4)
        np.testing.assert_allclose(alone[name], values[2:], atol=1e-4)


def test_keys_depend_on_the_seed_and_the_scene_alone():
    def data(keys):
        return [np.asarray(jax.random.key_data(k)) for k in keys]

    policy, world = data(row_keys(0, np.array([5, 7, 9])))
    again, _ = data(row_keys(0, np.array([9, 5])))
    np.testing.assert_array_equal(again, policy[[2, 0]])
    assert not (policy == world).all(-1).any()
    assert not (data(row_keys(1, np.array([5])))[0] == policy[0]).all()


def test_a_trace_ends_with_the_rollout_and_names_the_cause(evaluated):
    [trace] = evaluated.traces("log_replay", "constant_speed", [1])
    # Bumper to bumper 20 m at 10 m/s: touching at 2.0 s is no contact, the sub-step after it is.
    assert len(trace) == 21
    assert trace.verdict()[0].startswith("at-fault collision at 2.1 s")
    [event] = findings.events(trace, 1)
    assert (
        event["event"] == "at_fault"
        and "vehicle 1 (4.5 x 1.8 m, 0.0 m/s), 3.5 m ahead, 0.0 m left of its centre" in event["cause"]
    )
    assert event["scenario_id"] == "blocked" and event["record"] == 1


def test_a_contact_with_a_track_that_begins_there_is_marked(evaluated):
    [trace] = evaluated.traces("log_replay", "constant_speed", [1])
    seen = trace.agent_valid.copy()
    seen[1, :-1] = False
    [event] = findings.events(dataclasses.replace(trace, agent_valid=seen), 1)
    assert "vehicle 1 (4.5 x 1.8 m, first seen in this step), 3.5 m ahead" in event["cause"]


def test_places_are_described_by_side():
    assert findings.metres(5.6, "ahead", "behind") == "5.6 m ahead"
    assert findings.metres(-5.6, "ahead", "behind") == "5.6 m behind"
    assert findings.metres(-0.04, "left", "right") == "0.0 m left"


def test_top_views_are_drawn(evaluated, tmp_path):
    traces = [evaluated.traces("log_replay", name, [1])[0] for name in evaluated.policies]
    traces[0] = dataclasses.replace(traces[0], sentences=("stop, keep lane: lead vehicle 10 m ahead",) * len(traces[0]))
    figures.still(traces, tmp_path / "still.png")
    figures.animate(traces, tmp_path / "rollout.gif", dpi=40)
    with Image.open(tmp_path / "rollout.gif") as gif, Image.open(tmp_path / "still.png") as still:
        assert gif.n_frames >= 10 and still.width > 600
    assert (tmp_path / "rollout.gif").stat().st_size < 1_500_000
    assert findings.sentences(traces[0])[0]["motion"] == "10.0 to 10.0 m/s, heading +0°"


def test_the_report_of_a_rollout_is_written(evaluated, tmp_path, sim_config):
    config = dataclasses.replace(Config(), simulator=sim_config)
    headline = evaluation.write_report(
        tmp_path, evaluated, config, Request(list_events=True), Progress(), world_model={}, spent={}, began=0.0
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["headline"] == headline and "expert 0.667" in headline
    assert {event["scenario_id"] for event in report["events"]} == {"blocked"}
    assert (tmp_path / "figures" / "failure_1.gif").stat().st_size > 10_000
    assert (tmp_path / "report.md").read_text().startswith(headline)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a run"),
        (["--policy", "imd"], "did you mean 'idm'?"),
        (["--reasoning", "blank"], "only learned policies have reasoning"),
        (["--judge", "log_reply"], "did you mean 'log_replay'?"),
        (["--data", "nowhere"], "found none"),
        (["--split", "tset"], "did you mean 'test'?"),
        (["--scenes", "0"], "scenes: expected at least 1, found 0"),
        (["--scenes", "5000"], "scenes of this split, found 5000"),
        (["--temperature", "1"], "--temperature: only learned policies"),
        (["nowhere", "--policy", "idm", "--reasoning", "blank"], "--reasoning: only learned policies have reasoning"),
        (["nowhere", "--temperature", "-1"], "temperature: expected a finite number, at least 0"),
        (["nowhere", "--temperature", "nan"], "temperature: expected a finite number, at least 0"),
        (["--measure", "realism", "--draws", "3"], "--measure, --draws: about world models"),
        (["--world-model", "kinematic", "--draws", "0"], "draws: expected at least 1"),
        (["--world-model", "kinematic", "--scenes", "0"], "scenes: expected at least 1"),
        (
            ["--world-model", "kinematic", "--judge", "reactive", "--list-events"],
            "--judge, --list-events: about policies",
        ),
    ],
)
def test_the_command_line_reports_what_is_wrong(arguments, message, capsys, tmp_path):
    assert command.main([*arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written_is_noticed_before_any_rollout(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Evaluation, "results", lambda self: pytest.fail("evaluated"))
    (tmp_path / "file").write_text("")
    assert command.main(["--policy", "idm", "--scenes", "2", "--out", str(tmp_path / "file" / "x")]) == 2
    message = capsys.readouterr().err
    assert "cannot be written" in message and "Not a directory" in message and len(message.splitlines()) == 1


def test_a_stop_reports_that_nothing_was_written(tmp_path, monkeypatch):
    def stopped(self):
        raise Interrupted("stopped by SIGINT")

    monkeypatch.setattr(Evaluation, "results", stopped)
    with pytest.raises(Interrupted, match="stopped by SIGINT; no report was written to"):
        command.main(["--policy", "idm", "--scenes", "2", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_partial_evaluation_has_a_folder_of_its_own():
    assert Request().folder == Request(trusted=("mine",)).folder == ""
    assert Request(scenes=4, judges=("reactive",)).folder == "eval-judges-reactive-scenes-4"
    assert Request(list_events=True, temperature=0.5).folder == "eval-temperature-0.5-list_events"
    places = {Request(data=data).folder for data in ("a/b", "a-b", "/a/b", "a b", "a_b", "x" * 300, "x" * 301)}
    assert len(places) == 7
    assert all(re.fullmatch(r"eval-[\w.=+-]{1,120}", place) for place in places)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A data set of one split of another name, whose scenes have neither lights nor road edges."""
    directory = tmp_path_factory.mktemp("bare") / "set"
    write_dataset({"evening": [localize(bare_road(f"scene{i}", f"road{i}")) for i in range(3)]}, directory, {})
    return str(directory)


def test_a_set_without_lights_edges_and_the_usual_splits_is_evaluated(bare, tmp_path, capsys):
    assert command.main(["--data", bare, "--policy", "idm"]) == 2
    assert "expected a split of ['evening'], found 'test'" in capsys.readouterr().err
    arguments = ["--policy", "go_straight", "--policy", "constant_speed", "--split", "evening", "--scenes", "2"]
    assert command.main(["--data", bare, *arguments, "--list-events", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["provenance"]["scenes"] == 2
    assert "2 scenes of 2 recordings" in capsys.readouterr().out
    config = dataclasses.replace(Config(), data=DataConfig(directory=bare))
    policy = baseline("go_straight", config.simulator)
    one = Evaluation(
        {"go_straight": policy}, open_records(config, "evening", 2), ("log_replay",), config.simulator, 2, 16
    )
    figures.still(one.traces("log_replay", "go_straight", [1]), tmp_path / "still.png")
    assert (tmp_path / "still.png").stat().st_size > 5000


def test_a_config_names_the_most_scenes_of_a_split_and_a_request_their_number():
    config = dataclasses.replace(Config(), data=DataConfig(test_scenes=3, validation_scenes=10**6))
    whole = len(open_records(Config(), "validation"))
    assert len(open_records(config, "test")) == 3 and len(open_records(config, "validation")) == whole
    assert len(open_records(config, "test", 5)) == 5
    with pytest.raises(ValueError, match=f"expected 1 to {whole} scenes"):
        open_records(config, "validation", 10**6)


def test_names_and_data_errors(sim_config):
    assert named("policy", "idm", BASELINES) == "idm"
    assert baseline("constant_speed", sim_config) == NamedPolicy("constant_speed", ConstantSpeed(sim_config), ())
    with pytest.raises(DataError, match="split"):
        evaluation.open_records(Config(), "tset")


class Numbered(LogReplay):
    """A World whose params are the numbers of the scenes, and how many there are."""

    def open(self, records):
        return lambda rows: (rows, len(records))


@dataclasses.dataclass(frozen=True)
class NumberedConfig:
    """Builds it."""

    def build(self, simulator):
        return Numbered(simulator)


def test_a_judge_has_the_params_that_its_world_asks_for(records, sim_config):
    judge = open_judge(f"{__name__}:NumberedConfig", sim_config, records)
    rows, count = judge.params_of(np.array([2, 0]))
    assert isinstance(judge.world, Numbered) and (rows.tolist(), count) == ([2, 0], 3)
    assert open_judge("log_replay", sim_config, records).params_of(np.arange(3)) == ()
    assert open_judge("kinematic", sim_config, records).params_of(np.arange(3)) == ()
    with pytest.raises(ValueError, match="'rssm' has to be fitted: name the run directory"):
        open_judge("rssm", sim_config, records)
