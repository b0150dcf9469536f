"""Command that submits a run's world model to the Waymo Open Sim Agents Challenge:

python -m training.sim_agents RUN --womd "GLOB" --out DIR --account NAME --method NAME --authors A B --parameters 1M

Each scenario is continued 32 times from its history alone, the ego by a policy of its own, and written into shards that
are checked against the scenarios. `tar czf submission.tar.gz -C DIR .` makes what the server takes.
"""

import argparse
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from data.errors import DataError
from data.inputs import list_files
from data.padding import pad
from data.scene import Array, Record, Scene, SceneSpec
from data.sim_agents import SimAgentsScene, read_sim_agents
from data.tfrecord import read_records
from data.validation import validate
from data.womd import parse_scenario
from data.womd_history import history_scene
from simulator.config import SimulatorConfig
from simulator.prepare import prepare
from simulator.rollout import rollout
from simulator.unending import Unending
from simulator.world import Params, Policy, World
from training.judge import baseline
from training.quality.study import Subject, fitted
from training.restore import read_run
from worldmodel.batch import log_window
from worldmodel.quality import keep_moving
from worldmodel.realism.features import Tracks
from worldmodel.realism.of_record import to_world
from worldmodel.submission import ROLLOUTS, STEPS, Method, check_submission, write_submission

SAME_M = 0.01  # float32 in the ego's frame against float64 in the world


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.sim_agents", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="directory of a run with a fitted world model")
    parser.add_argument("--womd", required=True, help="glob of TFRecord files of Scenario protos, local or gs://")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="directory of the shards; must not be there")
    parser.add_argument("--account", required=True, help="e-mail address of the account that submits")
    parser.add_argument("--method", required=True, help="unique name of the method")
    parser.add_argument("--authors", required=True, nargs="+")
    parser.add_argument("--parameters", required=True, help="number of the model's parameters, such as 7M")
    parser.add_argument("--agents", type=int, default=128, help="agents that the model moves (default: %(default)s)")
    parser.add_argument("--policy", default="idm", help="baseline that drives the ego (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=150, help="default: %(default)s")
    trust = "module of the run's world model, where that is not a built-in one: it will be run (repeatable)"
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=trust)
    return parser.parse_args(arguments)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def continue_scene(
    world: World, policy: Policy, steps: int, params: Params, scene: Scene, keys: tuple[jax.Array, jax.Array], dt: float
) -> tuple[Array, Array, Array]:
    """x, y, heading float32[K, A, T] of all boxes, one every dt [s]. Scenes [K, ...], all the same one."""
    driven = rollout(world, params, policy, (), scene, steps, *keys)
    boxes = jax.tree.map(lambda field: jnp.moveaxis(field, 0, 2).reshape(*field.shape[1:3], -1), driven.agents)
    now = log_window(scene, jnp.full(len(scene.x), SceneSpec.current), 0, 0)
    boxes = keep_moving(now, boxes, dt)  # the challenge wants everybody until the end
    return boxes.x, boxes.y, boxes.heading


def tracks_of(sim: SimAgentsScene, record: Record, boxes: tuple[Array, Array, Array], spec: SceneSpec) -> Tracks:
    """The agents of the challenge as the model moved them; those that the record leaves out keep their velocity.

    Args: boxes: as `continue_scene` gives them.
    """
    now, seconds = sim.current, sim.dt * np.arange(1, STEPS + 1)
    x, y = (np.asarray(field, np.float64) for field in boxes[:2])
    x, y = to_world(record, x, y)
    heading = np.asarray(boxes[2], np.float64) + record.origin[2]
    row = rows_of(sim, record, spec)
    moved = (row >= 0)[:, None]
    velocity = [(values[:, now] - values[:, now - 1]) / sim.dt * sim.valid[:, now - 1] for values in (sim.x, sim.y)]
    kept = [values[:, now, None] + v[:, None] * seconds for values, v in zip((sim.x, sim.y), velocity, strict=True)]
    still = np.zeros_like(x[:, row])
    return Tracks(
        x=np.where(moved, x[:, row], kept[0]),
        y=np.where(moved, y[:, row], kept[1]),
        z=still + sim.z[:, now, None],
        heading=np.where(moved, heading[:, row], still + sim.heading[:, now, None]),
    )


def rows_of(sim: SimAgentsScene, record: Record, spec: SceneSpec) -> np.ndarray:
    """The record's row of each agent of the challenge, found by its place at the current step: int[A], -1 if none."""
    scene = record.scene
    x, y = to_world(record, scene.x[:, spec.current], scene.y[:, spec.current])
    away = np.hypot(sim.x[:, sim.current, None] - x, sim.y[:, sim.current, None] - y)
    away = np.where(scene.valid[:, spec.current], away, np.inf)
    nearest = away.argmin(1)
    return np.where(away.min(1) < SAME_M, nearest, -1)


def scenarios(pattern: str, spec: SceneSpec, simulator: SimulatorConfig) -> Iterator[tuple[SimAgentsScene, Record]]:
    """Every scenario as the challenge and, prepared, as the model see it.

    Raises: DataError for a damaged record: a submission without one of its scenarios would be refused.
    """
    for path in list_files(pattern):
        for index, payload in enumerate(read_records(path)):
            if isinstance(payload, DataError):
                raise DataError(payload.reason, file=path, record=str(index)) from payload
            scenario = parse_scenario(payload)
            record = pad(history_scene(scenario, spec.steps, spec.dt), spec)
            validate(record, spec)
            yield read_sim_agents(scenario), dataclasses.replace(record, scene=prepare(record.scene, simulator))


def drives(
    subject: Subject, options: argparse.Namespace, spec: SceneSpec, seen: dict[str, SimAgentsScene]
) -> Iterator[tuple[SimAgentsScene, Tracks]]:
    """Every scenario with its rollouts; those that were driven are noted in `seen`."""
    simulator = subject.world.simulator
    driver = baseline(options.policy, simulator)
    steps = STEPS // simulator.substeps
    for number, (sim, record) in enumerate(tqdm.tqdm(scenarios(options.womd, spec, simulator), unit="scenario")):
        scene = jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], ROLLOUTS, axis=0), record.scene)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), (2, ROLLOUTS))
        world = Unending(subject.world, simulator)
        boxes = continue_scene(world, driver.policy, steps, subject.params, scene, (keys[0], keys[1]), simulator.dt)
        seen[sim.scenario_id] = sim
        yield sim, tracks_of(sim, record, boxes, spec)


def main(arguments: list[str]) -> int:
    """Drives, writes, checks, and returns the exit status."""
    options = parse(arguments)
    method = Method(options.account, options.method, tuple(options.authors), options.parameters, True)
    seen: dict[str, SimAgentsScene] = {}
    try:
        config = read_run(pathlib.Path(options.run), options.trust)
        spec = dataclasses.replace(config.spec, agents=options.agents)
        _, record = next(scenarios(options.womd, spec, config.simulator))
        subject = fitted("", options.run, dataclasses.replace(config, spec=spec), [record])
        count = write_submission(options.out, method, drives(subject, options, spec, seen), options.shards)
        check_submission(options.out, seen)
    except (ValueError, DataError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{options.out}: {count} scenarios, {ROLLOUTS} rollouts each")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
