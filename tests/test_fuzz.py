"""A hundred damaged inputs for each reader; `python -m benchmarks.fuzz` hands them many more."""

import importlib.util

import numpy as np
import pytest

from benchmarks import damage, fuzz, mutate
from tests.raw_scenes import scenario
from tether.data.tfrecord import frame

INPUTS = 100
SCENARIO = importlib.util.find_spec("waymo_open_dataset") is not None
STORED = ("example", "array_record", "description", "checkpoint")
NAMES = (*STORED, "tfrecord", "scenario", "groups", "config", "instruction")


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """All that there are."""
    folder = tmp_path_factory.mktemp("fuzz")
    file = folder / "scenario.tfrecord"
    if SCENARIO:
        file.write_bytes(frame(scenario().SerializeToString()))
    return fuzz.targets(folder, str(file) if SCENARIO else None)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_input_is_read_or_refused(targets, name):
    """Nothing but the documented errors, and nothing for longer than the limit."""
    if name == "scenario" and not SCENARIO:
        pytest.skip("needs the WOMD protos: pip install --no-deps waymo-open-dataset-tf-2-12-0==1.6.7")
    counts = fuzz.run(name, targets[name], INPUTS, seed=0)
    assert counts["uncaught"] == counts["slow"] == 0, counts
    assert counts["read"] + counts["refused"] == INPUTS


def test_every_target_is_tried(targets):
    assert set(targets) | {"scenario"} == set(NAMES)


def test_undocumented_errors_of_a_reader_are_counted(tmp_path, monkeypatch):
    """Or the counts above could not be other than 0; what led to it is kept."""

    def broken(damaged):
        raise KeyError("never heard of")

    def hangs(damaged):
        while True:
            pass

    def make(rng):
        return mutate.change_bytes(rng, b"valid")

    counts = fuzz.run("broken", fuzz.Target(1.0, make, broken), 3, 0, tmp_path)
    assert counts["uncaught"] == 3 and "never heard of" in (tmp_path / "broken-2.txt").read_text()
    monkeypatch.setattr(fuzz, "LIMIT_S", 0.05)
    assert fuzz.run("hangs", fuzz.Target(1.0, make, hangs), 1, 0)["slow"] == 1


def test_damage_is_drawn_from_the_seed():
    """The same seed and index make the same input, another one another."""
    first, again, other = (mutate.change_bytes(np.random.default_rng((0, i)), bytes(100)) for i in (1, 1, 2))
    assert first == again != other


def test_the_section_counts_each_reader():
    row = {"inputs": 1500, "read": 500, "refused": 999, "uncaught": 1, "slow": 0, "slowest_s": 0.25}
    text = fuzz.section({"seed": 0, "targets": {"config": row, "groups": row}, "bad": 2, "peak_memory_grew_mb": 7})
    assert "| config | 1500 | 500 | 999 | 1 | 0 | 0.25 |" in text
    assert "| inputs | 3,000 |" in text and "| largest growth of the process | 7 MB |" in text


@pytest.fixture(scope="module")
def scenario_fuzz():
    """The benchmark; it needs the protos."""
    if not SCENARIO:
        pytest.skip("needs the WOMD protos: pip install --no-deps waymo-open-dataset-tf-2-12-0==1.6.7")
    from benchmarks import scenario_fuzz

    return scenario_fuzz


def test_scenarios_of_another_structure_are_used_or_refused_by_name(scenario_fuzz, tmp_path):
    """`python -m benchmarks.scenario_fuzz` tries 2,000."""
    counts = scenario_fuzz.run(INPUTS, 0, scenario_fuzz.base(), tmp_path)
    assert {name: counts[name] for name in scenario_fuzz.BAD} == dict.fromkeys(scenario_fuzz.BAD, 0)
    assert counts["converted"] + counts["refused"] == counts["submission_read"] + counts["submission_refused"] == INPUTS
    assert min(counts["converted"], counts["refused"], counts["submission_read"], counts["submission_refused"]) > 10
    assert sum(counts["refused_by_reason"].values()) >= counts["refused"] and counts["peak_memory_grew_mb"] < 500


def test_unforeseen_errors_are_counted_separately(scenario_fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.scenario_fuzz.read_sim_agents", lambda *_: {}["never heard of"])
    counts = scenario_fuzz.run(2, 0, scenario_fuzz.base(), tmp_path, tmp_path)
    assert (
        counts["unforeseen"] + counts["uncaught"] >= 2 and "never heard of" in (tmp_path / "uncaught-1.txt").read_text()
    )


def test_a_changed_structure_depends_on_the_seed_alone(scenario_fuzz):
    made = scenario_fuzz.base()
    changed = [mutate.change_structure(np.random.default_rng(seed), made) for seed in (*range(20), 0)]
    assert changed[0] == changed[-1] and len(set(changed)) > 15 and made == scenario_fuzz.base()


def test_a_damaged_run_is_named_harmless_or_mended(tmp_path):
    """Whatever bit is flipped, and whenever the disk is full; `python -m benchmarks.damage` tries hundreds."""
    outcomes = damage.run(40, 10, 0, tmp_path)
    assert sum(outcomes["checkpoint"].values()) == 40 and sum(outcomes["disk"].values()) == 10
    assert {name for one in outcomes.values() for name in one} <= {"named", "harmless", "mended"}, outcomes
    assert outcomes["checkpoint"]["named"] > 20 and outcomes["rounds.json"] == {"mended": 4}


def test_unnoticed_damage_is_counted(tmp_path, monkeypatch):
    """Or the counts above could not be other than they are: without the sum of meta, a bit changes the run."""

    def flip(path, rng):
        path.write_text(path.read_text().replace('"penalty": 1.0', '"penalty": 5.0'))

    monkeypatch.setattr(damage, "checkpoint_file", lambda run, rng: run / "checkpoints" / "2" / "meta" / "metadata")
    monkeypatch.setattr(damage, "flip", flip)
    assert damage.run(1, 0, 0, tmp_path / "a")["checkpoint"] == {"named": 1}
    monkeypatch.setattr("tether.training.checkpoint.digest", lambda meta: "0")
    assert damage.run(1, 0, 0, tmp_path / "b")["checkpoint"] == {"silent": 1}
