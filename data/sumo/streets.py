"""Urban layouts: streets between junctions on a perturbed grid, a random net or a spider's web, with roundabouts.

A layout is drawn first (`Layout`: junction places and streets), then turned into plain XML: junction types from the
classes of the streets that meet, curved streets, turn pockets, and rings in place of some junctions.
"""

import math
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from tether.data.sumo.layout import Layout, Street, grid_layout, netgenerate_layout
from tether.data.sumo.parking import PARKING_RATE, add_parking_lane, has_parking
from tether.data.sumo.plain import PlainNetwork
from tether.data.sumo.rings import add_ring, ring_radius, trimmed

PRIORITY = {"arterial": 9, "collector": 6, "local": 3}
CURVED_FRACTION = 0.6
NODE_RADIUS_M = (7.0, 12.0)


def build_streets(rng: random.Random, kind: str, directory: Path) -> PlainNetwork:
    """An urban network of the given kind (`grid`, `random` or `spider`) as plain XML."""
    layout = grid_layout(rng) if kind == "grid" else netgenerate_layout(rng, kind, directory)
    lane_width = round(rng.uniform(3.2, 3.7), 2)
    meeting = layout.meeting()
    rings = {node: radius for node in meeting if (radius := ring_radius(rng, layout, node)) is not None}
    node_types = {node: junction_type(rng, streets) for node, streets in meeting.items() if node not in rings}
    network = PlainNetwork(options=side_options(rng))
    add_junctions(rng, network, layout, node_types)
    arms: dict[str, list[tuple[float, str]]] = {node: [] for node in rings}
    parked = rng.random() < PARKING_RATE
    for index, street in enumerate(layout.streets):
        shape = street_shape(rng, layout, street, rings)
        start, end = add_mouths(rng, network, layout, street, shape, arms, f"r{index}")
        forward, back = (street.end, (start, end), shape), (street.start, (end, start), shape[::-1])
        for suffix, (target, ends, line) in (("a", forward), ("b", back)):
            pocket = has_pocket(rng, street, line, node_types.get(target), len(meeting[target]))
            road = add_direction(rng, network, f"e{index}{suffix}", ends, line, street, lane_width, pocket)
            if parked and not pocket and has_parking(rng, street):
                add_parking_lane(road)
    for node, radius in rings.items():
        add_ring(rng, network, node, layout.places[node], radius, sorted(arms[node]), lane_width + 0.4)
    return network


def add_junctions(rng: random.Random, network: PlainNetwork, layout: Layout, node_types: dict[str, str]) -> None:
    """Adds the junctions that are not roundabouts."""
    for node, node_type in node_types.items():
        fringe = {"fringe": "outer"} if node_type == "dead_end" else {}
        network.add_node(node, layout.places[node], node_type, radius=f"{rng.uniform(*NODE_RADIUS_M):.1f}", **fringe)


def add_mouths(
    rng: random.Random,
    network: PlainNetwork,
    layout: Layout,
    street: Street,
    shape: np.ndarray,
    arms: dict[str, list[tuple[float, str]]],
    suffix: str,
) -> tuple[str, str]:
    """Adds a node where the street meets a ring, and lists it in `arms` of that ring; the node names of both ends."""
    ends = []
    for node, mouth in ((street.start, shape[0]), (street.end, shape[-1])):
        if node in arms:
            dx, dy = mouth - layout.places[node]
            arms[node].append((math.atan2(dy, dx), f"{node}{suffix}"))
            network.add_node(f"{node}{suffix}", mouth, "priority", radius=f"{rng.uniform(3.5, 5.0):.1f}")
        ends.append(f"{node}{suffix}" if node in arms else node)
    return ends[0], ends[1]


def junction_type(rng: random.Random, streets: list[Street]) -> str:
    """SUMO's node type, by the classes of the streets that meet."""
    classes = [street.road_class for street in streets]
    arterials, collectors = classes.count("arterial"), classes.count("collector")
    if len(streets) <= 2:
        return "dead_end" if len(streets) == 1 else "priority"
    if arterials >= 3:
        weights = {"traffic_light": 0.9, "priority": 0.1}
    elif arterials >= 1 and collectors >= 1:
        weights = {"traffic_light": 0.55, "priority_stop": 0.25, "priority": 0.2}
    elif arterials >= 1:
        weights = {"traffic_light": 0.35, "priority_stop": 0.35, "priority": 0.3}
    elif collectors >= 2:
        weights = {"traffic_light": 0.35, "allway_stop": 0.3, "priority": 0.2, "priority_stop": 0.15}
    else:
        weights = {"right_before_left": 0.35, "allway_stop": 0.4, "priority": 0.25}
    return rng.choices(list(weights), list(weights.values()))[0]


def street_shape(rng: random.Random, layout: Layout, street: Street, rings: dict[str, float]) -> np.ndarray:
    """The street's axis from start to end, straight or a gentle S, cut back where it meets a ring."""
    start, end = layout.places[street.start], layout.places[street.end]
    bends = (rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12)) if rng.random() < CURVED_FRACTION else (0.0, 0.0)
    chord = end - start
    aside = np.array([-chord[1], chord[0]])
    controls = (start + chord / 3 + aside * bends[0], start + 2 * chord / 3 + aside * bends[1])
    straight = bends == (0.0, 0.0) and not rings.keys() & {street.start, street.end}
    t = np.linspace(0.0, 1.0, 2 if straight else max(8, int(np.hypot(*chord) / 6)))[:, None]
    middle = 3 * (1 - t) ** 2 * t * controls[0] + 3 * (1 - t) * t**2 * controls[1]
    shape = (1 - t) ** 3 * start + middle + t**3 * end
    if street.start in rings:
        shape = trimmed(shape, start, rings[street.start])
    if street.end in rings:
        shape = trimmed(shape[::-1], end, rings[street.end])[::-1]
    return shape


def has_pocket(rng: random.Random, street: Street, line: np.ndarray, node_type: str | None, arms: int) -> bool:
    """Whether the approach gets a turn pocket: a major street, long enough, into a junction with right of way."""
    suits = node_type in ("traffic_light", "priority", "priority_stop") and arms >= 3 and street.road_class != "local"
    return suits and np.hypot(*(line[-1] - line[0])) > 120 and rng.random() < 0.6


def add_direction(
    rng: random.Random,
    network: PlainNetwork,
    name: str,
    ends: tuple[str, str],
    shape: np.ndarray,
    street: Street,
    lane_width: float,
    pocket: bool,
) -> ET.Element:
    """Adds one direction of a street, and returns it; a pocket widens its last 52 to 72 m by a lane on the left."""
    edge = network.add_edge(
        name,
        ends,
        shape,
        numLanes=street.lanes + pocket,
        speed=street.speed,
        priority=PRIORITY[street.road_class],
        width=lane_width,
    )
    if pocket:
        lanes = " ".join(map(str, range(street.lanes)))
        ET.SubElement(edge, "split", pos="0", lanes=lanes)
        ET.SubElement(edge, "split", pos=f"{-rng.uniform(52, 72):.1f}", lanes=f"{lanes} {street.lanes}")
    return edge


def side_options(rng: random.Random) -> list[str]:
    """Sidewalks with crossings in most networks, bicycle lanes in some."""
    options: list[str] = []
    if rng.random() < 0.85:
        options += ["--sidewalks.guess", "--sidewalks.guess.max-speed", "16", "--sidewalks.guess.min-speed", "5"]
        options += ["--crossings.guess", "--crossings.guess.speed-threshold", "14", "--default.sidewalk-width", "2.0"]
    if rng.random() < 0.35:
        options += ["--bikelanes.guess", "--bikelanes.guess.max-speed", "18", "--bikelanes.guess.min-speed", "12"]
        options += ["--default.bikelane-width", "1.5"]
    return options
