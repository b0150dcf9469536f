"""Benchmarks on data sets that lack a split: they take what is there, or name it with those that are."""

import dataclasses
import json
import sys

import pytest

from benchmarks import accuracy, command, pixels, reactive, world_models
from tests.raw_scenes import straight_road
from tether.data.builder import write_dataset
from tether.data.raw import localize
from tether.training.presets import PRESETS
from tether.training.scenes import DataConfig


@pytest.fixture(scope="module")
def train_alone(tmp_path_factory):
    """A data set of two scenes, both of the split `train`."""
    directory = tmp_path_factory.mktemp("sets") / "train_alone"
    write_dataset({"train": [localize(straight_road("a")), localize(straight_road("b"))]}, directory, {})
    return str(directory)


def test_all_splits_are_those_that_exist(train_alone, monkeypatch, capsys):
    counts = {name: {"steps": 10, "differ": 1} for name in accuracy.DECISIONS}
    monkeypatch.setattr(accuracy, "count", lambda *_: counts)
    accuracy.main(["--data", train_alone, "--agents", "4", "--disturbed", "2"])
    report = json.loads(capsys.readouterr().out)
    assert (report["splits"], report["scenes"]) == (["train"], 2)


def test_a_benchmark_of_one_split_needs_no_other(train_alone, monkeypatch):
    read = []
    monkeypatch.setattr(world_models, "batches", lambda records, *_: iter(read.append(records) or ()))
    config = dataclasses.replace(PRESETS["cpu"](), data=DataConfig(directory=train_alone))
    with pytest.raises(StopIteration):
        world_models.expert_rollouts(config, 2)
    assert len(read[0]) == 2


@pytest.mark.parametrize(
    ("benchmark", "more", "complaint"),
    [
        (reactive, (), "expected a split of ['train'], found 'test'"),
        (reactive, ("--split", "validaton"), "expected a split of ['train'], found 'validaton'"),
        (pixels, (), "expected a split of ['train'], found 'test'"),
        (accuracy, ("--data", "nowhere"), "nowhere: expected a finished data set"),
    ],
)
def test_a_missing_split_ends_with_one_line_and_status_2(train_alone, monkeypatch, capsys, benchmark, more, complaint):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--data", train_alone, *more])
    with pytest.raises(SystemExit) as ended:
        command.run(benchmark.main)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and complaint in error and error.count("\n") == 1
