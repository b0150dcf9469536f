"""A finished SUMO network (`.net.xml`) as lanes, links between them, junctions and crossings."""

import dataclasses
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from tether.data.sumo.plain import PARKED_CLASS, parse_shape


@dataclasses.dataclass(frozen=True)
class Lane:
    """A lane; `internal` ones lie within a junction.

    Attributes:
      edge, index: the road it belongs to and its place there, 0 the rightmost.
      shape: float64[n, 2], centre line [m], at least two points.
      width, length: [m].   speed: limit [m/s].
      use: `car`, `bike`, `sidewalk`, `parking` or `other` (not for cars).
    """

    name: str
    edge: str
    index: int
    shape: np.ndarray
    width: float
    length: float
    speed: float
    use: str
    internal: bool


@dataclasses.dataclass(frozen=True)
class Link:
    """A way from one lane to another across a junction.

    Attributes:
      source, target: lane names.
      via: names of the internal lanes driven, in order.
      direction: SUMO's code: s straight, l and L left, r and R right, t turn around.
      signal: (traffic light's name, index of its state letter), None where not signalled.
    """

    source: str
    target: str
    via: tuple[str, ...]
    direction: str
    signal: tuple[str, int] | None


@dataclasses.dataclass(frozen=True)
class Road:
    """A directed edge: its lanes from right to left and the junctions at its ends (None for internal edges)."""

    lanes: tuple[str, ...]
    start: str | None
    end: str | None


@dataclasses.dataclass
class RoadNetwork:
    """Everything by name, in file order, so that iteration never depends on hashing.

    Attributes:
      links: by source lane.
      junctions: outline, float64[n, 2].   dead_ends: names of junctions where roads end.
      crossings: outlines of pedestrian crossings.   walking_areas: outlines of pavement corners.
    """

    lanes: dict[str, Lane]
    roads: dict[str, Road]
    links: dict[str, list[Link]]
    junctions: dict[str, np.ndarray]
    dead_ends: frozenset[str]
    crossings: list[np.ndarray]
    walking_areas: list[np.ndarray]

    def next_roads(self) -> dict[str, dict[str, list[Link]]]:
        """For each road the roads that cars can reach from it, with the links that lead there."""
        reached: dict[str, dict[str, list[Link]]] = {}
        for link in (link for links in self.links.values() for link in links):
            source, target = self.lanes[link.source], self.lanes[link.target]
            if source.use == target.use == "car":
                reached.setdefault(source.edge, {}).setdefault(target.edge, []).append(link)
        return reached

    def driving_roads(self) -> list[str]:
        """Roads outside junctions with at least one car lane."""
        return [name for name, road in self.roads.items() if road.start is not None and self.car_lanes(name)]

    def car_lanes(self, road: str) -> list[str]:
        """The road's car lanes, from right to left."""
        return [name for name in self.roads[road].lanes if self.lanes[name].use == "car"]


def read_network(path: Path) -> RoadNetwork:
    """Parses a `.net.xml` file."""
    root = ET.parse(path).getroot()
    network = RoadNetwork({}, {}, {}, {}, frozenset(), [], [])
    for edge in root.iter("edge"):
        read_edge(network, edge)
    read_links(network, root)
    outer = [junction for junction in root.iter("junction") if junction.get("type") != "internal"]
    shaped = [junction for junction in outer if len(junction.get("shape", "").split()) > 2]
    network.junctions = {junction.get("id"): parse_shape(junction.get("shape")) for junction in shaped}
    network.dead_ends = frozenset(junction.get("id") for junction in outer if junction.get("type") == "dead_end")
    return network


def read_edge(network: RoadNetwork, edge: ET.Element) -> None:
    """Adds an edge's lanes, or the outline of a crossing or walking area."""
    function, lanes = edge.get("function", "normal"), list(edge.iter("lane"))
    if function == "crossing":
        network.crossings += [crossing_outline(lane) for lane in lanes]
    elif function == "walkingarea":
        network.walking_areas += [parse_shape(lane.get("shape")) for lane in lanes]
    else:
        parsed = [read_lane(edge, lane) for lane in lanes]
        network.lanes |= {lane.name: lane for lane in parsed}
        names = tuple(lane.name for lane in parsed)
        network.roads[edge.get("id")] = Road(names, edge.get("from"), edge.get("to"))


def read_lane(edge: ET.Element, lane: ET.Element) -> Lane:
    """One `<lane>` element; SUMO leaves out a width of 3.2 m."""
    shape = parse_shape(lane.get("shape"))
    return Lane(
        name=lane.get("id"),
        edge=edge.get("id"),
        index=int(lane.get("index")),
        shape=shape,
        width=float(lane.get("width", 3.2)),
        length=float(lane.get("length")),
        speed=float(lane.get("speed")),
        use=lane_use(lane.get("allow", "").split(), lane.get("disallow", "").split()),
        internal=edge.get("function") == "internal",
    )


def lane_use(allow: list[str], disallow: list[str]) -> str:
    """The use of a lane, see `Lane.use`; SUMO's empty `allow` permits all classes but `disallow`."""
    if allow == ["pedestrian"]:
        return "sidewalk"
    if allow == [PARKED_CLASS]:
        return "parking"
    if not allow:
        return "other" if {"passenger", "all"} & set(disallow) else "car"
    if "passenger" in allow:
        return "car"
    return "bike" if "bicycle" in allow else "other"


def crossing_outline(lane: ET.Element) -> np.ndarray:
    """Outline of a pedestrian crossing, from SUMO's own where it wrote one."""
    if lane.get("outlineShape"):
        return parse_shape(lane.get("outlineShape"))
    from shapely.geometry import LineString

    band = LineString(parse_shape(lane.get("shape"))).buffer(float(lane.get("width", 4.0)) / 2, cap_style="flat")
    return np.array(band.exterior.coords)


def read_links(network: RoadNetwork, root: ET.Element) -> None:
    """Adds links between lanes outside junctions, following their internal lanes to the end."""
    elements = list(root.iter("connection"))
    onwards = {f"{c.get('from')}_{c.get('fromLane')}": c.get("via") for c in elements if c.get("from").startswith(":")}
    for element in elements:
        source = f"{element.get('from')}_{element.get('fromLane')}"
        target = f"{element.get('to')}_{element.get('toLane')}"
        if source in onwards or not {source, target} <= network.lanes.keys():
            continue
        via, lane = [], element.get("via")
        while lane is not None:
            via.append(lane)
            lane = onwards.get(lane)
        signal = (element.get("tl"), int(element.get("linkIndex"))) if element.get("tl") else None
        link = Link(source, target, tuple(via), element.get("dir"), signal)
        network.links.setdefault(source, []).append(link)
