"""A divided highway with on- and off-ramps, as plain XML."""

import itertools
import math
import random

import numpy as np

from tether.data.sumo.plain import PlainNetwork

LENGTH_M = 1700.0
STATIONS = 120
LANE_WIDTH_M = 3.65
RAMP_STATIONS = range(18, 104, 28)  # 400 m apart: nearer, an off-ramp would cross the next on-ramp


def build_highway(rng: random.Random) -> PlainNetwork:
    """Two carriageways along one gently curved axis, each with two or three ramps."""
    axis = highway_axis(rng)
    lanes, speed, median = rng.choice([2, 3, 3, 4]), rng.choice([24.6, 27.8, 29.1]), rng.uniform(3, 8)
    network = PlainNetwork()
    for suffix, side in (("A", -1), ("B", 1)):
        line = axis + side * normals(axis) * median / 2
        add_carriageway(rng, network, suffix, line[::-side], lanes, speed)
    length = str(rng.randint(140, 240))
    network.options = ["--ramps.guess", "--ramps.ramp-length", length, "--ramps.max-ramp-speed", "23"]
    return network


def highway_axis(rng: random.Random) -> np.ndarray:
    """A sine of random amplitude and phase, float64[STATIONS, 2]."""
    x = np.linspace(0.0, LENGTH_M, STATIONS)
    amplitude, phase, waves = rng.uniform(0, 90), rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.1)
    return np.stack([x, amplitude * np.sin(x / LENGTH_M * 2 * math.pi * waves + phase)], 1)


def add_carriageway(
    rng: random.Random, network: PlainNetwork, suffix: str, line: np.ndarray, lanes: int, speed: float
) -> None:
    """One direction, cut into edges where its ramps meet it."""
    cuts = sorted(rng.sample(RAMP_STATIONS, rng.choice([2, 3])))
    stations = [0, *cuts, STATIONS - 1]
    for index, station in enumerate(stations):
        network.add_node(f"m{suffix}{index}", line[station], "priority" if station in cuts else "dead_end")
    for index, (start, end) in enumerate(itertools.pairwise(stations)):
        network.add_edge(
            f"h{suffix}{index}",
            (f"m{suffix}{index}", f"m{suffix}{index + 1}"),
            line[start : end + 1],
            **road_attributes(lanes, speed, priority=14),
        )
    outward = -normals(line)
    for index, station in enumerate(cuts, 1):
        mouth = line[station] + outward[station] * lanes * LANE_WIDTH_M
        add_ramp(rng, network, f"{suffix}{index}", mouth, outward[station])


def add_ramp(rng: random.Random, network: PlainNetwork, name: str, mouth: np.ndarray, outward: np.ndarray) -> None:
    """An on- or off-ramp that bends away to the right of the carriageway's edge."""
    entering = rng.random() < 0.5
    along = np.array([-outward[1], outward[0]]) * (-1 if entering else 1)
    length, offset = rng.uniform(160, 220), rng.uniform(45, 75)
    fraction = np.linspace(0.0, 1.0, 24)[1:, None]
    shape = mouth + along * length * fraction + outward * offset * fraction**2
    network.add_node(f"r{name}", shape[-1], "dead_end")
    attributes = road_attributes(1, rng.choice([15.6, 17.9, 20.1]), priority=7)
    if entering:
        network.add_edge(f"on{name}", (f"r{name}", f"m{name}"), shape[::-1], **attributes)
    else:
        network.add_edge(f"off{name}", (f"m{name}", f"r{name}"), shape, **attributes)


def road_attributes(lanes: int, speed: float, priority: int) -> dict[str, object]:
    """SUMO's attributes of a highway edge; its shape is the left border."""
    return dict(numLanes=lanes, speed=speed, priority=priority, width=LANE_WIDTH_M, spreadType="right")


def normals(line: np.ndarray) -> np.ndarray:
    """Unit vectors to the left of the direction of travel at each point, float64[n, 2]."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.hypot(*tangent.T)[:, None]
    return np.stack([-tangent[:, 1], tangent[:, 0]], 1)
