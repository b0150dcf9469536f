"""Submissions to the Waymo Open Sim Agents Challenge: rollouts as protos in shards, checked before and after writing.

Source: sim_agents_submission.proto and the rules of waymo-open-dataset 1.6.7, `submission_specs`. The server takes one
`.tar.gz` of the shards.
"""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from data.errors import DataError
from data.sim_agents import SimAgentsScene
from data.womd import INSTALL
from worldmodel.realism.features import Tracks
from worldmodel.realism.score import check

ROLLOUTS, STEPS = 32, 80
FIELDS = {"center_x": "x", "center_y": "y", "center_z": "z", "heading": "heading"}
SIM_AGENTS_SUBMISSION = 1  # SimAgentsChallengeSubmission.SubmissionType


@dataclasses.dataclass(frozen=True)
class Method:
    """What the server wants to know of a method; names as in `SimAgentsChallengeSubmission`.

    Attributes:
      account_name: e-mail address of the account that submits.
      unique_method_name: short.
      authors: names.
      affiliation, description, method_link: free text.
      uses_lidar_data, uses_camera_data: beyond the tracks and the map.
      uses_public_model_pretraining: whether weights trained on other data went in; which, `public_model_names`.
      num_model_parameters: such as 7M.
      acknowledge_complies_with_closed_loop_requirement: the agents are simulated in a loop that closes at 10 Hz, and
        the ego apart from the others.
    """

    account_name: str
    unique_method_name: str
    authors: tuple[str, ...]
    num_model_parameters: str
    acknowledge_complies_with_closed_loop_requirement: bool
    affiliation: str = ""
    description: str = ""
    method_link: str = ""
    uses_lidar_data: bool = False
    uses_camera_data: bool = False
    uses_public_model_pretraining: bool = False
    public_model_names: tuple[str, ...] = ()


def _protos() -> Any:
    try:
        from waymo_open_dataset.protos import sim_agents_submission_pb2
    except ImportError as error:
        raise DataError(INSTALL) from error
    return sim_agents_submission_pb2


def rollouts_proto(scene: SimAgentsScene, rollouts: Tracks) -> Any:
    """A `ScenarioRollouts` of all agents of a scene. Raises: ValueError, see `check_proto`."""
    check(scene, rollouts)
    message = _protos().ScenarioRollouts(scenario_id=scene.scenario_id)
    for k in range(len(rollouts.x)):
        joint = message.joint_scenes.add()
        for row, agent in enumerate(scene.agent_id):
            series = {field: getattr(rollouts, name)[k, row] for field, name in FIELDS.items()}
            joint.simulated_trajectories.add(object_id=int(agent), **series)
    check_proto(message, scene)
    return message


def check_proto(message: Any, scene: SimAgentsScene) -> None:
    """Holds a `ScenarioRollouts` against its scene.

    Raises: ValueError for another scenario, a number of rollouts other than 32, agents that are missing, unknown or
      there twice, trajectories of other than 80 steps or values that are not finite; it names the first of these.
    """
    place = f"scenario {scene.scenario_id}"
    if message.scenario_id != scene.scenario_id:
        raise ValueError(f"{place}: expected its rollouts, found those of scenario {message.scenario_id!r}")
    if len(message.joint_scenes) != ROLLOUTS:
        raise ValueError(f"{place}: expected {ROLLOUTS} rollouts, found {len(message.joint_scenes)}")
    for k, joint in enumerate(message.joint_scenes):
        _check_agents([t.object_id for t in joint.simulated_trajectories], scene, f"{place}, rollout {k}")
        for trajectory in joint.simulated_trajectories:
            _check_trajectory(trajectory, f"{place}, rollout {k}, agent {trajectory.object_id}")


def _check_agents(found: list[int], scene: SimAgentsScene, place: str) -> None:
    wanted = set(scene.agent_id.tolist())
    faults = {
        "missing": sorted(wanted - set(found)),
        "not to be simulated": sorted(set(found) - wanted),
        "there twice": sorted(agent for agent, count in Counter(found).items() if count > 1),
    }
    for fault, agents in faults.items():
        if agents:
            raise ValueError(f"{place}: agents {agents} are {fault}")


def _check_trajectory(trajectory: Any, place: str) -> None:
    for field in FIELDS:
        values = np.array(getattr(trajectory, field))
        if len(values) != STEPS:
            raise ValueError(f"{place}: expected {STEPS} steps of {field}, found {len(values)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{place}: expected finite {field}, found others")


def write_submission(
    directory: str | pathlib.Path, method: Method, drives: Iterable[tuple[SimAgentsScene, Tracks]], shards: int = 150
) -> int:
    """Writes scene after scene in turn to the shards of a new directory, which appears once all are written.

    Memory holds one scene: bytes of a repeated field may follow one another in a file.

    Args: drives: scenes of a split and their rollouts [32, A, 80].   shards: number of files.
    Returns: the number of scenes.
    Raises: ValueError for a scene that is there twice, and see `check_proto`; FileExistsError if the directory is
      there, or `<directory>.partial`, which an interrupted run leaves behind.
    """
    directory = pathlib.Path(directory)
    if directory.exists():
        raise FileExistsError(f"{directory} is there already")
    partial = directory.with_name(directory.name + ".partial")
    partial.mkdir(parents=True)
    files = [partial / f"submission.binproto-{shard:05d}-of-{shards:05d}" for shard in range(shards)]
    for file in files:
        file.write_bytes(_header(method))
    done: set[str] = set()
    for scene, rollouts in drives:
        if scene.scenario_id in done:
            raise ValueError(f"scenario {scene.scenario_id} is there twice")
        entry = _protos().SimAgentsChallengeSubmission(scenario_rollouts=[rollouts_proto(scene, rollouts)])
        with files[len(done) % shards].open("ab") as file:
            file.write(entry.SerializeToString())
        done.add(scene.scenario_id)
    partial.rename(directory)
    return len(done)


def _header(method: Method) -> bytes:
    fields = dataclasses.asdict(method) | {"submission_type": SIM_AGENTS_SUBMISSION}
    return _protos().SimAgentsChallengeSubmission(**fields).SerializeToString()


def check_submission(directory: str | pathlib.Path, scenes: Mapping[str, SimAgentsScene]) -> None:
    """Reads a submission again and holds it against all scenes of its split, by id.

    Raises: ValueError for scenes that are missing, unknown or there twice, and see `check_proto`.
    """
    found: Counter[str] = Counter()
    for file in sorted(pathlib.Path(directory).glob("submission.binproto-*")):
        for message in _protos().SimAgentsChallengeSubmission.FromString(file.read_bytes()).scenario_rollouts:
            found[message.scenario_id] += 1
            if message.scenario_id not in scenes:
                raise ValueError(f"{file.name}: scenario {message.scenario_id!r} is not one of the split")
            check_proto(message, scenes[message.scenario_id])
    twice = sorted(name for name, count in found.items() if count > 1)
    missing = sorted(set(scenes) - set(found))
    if twice or missing:
        raise ValueError(
            f"expected each scenario once: {len(missing)} missing {missing[:5]}, {len(twice)} twice {twice[:5]}"
        )
