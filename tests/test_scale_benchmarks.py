"""That benchmarks can be started, and what those of kills, meshes and data at scale compute from what they measure."""

import importlib
import json
import pathlib

import numpy as np
import pytest

from benchmarks import compute, data_plan, kills, meshes
from tether.training import presets


@pytest.mark.parametrize("path", sorted(pathlib.Path(meshes.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_finds_what_it_imports(path):
    """Most take too long to be run here."""
    module = importlib.import_module(f"benchmarks.{path.stem}")
    assert module.__doc__


def test_a_plan_carries_costs_over_to_the_whole():
    cost = data_plan.Cost(
        records=10,
        scenes=40,
        read_bytes=5_000_000,
        stored_bytes=6_000_000,
        serialised_bytes=60_000_000,
        parse_s=1.0,  # a part of convert_s
        convert_s=30.0,
        count_s=2.0,
        write_s=4.0,
    )
    plan = data_plan.plan(cost, 1000)
    assert (plan["records"], plan["scenes"], plan["shards"]) == (1000, 4000, 2)
    expected = {"read_gb": 0.5, "stored_gb": 0.6, "core_hours": 1.0, "shard_mb": 300.0, "shard_serialised_gb": 3.0}
    np.testing.assert_allclose([plan[name] for name in expected], list(expected.values()))
    assert plan["hours_on_256_cores"] == 1 / 256


def test_steps_of_a_run_are_those_of_its_stages():
    """Preset `tiny`: 2 rounds of 2 batches of 2 x 2 rollouts over 8 steps, in minibatches of 16; 4 grounding scenes."""
    steps = compute.steps(presets.tiny())
    assert steps == {"fit the world model": 8, "imitate": 4, "imagine": 6, "improve": 8, "ground": 3}


def test_one_bit_is_a_difference():
    def tree(value, decision="accept"):
        return {"arrays": {"a": np.array([1.0, value])}, "rounds": [{"decision": decision}]}

    assert kills.differences(tree(0.0), tree(0.0)) == []
    assert kills.differences(tree(np.nan), tree(np.nan)) == []
    assert kills.differences(tree(0.0), tree(-0.0)) == ["/arrays/a"]
    assert kills.differences(tree(0.0), tree(0.0, "roll_back")) == ["/rounds/0/decision"]
    assert kills.differences({"a": 1}, {"b": 1}) == [""]


def test_a_kill_is_located_by_the_last_whole_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"rounds": {"rounds": 2}}))

    def after(*lines):
        (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"stage": "cu')
        return kills.stage(tmp_path)

    assert after({"stage": "imitate", "round": 0}) == "imitate"
    assert after({"stage": "ground", "round": 1}) == "ground"
    assert after({"stage": "improve", "round": 2}, {"stage": "ground", "round": 2}) == kills.AFTERWARDS
    assert not kills.unfinished(tmp_path)
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir(parents=True)
    assert kills.unfinished(tmp_path)


def test_lost_runs_are_counted_with_their_reasons():
    noted = [{"stage": "imitate", "unfinished": True}, {"stage": "imitate", "unfinished": False}]
    summary = kills.summary({"kills": noted, "runs": [None, "kill-1: ended with 2"]})
    assert summary == {
        "kills": 2,
        "kills_by_stage": {"imitate": 2},
        "unfinished_saves": 1,
        "runs_compared": 2,
        "lost": ["kill-1: ended with 2"],
    }


def test_losses_are_compared_or_else_the_whole_record():
    one, other = ([{"grounded_return": -10.0, "bias": bias}] for bias in (0.5, 0.25))
    assert meshes.difference(one, other) == {"grounded_return": (0.0, 0.0), "bias": (0.25, 0.5)}
    steps = [{"loss": 2.0, "note": 1.0}, {"loss": -4.0, "note": 9.0}]
    assert meshes.difference(steps, [{"loss": 2.0, "note": 0.0}, {"loss": -3.0, "note": 0.0}]) == {"loss": (1.0, 0.25)}


def test_results_of_meshes_are_tabulated_by_loss_and_by_record():
    losses, record = {"loss": (2e-7, 1e-7), "value": (1e-7, 3e-7)}, {"bias": (2e-7, 1e-7), "steps": (0.0, 3e-7)}
    worst = {"data=8": {"improve": losses, "ground": record}}
    text = meshes.section("equality", {"rows": 8, "steps": 20, "largest_difference": worst})
    assert "| unit | data=8 |" in text and "| ground | 2e-07 (3e-07) |" in text
    assert "| improve: loss | 2e-07 (1e-07) |" in text and "| improve: value | 1e-07 (3e-07) |" in text
    relative = {"imitate": {"1": 1.0, "8": 1.25}}
    text = meshes.section("weak", {"rows_per_device": 2, "relative_to_one_device": relative})
    assert "| unit | 1 | 8 |" in text and "| imitate | 1 | 1.2 |" in text and "| rows_per_device | 2 |" in text
