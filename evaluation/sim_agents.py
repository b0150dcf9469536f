"""Command that submits a run's world model to the Waymo Open Sim Agents Challenge:

python -m tether.evaluation.sim_agents RUN --womd "GLOB" --out DIR
    --account NAME --method NAME --authors A B --parameters 1M

Each scenario is continued 32 times from its history alone, the ego by a policy of its own, and written into shards that
are checked against the scenarios. `tar czf submission.tar.gz -C DIR .` makes what the server takes.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import pathlib
import sys
from collections.abc import Sequence

from tether.data.command_line import Parser, status_of
from tether.training import stop

if __name__ == "__main__":
    stop.at_once()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # see train.py

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.errors import DataError, SkipLedger, unexpected
from tether.data.inputs import fingerprints, list_files
from tether.data.padding import pad
from tether.data.progress import Bar, log_above_bars
from tether.data.scene import Array, Record, Scene, SceneSpec
from tether.data.sim_agents import SimAgentsScene, read_sim_agents
from tether.data.sources import STARTER, open_split
from tether.data.tfrecord import read_records
from tether.data.validation import validate
from tether.data.womd import parse_scenario
from tether.data.womd_history import history_scene
from tether.data.womd_proto import protos
from tether.data.womd_tracks import Notes
from tether.evaluation.judges import BASELINES, baseline, named
from tether.evaluation.realism.features import Tracks
from tether.evaluation.realism.of_record import to_world
from tether.evaluation.restore import read_run
from tether.evaluation.submission import ROLLOUTS, STEPS, Method, Submission, check_new
from tether.evaluation.world_models.forecasts import keep_moving
from tether.evaluation.world_models.study import Subject, fitted
from tether.simulator.config import SimulatorConfig
from tether.simulator.prepare import prepare
from tether.simulator.rollout import joined
from tether.simulator.unending import Unending
from tether.simulator.world import Rollout
from tether.training.checkpoint import checksums
from tether.training.config import Config
from tether.training.drives import NamedPolicy, roll_out
from tether.training.mesh import ALONE
from tether.training.processes import cache_programs, devices
from tether.training.scenes import PreparedRecords
from tether.training.stop import Interrupted
from tether.worldmodel.batch import log_window

SAME_M = 0.01  # tolerance between float32 in the ego's frame and float64 in the world
STEP_S = 0.1  # of the challenge
LISTED = 100  # faulty records that a message lists


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m tether.evaluation.sim_agents",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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


def all_boxes(driven: Rollout, scene: Scene) -> tuple[Array, Array, Array]:
    """x, y, heading float32[K, A, T] of all boxes after each log step. Scenes [K, ...], all the same one."""
    now = log_window(scene, jnp.full(len(scene.x), SceneSpec.current), 0, 0)
    boxes = keep_moving(now, joined(driven.agents), STEP_S)  # the challenge requires all agents until the end
    return boxes.x, boxes.y, boxes.heading


def tracks_of(sim: SimAgentsScene, record: Record, boxes: tuple[Array, Array, Array], spec: SceneSpec) -> Tracks:
    """Tracks of the challenge's agents by the model; agents that the record leaves out keep their velocity.

    Args: boxes: as `all_boxes` returns them.
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
    """The record's row of each agent of the challenge, by its position at the current step: int[A], -1 if none."""
    scene = record.scene
    x, y = to_world(record, scene.x[:, spec.current], scene.y[:, spec.current])
    away = np.hypot(sim.x[:, sim.current, None] - x, sim.y[:, sim.current, None] - y)
    away = np.where(scene.valid[:, spec.current], away, np.inf)
    nearest = away.argmin(1)
    return np.where(away.min(1) < SAME_M, nearest, -1)


def read(
    payload: bytes | DataError, spec: SceneSpec, simulator: SimulatorConfig, notes: Notes | None = None
) -> tuple[SimAgentsScene, Record]:
    """A scenario in the challenge's form, and as the model's prepared record.

    Args: notes: counts what was changed against the log.
    Raises: DataError for a damaged record.
    """
    if isinstance(payload, DataError):
        raise payload
    scenario = parse_scenario(payload)
    record = pad(history_scene(scenario, spec.steps, spec.dt, notes), spec)
    validate(record, spec)
    return read_sim_agents(scenario), dataclasses.replace(record, scene=prepare(record.scene, simulator))


def survey(files: Sequence[str], spec: SceneSpec, simulator: SimulatorConfig) -> dict[str, np.ndarray]:
    """Checks every record for faults that would make the server refuse the submission; prints changes against the log.

    Returns: ids int[A] of the agents to simulate, by scenario, in the order of the records.
    Raises: DataError that lists the faulty records: a submission without one of its scenarios would be refused.
    """
    agents: dict[str, np.ndarray] = {}
    faults: list[DataError] = []
    ledger = SkipLedger()
    with Bar("checking records", len(files), unit="files") as bar:
        for path in bar.over(files):
            for index, payload in enumerate(read_records(path)):
                notes = Notes()
                try:
                    sim, record = read(payload, spec, simulator, notes)
                    ledger.note(path, str(index), notes)
                    check_places(sim, record, spec)
                    if sim.scenario_id in agents:
                        raise DataError("expected each scenario once, found it before", "", sim.scenario_id)
                    agents[sim.scenario_id] = sim.agent_id
                except Exception as error:  # any error belongs to this record; the others are checked too
                    known = error if isinstance(error, DataError) else unexpected(error)
                    faults.append(known.located(path, str(index)))
    for kind, noted in ledger.notes.items():
        print(noted.line(kind))
    if faults:
        listed = "\n  ".join(map(str, faults[:LISTED]))
        more = f"\n  and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
        count = len(agents) + len(faults)
        raise DataError(f"{len(faults)} of {count} records cannot be submitted:\n  {listed}{more}")
    return agents


def check_places(sim: SimAgentsScene, record: Record, spec: SceneSpec) -> None:
    """Raises: DataError for agents without a finite position in a rollout, whatever the model predicts."""
    still = (np.zeros((1, spec.agents, STEPS)),) * 3
    tracks = tracks_of(sim, record, still, spec)
    for field in dataclasses.fields(Tracks):
        finite = np.isfinite(getattr(tracks, field.name)).all(axis=(0, 2))
        if not finite.all():
            reason = f"expected finite values, found others of agents {sim.agent_id[~finite].tolist()}"
            raise DataError(reason, field.name, sim.scenario_id)


def submit(options: argparse.Namespace) -> None:
    """Checks everything, continues every scenario, writes, and prints how many scenarios there are.

    Raises: ValueError or OSError for settings, a run or records that cannot work, and for a full disk; Interrupted.
      The message names the scenarios that are kept.
    """
    devices()
    check_settings(options)
    config = read_run(pathlib.Path(options.run), options.trust)
    config = dataclasses.replace(config, spec=dataclasses.replace(config.spec, agents=options.agents))
    check_steps(config)
    cache_programs(pathlib.Path(options.run))
    policy = baseline(named("policy", options.policy, BASELINES), config.simulator)
    files = list_files(options.womd)
    # Only the shapes of a scene are used, which are the spec's.
    template = PreparedRecords(open_split(STARTER, "test", config.spec), config.simulator, 1, 1)
    subject = fitted("", options.run, config, template)
    agents = survey(files, config.spec, config.simulator)
    method = Method(options.account, options.method, tuple(options.authors), options.parameters, True)
    request = {
        "agents": options.agents,
        "policy": options.policy,
        "records": fingerprints(files),
        "world model": checksums(jax.device_get(subject.params)),
    }
    with contextlib.closing(Submission(options.out, method, agents, options.shards, request)) as submission:
        try:
            continue_all(submission, files, subject, policy, config)
            submission.finish()
        except (ValueError, OSError, Interrupted) as error:
            kept = f"{len(submission.done)} of {len(agents)} scenarios are kept in {submission.partial}"
            kind = Interrupted if isinstance(error, Interrupted) else ValueError
            raise kind(f"{error}\n{kept}: the same command goes on from there") from error
    print(f"{options.out}: {len(agents)} scenarios, {ROLLOUTS} rollouts each")


def check_settings(options: argparse.Namespace) -> None:
    """Raises: ValueError for options that cannot work."""
    for name in ("agents", "shards"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name}: expected at least 1, found {getattr(options, name)}")
    check_new(options.out)
    protos()


def check_steps(config: Config) -> None:
    """Raises: ValueError for a run whose steps are not those of the challenge."""
    dt, substeps, current = config.simulator.dt, config.simulator.substeps, config.spec.current
    room = config.spec.steps - 1 - current
    if dt != STEP_S or STEPS % substeps or room < STEPS:
        raise ValueError(
            f"the challenge wants {STEPS} steps of {STEP_S} s: expected a run of such steps, a whole number of times "
            f"its substeps, found {room} of {dt} s, substeps {substeps}"
        )


def continue_all(
    submission: Submission, files: Sequence[str], subject: Subject, policy: NamedPolicy, config: Config
) -> None:
    """Continues every scenario that is not written yet; its draws depend only on its number in the split."""
    payloads = itertools.chain.from_iterable(map(read_records, files))
    done, count = len(submission.done), submission.count
    with Bar("rollouts", count, done, unit="scenarios", compiles=True) as bar:
        for number, payload in enumerate(payloads):
            sim, record = read(payload, config.spec, config.simulator)
            if sim.scenario_id not in submission.done:
                boxes = continue_record(record, number, subject, policy, config)
                submission.add(sim, tracks_of(sim, record, boxes, config.spec))
                bar.advance()


def continue_record(
    record: Record, number: int, subject: Subject, policy: NamedPolicy, config: Config
) -> tuple[Array, Array, Array]:
    """Continues one scenario `ROLLOUTS` times: `all_boxes`. Args: number: of the scenario in the split."""
    scene = jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], ROLLOUTS, axis=0), record.scene)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), (2, ROLLOUTS))
    world, steps = Unending(subject.world, config.simulator), STEPS // config.simulator.substeps
    return roll_out(world, policy.policy, all_boxes, steps, ALONE, subject.params, (), scene, (keys[0], keys[1]))


def main(arguments: list[str]) -> int:
    """Writes the submission. Returns: the exit status."""
    log_above_bars()
    options = parse(arguments)
    return status_of(lambda: submit(options))


if __name__ == "__main__":
    stop.run(lambda: main(sys.argv[1:]))
