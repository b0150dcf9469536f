"""Comparing arms over seeds and judges: cells that are kept, budgets, and the tables, on made-up results."""

import json
import re

import numpy as np
import pytest

from benchmarks import comparison, experiments
from benchmarks.experiments import EXPERIMENTS, UNGROUNDED, Arm
from tether.training import presets

SPENT = {"fit_world_model": 100, "cl_sft": 0, "refit": 20, "practise": 0, "ground": 40, "validate": 999}


def cell(arm: str, seed: int, score: float, failures: int, rounds: tuple = ()) -> dict:
    """Ten scenes with one score, of which `failures` failed."""
    failed = [float(i < failures) for i in range(10)]
    scores = {name: [score] * 10 if name == "score" else failed for name in comparison.COLUMNS}
    origin = {"commit": "abc", "machine": "a computer", "seed": seed, "date": f"2026-11-2{seed}"}
    origin |= {"wall_s_by_stage": {"imitate": 60.0 * (1 + seed)}}
    return {
        **{"arm": arm, "seed": seed, "judge": "log_replay", "scenario_ids": [f"s{i}" for i in range(10)]},
        "groups": [f"g{i // 2}" for i in range(10)],
        **{"scores": scores, "rounds": list(rounds), "simulator_steps": 160, "provenance": origin},
    }


def test_changes_are_paired_and_relative_to_imitation():
    cells = [cell("imitation", 0, 0.5, 4), cell("mine", 0, 0.6, 2), cell("mine", 1, 0.7, 0)]
    rows = comparison.judge_table(cells).splitlines()
    # the mean of both seeds: 0.65 against 0.5 is +30 %; failures 0.1 against 0.4 are cut by 75 %
    assert rows[2].startswith("| mine | 2 | 0.650 [0.650, 0.650]") and "+0.150 [+0.150, +0.150]" in rows[2]
    assert "+30 % [+30, +30]" in rows[2] and "+75 % [" in rows[2]
    assert rows[3].startswith("| imitation | 1 | 0.500") and rows[3].endswith("|  |  |  |  |  |")


def test_a_policy_on_forced_reasoning_is_compared_with_itself():
    forced = cell("mine, reasoning blank", 0, 0.3, 9)
    forced["scores"]["reasoning_changed"] = [1.0] * 10
    cells = [cell("imitation", 0, 0.5, 4), cell("mine", 0, 0.6, 2), forced]
    header, _, *rows = comparison.judge_table(cells).splitlines()
    assert rows[-1].startswith("| mine, reasoning blank |") and "-0.300 [-0.300, -0.300]" in rows[-1]
    assert "reasoning differs" in header and "action differs" not in header  # no cell has that number
    assert comparison.ABOUT_FORCED in comparison.section("Title", cells, "python -m mine")
    assert comparison.ABOUT_FORCED not in comparison.section("Title", cells[:2], "python -m mine")


def test_a_cell_without_recordings_is_named():
    old = cell("mine", 0, 0.6, 2)
    del old["groups"]
    with pytest.raises(ValueError, match="cell of 'mine': expected the recording of each scene"):
        comparison.judge_table([old])


def test_seeds_of_other_scenes_are_not_pooled():
    other = {**cell("mine", 1, 0.7, 0), "scenario_ids": ["t"] * 10}
    with pytest.raises(ValueError, match="mine: its seeds were evaluated on different scenes"):
        comparison.by_scene([cell("mine", 0, 0.6, 2), other], "score")


def test_steps_until_a_score_are_those_of_the_first_round_that_reached_it():
    scores = (0.5, None, comparison.SCORE_TO_REACH, 0.9)
    rounds = [{"validation_score": score, "counted_steps": 1000 * i} for i, score in enumerate(scores)]
    assert comparison.steps_to_reach(rounds) == "2,000"
    assert comparison.steps_to_reach(rounds[:2]) == "never"


@pytest.mark.parametrize(
    ("arm", "steps"),
    [
        (Arm("grounded", ()), 160),
        (Arm("ungrounded", UNGROUNDED), 120),  # without the gate
        (Arm("direct", (), budgeted=True), 40),  # without the world model
        (Arm("imitation", None, "imitation"), 40),
    ],
)
def test_an_arm_counts_the_steps_that_it_uses(arm, steps):
    assert experiments.counted(arm, SPENT) == steps


def test_a_budget_is_spread_over_the_rounds():
    config = presets.tiny()  # 2 rounds; 2 scenes x 2 x 8 steps practised, 4 scenes x 16 steps tuned in each iteration
    assert experiments.iterations(config, Arm("direct", (), budgeted=True), 640) == 10
    assert experiments.iterations(config, Arm("tuned", ("--rounds.objective", "cl_sft"), budgeted=True), 640) == 5
    assert experiments.iterations(config, Arm("direct", ()), 1) == 1


def test_finished_cells_are_not_repeated(tmp_path, monkeypatch):
    experiment, called, kept = EXPERIMENTS["headline"], [], tmp_path / "kept"

    def evaluated_cell(out, arm, run, seed, judge):
        return cell(arm.label, seed, 0.5, 1)

    monkeypatch.setattr(experiments, "call", lambda program, words: called.append((program, words)))
    monkeypatch.setattr(experiments, "evaluated_cell", evaluated_cell)
    monkeypatch.setattr(experiments, "iterations", lambda config, arm, budget: budget)
    monkeypatch.setattr("tether.training.settings.read", lambda path: presets.tiny())
    first = list(experiments.cells(tmp_path, kept, experiment, ("tiny",), 0, ("log_replay",)))
    assert [one["arm"] for one in first] == [arm.name for arm in experiment.arms]
    budgeted = [words for _, words in called if "--rounds.iterations" in words]
    assert budgeted and all(words[words.index("--rounds.iterations") + 1] == "160" for words in budgeted)
    called.clear()
    (kept / "go_straight-0-log_replay.json").unlink()
    assert list(experiments.cells(tmp_path, kept, experiment, ("tiny",), 0, ("log_replay",))) == first
    assert all("shared-0" in " ".join(words) for _, words in called)  # nothing was post-trained again
    assert len(list(experiments.cells(tmp_path, kept, experiment, ("tiny",), 1, ("log_replay",)))) == len(first) - 4


def test_a_cell_keeps_the_columns_of_the_tables_and_no_path(tmp_path, monkeypatch):
    folder = tmp_path / "evaluated" / "grounded-0-log_replay"
    folder.mkdir(parents=True)
    made = cell("grounded", 0, 0.5, 1)
    one = {name: 1.0 for name in experiments.OF_A_ROUND}
    origin = {**made["provenance"], "simulator_steps": SPENT, "command": "train.py --directory /x"}
    report = {"provenance": {**origin, "data": {"name": "starter"}}, "rounds": [{**one, "spent": SPENT, "other": "/x"}]}
    report["coach_rounds"] = []
    policies = {"post_trained": {**made["scores"], "consistency": [1.0] * 10, "jerk": [0.0] * 10}}
    policies["coach"] = made["scores"]
    policies["post_trained, reasoning blank"] = {**made["scores"], "score": [0.1] * 10}
    scenes = {"scenario_ids": made["scenario_ids"], "groups": made["groups"], "scores": {"log_replay": policies}}
    for name, content in (("report", report), ("scenes", scenes)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setattr(experiments, "call", lambda program, words: None)
    accepted = {"round": 1, "decision": "accept", "spent": SPENT}
    (tmp_path / "rounds.json").write_text(json.dumps([accepted]))
    kept = experiments.evaluated_cell(tmp_path, Arm("grounded", ()), tmp_path, 0, "log_replay")
    assert kept["rounds"] == [{**one, "counted_steps": 160}] and kept["simulator_steps"] == 160
    assert set(kept["scores"]) == {*comparison.COLUMNS, comparison.CONSISTENCY} and "/" not in json.dumps(kept)
    forced = folder.rename(folder.with_name("grounded-reasoning-blank-0-log_replay"))
    kept = experiments.evaluated_cell(tmp_path, Arm("grounded", (), reasoning="blank"), tmp_path, 0, "log_replay")
    assert kept["arm"] == "grounded, reasoning blank" and kept["scores"]["score"] == [0.1] * 10 and not kept["rounds"]
    forced.rename(folder)
    assert experiments.evaluated_cell(tmp_path, Arm("grounded", (), "coach"), tmp_path, 0, "log_replay")["rounds"] == []
    imitation = Arm("grounded", None)  # the same report, but nothing was post-trained for this row
    assert experiments.evaluated_cell(tmp_path, imitation, tmp_path, 0, "log_replay")["rounds"] == []
    (tmp_path / "rounds.json").write_text(json.dumps([{**accepted, "decision": "roll_back"}]))
    assert experiments.policy_of(Arm("grounded", ()), tmp_path) == "imitation"


def test_the_section_holds_every_table():
    rounds = [
        {
            **{"imagined_return": 5.0, "grounded_return": 4.0, "bias": 1.0, "decision": "accept"},
            **{"validation_score": 0.9, "counted_steps": 77, "wall_s": 60.0},
        }
    ]
    cells = [cell("imitation", 0, 0.5, 4), cell("mine", 0, 0.6, 2, rounds)]
    text = comparison.section("Title", cells, "python -m mine")
    assert "| intervals | 95 %, over recordings |\n| command | python -m mine |" in text
    assert text.startswith("# Title") and "Evaluated in log replay" in text
    assert (
        "| mine | 160 | 77 | 1.0 |" in text
        and "| policy | imitate |" in text
        and "| mine | 0 | +5.000 | +4.000 | +1.000 | 1 of 1 |" in text
    )
    assert not re.search(r"nan|None", text)


def test_the_arguments_of_every_arm_are_options_of_the_main_job():
    for experiment in EXPERIMENTS.values():
        for arm in experiment.arms:
            config = presets.parse([*experiment.words, *(arm.words or ())])
            assert np.isfinite(config.rounds.iterations) and json.dumps(config.name) == '"cpu"'
