"""The examples work, named by import path like anyone's: models, policies, judges, objectives, data sources, runs."""

import ast
import contextlib
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import scenes

import tether
from examples import json_logs, read_run
from examples.fog import FogConfig
from tether import train
from tether.data.scene import Record, SceneSpec
from tether.data.sources import available_splits, open_split
from tether.data.validation import validate
from tether.evaluation.judges import Evaluation, baseline
from tether.evaluation.restore import template
from tether.simulator.prepare import prepare
from tether.training import objectives, presets, stages
from tether.training.checkpoint import Checkpoints
from tether.training.directory import claim, write_settings
from tether.training.log import read_lines
from tether.training.models import build
from tether.training.returns import Targets
from tether.training.state import Progress
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


def test_an_objective_by_import_path_learns_from_the_best_rollouts():
    """Two groups of four; the second transition of the best rollout of the second one is invalid."""
    returns, valid = np.array([1.0, 5, 2, 3, 0, -4, -1, -2]), np.ones((2, 8), bool)
    valid[1, 4] = False
    weights = objectives.build("examples.best_fraction:BestFraction", None).weights(
        Targets(np.zeros((2, 8)), np.zeros((2, 8)), valid, returns), 4
    )
    np.testing.assert_array_equal(np.argwhere(weights > 0), [[0, 1], [0, 4], [1, 1]])
    assert float(weights.mean()) == 1


def test_examples_are_short_and_use_public_names_alone():
    files = sorted(pathlib.Path(json_logs.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for path in files:
        text = path.read_text("utf-8")
        assert len(text.splitlines()) < (150 if path.stem == "residual" else 80), path
        nodes = list(ast.walk(ast.parse(text)))
        names = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
        names += [alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
        own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        assert not [name for name in names if name.startswith("_") and name not in own], path


def test_a_policy_and_a_judge_by_import_path_are_evaluated(sim_config):
    """A vehicle stands 20 m ahead, 24.5 m between the centres, which can be seen in fog of 25 m."""
    records = [
        Record(prepare(scene, sim_config), name, "hand", name, "follow the road", np.zeros(3))
        for name, scene in {"free": scenes.straight(), "blocked": scenes.lead_vehicle(speed=0.0)}.items()
    ]
    policy, judge = baseline("examples.time_gap:TimeGapConfig", sim_config), "examples.fog:FogConfig"
    evaluation = Evaluation({policy.name: policy}, records, (judge,), sim_config, 2, 12)
    scores = evaluation.scores(judge, policy.name)
    np.testing.assert_array_equal(scores["at_fault"], [False, False])
    assert scores["progress"][0] > 0.9 > 0.5 > scores["progress"][1]


def test_fog_hides_distant_agents(sim_config, keys):
    scene = jax.tree.map(lambda a: np.asarray(a)[None], prepare(scenes.lead_vehicle(speed=0.0), sim_config))

    def seen(range_m):
        world = dataclasses.replace(FogConfig(), range_m=range_m).build(sim_config)
        state = world.reset((), keys[:1], scene, jnp.full(1, 10))
        return world.observe((), state).agent_valid.any()

    assert jax.jit(lambda: [seen(range_m) for range_m in (24.0, 25.0)])() == [False, True]


def test_logs_of_another_format_become_a_data_set(tmp_path):
    (tmp_path / "logs").write_text("\n".join(json_logs.made_up(number) for number in range(12)))
    json_logs.main(["--logs", str(tmp_path / "logs"), "--out", str(tmp_path / "set")])
    assert sum(available_splits(tmp_path / "set").values()) == 12
    record = open_split(tmp_path / "set", "train")[0]
    validate(record, SceneSpec())
    number = int(record.scenario_id.removeprefix("log"))
    assert (record.group, record.source, record.instruction) == (f"road{number}", "json_logs", "follow the road")
    np.testing.assert_allclose(record.scene.vel_x[:2, 10], [8.0, 8.0 - 0.1 * number], atol=0.05)
    np.testing.assert_allclose(record.scene.x[:2, 10], [0.0, 45.0 - 0.1 * number], atol=0.05)


def test_a_run_is_read_and_evaluated(tmp_path, capsys):
    """A run of preset tiny with random weights, which are zeros after post-training."""
    config = presets.tiny()
    models = build(config)
    shapes = template(config, models, tether.open_split("train"))
    learned = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    learned = learned.replace(imitation=models.vla.init(jax.random.key(0)))
    units = tuple(unit.name for unit in stages.schedule(config))
    progress = Progress(finished=units, rounds=({"round": 1, "decision": "accept", "spent": {}},))
    meta = {"progress": progress.to_json(), "settings": dataclasses.asdict(config)}
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints", 1)) as checkpoints:
        checkpoints.save(1, learned, meta)
    write_settings(config, tmp_path)
    read_run.main([str(tmp_path), "--scenes", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed 0, 1 rounds, 0 simulator steps"
    assert lines[1].startswith("score: ") and lines[2].endswith("on 2 scenes")
