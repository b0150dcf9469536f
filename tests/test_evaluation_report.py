"""The report from made-up results: its keys, its first sentence, its files; and several runs in RESULTS.md."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from benchmarks import results as benchmark
from tether.evaluation import figures, findings, report, terminal
from tether.evaluation.policies import finite
from tether.evaluation.report import METRICS, PAIR_NAME, Results

POLICIES = ("expert", "go_straight", "constant_speed", "idm", "imitation", "post_trained")
ROUND = {
    "round": 1,
    "imagined_return": 5.0,
    "grounded_return": 4.5,
    "bias": 0.5,
    "gap": 0.8,
    "failure": 0.25,
    "validation_score": None,
    "horizon": 12,
    "decision": "roll_back",
    "reason": "rolled back, penalty raised",
    "simulator_steps": 12345,
    "wall_s": 61.0,
}
CHECK = {"stage": "imitate", "round": 0, "step": 4, "score": 0.5, "failure": 0.3}
CHECK |= {"ade_1s_m": 0.11, "ade_3s_m": 0.9, "ade_6.4s_m": 3.25}


def made_up(gain: float = 0.2, count: int = 40, seed: int = 0) -> Results:
    """Scores of N scenes, two egos to a scenario; the post-trained policy is better by `gain` in every one."""
    rng = np.random.default_rng(seed)
    scores = {name: {metric: rng.random(count) * 0.5 for metric in METRICS} for name in POLICIES}
    for name in POLICIES:
        failures = {event: rng.random(count) < 0.3 for event in ("failure", "at_fault", "off_road")}
        scores[name] |= failures | {event: np.zeros(count, bool) for event in ("collision", "corridor", "wrong_way")}
    scores["post_trained"]["score"] = scores["imitation"]["score"] + gain
    names, groups = ([f"{name}-{i // 2}" for i in range(count)] for name in ("scenario", "recording"))
    return Results(tuple(names), tuple(groups), (False,) * count, {"log_replay": scores})


def report_of(results: Results) -> dict:
    judges = report.summarise(results)
    origin = {"date": "2026-11-23", "commit": "abc", "machine": "a computer", "command": "python train.py", "seed": 3}
    return {
        "headline": report.headline(judges, 3),
        "judges": judges,
        "rounds": [ROUND],
        "coach_rounds": [{**ROUND, "imagined_return": 4.375}],
        "checks": [CHECK, {**CHECK, "stage": "ground", "round": 1}],
        "world_model": {"kinematic": {"ade_1s": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 40}}},
        "figures": {"figures/policies.png": "Every policy."},
        "sentences": [
            {"scenario_id": "s", "policy": "post_trained", "time_s": 0.5, "sentence": "stop", "motion": "3 to 0 m/s"}
        ],
        "events": [
            {"scenario_id": "s", "record": 3, "policy": "idm", "event": "off_road", "time_s": 1.0, "cause": "ice"}
        ],
        "provenance": {**origin, "data": {"name": "starter", "split": "test"}},
    }


def test_every_metric_of_every_policy_has_an_interval():
    judges = report.summarise(made_up())
    policies = judges["log_replay"]["policies"]
    assert set(policies) == set(POLICIES)
    for metrics in (*policies.values(), judges["log_replay"]["paired"][PAIR_NAME]):
        assert set(metrics) == set(METRICS)
        for interval in metrics.values():
            assert set(interval) == {"mean", "low", "high", "n", "groups"}
            assert interval["low"] <= interval["mean"] <= interval["high"]
            assert (interval["n"], interval["groups"]) == (40, 20)
    change = judges["log_replay"]["paired"][PAIR_NAME]["score"]
    assert (change["low"], change["high"]) == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize(("gain", "verb"), [(0.2, "raised"), (-0.1, "lowered"), (0.0, "did not measurably change")])
def test_the_first_sentence_states_the_result(gain, verb):
    text = report.render(report_of(made_up(gain)))
    assert text.startswith(f"Post-training {verb} the driving score of the imitation policy: from ")
    assert f"({gain:+.3f} [" in text.splitlines()[0] and "40 held-out scenes of 20 recordings" in text.splitlines()[0]


def test_the_report_holds_all_parts(tmp_path):
    results = made_up()
    report.write(tmp_path, report_of(results), results)
    text = (tmp_path / "report.md").read_text()
    for part in (
        *POLICIES,
        PAIR_NAME,
        "roll back",
        "12,345",
        "ADE to 1s",
        "3 to 0 m/s",
        "ice",
        "3.250",
        "Rounds of the coach",
        "4.375",
        "figures/policies.png",
    ):
        assert part in text
    assert json.loads((tmp_path / "report.json").read_text())["rounds"] == [ROUND]
    scenes = json.loads((tmp_path / "scenes.json").read_text())
    np.testing.assert_allclose(
        scenes["scores"]["log_replay"]["idm"]["score"], results.scores["log_replay"]["idm"]["score"], atol=1e-6
    )
    assert scenes["groups"] == list(results.groups)
    assert not list(tmp_path.glob("*.part"))


def test_scenes_to_show_are_those_that_changed_most():
    results = made_up(count=4)
    scores = results.scores["log_replay"]
    scores["imitation"] |= {"failure": np.array([1, 1, 0, 1], bool), "return": np.array([-9.0, -20.0, 1.0, -30.0])}
    scores["post_trained"] |= {"failure": np.array([0, 0, 1, 1], bool), "return": np.array([1.0, 1.0, -5.0, -8.0])}
    assert findings.improvements(results, "log_replay", 5) == [1, 0]
    assert findings.worst_failures(results, "log_replay", "post_trained", 5) == [3, 2]


def test_a_single_recording_is_reported_without_intervals(tmp_path):
    results = made_up(count=4)
    alone = dataclasses.replace(results, groups=("one",) * 4)
    judges = finite(report.summarise(alone))
    assert report.headline(judges, 0).startswith("Post-training did not measurably change")
    assert "no interval: a single recording has none" in report.headline(judges, 0)
    assert "4 held-out scenes of 1 recording under" in report.headline(judges, 0)
    assert report.policy_table(judges["log_replay"]).count("[-]") == len(report.TABLE) * (len(POLICIES) + 1)
    figures.policy_chart(report.summarise(alone)["log_replay"]["policies"], tmp_path / "policies.png")
    assert (tmp_path / "policies.png").stat().st_size > 5000


def test_scenes_without_recordings_are_named(tmp_path):
    [directory] = runs(tmp_path, (0.2,))
    path = pathlib.Path(directory) / "scenes.json"
    old = json.loads(path.read_text())
    del old["groups"]
    path.write_text(json.dumps(old))
    with pytest.raises(ValueError, match="expected the recording of each scene in `groups`, found none"):
        benchmark.main([directory, "--section", "x", "--results", str(tmp_path)])


def test_failures_are_given_without_the_scenes_that_begin_off_the_road(tmp_path):
    results = made_up(count=4)
    for name, scores in results.scores["log_replay"].items():
        scores["failure"] = np.array([True, True, False, name == "imitation"])
    judges = finite(report.summarise(dataclasses.replace(results, starts_off_road=(True, True, False, False))))
    idm, change = judges["log_replay"]["policies"]["idm"], judges["log_replay"]["paired"][PAIR_NAME]
    assert (idm["failure"]["mean"], idm[report.ON_ROAD]["mean"]) == (0.5, 0.0)
    assert (change["failure"]["mean"], change[report.ON_ROAD]["mean"]) == (-0.25, -0.5)
    assert (idm[report.ON_ROAD]["n"], judges["log_replay"]["off_road_starts"]) == (2, 2)
    text = report.render({**report_of(results), "judges": judges})
    assert "| failed | failed, begun on the road |" in text
    assert "2 of 4 scenes begin with the ego off the road" in text
    report.write(tmp_path, {**report_of(results), "judges": judges}, results)  # and scenes.json says which
    assert json.loads((tmp_path / "scenes.json").read_text())["starts_off_road"] == [False] * 4


def test_off_road_starts_are_not_mentioned_where_there_are_none():
    text = report.render(report_of(made_up()))
    assert "begun on the road" not in text and "off the road, by its log" not in text
    all_off = dataclasses.replace(made_up(count=4), starts_off_road=(True,) * 4)
    assert "4 of 4 scenes begin with the ego off" in report.off_road_starts(report.summarise(all_off)["log_replay"])


@pytest.mark.parametrize("width", [60, 1000])
def test_the_terminal_shows_what_is_not_zero_within_its_width(width):
    text = terminal.show(report_of(made_up()), width)
    lines = text.splitlines()
    assert "0 throughout: left corridor, wrong way" in text and "policydriving" not in text
    tables = [line for line in lines if line.split("  ")[0].strip() in {"policy", *POLICIES}]
    assert max(map(len, tables)) <= width
    assert sum(line.startswith("policy") for line in lines) == (7 if width == 60 else 1)
    assert "log_replay: 40 scenes of 20 recordings, seed 3" in text
    assert "idm: s, record 3: off_road at 1.0 s: ice" in text


def test_a_larger_report_is_not_replaced(tmp_path):
    report.write(tmp_path, report_of(made_up()), made_up())
    path, same = tmp_path / "report.json", {"scenes": 40, "judges": 1, "policies": 6}
    report.keep_larger(path, same, report.size_of)
    report.keep_larger(path, {"scenes": 41, "judges": 1}, report.size_of)
    for name in same:
        with pytest.raises(ValueError, match=rf"report.json is a larger report, of \d+ {name} \(now 0\)"):
            report.keep_larger(path, {**same, name: 0}, report.size_of)
    for other in ("[]", "{}", '{"judges": {}}', '{"judges": {"a": {"policies": {"b": {"score": {"n": "x"}}}}}}'):
        path.write_text(other)
        with pytest.raises(ValueError, match="found another file: name another --out"):
            report.keep_larger(path, same, report.size_of)
    path.write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        report.keep_larger(path, same, report.size_of)


def test_charts_are_drawn(tmp_path):
    figures.policy_chart(report.summarise(made_up())["log_replay"]["policies"], tmp_path / "policies.png")
    figures.rounds_chart([ROUND, {**ROUND, "round": 2, "decision": "accept"}], tmp_path / "rounds.png")
    figures.loops_chart([CHECK, {**CHECK, "stage": "ground", "round": 1, "score": 0.7}], tmp_path / "loops.png")
    assert all(path.stat().st_size > 5000 for path in tmp_path.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"policies.png", "rounds.png", "loops.png"}


def runs(folder: pathlib.Path, gains: tuple[float, ...]) -> list[str]:
    """Finished runs on the same scenes, one for each gain."""
    for number, gain in enumerate(gains):
        directory = folder / f"run-{number}"
        directory.mkdir()
        results = made_up(gain)
        one = report_of(results)
        report.write(directory, {**one, "provenance": {**one["provenance"], "seed": number}}, results)
    return [str(folder / f"run-{number}") for number in range(len(gains))]


def test_results_pool_the_seeds(tmp_path):
    directories = runs(tmp_path, (0.2, 0.1, 0.0))
    benchmark.main([*directories, "--section", "starter", "--title", "Seeds", "--results", str(tmp_path)])
    text = (tmp_path / "starter.md").read_text()
    assert text.startswith("# Seeds\n\n<!-- age: begin -->")
    assert "2 of 3 seeds" in text and "+0.100 [+0.100, +0.100]" in text and "| 2 |" in text


def test_a_seed_whose_rounds_were_rolled_back_stays_among_the_results(tmp_path):
    kept, rejected = runs(tmp_path, (0.2, 0.0))
    folder = pathlib.Path(rejected)
    results = made_up(0.0)
    del results.scores["log_replay"]["post_trained"]
    report.write(folder, {**report_of(results), "rounds": [{**ROUND, "spent": {}}]}, results)
    benchmark.main([kept, rejected, "--section", "x", "--results", str(tmp_path)])
    text = (tmp_path / "x.md").read_text()
    assert "1 of 2 seeds" in text and "+0.000 [+0.000, +0.000]" in text and "+0.100 [+0.100, +0.100]" in text
    report.write(folder, {**report_of(results), "remarks": ["Unfinished run: 3 of 11 units are done."]}, results)
    with pytest.raises(ValueError, match="run-1: Unfinished run: 3 of 11"):
        benchmark.main([kept, rejected, "--section", "x", "--results", str(tmp_path)])


def test_results_of_different_scenes_are_not_pooled(tmp_path):
    directories = runs(tmp_path, (0.2,))
    other = tmp_path / "other"
    other.mkdir()
    report.write(other, report_of(made_up(count=10)), made_up(count=10))
    with pytest.raises(ValueError, match="other scenes"):
        benchmark.main([*directories, str(other), "--section", "x", "--results", str(tmp_path)])
