"""What reads the settings of a run: probes that give something that can be compared, for `test_settings.py`."""

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

from tether import train
from tether.data.padding import pad
from tether.data.scene import SceneSpec
from tether.evaluation import policies as evaluation
from tether.evaluation.policies import open_records
from tether.evaluation.report import Results
from tether.policy.action_space import drive_to, extend, logged_waypoints
from tether.policy.imitation import perturb
from tether.policy.language import consistency, label
from tether.simulator.dynamics import log_ego
from tether.simulator.events import EVENTS
from tether.simulator.log_replay import LogReplay
from tether.simulator.observe import observe
from tether.simulator.prepare import prepare
from tether.simulator.rollout import rollout
from tether.simulator.world import Action
from tether.training import (
    checks,
    grounding,
    imagination,
    loop,
    mesh,
    models,
    practice,
    presets,
    processes,
    stages,
    watch,
)
from tether.training.checkpoint import Kept
from tether.training.directory import claim, write_settings
from tether.training.disturbed_expert import drive_expert, undisturbed
from tether.training.drives import Steps, roll_out, steps_of
from tether.training.grounding import Grounded
from tether.training.learning import imitation_step
from tether.training.resume import resume
from tether.training.scenes import data_directory, open_splits
from tether.training.state import Progress, RunState
from tether.worldmodel import learned_world

BASE = {"world_model": "kinematic", "name": "tiny", "rounds.objective": "pmpo"}


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
    record = pad(raw_scenes.straight_road(), config.spec)
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
        knot, knots = vla.head.demonstrate(key, vla.head.towards(ego, waypoints, config.simulator.limits)[:, None])
        motion = jnp.stack([ego.speed, ego.acceleration, ego.curvature, ego.speed], -1)
        return knots, extend(space, drive_to(space, knot, motion, vla.substeps), motion, later)

    return text(labelled, scene, jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 12, 2)))


def speaking(config):
    """The labels of reasoning, and how far what is said is what is done."""
    labels, observation = config.imitation.labels, observation_of(config.simulator)

    def reasoning_of(observation, acceleration):
        tokens = label(labels, observation, acceleration, acceleration)
        return consistency(labels, tokens, Action(acceleration[:, None], acceleration[:, None]), acceleration)

    return text(reasoning_of, observation, jnp.zeros(2))


@functools.cache
def observation_of(simulator):
    keys = jax.random.split(jax.random.key(0), 2)
    return observe(LogReplay(simulator).reset((), keys, logged(simulator), jnp.full(2, 10)), simulator)


def model_parameters(config):
    """What a world model learns."""
    model, batch = models.build(config).world_model, driven(config.simulator)
    return str(jax.eval_shape(model.init, jax.random.key(0), batch))


@functools.cache
def driven(simulator):
    """Two logged rollouts."""
    keys = jax.random.split(jax.random.key(0), 2)
    function = functools.partial(drive_expert, simulator, 4)
    return filled(jax.eval_shape(function, logged(simulator), undisturbed(2), keys)).replace(scene=logged(simulator))


def model_fit(config):
    """A model's loss, without the costs that are fitted in imagination: those read nothing more."""
    model, batch = models.build(config).world_model, driven(config.simulator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_world, "cost_terms", lambda *args: {})
        params = jax.eval_shape(model.init, jax.random.key(0), batch)
        return text(model.loss, params, jax.random.key(0), batch)


def model_step(config):
    """A step of a model."""
    model, batch, substeps = models.build(config).world_model, driven(config.simulator), config.simulator.substeps
    params, keys = jax.eval_shape(model.init, jax.random.key(0), batch), jax.random.split(jax.random.key(0), 2)
    state = jax.eval_shape(model.reset, params, keys, batch.scene, jnp.full(2, 10))
    action = Action(jnp.zeros((2, substeps)), jnp.zeros((2, substeps)))
    return text(lambda params, state: model.step(params, keys, state, action), params, state)


class Differs(Exception):
    """Another call than with the settings that are compared with."""


# What the stages compute by, where they find it: instead, what it is given is noted.
PROGRAMS = [
    *((practice, name) for name in ("roll_out", "policy_step", "transitions", "fresh_optimizer")),
    *((stages.world_model, name) for name in ("roll_out", "drive_expert", "model_step", "joined")),
    *((stages.value, name) for name in ("value_step", "transitions")),
    (stages.imitate, "imitation_step"),
    (stages.closed_loop, "roll_out"),
    (checks, "open_loop"),
]
RETURNED: dict[tuple, Any] = {}


def is_arrays(argument: Any) -> bool:
    """Whether an argument of a program is traced, rather than a part of it."""
    return all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(argument))


def output(name: str, real: Any, args: tuple) -> Any:
    """What a program returns; traced once for all settings, since what differs ends before."""
    fixed = [argument for argument in args if not is_arrays(argument)]
    given = [argument for argument in args if is_arrays(argument)]
    kinds = tuple(getattr(one, "__name__", type(one).__name__) for one in fixed)
    key = name, kinds, str(jax.tree.map(jnp.shape, given))
    if key not in RETURNED:

        def call(*arrays: Any) -> Any:
            arrays = iter(arrays)
            return real(*(next(arrays) if is_arrays(argument) else argument for argument in args))

        RETURNED[key] = filled(jax.eval_shape(call, *given))
    return RETURNED[key]


class Notes(list):
    """What happens in some units of work.

    Args: expected: what happened with another config: at the first difference it is over.
    """

    def __init__(self, expected: list | None):
        super().__init__()
        self.expected = expected

    def note(self, *what: Any) -> None:
        self.append(what)
        if self.expected is not None and self != self.expected[: len(self)]:
            raise Differs

    def noting(self, name: str, real: Any) -> Any:
        """A program that notes the arrays that it is given, and returns arrays of the right shapes."""

        def call(*args: Any) -> Any:
            self.note(name, digest([argument for argument in args if is_arrays(argument)]))
            return output(name, real, args)

        return call

    def drive(self, policy: Any, records: Any, judge: Any, keep: Any, **settings: Any) -> Any:
        """Stands for `drives.drive`."""
        rows = settings.get("rows", np.arange(len(records)))
        self.note("drive", len(rows), settings["batch"], settings["steps"], digest(settings["keys"](np.asarray(rows))))
        scores = {name: np.ones(len(rows)) for name in (*checks.CHECKED, "steps")}
        ones = np.ones((len(rows), settings["steps"]), np.float32)
        happened = {event.name: ones > 0 for event in EVENTS}
        steps = Steps(ones > 0, ones < 0, ones, ones, 0.5 * ones, happened, {})
        if keep is steps_of:
            return steps
        return scores if policy.name == "validation" else (scores, steps)


@functools.cache
def opened(data, spec, simulator):
    return open_splits(data, spec, simulator)


@functools.cache
def at_start():
    """The arrays of a run, and the scenes that it reads."""
    config = changed(presets.tiny(), BASE)
    splits = opened(config.data, config.spec, config.simulator)
    built = models.build(config)
    return filled(jax.eval_shape(lambda: models.begin(config, built, splits.train)))


def units(*names: str) -> Any:
    """A probe: what the programs are given in some units, what is noted, and how often a log line or a checkpoint is
    written."""

    def probe(config: Any, expected: list | None = None) -> list:
        notes = Notes(expected)
        splits = opened(config.data, config.spec, config.simulator)
        folder, built = pathlib.Path(tempfile.mkdtemp()), models.build(config)
        run = RunNoting(config, folder, splits, built, None, None, loop.Stop(), mesh.ALONE, time.monotonic())
        object.__setattr__(run, "notes", notes)
        progress = Progress(horizon=config.rounds.horizon, penalty=config.rounds.penalty, grounded_return=(1.0,) * 4)
        with pytest.MonkeyPatch.context() as patch:
            for module, name in PROGRAMS:
                patch.setattr(module, name, notes.noting(name, getattr(module, name)))
            for module in (checks, stages.post_train):
                patch.setattr(module, "drive", notes.drive)
            for unit in stages.schedule(
                dataclasses.replace(config, rounds=dataclasses.replace(config.rounds, rounds=1))
            ):
                if unit.name not in names:
                    continue
                state, _ = stages.part(unit)(run, RunState(at_start(), progress), unit)
                now = {
                    name: value
                    for name, value in state.progress.to_json().items()
                    if name not in ("iterator", "wall_s")
                }
                for record in now["rounds"]:
                    record.pop("wall_s")
                notes.note("progress", str(now))
        return list(notes)

    return probe


class RunNoting(loop.Run):
    """Notes lines and checkpoints among the calls."""

    def record(self, state, unit, metrics):
        self.notes.note("line", unit.name, state.progress.step)

    def save(self, state):
        self.notes.note("save", state.progress.step)
        return state


def planned(config):
    """Which units there are, which are run now, and where."""
    directories = str(config.run_directory)
    finished = tuple(unit.name for unit in stages.schedule(config)[:5])
    return [unit.name for unit in stages.pending(config, finished)], directories


def decided(config):
    """What becomes of rounds that went well, badly, or otherwise than was imagined."""
    far, near = (
        Progress(horizon=horizon, penalty=config.rounds.penalty, grounded_return=(0.0, 0.0), failures=0.0)
        for horizon in (12, 6)
    )
    cases = [(0.0, 0.0, 0.0), (-0.2, 0.0, 0.0), (-9.0, 0.0, 1.5), (-9.0, 0.0, 9.0), (0.0, 0.015, 0.0), (0.0, 1.0, 0.0)]
    return [
        dataclasses.astuple(grounding.decide(config, progress, Grounded(np.full(2, r), np.full(2, f)), bias))
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
        lambda p: rollout(LogReplay(simulator), (), vla, p, scene, horizon, keys, keys, jnp.full(2, 10)), params
    )


def learning(config):
    """What is learned from an imagined rollout."""
    vla, keys = vla_of(config), jax.random.split(jax.random.key(0), 2)
    rollout = rolled_out_of(config)
    trust = imagination.Trust(jnp.int32(12), jnp.float32(1), jnp.float32(0.5))
    keep = models.practice(config, models.Models(None, vla, config.imitation.labels))
    return text(lambda rollout: keep(rollout, None, keys, trust), rollout)


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


def animated(config):
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
    static = vla_of(config), config.simulator, config.imitation, mesh.ALONE
    return text(lambda *args: imitation_step(*static, *args), *args)


def demonstrating(config):
    """Rollouts near the log."""
    keys = jax.random.split(jax.random.key(0), 2)
    closest = stages.closed_loop.closest_to_log(config, models.build(config))
    program = LogReplay(config.simulator), closest, imagination.demonstrate, config.rollout_steps, mesh.ALONE
    return text(lambda *args: roll_out(*program, (), *args, (keys, keys)), at_start().policy, logged(config.simulator))


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
    built = models.build(config)
    return str(jax.eval_shape(lambda: models.begin(config, built, splits.train)))


def going_on(config):
    """Where a new run begins."""
    run = types.SimpleNamespace(config=config, checkpoints=types.SimpleNamespace(restore=lambda *args: None))
    try:
        return resume(run, None)
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
    events = []
    for steps in ([{"loss": jnp.nan}] * 12, [{"entropy": 0.007, "kl": 1.0}], [{"entropy": 1.0, "kl": 40.0}]):
        unit = watch.Watch(config.watch, "unit", pathlib.Path(tempfile.mkdtemp()), ())
        try:
            for step, metrics in enumerate(steps):
                unit.guard(step, (), at_start(), at_start(), {name: jnp.float32(v) for name, v in metrics.items()})
            unit.check_last()
            events.append("goes on")
        except watch.AlarmError as alarm:
            events.append(str(alarm).split(";")[0])

    def thread(target, daemon):
        return types.SimpleNamespace(start=target, join=lambda: None)

    with pytest.MonkeyPatch.context() as patch:
        waits = types.SimpleNamespace(wait=lambda seconds: events.append(seconds) or True, set=lambda: None)
        patch.setattr(watch.threading, "Event", lambda: waits)
        patch.setattr(
            watch.threading, "Thread", lambda target, daemon: types.SimpleNamespace(start=target, join=lambda: None)
        )
        with unit.waiting(0):
            pass
    return events


def cached(config):
    """Whether compiled programs are kept."""
    places = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "cache_programs", places.append)
        with pytest.raises(AttributeError):  # of a job without scenes, which comes next
            train.train(train.Job(config, None, None, mesh.ALONE, 0.0), pathlib.Path("run"))
    return places
