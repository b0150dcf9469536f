"""The whole job on the tiny preset: every stage, a kill and a resume to the same numbers, and the report."""

import dataclasses
import functools
import json
import pathlib
import re

import jax
import numpy as np
import pytest

from tether import eval as command
from tether import train
from tether.evaluation.provenance import stage_seconds
from tether.evaluation.world_models.study import fitted
from tether.simulator.log_replay import LogReplay
from tether.training import loop, models, presets, stages
from tether.training.checkpoint import checksums
from tether.training.config import Config
from tether.training.directory import claim
from tether.training.drives import Judge, NamedPolicy, Scored, drive, row_keys
from tether.training.log import read_lines
from tether.training.scenes import open_splits
from tether.training.stages import world_model
from tether.training.state import RunState
from tether.training.stop import Interrupted
from tether.worldmodel.conformance.small import SMALL


def tiny(directory) -> Config:
    return dataclasses.replace(presets.tiny(), directory=str(directory), compilation_cache=False)


def run(config: Config) -> RunState:
    """What `train.py` does, but for the evaluation."""
    with claim(config) as directory:
        return train.train(train.prepare(config), directory)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A finished run: its directory and final state."""
    config = tiny(tmp_path_factory.mktemp("uninterrupted"))
    return config.run_directory, run(config)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The same run, stopped inside two stages and after one, and gone on with each time."""
    config, original = tiny(tmp_path_factory.mktemp("interrupted")), loop.Run.key
    for unit, step in (("0/imitate", 1), ("1/improve", 0)):

        def key(self, now, count, at=(unit, step)):
            if (now.name, count) == at:
                self.stop.requested = True
            return original(self, now, count)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Run, "key", key)
            with pytest.raises(Interrupted, match=f"stopped in {unit} at step {step + 1} of"):
                run(config)
    with pytest.MonkeyPatch.context() as patch:
        ends = "1/improve"
        patch.setattr(loop, "write_rounds", lambda run, now: setattr(run.stop, "requested", now.finished[-1] == ends))
        with pytest.raises(Interrupted, match=f"stopped after {ends}; saved in {config.directory}"):
            run(config)
    (config.run_directory / "rounds.json").write_text("[")  # which the next start mends
    return config.run_directory, run(config)


def test_grounding_acts_without_sampling(uninterrupted):
    """Other keys, the same rollout; the exploring policy, which refits learn from, acts otherwise."""
    config, policy = presets.tiny(), uninterrupted[1].learned.policy
    built, records = models.build(config), open_splits(config.data, config.spec, config.simulator).grounding
    judge, keep = Judge(LogReplay(config.simulator)), Scored(config.simulator, built.labels)
    for vla, same in ((built.deployed, True), (built.vla, False)):
        one, other = (
            drive(
                *(NamedPolicy("tried", vla, policy), records, judge, keep),
                steps=config.rollout_steps,
                batch=4,
                keys=functools.partial(row_keys, seed),
            )[1]
            for seed in (0, 1)
        )
        assert bool((one.reward == other.reward).all()) == same


def test_a_killed_run_resumes_to_the_same_numbers(uninterrupted, interrupted):
    (_, whole), (_, pieces) = uninterrupted, interrupted
    assert checksums(jax.device_get(whole.learned)) == checksums(jax.device_get(pieces.learned))
    forget = {"wall_s": 0.0, "rounds": ()}
    assert dataclasses.replace(whole.progress, **forget) == dataclasses.replace(pieces.progress, **forget)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run that has been stopped where runs with other rounds can start from it."""
    config = tiny(tmp_path_factory.mktemp("shared"))
    for stage in ("imitate", "fit_world_model"):
        run(dataclasses.replace(config, stage=stage))
    return config.run_directory


def test_a_shared_start_leads_to_the_same_numbers(uninterrupted, shared, tmp_path):
    config = dataclasses.replace(tiny(tmp_path), start_from=str(shared))
    again = run(config)
    assert checksums(jax.device_get(again.learned)) == checksums(jax.device_get(uninterrupted[1].learned))
    assert again.progress.ledger == uninterrupted[1].progress.ledger
    shared_s, all_s = (stage_seconds(run / "metrics.jsonl") for run in (shared, config.run_directory))
    assert shared_s and shared_s == {stage: all_s[stage] for stage in shared_s}


def test_practice_in_the_simulator_is_in_the_ledger(shared, tmp_path):
    rounds = dataclasses.replace(presets.tiny().rounds, world="simulator", rounds=1, dynamic_horizon=False)
    grounding = dataclasses.replace(presets.tiny().grounding, roll_back=False)
    config = dataclasses.replace(tiny(tmp_path), start_from=str(shared), rounds=rounds, grounding=grounding)
    state = run(config)
    most = rounds.scenes * rounds.group * rounds.horizon * (rounds.iterations + config.value.steps)
    assert most / 4 < state.progress.ledger.spent["practise"] <= most
    assert (state.progress.rounds[-1]["decision"], state.progress.rounds[-1]["trust"]) == ("accept", None)


def test_a_shared_start_must_have_the_same_settings_and_no_more(uninterrupted, shared, tmp_path):
    config = dataclasses.replace(tiny(tmp_path), start_from=str(shared), seed=1)
    with pytest.raises(ValueError, match=r"start_from.*other settings:\n  seed: 0 -> 1"):
        run(config)
    config = dataclasses.replace(tiny(tmp_path / "b"), start_from=str(uninterrupted[0]))
    with pytest.raises(ValueError, match="nothing else, found"):
        run(config)


def test_open_and_closed_loop_are_checked_side_by_side(uninterrupted):
    _, state = uninterrupted
    checks = state.progress.checks
    assert (checks[0]["stage"], checks[0]["round"]) == ("imitate", 0)
    assert len(checks) == 1 + sum(one["decision"] == "accept" for one in state.progress.rounds)
    assert all(0 <= one["score"] <= 1 and 0 < one["ade_1s_m"] < one["ade_6.4s_m"] for one in checks)


def test_a_finished_run_is_left_as_it_is(uninterrupted):
    directory, state = uninterrupted
    again = run(tiny(directory))
    assert again.progress.finished == state.progress.finished
    assert checksums(jax.device_get(again.learned)) == checksums(jax.device_get(state.learned))


def test_every_stage_is_in_the_ledger_and_the_log(uninterrupted):
    directory, state = uninterrupted
    assert [*state.progress.finished] == [unit.name for unit in stages.schedule(tiny(directory))]
    spent = state.progress.ledger.spent
    assert {purpose for purpose, steps in spent.items() if steps == 0} == {"practise"}  # in imagination alone
    # Validation counts the steps until each rollout ended: fewer than whole rollouts where some ended early.
    checks, whole = state.progress.checks, 4 * tiny(directory).rollout_steps
    assert sum(one["failure"] for one in checks) > 0 and 0 < spent["validate"] < whole * len(checks)
    lines = list(read_lines(directory / "metrics.jsonl"))
    assert {line["stage"] for line in lines} == {unit.part for unit in stages.schedule(tiny(directory))}
    assert all({"round", "stage", "step", "simulator_steps", "wall_s"} <= line.keys() for line in lines)


def test_log_probabilities_replay(uninterrupted):
    directory, _ = uninterrupted
    parity = [line["parity"] for line in read_lines(directory / "metrics.jsonl") if line["stage"] == "improve"]
    assert parity and max(parity) < 1e-4


def test_each_round_records_its_results_and_decision(uninterrupted):
    directory, _ = uninterrupted
    rounds = json.loads((directory / "rounds.json").read_text())
    assert [one["round"] for one in rounds] == [0, 1, 2]
    for one in rounds:
        assert one["decision"] in ("accept", "roll_back") and one["reason"]
        assert np.isfinite([one["imagined_return"], one["grounded_return"], one["bias"]]).all()


def test_the_policy_was_trained_and_the_reference_was_not(uninterrupted):
    _, state = uninterrupted
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.learned.accepted, state.learned.imitation)
    assert max(jax.tree.leaves(moved)) > 0


def test_the_report_is_written(interrupted, capsys):
    directory, _ = interrupted
    train.evaluate(directory, "rssm")
    report = json.loads((directory / "report.json").read_text())
    assert len(report["rounds"]) == 3
    assert (directory / "report.md").stat().st_size > 0
    assert command.main([str(directory), "--scenes", "2", "--out", str(directory)]) == 2
    assert "report.json is a larger report, of 4 scenes (now 2)" in capsys.readouterr().err
    assert json.loads((directory / "report.json").read_text()) == report


def test_policies_that_a_run_has_not_trained_are_refused(shared, capsys):
    assert command.main([str(shared), "--policy", "post_trained"]) == 2
    assert "not trained yet: stage post_train is not finished (missing: cl_sft, " in capsys.readouterr().err
    config = tiny(shared)
    records = open_splits(config.data, config.spec, config.simulator).train
    assert "Unfinished run: 2 of 12 units" in fitted("", str(shared), config, records).remark


def test_a_run_is_read_by_the_lines_of_the_page(uninterrupted, shared):
    """Its policy is rolled out in the simulator and in its world model; nothing is written."""
    files = {path: path.stat().st_mtime_ns for path in shared.rglob("*")}
    page = (pathlib.Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
    [lines] = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "load_run" in block]
    names: dict = {}
    exec(lines.replace("runs/cpu-seed0", str(shared)), names)
    assert list(names["run"].policies) == ["imitation"]
    read, trained = (jax.device_get(one.learned.imitation) for one in (names["run"], uninterrupted[1]))
    assert checksums(read) == checksums(trained)
    for name in ("driven", "imagined"):
        assert len(names[name]) == 4 and np.isfinite(list(names[name].metrics().values())).all()
        assert names[name].trace(0).sentences[0]
    assert files == {path: path.stat().st_mtime_ns for path in shared.rglob("*")}


@pytest.mark.parametrize("name", ["kinematic", "pixels"])
def test_models_of_other_kinds_run_through_the_whole_job(name, tmp_path, monkeypatch):
    """One that learns nothing and one that sees images, with one round; `rssm` runs in the tests above, and what tells
    other models from these is behind their interface, which the conformance suite tests."""
    small = presets.tiny()
    config = dataclasses.replace(
        tiny(tmp_path),
        world_model=name,
        fit=dataclasses.replace(small.fit, steps=2, refit_steps=1),
        imitation=dataclasses.replace(small.imitation, steps=1),
        closed_loop=dataclasses.replace(small.closed_loop, steps=1),
        value=dataclasses.replace(small.value, steps=1),
        rounds=dataclasses.replace(small.rounds, rounds=1, iterations=1),
    )
    small_models = dataclasses.replace(models.build(config), world_model=SMALL[name].build(config.simulator))
    monkeypatch.setattr(models, "build", lambda config: small_models)
    shapes, fit = [], world_model.model_step

    def watched(*args):
        shapes.append(args[-1].scene.map_tile.shape)
        return fit(*args)

    monkeypatch.setattr(world_model, "model_step", watched)
    state = run(config)
    assert [*state.progress.finished] == [unit.name for unit in stages.schedule(config)]
    assert all(np.isfinite(one["gap"]) for one in state.progress.rounds)
    # A model that sees images is fitted with the map that it imagines with.
    render = config.simulator.render
    drawn = (render.tile_height, render.tile_width) if name == "pixels" else (1, 1)
    assert {shape[1:3] for shape in shapes} == {drawn} and len(shapes) == 3
    lines = list(read_lines(tmp_path / "metrics.jsonl"))
    assert all(np.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))
