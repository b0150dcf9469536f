"""Roundabouts: a ring in place of a junction. SUMO drives counter-clockwise round it."""

import math
import random
import xml.etree.ElementTree as ET

import numpy as np

from tether.data.sumo.layout import Layout
from tether.data.sumo.plain import PlainNetwork

RING_RATE = 0.2
# Shorter arcs between two arms leave no room for SUMO's connectors: they bend with more than 2.5 m/s^2.
LEAST_ARC_M = 27.0


def ring_radius(rng: random.Random, layout: Layout, node: str) -> float | None:
    """Radius [m] of the ring that replaces the junction, None where it stays a junction."""
    streets = layout.meeting()[node]
    arterials = sum(street.road_class == "arterial" for street in streets)
    if len(streets) < 3 or max(street.lanes for street in streets) > 2 or arterials > 2 or rng.random() >= RING_RATE:
        return None
    arms = [layout.places[street.other(node)] - layout.places[node] for street in streets]
    bearings = sorted(math.atan2(y, x) for x, y in arms)
    gaps = [(b - a) % (2 * math.pi) for a, b in zip(bearings, bearings[1:] + bearings[:1], strict=True)]
    least = LEAST_ARC_M / max(min(gaps), 0.3)
    return rng.uniform(max(least, 15.0), 28.0) if least < 27.0 else None


def trimmed(line: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """The polyline without its start within `radius` [m] of the centre."""
    distance = np.hypot(*(line - centre).T)
    first = int(np.argmax(distance >= radius))
    fraction = (radius - distance[first - 1]) / max(distance[first] - distance[first - 1], 1e-6)
    return np.vstack([line[first - 1] + fraction * (line[first] - line[first - 1]), line[first:]])


def add_ring(
    rng: random.Random,
    network: PlainNetwork,
    name: str,
    centre: np.ndarray,
    radius: float,
    arms: list[tuple[float, str]],
    lane_width: float,
) -> None:
    """Adds the ring's edges between its arms, given as (bearing [rad], node name), sorted by bearing."""
    lanes = 2 if radius > 21 and rng.random() < 0.4 else 1
    following = [*arms[1:], (arms[0][0] + 2 * math.pi, arms[0][1])]
    for index, ((start, node), (end, after)) in enumerate(zip(arms, following, strict=True)):
        angle = np.linspace(start, end, max(3, int((end - start) * radius / 2.5)))
        shape = centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
        speed = f"{rng.uniform(6.5, 8.3):.1f}"
        network.add_edge(
            f"{name}k{index}", (node, after), shape, numLanes=lanes, speed=speed, priority=12, width=f"{lane_width:.2f}"
        )
    nodes = " ".join(node for _, node in arms)
    edges = " ".join(f"{name}k{index}" for index in range(len(arms)))
    network.edges.append(ET.Element("roundabout", nodes=nodes, edges=edges))
