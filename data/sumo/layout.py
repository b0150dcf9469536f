"""Urban junctions and the streets that join them: grid, random net or spider's web."""

import dataclasses
import itertools
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from tether.data.sumo.install import run_program

ROAD_CLASSES = ("arterial", "collector", "local")
LANES = {"arterial": (2, 2, 3), "collector": (1, 1, 2), "local": (1,)}
SPEED_MPS = {"arterial": (13.4, 15.6, 17.9), "collector": (11.2, 13.4), "local": (8.9, 11.2)}
# A border street is long enough that a car driven on past the last logged step still has road ahead.
STUB_M = 210.0


@dataclasses.dataclass(frozen=True)
class Street:
    """A two-way street; `lanes` per direction, `speed` in m/s."""

    start: str
    end: str
    road_class: str
    lanes: int
    speed: float

    def other(self, node: str) -> str:
        """The junction at the street's other end."""
        return self.end if node == self.start else self.start


@dataclasses.dataclass
class Layout:
    """Junction places [m] by name, and the streets between them."""

    places: dict[str, np.ndarray]
    streets: list[Street]

    def meeting(self) -> dict[str, list[Street]]:
        """The streets at each junction."""
        streets: dict[str, list[Street]] = {}
        for street in self.streets:
            streets.setdefault(street.start, []).append(street)
            streets.setdefault(street.end, []).append(street)
        return streets


def random_street(rng: random.Random, start: str, end: str, weights: tuple[float, float, float]) -> Street:
    """A street of a random class, with lanes and speed of that class."""
    road_class = rng.choices(ROAD_CLASSES, weights)[0]
    return Street(start, end, road_class, rng.choice(LANES[road_class]), rng.choice(SPEED_MPS[road_class]))


def grid_layout(rng: random.Random) -> Layout:
    """A sheared, perturbed grid whose rows and columns each have one class, with stubs at the border."""
    columns, rows = rng.randint(3, 4), 3
    across = np.cumsum([0.0] + [rng.uniform(95, 190) for _ in range(columns - 1)])
    up = np.cumsum([0.0] + [rng.uniform(95, 190) for _ in range(rows - 1)])
    shear, noise = rng.uniform(-0.25, 0.25), rng.uniform(1, 8)
    places = {
        f"n{i}_{j}": np.array([across[i] + shear * up[j] + rng.gauss(0, noise), up[j] + rng.gauss(0, noise)])
        for i in range(columns)
        for j in range(rows)
    }
    streets: list[Street] = []
    for j in range(rows):
        line = [f"n{i}_{j}" for i in range(columns)]
        streets += grid_line(rng, places, line, np.array([1.0, 0.0]), (0.4, 0.3, 0.3))
    for i in range(columns):
        line = [f"n{i}_{j}" for j in range(rows)]
        streets += grid_line(rng, places, line, np.array([shear, 1.0]), (0.35, 0.35, 0.3))
    return Layout(places, streets)


def grid_line(
    rng: random.Random, places: dict[str, np.ndarray], nodes: list[str], outward: np.ndarray, weights: tuple
) -> list[Street]:
    """The streets of one row or column; adds the places of its two border stubs. Minor streets have gaps."""
    like = random_street(rng, nodes[0], nodes[-1], weights)
    pairs = list(itertools.pairwise(nodes))
    kept = [pair for pair in pairs if like.road_class == "arterial" or rng.random() > 0.12]
    for node, direction in ((nodes[0], -1), (nodes[-1], 1)):
        stub = f"f{'-+'[direction > 0]}{node}{'h' if outward[1] == 0 else 'v'}"
        places[stub] = places[node] + direction * STUB_M * outward + np.array([rng.gauss(0, 6), rng.gauss(0, 6)])
        kept.append((stub, node))
    return [dataclasses.replace(like, start=start, end=end) for start, end in kept]


def netgenerate_layout(rng: random.Random, kind: str, directory: Path) -> Layout:
    """Topology from SUMO's netgenerate, classes our own."""
    prefix = directory / "topology"
    options = spider_options(rng) if kind == "spider" else random_options(rng)
    seed = ["--seed", str(rng.randint(1, 10**6))]
    outputs = ["--plain-output-prefix", str(prefix), "-o", f"{prefix}.net.xml", "-W"]
    run_program("netgenerate", [*options, *seed, *outputs])
    nodes = ET.parse(f"{prefix}.nod.xml").getroot().iter("node")
    places = {node.get("id"): np.array([float(node.get("x")), float(node.get("y"))]) for node in nodes}
    edges = ET.parse(f"{prefix}.edg.xml").getroot().iter("edge")
    pairs = dict.fromkeys(tuple(sorted((edge.get("from"), edge.get("to")))) for edge in edges)  # keeps file order
    return Layout(places, [random_street(rng, start, end, (0.3, 0.4, 0.3)) for start, end in pairs])


def spider_options(rng: random.Random) -> list[str]:
    """Options of netgenerate for a spider's web."""
    return [
        *("--spider", "--spider.omit-center", "--spider.attach-length", "180"),
        *("--spider.arm-number", str(rng.randint(5, 8)), "--spider.circle-number", str(rng.randint(2, 3))),
        *("--spider.space-radius", str(rng.randint(110, 170))),
    ]


def random_options(rng: random.Random) -> list[str]:
    """Options of netgenerate for a random net, mostly three- and four-armed junctions."""
    return [
        *("--rand", "--rand.iterations", str(rng.randint(20, 35)), "--rand.min-angle", "55"),
        *("--rand.min-distance", "110", "--rand.max-distance", "220"),
        *("--rand.neighbor-dist1", "1", "--rand.neighbor-dist2", "2", "--rand.neighbor-dist3", "10"),
        *("--rand.neighbor-dist4", "10", "--rand.neighbor-dist5", "0.5"),
    ]
