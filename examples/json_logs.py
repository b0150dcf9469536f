"""Your own data source: a reader makes a `RawScene` of each log, the builder a data set of them.

    python -m examples.json_logs --out out/json_logs
    python eval.py --data out/json_logs --policy idm --policy expert

The format is made up: a line of JSON for each log, `{"name", "place", "lanes": [[[x, y], ...], ...], "tracks":
[{"size": [length, width], "poses": [[x, y, heading], ...]}, ...]}`, at 10 Hz and in metres, the ego's track first.
Without `--logs` the logs, behind another vehicle, are made up too.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from tether.data.builder import write_dataset
from tether.data.raw import LocalScene, RawScene, localize
from tether.data.records import Fractions, split_of
from tether.data.route import Lane, derive_route
from tether.data.scene import AgentType, RoadType

SECOND = 10  # steps


def read(line: str) -> RawScene:
    """A log in world coordinates. Nothing is padded; fields that the log does not have are empty."""
    log = json.loads(line)
    x, y, heading = np.moveaxis([track["poses"] for track in log["tracks"]], -1, 0)  # float64[N, T] each
    length, width = np.transpose([track["size"] for track in log["tracks"]])
    lanes = {number: Lane(np.array(points)) for number, points in enumerate(log["lanes"])}
    route = derive_route(x[0], y[0], heading[0], lanes)
    return RawScene(
        **dict(scenario_id=log["name"], source="json_logs", group=log["place"], ego=0),
        **dict(x=x, y=y, heading=heading, valid=np.ones(x.shape, bool), length=length, width=width),
        **dict(vel_x=SECOND * np.gradient(x, axis=1), vel_y=SECOND * np.gradient(y, axis=1)),
        agent_type=np.full(len(x), AgentType.VEHICLE),
        road_type=np.full(len(lanes), RoadType.LANE_SURFACE),
        road_points=tuple(lane.points for lane in lanes.values()),
        **dict(light_x=np.zeros(0), light_y=np.zeros(0), light_on_route=np.zeros(0, bool)),
        **dict(light_state=np.zeros((0, x.shape[1]), int), light_valid=np.zeros((0, x.shape[1]), bool)),
        **dict(route_x=route.points[:, 0], route_y=route.points[:, 1], route_speed_limit=route.speed_limit),
    )


def made_up(number: int) -> str:
    """A log of 9 s along a straight road behind a vehicle that is slower the higher the number."""
    t = np.arange(9 * SECOND + 1) / SECOND
    tracks = [
        {"size": [4.5, 1.9], "poses": [[place, 0.0, 0.0] for place in start + speed * t]}
        for start, speed in ((0.0, 8.0), (45.0, 8.0 - 0.1 * number))
    ]
    lane = [[place, 0.0] for place in range(-50, 300, 5)]
    return json.dumps({"name": f"log{number}", "place": f"road{number}", "lanes": [lane], "tracks": tracks})


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.json_logs", description=__doc__.partition("\n")[0])
    parser.add_argument("--logs", type=pathlib.Path, help="a file in this format (default: made-up logs)")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="directory of the data set")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Reads every log, and writes the splits that have logs; no place is in two of them."""
    options = parse(arguments)
    lines = options.logs.read_text("utf-8").splitlines() if options.logs else [made_up(number) for number in range(40)]
    splits: dict[str, list[LocalScene]] = {}
    for raw in map(read, lines):
        splits.setdefault(split_of(raw.group, 0, Fractions()), []).append(localize(raw))
    write_dataset(splits, options.out, {"logs": len(lines)})
    print(f"{options.out}: { ({name: len(scenes) for name, scenes in splits.items()}) }")


if __name__ == "__main__":
    main(sys.argv[1:])
