"""The examples keep the rules, named by import path like anyone's model, and can be fitted by the main job."""

import dataclasses

import numpy as np

from tether import train
from tether.training import presets
from tether.training.directory import claim
from tether.training.log import read_lines
from tether.worldmodel.conformance.test_rules import *  # noqa: F403

WORLD_MODELS = ("examples.residual:ResidualConfig",)


def test_the_main_job_fits_an_example(tmp_path):
    tiny = presets.tiny()
    config = dataclasses.replace(
        tiny,
        world_model=WORLD_MODELS[0],
        stage="fit_world_model",
        directory=str(tmp_path / "run"),
        compilation_cache=False,
        fit=dataclasses.replace(tiny.fit, steps=3),
    )
    with claim(config) as directory:
        state = train.train(train.prepare(config), directory)
    losses = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert len(losses) == 3 and np.isfinite(losses).all()
    assert state.progress.finished == ("0/fit_world_model",)
