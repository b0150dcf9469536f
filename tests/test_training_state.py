"""Configs, ledger, replay tracks, schedule: what lets a run be named, stopped and gone on with."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from tether.data.tfrecord import read_records
from tether.evaluation.provenance import stage_seconds
from tether.policy.flow_head import FlowConfig
from tether.training import presets, processes, settings, stages, tracks
from tether.training.ledger import Ledger
from tether.training.log import Logger, read_lines
from tether.training.state import Progress
from tether.training.validation import validate


def test_overrides_are_typed_and_nested():
    config = presets.parse(["tiny", "--rounds.group", "4", "--policy.actions.effort", "0.5", "--seed", "3"])
    assert (config.rounds.group, config.policy.actions.effort, config.seed, config.name) == (4, 0.5, 3, "tiny")


def test_the_preset_may_be_left_out():
    assert presets.parse(["--seed", "5"]) == dataclasses.replace(presets.cpu(), seed=5)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["tiny", "--rounds.gruop", "4"], "--rounds.group"),
        (["tiny", "--rounds.group", "x"], "--rounds.group"),
        (["tiny", "--grounding.no_roll_back"], "--grounding.roll_back"),
        (["tiny", "--learning_rate", "1e-3"], "--fit.optimizer.learning_rate"),
        (["tiny", "--fresh", "perhaps"], "'True'"),
        (["tinny"], "did you mean 'tiny'?"),
    ],
)
def test_typos_end_the_process_with_a_suggestion(arguments, hint, capsys):
    """In a screenful: every option is named once, of the preset that was asked for."""
    with pytest.raises(SystemExit, match="2"):
        presets.parse(arguments)
    printed = capsys.readouterr()
    assert hint in printed.out + printed.err
    assert len((printed.out + printed.err).splitlines()) < 30 and "h200 --help" not in printed.err


@pytest.mark.parametrize(
    ("options", "detect"),
    [
        (["--distributed.detect", "true"], True),
        (["--distributed.detect", "false"], False),
        (["--distributed.detect=TRUE"], True),
        (["--distributed.detect"], True),
        (["--distributed.detect", "--keep-checkpoints", "3"], True),
        ([], False),
    ],
)
def test_booleans_may_be_given_with_or_without_a_value(options, detect):
    assert presets.parse(["tiny", *options, "--fit.optimizer.learning-rate", "1"]).distributed.detect == detect


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ppo.clip", "0.3"], "ppo.clip: acts with rounds.objective ppo, found pmpo"),
        (["--tokens.temperature", "0.5"], "tokens.temperature: acts with world_model tokens, found rssm"),
        (["--rssm.context", "1", "--world_model", "pixels"], "rssm.context: acts with world_model rssm, found pixels"),
        (["--policy.flow.steps", "5"], "policy.flow.steps: acts with policy.head flow, found discrete"),
        (["--pmpo.alpha", "0.3", "--rounds.objective", "dagger"], "pmpo.alpha: acts with rounds.objective pmpo"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        presets.parse(["tiny", *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("policy.actions.curvatures", 8, "curvatures must be odd"),
        ("policy.stem", [], "policy.stem: expected at least one convolution"),
        ("grounding.tolerance", 10**400, "tolerance: expected float"),
        ("grounding.tolerance", 1e300, "grounding.tolerance: expected a finite number"),
    ],
)
def test_hostile_values_of_a_run_are_reported_with_its_file(name, value, message, tmp_path):
    path = tmp_path / "config.json"
    written = dataclasses.asdict(presets.tiny())
    *outer, last = name.split(".")
    functools.reduce(dict.__getitem__, outer, written)[last] = value
    path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=rf"(?s)config\.json.*{message}"):
        settings.read(path)


def test_an_option_that_waits_for_its_model_acts_with_it():
    assert presets.parse(["tiny", "--tokens.temperature", "0.5", "--world_model", "tokens"]).tokens.temperature == 0.5


@pytest.mark.parametrize(
    ("setting", "off", "on"),
    [
        ("closed_loop.candidates 8", "closed_loop.steps 0", "rounds.objective cl_sft"),
        ("closed_loop.minibatch 7", "closed_loop.steps 0", None),
        ("value.epochs 3", "value.steps 0", "value.steps 1"),
        ("value.learning_rate 0.1", "value.steps 0 rounds.objective cl_sft", "rounds.objective dagger"),
        ("returns.discount 0.5", "value.steps 0 rounds.rounds 0", "value.steps 1"),
        ("rounds.minibatch 8", "value.steps 0 rounds.objective cl_sft", "value.steps 1"),
        ("rounds.learning_rate 0.1", "rounds.objective cl_sft", "rounds.objective examples.best_fraction:BestFraction"),
        ("rounds.iterations 3", "rounds.rounds 0", "rounds.rounds 1"),
        ("fit.tracks 8", "fit.refit_steps 0", "fit.refit_steps 1"),
        ("fit.trust_quantile 0.5", "rounds.dynamic_horizon false", "rounds.dynamic_horizon true"),
        ("grounding.horizon_min 2", "rounds.dynamic_horizon false", "grounding.roll_back true"),
        ("grounding.bias_tolerance 1", "grounding.roll_back false", "rounds.dynamic_horizon true"),
        ("rounds.penalty 0.1", "rounds.world simulator", "rounds.world model"),
        ("grounding.penalty_growth 3", "grounding.roll_back false", "rounds.world model"),
        ("grounding.tolerance 0.1", "grounding.roll_back false", "grounding.roll_back true"),
    ],
)
def test_an_inactive_setting_is_refused_with_what_it_acts_with(setting, off, on, capsys):
    def options(text):
        words = text.split()
        return [f"--{name}={value}" for name, value in zip(words[::2], words[1::2], strict=True)]

    with pytest.raises(SystemExit, match="2"):
        presets.parse(["tiny", *options(setting), *options(off)])
    assert f"these settings would do nothing:\n  {setting.split()[0]}: acts with" in capsys.readouterr().err
    if on is not None:
        assert presets.parse(["tiny", *options(setting), *options(on)])


def test_text_that_looks_like_a_boolean_stays_text():
    assert presets.parse(["tiny", "--directory", "true"]).directory == "true"


def test_help_names_the_presets_and_requires_nothing(capsys):
    with pytest.raises(SystemExit, match="0"):
        presets.parse(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in presets.PRESETS) and "required" not in printed


def test_a_missing_launcher_is_reported_with_the_field(monkeypatch):
    def initialize():  # JAX's own, which a test before may have made raise something else
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match=r"^distributed\.detect: no launcher"):
        processes.join(processes.DistributedConfig(detect=True))


def test_values_that_cannot_work_are_listed():
    config = presets.tiny()
    wrong = dataclasses.replace(config, rounds=dataclasses.replace(config.rounds, group=1, minibatch=7))
    with pytest.raises(ValueError, match=r"(?s)rounds\.group: expected at least 2, found 1.*rounds\.minibatch"):
        validate(wrong)


def test_sizes_beyond_any_machine_are_refused():
    spec = dataclasses.replace(presets.tiny().spec, polylines=2**15, points=2**15)
    with pytest.raises(
        ValueError, match=r"spec\.polylines x spec\.points: expected at most 16777216, found 1073741824"
    ):
        validate(dataclasses.replace(presets.tiny(), spec=spec))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "flow", "flow": FlowConfig(layers=3)}, r"policy\.flow\.layers: expected 1 to policy.layers = 2"),
        ({"flow": FlowConfig(noise=0.0)}, r"policy\.flow\.noise: expected above 0"),
        ({"cameras": (1, 32, 32)}, r"policy\.cameras: expected none"),
        ({"heads": 3}, r"policy\.heads: expected a divisor of width = 16"),
    ],
)
def test_policies_that_cannot_work_are_refused(changes, message):
    config = presets.tiny()
    with pytest.raises(ValueError, match=message):
        validate(dataclasses.replace(config, policy=dataclasses.replace(config.policy, **changes)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rssm.sizes.deter", 0, "at least 1, found 0"),
        ("rounds.kl_weight", float("nan"), "a finite number, found nan"),
        ("fit.refit_steps", -1, "at least 0, found -1"),
        ("tokens.sizes.heads", 3, "a divisor of width = 16, found 3"),
        ("spec.dt", 0.2, "0.1: data sets are at 10 Hz, other logs are resampled, found 0.2"),
        ("spec.current", 5, "10: the history of every World, found 5"),
        ("policy.actions.dt", 0.05, "simulator.dt, 0.1, found 0.05"),
        ("policy.actions.commit", 4, "simulator.substeps, 5: a World drives what a decision commits to, found 4"),
        ("policy.actions.commit", 10**18, "at least 1 and at most 1048576, found 1000000000000000000"),
        ("policy.actions.horizon", 81, "policy.actions.commit to 80, the log's future, found 81"),
        ("spec.points", 10**18, "at least 1 and at most 1048576, found 1000000000000000000"),
        ("seed", 2**31, "at least 0 and at most 2147483647, found 2147483648"),
        ("simulator.substeps", 0, "at least 1, found 0"),
        ("simulator.dt", 0.2, "spec.dt, 0.1: logs are replayed by it, found 0.2"),
        ("fit.optimizer.learning_rate", -1.0, "at least 0, found -1.0"),
        ("rssm.sizes.unimix", 1.5, "at least 0, at most 1, found 1.5"),
        ("tokens.vocabulary.turns", 4, "an odd number, so that zero is among them, found 4"),
        ("distributed.coordinator", "here", "host:port of the first process, found here"),
    ],
)
def test_impossible_numbers_are_refused_on_the_command_line_and_in_a_run(name, value, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        presets.parse(["tiny", f"--{name}", str(value)])
    assert f"{name}: expected {message}" in capsys.readouterr().err
    path = tmp_path / "config.json"
    settings.write(presets.tiny(), path)
    written = json.loads(path.read_text())
    *outer, last = name.split(".")
    functools.reduce(dict.__getitem__, outer, written)[last] = value
    path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=rf"(?s)config\.json: .*{re.escape(name)}: expected {message}"):
        settings.read(path)


@pytest.mark.parametrize("preset", presets.PRESETS.values())
def test_presets_are_valid_and_survive_json(preset, tmp_path):
    config = preset()
    validate(config)
    settings.write(config, tmp_path / "config.json")
    assert settings.read(tmp_path / "config.json") == config


def test_an_unknown_field_of_a_saved_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"sed": 1}))
    with pytest.raises(ValueError, match=r"unknown field 'sed'.*did you mean seed"):
        settings.read(tmp_path / "config.json")


def test_a_stage_alone_needs_what_comes_before():
    config = presets.tiny()
    only = dataclasses.replace(config, stage="cl_sft")
    with pytest.raises(ValueError, match="0/fit_world_model"):
        stages.pending(only, ("0/imitate",))
    assert [unit.name for unit in stages.pending(only, ("0/fit_world_model", "0/imitate"))] == ["0/cl_sft"]
    assert stages.pending(dataclasses.replace(config, stage="imitate"), ())[0].part == "imitate"


def test_the_schedule_grounds_before_and_after_each_round():
    names = [unit.name for unit in stages.schedule(presets.tiny())]
    assert names[:5] == ["0/fit_world_model", "0/imitate", "0/cl_sft", "0/measure_trust", "0/fit_value"]
    assert names[5:9] == ["0/ground", "1/refit", "1/improve", "1/ground"]


def test_progress_survives_json():
    progress = Progress(finished=("0/imitate",), step=3, horizon=8, grounded_return=(1.5,), rounds=({"round": 1},))
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


def test_the_ledger_counts_steps_of_living_rows_only():
    ledger = Ledger().add("ground", np.array([[1, 1], [1, 0]], bool)).add("refit", np.ones((2, 2), bool))
    assert (ledger.total, ledger.count().spent["ground"]) == (7, 3)
    assert Progress.from_json(json.loads(json.dumps(Progress(ledger=ledger).to_json()))).ledger == ledger.count()
    with pytest.raises(KeyError):
        ledger.add("elsewhere", np.ones(1))


WHERE = {"round_index": 1, "stage": "improve", "step": 2, "total": 9, "simulator_steps": 64, "wall_s": 1.5}
LINE = {"round": 1, "stage": "improve", "step": 2, "simulator_steps": 64, "wall_s": 1.5}


def test_log_lines_name_their_round_stage_and_step(tmp_path):
    logger = Logger(tmp_path)
    logger.write(**WHERE, metrics={"kl": jnp.float32(0.5), "bad": float("nan")})
    with pytest.raises(ValueError, match="kl must be one number"):
        logger.write(**WHERE, metrics={"kl": np.zeros(2)})
    logger.close()
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert line == LINE | {"kl": 0.5, "bad": None}
    (board,) = (tmp_path / "tensorboard").iterdir()
    events = [Event.FromString(payload) for payload in read_records(str(board))]
    assert [event.step for event in events] == [0, 9] and events[0].file_version == "brain.Event:2"
    values = {value.tag: value.simple_value for value in events[1].summary.value}
    assert values["improve/kl"] == 0.5 and np.isnan(values["improve/bad"]) and len(values) == 2


DAMAGED = [
    b"",
    b"{",
    b"\xff\x00",
    b"[1]",
    b"{}",
    b'{"round": 1, "step": 2, "wall_s": 0}',
    b'{"round": 1, "stage": "a", "step": 2, "wall_s": "0"}',
    b'{"round": 1, "stage": "a", "step": 2, "wall_s": NaN}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("damaged", [json.dumps(LINE).encode()[:40], *DAMAGED])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_damaged_line_is_set_aside_and_reported(tmp_path, caplog, damaged, end):
    path, whole = tmp_path / "metrics.jsonl", json.dumps(LINE).encode()
    if not damaged:
        end = b"\n"
    path.write_bytes(whole + b"\n" + damaged + b"\n" + whole + b"\n" + damaged + end)
    assert list(read_lines(path)) == [LINE, LINE]
    assert f"{path}, line 2: expected a record, found" in caplog.text and "line 4" in caplog.text
    logger = Logger(tmp_path)
    logger.write(**WHERE, metrics={})
    logger.close()
    caplog.clear()
    assert list(read_lines(path)) == [LINE] * 3 and not caplog.text
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == (damaged + b"\n") * 2


def test_a_whole_line_without_its_end_is_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(LINE))
    logger = Logger(tmp_path)
    logger.write(**WHERE, metrics={})
    logger.close()
    assert list(read_lines(tmp_path / "metrics.jsonl")) == [LINE] * 2
    assert not (tmp_path / "metrics.jsonl.damaged").exists()


def test_times_are_read_from_a_log_with_damaged_lines(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(LINE) + '\n{"wall_s": 9}\n' + json.dumps(LINE)[:-2])
    assert stage_seconds(tmp_path / "metrics.jsonl") == {"improve": 1.5}


def test_a_full_disk_is_named_by_the_log(tmp_path):
    logger = Logger(tmp_path)
    logger._lines.close()
    with open("/dev/full", "w", buffering=1) as full:
        logger._lines = full
        with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
            logger.write(**WHERE, metrics={})
        logger.close()


@pytest.mark.parametrize("place", [(), ("ledger",), ("ledger", "spent")])
def test_progress_with_other_names_is_refused(place):
    for change in (lambda names: names.pop(next(iter(names))), lambda names: names.update(penalti=1.0)):
        values = Progress().to_json()
        change(functools.reduce(dict.__getitem__, place, values))
        with pytest.raises(ValueError, match="found other or missing names"):
            Progress.from_json(values)


@dataclasses.dataclass
class Bare:
    """Stands in for a `ModelBatch`: only `replace` and leaves matter to the ring."""

    value: object
    scene: object = ()

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


jax.tree_util.register_dataclass(Bare, ["value", "scene"], [])


def test_the_ring_overwrites_the_oldest_tracks():
    ring = tracks.empty(Bare(np.zeros((2, 1), np.float32)), 3)
    with pytest.raises(ValueError, match="no policy rollout"):
        tracks.draw(ring, jax.random.key(0), 1)
    for first in (0, 2):
        batch = Bare(np.array([[first], [first + 1]], np.float32))
        ring = tracks.add(ring, np.array([first, first + 1]), batch)
    assert ring.scene.tolist() == [3, 1, 2]
    scenes, batch = tracks.draw(ring, jax.random.key(0), 8)
    np.testing.assert_array_equal(batch.value[:, 0], scenes)
