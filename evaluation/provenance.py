"""Where a report's numbers come from: date, commit, machine, command, settings, data, and what the run spent."""

import hashlib
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

from tether.data.settings import settings_of
from tether.data.sources import STARTER
from tether.training.config import Config
from tether.training.log import now, read_lines


def provenance(config: Config, split: str) -> dict[str, Any]:
    """What identifies an evaluation, apart from its numbers. No absolute paths: reports are shown to others."""
    return {
        **made_here(),
        "command": shlex.join(["python", *map(shortened, sys.argv)]),
        "seed": config.seed,
        "preset": config.name,
        "config_sha256": config_hash(config),
        "data": {**data_set(config), "split": split},
    }


def made_here() -> dict[str, str]:
    """Date, commit and machine of numbers that are computed now."""
    return {"date": now(), "commit": commit(), "machine": machine()}


def shortened(argument: str) -> str:
    """An argument of the command line, absolute paths cut to their last part, also in `NAME=PATH`."""
    name, equals, value = argument.rpartition("=")
    path = pathlib.Path(value)
    return f"{name}{equals}{path.name if path.is_absolute() else value}"


def commit() -> str:
    """The checked-out commit, marked where files differ from it; `unknown` outside of a repository."""
    root = pathlib.Path(__file__).parents[1]
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def machine() -> str:
    """Processor, cores that this process may use, accelerators, and the versions that matter."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"{processor()}, {cores} cores, jax {jax.__version__} on {device}, Python {platform.python_version()}"


def processor() -> str:
    """The processor's name by the system."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def config_hash(config: Config) -> str:
    """sha256 over every field that decides numbers."""
    fields = {name: value for name, value, facts in settings_of(config) if not facts.free}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def data_set(config: Config) -> dict[str, str]:
    """Name of the data set's folder and a hash of its description, which holds the sizes of all splits."""
    folder = pathlib.Path(config.data.directory) if config.data.directory else STARTER
    described = (folder / "dataset_info.json").read_bytes()
    return {"name": folder.resolve().name, "dataset_info_sha256": hashlib.sha256(described).hexdigest()}


def stage_seconds(metrics: pathlib.Path) -> dict[str, float]:
    """Wall time of each stage of a run [s], read from its `metrics.jsonl`: the stages' lines follow each other."""
    spent: dict[str, float] = {}
    before = 0.0
    for line in read_lines(metrics) if metrics.exists() else ():
        # A resumed run repeats the lines that came after its checkpoint: time does not run backwards.
        spent[line["stage"]] = spent.get(line["stage"], 0.0) + max(line["wall_s"] - before, 0.0)
        before = max(before, line["wall_s"])
    return {stage: round(seconds, 1) for stage, seconds in spent.items()}
