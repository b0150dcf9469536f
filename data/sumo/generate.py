"""From a seed to a data set: networks in parallel processes, split by network, written as ArrayRecord."""

import dataclasses
import hashlib
import itertools
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tether.data.files import check_writable, write_text
from tether.data.progress import Bar
from tether.data.raw import LocalScene, localize
from tether.data.storage import SUMMARY_FILE, encode, is_finished
from tether.data.sumo.demand import write_demand
from tether.data.sumo.install import SUMO_VERSION, SumoError, import_libsumo
from tether.data.sumo.network import build_network
from tether.data.sumo.plain import KINDS
from tether.data.sumo.road_network import RoadNetwork, read_network
from tether.data.sumo.scenes import town
from tether.data.sumo.simulate import DURATION_S, WARMUP_S, Recording, simulate
from tether.data.sumo.windows import choose_scenes
from tether.data.sumo.workers import run_jobs

README_FILE, HASH_FILE = "README.md", "SHA256SUMS"
# A network belongs to one split. Networks come in blocks of one of each kind; the pattern repeats over blocks.
SPLIT_PATTERN = (
    *("train", "test", "grounding", "validation", "train"),
    *("train", "test", "train", "train", "train"),
)


@dataclasses.dataclass(frozen=True)
class NetworkJob:
    """One network to make and drive on.

    Attributes:
      seed: of the data set.   index: of the network within it.   scenes: how many to take.
    """

    seed: int
    index: int
    scenes: int

    @property
    def kind(self) -> str:
        """Kind of network."""
        return KINDS[self.index % len(KINDS)]

    @property
    def name(self) -> str:
        """The network's name: `Record.group` of its scenes."""
        return f"{self.kind}-{self.seed}-{self.index}"

    @property
    def split(self) -> str:
        """The split that all of the network's scenes go to."""
        return SPLIT_PATTERN[self.index // len(KINDS) % len(SPLIT_PATTERN)]

    def stream(self, purpose: str) -> random.Random:
        """Random numbers for one purpose: changing how one is used leaves the others alone."""
        return random.Random(f"{self.seed} {self.index} {purpose}")


@dataclasses.dataclass(frozen=True)
class NetworkScenes:
    """The scenes of a network, and the traits of each."""

    scenes: list[LocalScene]
    traits: list[dict[str, bool]]


def network_scenes(job: NetworkJob) -> NetworkScenes:
    """Builds the network, simulates traffic on it, and chooses scenes. Runs in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="tether-sumo-") as folder:
        network, record = recorded(job, Path(folder))
    chosen = choose_scenes(job.stream("windows"), town(job.name, network), record, job.scenes)
    return NetworkScenes([localize(one.scene) for one in chosen], [one.traits for one in chosen])


def recorded(
    job: NetworkJob, directory: Path, after_step: Callable[[int], None] = lambda step: None
) -> tuple[RoadNetwork, Recording]:
    """Builds the job's network and demand in a directory and records its traffic.

    Args: after_step: see `simulate`.
    """
    path = build_network(job.stream("network").randrange(2**30), job.kind, directory)
    network, routes = read_network(path), directory / "demand.rou.xml"
    write_demand(job.stream("demand"), network, job.kind, routes, WARMUP_S + DURATION_S)
    return network, simulate(path, routes, job.stream("simulation").randrange(2**30), after_step)


def generate(jobs: list[NetworkJob], processes: int) -> list[NetworkScenes]:
    """Runs all jobs with a progress bar; the results in the order of the jobs.

    Raises: SumoError where SUMO is missing or a network fails.
    """
    import_libsumo()
    done = {}
    with Bar("traffic", len(jobs), unit="networks") as bar:
        for job, result in bar.over(run_jobs(network_scenes, jobs, processes)):
            done[job] = result
    return [done[job] for job in jobs]


def write_scenes(seed: int, networks: int, scenes_per_network: int, processes: int, directory: Path) -> bool:
    """Generates a data set and writes it with its summary, README and hashes.

    Returns: False if the same data set was found finished, True if it was written.
    Raises: SumoError; ValueError if the directory holds something else or cannot be written.
    """
    from tether.data.builder import write_dataset

    request = dict(source="sumo", sumo=SUMO_VERSION, seed=seed, networks=networks, scenes=scenes_per_network)
    if is_finished(directory):
        return write_dataset({}, directory, request)
    check_writable(directory)
    jobs = [NetworkJob(seed, index, scenes_per_network) for index in range(networks)]
    results = generate(jobs, processes)
    pairs = list(zip(jobs, results, strict=True))
    splits = {
        split: interleaved([result.scenes for job, result in pairs if job.split == split])
        for split in dict.fromkeys(job.split for job in jobs)
    }
    summary = summarize(jobs, results)
    write_dataset(splits, directory, request, lambda: summary)
    write_text(directory / README_FILE, readme(request, summary))
    write_text(directory / HASH_FILE, file_hashes(directory))
    return True


def interleaved(scenes: list[list[LocalScene]]) -> list[LocalScene]:
    """One scene of each network in turn, so that the first scenes of a split are spread over its networks."""
    rounds = itertools.zip_longest(*scenes)
    return [scene for one_of_each in rounds for scene in one_of_each if scene is not None]


def summarize(jobs: list[NetworkJob], results: list[NetworkScenes]) -> dict:
    """Counts and fractions of traits by split and by kind, and a hash of each network's scenes (JSON types)."""
    pairs = list(zip(jobs, results, strict=True))

    def described(name: str) -> dict[str, dict]:
        groups = dict.fromkeys(getattr(job, name) for job in jobs)
        return {group: counts([(j, r) for j, r in pairs if getattr(j, name) == group]) for group in groups}

    hashes = {job.name: scenes_hash(result.scenes) for job, result in pairs}
    return {"all": counts(pairs), "split": described("split"), "kind": described("kind"), "network_sha256": hashes}


def counts(pairs: list[tuple[NetworkJob, NetworkScenes]]) -> dict[str, float]:
    """Networks, scenes, agents per scene, and the fraction of scenes with each trait."""
    scenes = [scene for _, result in pairs for scene in result.scenes]
    rows = [traits for _, result in pairs for traits in result.traits]
    fractions = {name: round(float(np.mean([row[name] for row in rows])), 3) for name in (rows[0] if rows else ())}
    agents = round(float(np.mean([len(scene.x) for scene in scenes])), 1) if scenes else 0.0
    return {"networks": len(pairs), "scenes": len(scenes), "agents_per_scene": agents} | fractions


def scenes_hash(scenes: list[LocalScene]) -> str:
    """SHA-256 of the scenes as stored; an empty text counts as none, so that a text added later changes nothing."""
    digest = hashlib.sha256()
    for scene in scenes:
        for name, value in sorted(encode(scene).items()):
            if isinstance(value, str) and not value:
                continue
            digest.update(name.encode())
            digest.update(value.encode() if isinstance(value, str) else np.asarray(value).tobytes())
    return digest.hexdigest()


def file_hashes(directory: Path) -> str:
    """A `sha256sum` listing of a data set's files."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != HASH_FILE)
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def verify(directory: Path, networks: int, processes: int) -> None:
    """Checks a data set's files against their hashes, and makes its first networks again.

    Raises: SumoError naming what differs.
    """
    if file_hashes(directory) != (directory / HASH_FILE).read_text():
        raise SumoError(f"{directory}: the files differ from {HASH_FILE}")
    request = json.loads((directory / "request.json").read_text())
    expected = json.loads((directory / SUMMARY_FILE).read_text())["network_sha256"]
    jobs = [
        NetworkJob(request["seed"], index, request["scenes"]) for index in range(min(networks, request["networks"]))
    ]
    for job, result in zip(jobs, generate(jobs, processes), strict=True):
        actual = scenes_hash(result.scenes)
        if actual != expected[job.name]:
            raise SumoError(f"network {job.name}: expected scenes with hash {expected[job.name]}, found {actual}")


def readme(request: dict, summary: dict) -> str:
    """The README of the directory."""
    rows = [f"| {name} | {split['networks']} | {split['scenes']} |" for name, split in summary["split"].items()]
    command = f"--seed {request['seed']} --networks {request['networks']} --scenes-per-network {request['scenes']}"
    return "\n".join(
        [
            f"# {summary['all']['scenes']} driving scenes made with Eclipse SUMO {request['sumo']}",
            "",
            "| split | road networks | scenes |",
            "|---|---|---|",
            *rows,
            "",
            "9.1 s at 10 Hz each; no road network is in two splits. The networks of a split take turns: its first",
            "scenes are spread over all of them. `summary.json` says what happens in the scenes, `SHA256SUMS` has the",
            "hashes of the files. Made, and made again byte for byte, by",
            "",
            f"    python -m tether.data.sumo {command} --out DIRECTORY",
            "",
            "The scenes are generated data under the licence of this repository (Apache-2.0). SUMO itself is not",
            "included; it is under EPL-2.0 or GPL-2.0-or-later.",
            "",
        ]
    )
