"""The benchmark of world models on a few scenes, floors and ceiling only: nothing has to be fitted for it."""

import json

import numpy as np
import pytest

from tests.raw_scenes import bare_road
from tether import eval as command
from tether.data.builder import write_dataset
from tether.data.raw import localize
from tether.evaluation.statistics import bootstrap_of, spearman
from tether.evaluation.world_models import benchmark, disagreement, one_run
from tether.evaluation.world_models.figure import colours
from tether.evaluation.world_models.realism import NOBODY, counted
from tether.evaluation.world_models.study import Finding, against_floors, open_study
from tether.training.stop import Interrupted

MOTION = ("realism", "displacement", "likelihood", "drift", "disagreement")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the command writes, and where."""
    out = tmp_path_factory.mktemp("models")
    measures = [word for name in MOTION for word in ("--measure", name)]
    arguments = ["--world-model", "kinematic", "--scenes", "3", "--draws", "2", "--out", str(out), *measures]
    assert command.main(arguments) == 0
    return json.loads((out / "models.json").read_text()), out


def test_every_measure_has_a_table_and_a_figure(written):
    report, out = written
    assert tuple(report["findings"]) == MOTION
    text = (out / "models.md").read_text()
    for name, finding in report["findings"].items():
        assert f"## {finding['title']}" in text
        assert (out / "figures" / f"models_{name}.png").stat().st_size > 1000
        assert not finding["rows"] or set(finding["rows"]) == {"oracle", "kinematic", "lanes"}
    for difference in ("oracle - kinematic", "lanes - kinematic", "oracle - lanes"):
        assert f"| **{difference}** |" in text
    assert len(set(colours(["rssm", "tokens"]).values())) == 5


def test_the_oracle_is_the_log(written):
    findings = written[0]["findings"]
    displacement = findings["displacement"]["rows"]
    assert all(value["mean"] < 1e-3 for value in displacement["oracle"].values())
    assert displacement["kinematic"]["ade_5s"]["mean"] > 0.1
    assert all(value["mean"] == 0 for value in findings["drift"]["rows"]["oracle"].values())
    assert findings["likelihood"]["rows"]["oracle"]["moving"]["mean"] == pytest.approx(np.log(np.pi / 2), abs=1e-4)
    realism = findings["realism"]["rows"]
    assert realism["oracle"]["metametric"]["mean"] > realism["kinematic"]["metametric"]["mean"]


def test_a_policy_report_has_the_same_displacement(written):
    """Of a model that draws nothing, so that 2 draws and 4 are the same."""
    study = open_study(["kinematic"], scenes=3)
    models = {
        subject.name: (subject.world, subject.params) for subject in study.subjects if subject.name == "kinematic"
    }
    row = one_run.compare(models, study.records, study.config)["kinematic"]
    expected = written[0]["findings"]["displacement"]["rows"]["kinematic"]
    assert [*row] == [f"ade_{second}s" for second in one_run.SECONDS]
    assert {name: value["mean"] for name, value in row.items()} == pytest.approx(
        {name: expected[name]["mean"] for name in row}, rel=1e-4
    )


def test_every_model_is_compared_with_the_floors_below_it():
    pairs = against_floors(["oracle", "kinematic", "lanes", "rssm"])
    assert list(pairs) == [
        *("oracle - kinematic", "lanes - kinematic", "rssm - kinematic"),
        *("oracle - lanes", "rssm - lanes"),
    ]
    assert pairs["rssm - lanes"] == ("rssm", "lanes")
    assert against_floors(["rssm", "kinematic"]) == {"rssm - kinematic": ("rssm", "kinematic")}


def test_without_disagreement_there_is_no_row(written):
    assert written[0]["findings"]["disagreement"]["rows"] == {}


def test_a_model_that_needs_fitting_is_refused():
    with pytest.raises(ValueError, match="'rssm' has to be fitted: name the run directory"):
        open_study(["rssm"], scenes=1)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """What the command writes of scenes without lights and road edges, in a set of one split of another name."""
    folder = tmp_path_factory.mktemp("bare")
    write_dataset({"evening": [localize(bare_road(f"scene{i}", f"road{i}")) for i in range(3)]}, folder / "set", {})
    measures = [word for name in ("realism", "displacement", "drift") for word in ("--measure", name)]
    arguments = ["--world-model", "kinematic", "--data", str(folder / "set"), "--split", "evening", "--scenes", "3"]
    status = command.main([*arguments, "--draws", "2", *measures, "--out", str(folder / "out")])
    return status, folder / "out"


def test_missing_parts_of_scenes_are_reported_and_the_other_measures_go_on(bare):
    status, out = bare
    report = json.loads((out / "models.json").read_text())
    assert status == 0 and list(report["findings"]) == ["displacement", "drift"]
    assert "3 of 3 without road edges" in report["left_out"]["realism"]
    assert "| realism | no scene has all that its features need: 3 of 3 without" in (out / "models.md").read_text()
    assert report["findings"]["displacement"]["rows"]["kinematic"]["ade_1s"]["groups"] == 3
    assert sorted(path.name for path in out.iterdir()) == ["figures", "models.json", "models.md"]


def test_realism_reports_what_it_leaves_out(written):
    about = written[0]["findings"]["realism"]["about"]
    assert "No scene is left out." in about or "scenes are left out: " in about
    assert counted(["", "without road edges", NOBODY, NOBODY]) == f"1 of 4 without road edges, 2 of 4 {NOBODY}"


def test_a_set_without_anything_to_measure_ends_with_the_reason(bare, tmp_path, capsys):
    arguments = ["--data", str(bare[1].parent / "set"), "--split", "evening", "--scenes", "1", "--measure", "realism"]
    assert command.main(["--world-model", "kinematic", "--draws", "2", *arguments, "--out", str(tmp_path)]) == 2
    assert "realism: no scene has all that its features need" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_larger_report_on_world_models_is_not_replaced(written, capsys):
    before = (written[1] / "models.md").read_bytes()
    arguments = ["--world-model", "kinematic", "--out", str(written[1])]
    assert command.main([*arguments, "--scenes", "2", "--draws", "1", "--measure", "drift"]) == 2
    message = capsys.readouterr().err
    assert "larger report, of 3 scenes (now 2), 2 draws (now 1), 5 measures (now 1)" in message
    assert (written[1] / "models.md").read_bytes() == before


def test_a_stop_between_measures_reports_what_is_written(tmp_path, monkeypatch):
    def stopped(study):
        raise Interrupted("stopped by SIGTERM")

    finding = Finding("Title", "about", {}, {}, {}, {})
    quick = benchmark.Measure(lambda study: finding, lambda finding, path: path.write_text(""))
    monkeypatch.setitem(benchmark.MEASURES, "drift", quick)
    monkeypatch.setitem(benchmark.MEASURES, "ranking", quick._replace(measure=stopped))
    arguments = ["--world-model", "kinematic", "--scenes", "1", "--out", str(tmp_path)]
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM; .*models-unfinished.md has drift$"):
        command.main([*arguments, "--measure", "drift", "--measure", "ranking"])
    assert "## Title" in (tmp_path / "models-unfinished.md").read_text()
    assert not (tmp_path / "models.md").exists()


def test_policies_and_world_models_are_evaluated_separately(capsys):
    assert command.main(["--world-model", "kinematic", "--policy", "idm"]) == 2
    assert "--policies-of" in capsys.readouterr().err


def test_a_directory_that_is_no_run_is_named(tmp_path, capsys):
    assert command.main(["--world-model", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_bootstrap_of_a_rank_correlation():
    rng = np.random.default_rng(0)
    left = rng.random(60)
    right = left + 0.1 * rng.random(60)
    groups = np.arange(60) // 2
    interval = bootstrap_of(lambda rows: spearman(left[rows], right[rows]), groups, resamples=100)
    assert interval["mean"] == pytest.approx(spearman(left, right))
    assert 0.9 < interval["low"] < interval["mean"] < interval["high"] <= 1
    nothing = bootstrap_of(lambda rows: float("nan"), groups, resamples=5)
    assert np.isnan(nothing["mean"])


def test_disagreement_at_equal_times_owes_nothing_to_time():
    steps = np.arange(5.0)
    disagreement_by_time, error = np.tile(steps, (8, 1)), np.tile(steps, (8, 1))
    rng = np.random.default_rng(1)
    pairs = (disagreement_by_time + 0.01 * rng.random((8, 5)), error + 0.01 * rng.random((8, 5)), np.ones((8, 5), bool))
    rows = np.arange(8)
    assert disagreement.everywhere(pairs, rows) > 0.9
    assert abs(disagreement.at_equal_times(pairs, rows)) < 0.5
