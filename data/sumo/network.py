"""Road networks from a seed: plain XML, then SUMO's netconvert with settings found realistic."""

import contextlib
import itertools
import math
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from tether.data.sumo.highway import build_highway
from tether.data.sumo.install import SumoError, run_program
from tether.data.sumo.plain import write_elements
from tether.data.sumo.road_network import Link, RoadNetwork, read_network
from tether.data.sumo.streets import build_streets

# Stock netconvert makes junctions that cars cross in jerks: coarse connectors, square corners, no turn speed limit.
JUNCTION_OPTIONS = (
    *("--junctions.internal-link-detail", "20", "--junctions.corner-detail", "8", "--rectangular-lane-cut"),
    *("--junctions.limit-turn-speed", "2.2", "--no-turnarounds", "--no-turnarounds.except-deadend", "false"),
    *("--precision", "3", "-W", "--xml-validation", "never"),
)
S_BEND_LATERAL_MPS2 = 2.5
ATTEMPTS = 4


def build_network(seed: int, kind: str, directory: Path) -> Path:
    """Builds a network of the given kind (`plain.KINDS`) in the directory; returns the path of its `.net.xml`.

    netconvert refuses a few random layouts (such as a traffic light without conflicts), and a few cross themselves.
    Then the next sub-seed is used, so the result stays a function of the seed.

    Raises: SumoError when every attempt fails.
    """
    for attempt in range(ATTEMPTS - 1):
        with contextlib.suppress(SumoError):
            return convert(seed + 100_000 * attempt, kind, directory)
    return convert(seed + 100_000 * (ATTEMPTS - 1), kind, directory)


def convert(seed: int, kind: str, directory: Path) -> Path:
    """One attempt: lay out, convert, delete the connections that no car can follow, convert again."""
    rng = random.Random(seed)
    plain = build_highway(rng) if kind == "highway" else build_streets(rng, kind, directory)
    nodes, edges, network = (directory / name for name in ("n.nod.xml", "n.edg.xml", "n.net.xml"))
    write_elements(nodes, "nodes", plain.nodes)
    write_elements(edges, "edges", plain.edges)
    lights = ["--tls.default-type", rng.choice(["static", "static", "actuated"])]
    common = [*JUNCTION_OPTIONS, *lights, "--tls.cycle.time", str(rng.randint(50, 95)), "--seed", str(seed)]
    run_program("netconvert", ["-n", str(nodes), "-e", str(edges), "-o", str(network), *plain.options, *common])
    parsed = read_network(network)
    if has_crossing_roads(parsed):
        raise SumoError(f"two roads of a {kind} network cross without a junction (seed {seed})")
    refused = squeezed_links(parsed) + parking_links(parsed)
    if refused:
        deletions, source = directory / "n.del.con.xml", directory / "first.net.xml"
        write_elements(deletions, "connections", [deletion(link) for link in refused])
        network.rename(source)
        run_program("netconvert", ["-s", str(source), "-x", str(deletions), "-o", str(network), *common])
    shift_lights(network, rng)
    return network


def has_crossing_roads(network: RoadNetwork) -> bool:
    """Whether roads cross outside junctions, as curved streets and ramps sometimes do: cars would collide there."""
    from shapely.geometry import LineString

    roads = [network.roads[name] for name in network.driving_roads()]
    lines = [LineString(network.lanes[road.lanes[0]].shape) for road in roads]
    pairs = itertools.combinations(zip(roads, lines, strict=True), 2)
    apart = [(one, other) for (a, one), (b, other) in pairs if not {a.start, a.end} & {b.start, b.end}]
    return any(one.crosses(other) for one, other in apart)


def parking_links(network: RoadNetwork) -> list[Link]:
    """Links to and from parking lanes, across junctions: nobody drives there."""
    links = [link for links in network.links.values() for link in links]
    return [link for link in links if "parking" in (network.lanes[link.source].use, network.lanes[link.target].use)]


def squeezed_links(network: RoadNetwork) -> list[Link]:
    """Links that change lanes within a few metres of junction: their S-bend peaks above 2.5 m/s^2.

    Without them cars change lanes on the road instead. A pair of roads always keeps one link.
    """
    refused = []
    for targets in network.next_roads().values():
        for links in targets.values():
            sharp = [link for link in links if link.via and is_squeezed(network, link)]
            refused += sharp[: len(links) - 1]
    return refused


def is_squeezed(network: RoadNetwork, link: Link) -> bool:
    """Whether following the link at its speed limit takes too much lateral acceleration.

    A lateral shift d over a length l at speed v peaks near 6 d v^2 / l^2.
    """
    source, target = network.lanes[link.source], network.lanes[link.target]
    path = np.vstack([network.lanes[name].shape for name in link.via])
    before, after = heading(source.shape[-2], source.shape[-1]), heading(target.shape[0], target.shape[1])
    turn = (after - before + math.pi) % (2 * math.pi) - math.pi
    if abs(turn) > 0.6:
        return False
    chord, middle = path[-1] - path[0], before + turn / 2
    shift = abs(-chord[0] * math.sin(middle) + chord[1] * math.cos(middle))
    length = max(math.hypot(*chord), 1.0)
    speed = min(source.speed, network.lanes[link.via[0]].speed)
    return shift > 0.8 and 6 * shift * speed**2 / length**2 > S_BEND_LATERAL_MPS2


def heading(start: np.ndarray, end: np.ndarray) -> float:
    """Direction from start to end [rad]."""
    return math.atan2(end[1] - start[1], end[0] - start[0])


def deletion(link: Link) -> ET.Element:
    """netconvert's request to delete a link."""
    (source, source_lane), (target, target_lane) = link.source.rsplit("_", 1), link.target.rsplit("_", 1)
    return ET.Element("delete", {"from": source, "to": target, "fromLane": source_lane, "toLane": target_lane})


def shift_lights(network: Path, rng: random.Random) -> None:
    """Gives every traffic light its own offset: netconvert starts all of them together."""
    tree = ET.parse(network)
    for program in tree.getroot().iter("tlLogic"):
        program.set("offset", str(rng.randint(0, 90)))
    tree.write(network, encoding="utf-8")
