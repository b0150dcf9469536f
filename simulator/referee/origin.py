"""The network and the moment that a record of `data.sumo` was cut from."""

import re

from tether.data.scene import Record
from tether.data.sumo.generate import NetworkJob

GROUP = re.compile(r"(?P<kind>\w+)-(?P<seed>\d+)-(?P<index>\d+)")
SCENARIO = re.compile(r"(?P<group>.+)-(?P<name>\w+)-(?P<first>\d+)")


def origin_of(record: Record) -> tuple[NetworkJob, int]:
    """The job that makes a record's network again, and the step of its recording that the log begins with.

    Raises: ValueError naming the scene where the record is not from `data.sumo`.
    """
    scenario, group = SCENARIO.fullmatch(record.scenario_id), GROUP.fullmatch(record.group)
    expected = "a scene made by `python -m tether.data.sumo`, named <kind>-<seed>-<index>-<vehicle>-<step>"
    given = f"{record.scenario_id!r} of source {record.source!r} and group {record.group!r}"
    if record.source != "sumo" or scenario is None or group is None or scenario["group"] != record.group:
        raise ValueError(f"the referee expects {expected}, found {given}")
    job = NetworkJob(int(group["seed"]), int(group["index"]), scenes=0)
    if job.kind != group["kind"]:
        raise ValueError(f"the referee expects {expected}, found {given}: network {job.index} is a {job.kind}")
    return job, int(scenario["first"])
