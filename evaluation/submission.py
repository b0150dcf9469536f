"""Submissions to the Waymo Open Sim Agents Challenge: rollouts as protos in shards, checked before and after writing.

Source: sim_agents_submission.proto and the rules of waymo-open-dataset 1.6.7, `submission_specs`. The server takes one
`.tar.gz` of the shards.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from tether.data.errors import DataError, read_json
from tether.data.files import check_writable
from tether.data.sim_agents import SimAgentsScene
from tether.data.womd_proto import INSTALL
from tether.evaluation.realism.features import Tracks

ROLLOUTS, STEPS = 32, 80
FIELDS = {"center_x": "x", "center_y": "y", "center_z": "z", "heading": "heading"}
SHARDS, JOURNAL, REQUEST = "shards", "journal", "request.json"  # in the folder of an unfinished submission
SIM_AGENTS_SUBMISSION = 1  # SimAgentsChallengeSubmission.SubmissionType


@dataclasses.dataclass(frozen=True)
class Method:
    """Facts about a method that the server requires; names as in `SimAgentsChallengeSubmission`.

    Attributes:
      account_name: e-mail address of the account that submits.
      unique_method_name: short.
      authors: names.
      affiliation, description, method_link: free text.
      uses_lidar_data, uses_camera_data: beyond the tracks and the map.
      uses_public_model_pretraining: whether it uses weights trained on other data; `public_model_names` lists them.
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
    """A `ScenarioRollouts` of all agents of a scene, whatever the length of its log.

    Args: rollouts: [32, A, 80].   Raises: ValueError for other shapes, and see `check_proto`.
    """
    expected = [ROLLOUTS, len(scene.agent_id), STEPS]
    for name in FIELDS.values():
        if (shape := list(getattr(rollouts, name).shape)) != expected:
            raise ValueError(f"scenario {scene.scenario_id}, {name}: expected shape {expected}, found {shape}")
    message = _protos().ScenarioRollouts(scenario_id=scene.scenario_id)
    for k in range(ROLLOUTS):
        joint = message.joint_scenes.add()
        for row, agent in enumerate(scene.agent_id):
            series = {field: getattr(rollouts, name)[k, row] for field, name in FIELDS.items()}
            joint.simulated_trajectories.add(object_id=int(agent), **series)
    check_proto(message, scene.scenario_id, scene.agent_id)
    return message


def check_proto(message: Any, scenario_id: str, agent_id: np.ndarray) -> None:
    """Checks a `ScenarioRollouts` against its scenario and the ids int[A] of the agents to simulate.

    Raises: ValueError for another scenario, a number of rollouts other than 32, agents that are missing, unknown or
      repeated, trajectories of other than 80 steps or values that are not finite. The message names the first fault.
    """
    place = f"scenario {scenario_id}"
    if message.scenario_id != scenario_id:
        raise ValueError(f"{place}: expected its rollouts, found those of scenario {message.scenario_id!r}")
    if len(message.joint_scenes) != ROLLOUTS:
        raise ValueError(f"{place}: expected {ROLLOUTS} rollouts, found {len(message.joint_scenes)}")
    for k, joint in enumerate(message.joint_scenes):
        _check_agents([t.object_id for t in joint.simulated_trajectories], agent_id, f"{place}, rollout {k}")
        for trajectory in joint.simulated_trajectories:
            _check_trajectory(trajectory, f"{place}, rollout {k}, agent {trajectory.object_id}")


def _check_agents(simulated: list[int], agent_id: np.ndarray, place: str) -> None:
    wanted = set(agent_id.tolist())
    faults = {
        "missing": sorted(wanted - set(simulated)),
        "not to be simulated": sorted(set(simulated) - wanted),
        "there twice": sorted(agent for agent, count in Counter(simulated).items() if count > 1),
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


class Submission:
    """An unfinished submission: the shards of a directory that appears once every scenario of the split is written.

    Until then the shards are in `<directory>.partial`, with a journal of their scenarios. A later process with the same
    request continues from there. Memory holds one scene: the entries of a repeated field can be appended to a file one
    by one.

    Args:
      agents: ids int[A] of the agents to simulate, by scenario of the split.
      shards: number of files.
      request: everything that the rollouts depend on, JSON; the method and the number of shards are added.

    Attributes:
      partial: `<directory>.partial`.
      count: scenarios of the split.
      done: scenarios that are written.

    Raises: ValueError where the directory exists already, or `<directory>.partial` belongs to another request or is in
      use.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        method: Method,
        agents: Mapping[str, np.ndarray],
        shards: int,
        request: Mapping[str, Any],
    ):
        self._directory, self._agents, self.count = directory, dict(agents), len(agents)
        self._number = {name: number for number, name in enumerate(agents)}
        self.partial = directory.with_name(f"{directory.name}.partial")
        self._files = [
            self.partial / SHARDS / f"submission.binproto-{shard:05d}-of-{shards:05d}" for shard in range(shards)
        ]
        check_new(directory)
        request = {"method": dataclasses.asdict(method), "shards": shards, **request}
        if not self.partial.exists():
            self._begin(request, _header(method))
        self._check_request(json.loads(json.dumps(request)))
        self._lock = _lock(self.partial / JOURNAL)
        self.done = self._restore()

    def _begin(self, request: dict[str, Any], header: bytes) -> None:
        """Creates `partial` atomically, by renaming a complete folder."""
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        made = pathlib.Path(tempfile.mkdtemp(prefix=f".{self.partial.name}-", dir=self.partial.parent))
        made.chmod(0o755)
        (made / SHARDS).mkdir()
        for file in self._files:
            (made / SHARDS / file.name).write_bytes(header)
        (made / JOURNAL).touch()
        (made / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        made.rename(self.partial)

    def _check_request(self, request: dict[str, Any]) -> None:
        begun = read_json(self.partial / REQUEST)
        if not isinstance(begun, dict):
            raise DataError(f"expected a request, found {str(begun)[:80]}", file=str(self.partial / REQUEST))
        changed = sorted(name for name in request.keys() | begun.keys() if request.get(name) != begun.get(name))
        if changed:
            raise ValueError(
                f"{self.partial} holds a submission that was begun with other {', '.join(changed)}: take them back, "
                "name another --out, or delete it"
            )

    def _restore(self) -> set[str]:
        """Cuts each file to the size in the journal. Returns: the scenarios that the files hold."""
        journal, done, sizes = self.partial / JOURNAL, set(), {}
        whole, ended, _ = journal.read_bytes().rpartition(b"\n")  # the last line may be cut by a kill
        try:
            for line in whole.splitlines():
                name, shard, size = json.loads(line)
                done.add(name)
                sizes[self._files[shard]] = size
            short = [file.name for file, size in sizes.items() if file.stat().st_size < size]
        except (ValueError, TypeError, LookupError) as error:
            raise DataError(f"expected lines of scenario, shard and size ({error})", file=str(journal)) from error
        if short or not done <= self._agents.keys():
            raise DataError(f"expected it to fit the shards, found {short or done} damaged", file=str(journal))
        for file, size in {journal: len(whole + ended), **sizes}.items():
            os.truncate(file, size)
        return done

    def add(self, scene: SimAgentsScene, rollouts: Tracks) -> None:
        """Writes a scenario of the split. Args: rollouts: [32, A, 80].   Raises: ValueError, see `check_proto`."""
        name = scene.scenario_id
        if name in self.done or name not in self._agents:
            raise ValueError(f"scenario {name}: expected one of the split, once")
        entry = _protos().SimAgentsChallengeSubmission(scenario_rollouts=[rollouts_proto(scene, rollouts)])
        shard = self._number[name] % len(self._files)
        size = _append(self._files[shard], entry.SerializeToString())
        _append(self.partial / JOURNAL, f"{json.dumps([name, shard, size])}\n".encode())
        self.done.add(name)

    def finish(self) -> None:
        """Checks the written shards and moves them into place. Raises: ValueError, see `check_submission`."""
        check_submission(self.partial / SHARDS, self._agents)
        check_new(self._directory)
        (self.partial / SHARDS).rename(self._directory)
        self.close()
        shutil.rmtree(self.partial)

    def close(self) -> None:
        """Releases the lock, so that another process can continue."""
        self._lock.close()


def check_new(directory: pathlib.Path) -> None:
    """Raises: ValueError where the directory exists already, or its parent cannot be written."""
    if directory.exists():
        raise ValueError(f"{directory} is there already: name another --out, or delete it")
    check_writable(directory.parent)


def _lock(path: pathlib.Path) -> BinaryIO:
    file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ValueError(f"{path.parent} is in use by another process: wait for it, or name another --out") from error
    return file


def _append(path: pathlib.Path, data: bytes) -> int:
    """Appends to a file, through to the disk. Returns: its size."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _header(method: Method) -> bytes:
    fields = dataclasses.asdict(method) | {"submission_type": SIM_AGENTS_SUBMISSION}
    return _protos().SimAgentsChallengeSubmission(**fields).SerializeToString()


def check_submission(directory: str | pathlib.Path, agents: Mapping[str, np.ndarray]) -> None:
    """Reads a submission again and checks it against its split: ids int[A] of the agents to simulate, by scenario.

    Raises: ValueError for scenarios that are missing, unknown or repeated, damaged files, and see `check_proto`.
    """
    from google.protobuf.message import DecodeError

    written: Counter[str] = Counter()
    for file in sorted(pathlib.Path(directory).glob("submission.binproto-*")):
        try:
            messages = _protos().SimAgentsChallengeSubmission.FromString(file.read_bytes()).scenario_rollouts
        except DecodeError as error:
            raise DataError("expected part of a submission, found damaged bytes", file=str(file)) from error
        for message in messages:
            written[message.scenario_id] += 1
            if message.scenario_id not in agents:
                raise ValueError(f"{file.name}: scenario {message.scenario_id!r} is not one of the split")
            check_proto(message, message.scenario_id, agents[message.scenario_id])
    twice = sorted(name for name, count in written.items() if count > 1)
    missing = sorted(set(agents) - set(written))
    if twice or missing:
        raise ValueError(
            f"expected each scenario once: {len(missing)} missing {missing[:5]}, {len(twice)} twice {twice[:5]}"
        )
