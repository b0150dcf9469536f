"""A setting that is accepted acts: every leaf of the config, changed, gives another program, another result of the code
that reads it, or a refusal. A field that is new needs no case here where its section has probes; without any it fails.
"""

import dataclasses
import functools
import pathlib
import re
import tempfile
import time
import types
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import raw_scenes
import scenes

from tether.data.padding import pad
from tether.data.raw import localize
from tether.data.scene import SceneSpec
from tether.evaluation import policies as evaluation
from tether.evaluation.policies import open_records
from tether.evaluation.report import Results
from tether.policy.action_space import drive_to, extend, logged_waypoints
from tether.policy.imitation import perturb
from tether.policy.language import consistency, label
from tether.simulator.dynamics import log_ego
from tether.simulator.log_replay import LogReplay
from tether.simulator.observe import observe
from tether.simulator.prepare import prepare
from tether.simulator.world import Action
from tether.training import (
    checks,
    grounding,
    imagination,
    loop,
    mesh,
    presets,
    processes,
    programs,
    stages,
    watch,
)
from tether.training.checkpoint import Kept
from tether.training.directory import claim, write_settings
from tether.training.drivers import Teacher, undisturbed
from tether.training.grounding import Grounded
from tether.training.scenes import data_directory, open_splits
from tether.training.state import Progress, RunState
from tether.training.validation import flatten, validate
from tether.worldmodel import rssm, tokens

BASE = {"world_model": "kinematic", "name": "tiny", "rounds.objective": "pmpo"}
# What a leaf needs to act, where that is not the base: without it it is free, as its section's docstring says.
WITH = {
    "rssm.": {"world_model": "rssm"},
    "tokens.": {"world_model": "tokens"},
    "policy.flow.": {"policy.head": "flow"},
    "rounds.clip": {"rounds.objective": "ppo"},
    "distributed.processes": {"distributed.coordinator": "host:1"},
    "distributed.index": {"distributed.coordinator": "host:1", "distributed.processes": 2},
}
# Where the next whole number, or half as much again, cannot work.
OTHER = {
    "stage": "imitate",
    "watch.not_finite": "stop",
    "rssm.sizes.dtype": "bfloat16",
    "tokens.sizes.dtype": "bfloat16",
    "policy.head": "flow",
    "rounds.objective": "actor_critic",
    "rounds.world": "simulator",
    "mesh.data": 2,
    "evaluation.batch": 2,
    "checkpoint_every_s": 1e-9,
    "data.train_scenes": 9,
    "data.grounding_scenes": 5,
    "world_model": "oracle",
    "distributed.coordinator": "host:1234",
    "distributed.index": 1,
    "data.directory": "elsewhere",
    "start_from": "elsewhere",
    "policy.heads": 4,
    "policy.width": 32,
    "policy.stem": [8, 8, 16],
    "policy.actions.curvatures": 11,
    "policy.flow.layers": 1,
    "tokens.sizes.heads": 4,
    "tokens.sizes.width": 32,
    "tokens.sizes.things": 16,
    "tokens.vocabulary.accelerations": 19,
    "tokens.vocabulary.turns": 17,
    "rssm.view_cell": 8,
    "rssm.context": 1,
    "tokens.context": 1,
    "fit.scenes": 6,
    "fit.trust_quantile": 0.5,
    "fit.perturbed": 0.25,
    "imitation.checks": 2,
    "imitation.steps": 5,
    "rounds.horizon": 4,
    "rounds.minibatch": 8,
    "rounds.grounding_scenes": 2,
    "spec.steps": 86,
    "closed_loop.minibatch": 8,
    "closed_loop.scenes": 2,
    "tokens.loss.closest_of": 2,
    "simulator.substeps": 4,
    "simulator.near_edges": 1,
    "simulator.near_lanes": 1,
}
ALONG = {
    "simulator.substeps": {"policy.actions.commit": 4, "closed_loop.minibatch": 20},
    "spec.steps": {"closed_loop.minibatch": 20},
}
# Fields that can have one value: any other is refused, with what works.
FIXED = ("spec.dt", "spec.current", "simulator.dt", "policy.actions.dt", "policy.actions.commit", "policy.cameras")


def changed(config: Any, changes: dict[str, Any]) -> Any:
    """The config with fields replaced by their dotted names."""
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        new = (
            changed(getattr(config, head), {rest: value})
            if rest
            else tuple(value)
            if isinstance(value, list)
            else value
        )
        config = dataclasses.replace(config, **{head: new})
    return config


def other(name: str, value: Any) -> Any:
    """Another value of a leaf."""
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 0.5 * value if value else 0.5
    if isinstance(value, list):
        return [0.5 * one if isinstance(one, float) else one + 1 for one in value]
    return f"{value or ''}2"


# What reads the settings. Each probe gives something that can be compared.


def text(function: Any, *args: Any) -> tuple:
    """What a function compiles to, without addresses of objects."""
    traced = jax.make_jaxpr(function)(*args)
    return re.sub("0x[0-9a-f]+", "", str(traced)), digest(traced.consts)


def digest(tree: Any) -> tuple:
    """Shapes and contents of arrays."""
    leaves = [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in _arrays(tree)]
    return tuple(
        (a.shape, str(a.dtype), zlib.crc32(np.ascontiguousarray(a).tobytes())) for a in map(np.asarray, leaves)
    )


def _arrays(tree: Any) -> list:
    return [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def filled(shapes: Any) -> Any:
    """Arrays of these shapes that are all different inside: 0.5 to 1.5, ones, or True."""

    def fill(leaf: Any) -> np.ndarray:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return np.ones(leaf.shape, leaf.dtype)
        return np.linspace(0.5, 1.5, int(np.prod(leaf.shape))).reshape(leaf.shape).astype(leaf.dtype)

    return jax.tree.map(fill, shapes)


@functools.cache
def logged(simulator: Any) -> Any:
    """Two scenes, prepared."""
    both = scenes.stack([prepare(scene, simulator) for scene in (scenes.lead_vehicle(), scenes.red_light())])
    words = SceneSpec.text - both.instruction.shape[1]
    return both.replace(instruction=np.pad(both.instruction, [(0, 0), (0, words)]))


def padded(config):
    """The scenes that are read."""
    record = pad(localize(raw_scenes.straight_road()), config.spec)
    return digest(record.scene.replace(road_index=()))


def prepared(config):
    """What is drawn and indexed once per scene."""
    return digest(logged(config.simulator))


def world(config):
    """A step of the simulator, and what is seen before it."""
    simulator, scene = config.simulator, logged(config.simulator)

    def step(scene, acceleration):
        key, action = jax.random.split(jax.random.key(0), 2), Action(acceleration, acceleration)
        state = LogReplay(simulator).reset((), key, scene, jnp.full(2, 10))
        return observe(state, simulator), LogReplay(simulator).step((), key, state, action)

    return text(step, scene, jnp.zeros((2, simulator.substeps)))


def vla_of(config):
    return config.policy.build(config.simulator, config.spec)


def network(config):
    """The policy's parameters."""
    return str(jax.eval_shape(vla_of(config).init, jax.random.key(0)))


def acting(config):
    """A decision, by chance and without."""
    vla, key = vla_of(config), jax.random.split(jax.random.key(0), 2)
    params = jax.eval_shape(vla.init, key[0])
    observation = observation_of(config.simulator)

    def act(temperature, params, observation):
        return vla.with_temperature(temperature).act(params, key, observation, ())

    return tuple(text(functools.partial(act, temperature), params, observation) for temperature in (0.0, 1.0))


def deciding(config):
    """The labels of actions, and how they are driven."""
    vla, scene, space = vla_of(config), logged(config.simulator), config.policy.actions

    def labelled(scene, key, later):
        ego, waypoints = log_ego(scene, jnp.full(2, 20)), logged_waypoints(scene, jnp.full(2, 20), space.horizon)
        knot, shown = vla.head.show(key, vla.head.towards(ego, waypoints, config.simulator.limits)[:, None])
        motion = jnp.stack([ego.speed, ego.acceleration, ego.curvature, ego.speed], -1)
        return shown, extend(space, drive_to(space, knot, motion, vla.substeps), motion, later)

    return text(labelled, scene, jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 12, 2)))


def speaking(config):
    """The labels of reasoning, and how far what is said is what is done."""
    labels, observation = config.imitation.labels, observation_of(config.simulator)

    def said(observation, acceleration):
        tokens = label(labels, observation, acceleration, acceleration)
        return consistency(labels, tokens, Action(acceleration[:, None], acceleration[:, None]), acceleration)

    return text(said, observation, jnp.zeros(2))


@functools.cache
def observation_of(simulator):
    keys = jax.random.split(jax.random.key(0), 2)
    return observe(LogReplay(simulator).reset((), keys, logged(simulator), jnp.full(2, 10)), simulator)


def model_parameters(config):
    """What a world model learns."""
    model, batch = programs.build_model(config), driven(config.simulator)
    return str(jax.eval_shape(model.init, jax.random.key(0), batch))


@functools.cache
def driven(simulator):
    """Two logged rollouts."""
    keys = jax.random.split(jax.random.key(0), 2)
    function = functools.partial(imagination.drive_expert, simulator, 4)
    return filled(jax.eval_shape(function, logged(simulator), undisturbed(2), keys)).replace(scene=logged(simulator))


def model_fit(config):
    """A model's loss, without the costs that are fitted in imagination: those read nothing more."""
    model, batch = programs.build_model(config), driven(config.simulator)
    with pytest.MonkeyPatch.context() as patch:
        for module in (rssm, tokens):
            patch.setattr(module, "cost_terms", lambda *args: {})
        params = jax.eval_shape(model.init, jax.random.key(0), batch)
        return text(model.loss, params, jax.random.key(0), batch)


def model_step(config):
    """A step of a model."""
    model, batch, substeps = programs.build_model(config), driven(config.simulator), config.simulator.substeps
    params, keys = jax.eval_shape(model.init, jax.random.key(0), batch), jax.random.split(jax.random.key(0), 2)
    state = jax.eval_shape(model.reset, params, keys, batch.scene, jnp.full(2, 10))
    action = Action(jnp.zeros((2, substeps)), jnp.zeros((2, substeps)))
    return text(lambda params, state: model.step(params, keys, state, action), params, state)


class Noted:
    """Programs that only note what they are given, and return arrays of the right shapes.

    Args: expected: what another config's were given: at the first difference the run is over.
    """

    def __init__(self, real: Any, expected: list | None):
        self.real, self.expected, self.notes = real, expected, []

    def note(self, *what: Any) -> None:
        self.notes.append(what)
        if self.expected is not None and self.notes != self.expected[: len(self.notes)]:
            raise Differs

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "vla", "labels"):
            return getattr(self.real, name)
        return functools.partial(self._call, name)

    def _call(self, name: str, *args: Any) -> Any:
        self.note(name, digest(args))
        return output(name, self.real, args)


class Differs(Exception):
    """Another call than with the settings that are compared with."""


RETURNED: dict[tuple, Any] = {}


def output(name: str, real: Any, args: tuple) -> Any:
    """What a program returns; traced once for all settings, since what differs ends before."""
    key = name, str(jax.tree.map(jnp.shape, args))
    if key not in RETURNED:
        RETURNED[key] = filled(jax.eval_shape(getattr(real, name), *args))
    return RETURNED[key]


@functools.cache
def opened(data, spec, simulator):
    return open_splits(data, spec, simulator)


@functools.cache
def at_start():
    """The arrays of a run, and the scenes that it reads."""
    config = changed(presets.tiny(), BASE)
    splits = opened(config.data, config.spec, config.simulator)
    built = programs.build(config)
    return filled(jax.eval_shape(lambda: stages.begin(config, built, mesh.ALONE, splits.train)))


def units(*names: str) -> Any:
    """A probe: what the programs are given in some units, what is noted, and how often a log line or a checkpoint is
    written."""

    def probe(config: Any, expected: list | None = None) -> list:
        noted = Noted(programs.build(config), expected)
        splits = opened(config.data, config.spec, config.simulator)
        folder = pathlib.Path(tempfile.mkdtemp())
        run = loop.Run(config, folder, splits, noted, None, None, loop.Stop(), mesh.ALONE, time.monotonic())
        run = RunNoting(**{field.name: getattr(run, field.name) for field in dataclasses.fields(run) if field.init})

        def drive(policy, records, judge, keep, **settings):
            noted.note("drive", len(records), settings["batch"], settings["steps"], settings["keys"].args)
            return {name: np.ones(len(records)) for name in (*checks.CHECKED, "steps")}

        progress = Progress(horizon=config.rounds.horizon, penalty=config.rounds.penalty, grounded_return=(1.0,) * 4)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checks, "drive", drive)
            for name in names:
                round_, part = name.split("/")
                unit = loop.Unit(
                    {"refit": "post_train", "improve": "post_train", "ground": "post_train"}.get(part, part),
                    part,
                    int(round_),
                )
                state, _ = stages.PARTS[part](run, RunState(at_start(), progress), unit)
                now = {
                    name: value
                    for name, value in state.progress.to_json().items()
                    if name not in ("iterator", "wall_s")
                }
                for record in now["rounds"]:
                    record.pop("wall_s")
                noted.note("progress", str(now))
        return noted.notes

    return probe


class RunNoting(loop.Run):
    """Notes lines and checkpoints among the calls."""

    def record(self, state, unit, metrics):
        self.programs.note("line", unit.name, state.progress.step)

    def save(self, state):
        self.programs.note("save", state.progress.step)
        return state


def planned(config):
    """Which units there are, which are run now, and where."""
    directories = str(config.run_directory)
    finished = tuple(unit.name for unit in loop.schedule(config)[:4])
    return [unit.name for unit in loop.pending(config, finished)], directories


def judged(config):
    """What becomes of rounds that went well, badly, or otherwise than was imagined."""
    far, near = (
        Progress(horizon=horizon, penalty=config.rounds.penalty, grounded_return=(0.0, 0.0), failures=0.0)
        for horizon in (12, 6)
    )
    cases = [(0.0, 0.0, 0.0), (-0.2, 0.0, 0.0), (-9.0, 0.0, 1.5), (-9.0, 0.0, 9.0), (0.0, 0.015, 0.0), (0.0, 1.0, 0.0)]
    return [
        dataclasses.astuple(grounding.decide(config.rounds, progress, Grounded(np.full(2, r), np.full(2, f)), bias))
        for progress in (far, near)
        for r, f, bias in cases
    ]


def believed(config):
    """How far imagination is believed at first."""
    return config.rounds.horizon, config.rounds.penalty


@functools.cache
def rolled_out(vla, simulator, horizon):
    """A rollout of the policy in the simulator, its shapes."""
    scene, keys = logged(simulator), jax.random.split(jax.random.key(0), 2)
    params = jax.eval_shape(vla.init, keys[0])
    return jax.eval_shape(
        lambda p: imagination.rollout(LogReplay(simulator), (), vla, p, scene, horizon, keys, keys, jnp.full(2, 10)),
        params,
    )


def learning(config):
    """What is learned from an imagined rollout."""
    vla, keys = vla_of(config), jax.random.split(jax.random.key(0), 2)
    rollout = rolled_out_of(config)
    trust = imagination.Trust(jnp.int32(12), jnp.float32(1), jnp.float32(0.5))

    def learned(rollout):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(imagination, "rollout", lambda *args: rollout)
            teacher = Teacher(vla.head, config.simulator, config.imitation.labels)
            return imagination.imagine(None, vla, teacher, config.rounds, (), (), None, None, (keys, keys), trust)

    return text(learned, rollout)


def kept(config):
    """Which of eight checkpoints pruning leaves."""
    written = [types.SimpleNamespace(step=step) for step in range(8)]
    return Kept(config.keep_checkpoints).should_preserve(written, context=None)


def claimed(config):
    """What becomes of a run that is there."""
    folder = pathlib.Path(tempfile.mkdtemp())
    here = dataclasses.replace(config, directory=str(folder / "run"))
    for _ in range(2):
        with claim(here) as directory:
            write_settings(here, directory)
    return sorted(path.name for path in folder.iterdir())


def shown(config):
    """The scenes that are drawn."""
    scores = {"score": np.zeros(4), "failure": np.ones(4), "return": -np.arange(4.0)}
    results = Results(tuple("abcd"), tuple("abcd"), (False,) * 4, {"log_replay": {"idm": scores}})
    evaluated = types.SimpleNamespace(judges=("log_replay",), policies={"idm": None})
    return [name for name, *_ in evaluation.showcases(evaluated, results, config.evaluation.animations)]


def rolled_out_of(config):
    """A rollout of the policy in the simulator, its shapes."""
    return rolled_out(vla_of(config), config.simulator, config.rounds.horizon)


def disturbing(config):
    """Where the ego is put beside the log."""
    ego = log_ego(logged(config.simulator), jnp.full(2, 20))
    return text(lambda ego, key: perturb(ego, key, config.imitation.loss), ego, jax.random.split(jax.random.key(0), 2))


def imitating(config):
    """A step of imitation."""
    now = at_start()
    args = (now.policy, now.policy_optimizer, logged(config.simulator), jax.random.key(0), jnp.float32(1))
    return text(programs.build(config).imitate, *args)


def demonstrating(config):
    """Rollouts near the log."""
    keys = jax.random.split(jax.random.key(0), 2)
    return text(programs.build(config).demonstrate, at_start().policy, logged(config.simulator), keys)


def optimising(config):
    """The world model's optimiser."""
    rates = [float(config.fit.optimizer.schedule(config.fit.steps)(step)) for step in range(40)]
    optimizer, weights = config.fit.optimizer.build(config.fit.steps), {"w": jnp.full(3, 2.0)}
    state = optimizer.init(weights)
    for _ in range(3):
        updates, state = optimizer.update({"w": jnp.array([0.1, 3.0, 9.0])}, state, weights)
    return rates, digest(updates)


def reading(config):
    """Which scenes are read, and how many of them stay in memory."""
    if config.data.directory:
        return data_directory(config.data)
    records = {split: open_records(config, split) for split in ("train", "grounding", "validation", "test")}
    return {split: (len(each), each._limit) for split, each in records.items()}


def beginning(config):
    """The arrays of a run."""
    splits = opened(config.data, config.spec, config.simulator)
    built = programs.build(config)
    return str(jax.eval_shape(lambda: stages.begin(config, built, mesh.ALONE, splits.train)))


def going_on(config):
    """Where a new run begins."""
    run = types.SimpleNamespace(config=config, checkpoints=types.SimpleNamespace(restore=lambda *args: None))
    try:
        return loop.resume(run, None)
    except ValueError as error:
        return str(error)


def meshed(config):
    """The layout on four devices, or why there is none."""
    devices = types.SimpleNamespace(device_count=lambda: 4, make_mesh=lambda *args, **kwargs: args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "jax", devices)
        try:
            return mesh.make(config.mesh)
        except ValueError as error:
            return str(error)


def joined(config):
    """How the other processes are met."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
        processes.join(config.distributed)
    return calls


def watched(config):
    """What becomes of steps that are not finite, of a policy that collapses or runs away, and of slow data."""
    found = []
    for steps in ([{"loss": jnp.nan}] * 12, [{"entropy": 0.007, "kl": 1.0}], [{"entropy": 1.0, "kl": 40.0}]):
        unit = watch.Watch(config.watch, "unit", pathlib.Path(tempfile.mkdtemp()), ())
        try:
            for step, metrics in enumerate(steps):
                unit.guard(step, (), at_start(), at_start(), {name: jnp.float32(v) for name, v in metrics.items()})
            unit.settle()
            found.append("goes on")
        except watch.AlarmError as alarm:
            found.append(str(alarm).split(";")[0])

    def thread(target, daemon):
        return types.SimpleNamespace(start=target, join=lambda: None)

    with pytest.MonkeyPatch.context() as patch:
        waits = types.SimpleNamespace(wait=lambda seconds: found.append(seconds) or True, set=lambda: None)
        patch.setattr(watch.threading, "Event", lambda: waits)
        patch.setattr(
            watch.threading, "Thread", lambda target, daemon: types.SimpleNamespace(start=target, join=lambda: None)
        )
        with unit.waiting(0):
            pass
    return found


def cached(config):
    """Where compiled programs are kept."""
    settings = {}
    of_jax = types.SimpleNamespace(jax_compilation_cache_dir=None, update=settings.__setitem__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "jax", types.SimpleNamespace(config=of_jax))
        processes.cache_programs(config, pathlib.Path(tempfile.mkdtemp()) / "run")
    return "jax_compilation_cache_dir" in settings


FIT, IMITATE = units("0/fit_world_model"), units("0/imitate")
# By the beginning of their names, the longest first. Those of a leaf are tried until one tells the two values apart.
PROBES = {
    "name": [planned],
    "directory": [planned],
    "stage": [planned],
    "seed": [FIT],
    "start_from": [going_on],
    "fresh": [claimed],
    "world_model": [lambda config: type(programs.build(config).model)],
    "compilation_cache": [cached],
    "log_every": [FIT],
    "checkpoint_every_s": [FIT],
    "keep_checkpoints": [kept],
    "watch.": [watched],
    "mesh.": [meshed],
    "distributed.": [joined],
    "data.": [reading],
    "spec.": [padded],
    "simulator.": [world],
    "simulator.render.": [prepared, world],
    "simulator.index_": [prepared],
    "simulator.near_": [prepared],
    "rssm.": [model_step, model_fit],
    "rssm.sizes.": [model_parameters, model_step],
    "rssm.view_cell": [model_parameters],
    "rssm.context": [model_fit],
    "rssm.loss.": [model_fit],
    "tokens.": [model_step, model_fit],
    "tokens.sizes.": [model_parameters, model_step],
    "tokens.loss.": [model_fit],
    "tokens.context": [model_fit],
    "tokens.vocabulary.": [model_parameters, model_fit],
    "policy.": [network, acting],
    "policy.actions.": [deciding],
    "policy.flow.": [network, acting, deciding],
    "fit.": [FIT, units("1/refit"), units("0/fit_value"), beginning],
    "fit.optimizer.": [optimising],
    "imitation.": [IMITATE, imitating],
    "imitation.loss.": [disturbing, imitating],
    "imitation.labels.": [speaking],
    "closed_loop.": [units("0/cl_sft"), demonstrating],
    "value.": [units("0/fit_value")],
    "rounds.": [planned, judged, units("0/fit_value"), units("1/improve"), units("0/ground"), learning],
    "evaluation.": [IMITATE],
    "evaluation.animations": [shown],
}


def probes_of(name: str) -> list:
    """Raises: KeyError for a leaf that nothing is known to read."""
    found = [prefix for prefix in PROBES if name == prefix or (prefix.endswith((".", "_")) and name.startswith(prefix))]
    if not found:
        raise KeyError(f"{name}: add what reads this field to PROBES")
    return PROBES[max(found, key=len)]


SEEN: dict[tuple, Any] = {}


def acts(probe: Any, before: Any, after: Any) -> bool:
    """Whether a probe tells two configs apart."""
    key = probe, before
    if key not in SEEN:
        SEEN[key] = probe(before)
    try:
        found = probe(after, SEEN[key]) if "expected" in probe.__code__.co_varnames else probe(after)
    except Differs:
        return True
    return found != SEEN[key]


def leaves() -> dict[str, Any]:
    """Every field of the base config by its name."""
    return flatten(changed(presets.tiny(), BASE))


@pytest.mark.parametrize("name", leaves())
def test_every_setting_acts_or_is_refused(name):
    needed = next((WITH[prefix] for prefix in sorted(WITH, key=len, reverse=True) if name.startswith(prefix)), {})
    before = changed(presets.tiny(), BASE | needed)
    validate(before)
    value = flatten(before)[name]
    after = changed(before, {name: other(name, value)} | ALONG.get(name, {}))
    assert flatten(after)[name] != value
    if name in FIXED:
        with pytest.raises(ValueError, match=rf"{re.escape(name)}: expected"):
            validate(after)
        return
    validate(after)
    assert any(acts(probe, before, after) for probe in probes_of(name)), f"{name}: {value} and its change do the same"


def test_a_new_field_needs_somebody_who_reads_it():
    with pytest.raises(KeyError, match="novel: add what reads this field"):
        probes_of("novel")
