"""The roadgraph of a SUMO network: lanes, dividers, crosswalks, and road edges with the road on their left."""

import itertools
from typing import Any

import numpy as np

from tether.data.polyline import arc_length, interpolate
from tether.data.scene import RoadType
from tether.data.sumo.road_network import Lane, RoadNetwork

FREEWAY_MPS = 22.0
# SUMO's cars may touch the border of their lane; a real road leaves them a margin to the kerb.
KERB_MARGIN_M = 0.35
GAP_M = 0.5  # slits between lanes up to twice as wide belong to the road
LEAST_ISLAND_M2 = 10.0
SPACING_M = 6.0

Feature = tuple[RoadType, np.ndarray]


def road_features(network: RoadNetwork, surface: Any) -> list[Feature]:
    """All features of the network, each a type and its polyline with points at most 6 m apart.

    Args: surface: the road's area, see `road_surface`.
    """
    lanes = [lane for lane in network.lanes.values() if lane.use in ("car", "bike")]
    features = [(lane_type(lane), lane.shape) for lane in lanes]
    features += [(RoadType.EDGE_BOUNDARY, ring) for ring in edge_rings(surface)]
    features += dividers(network)
    dense = [(kind, densified(line)) for kind, line in features if arc_length(line)[-1] > 0.1]
    return dense + [(RoadType.CROSSWALK, outline) for outline in network.crossings]


def lane_type(lane: Lane) -> RoadType:
    """WOMD's lane type, by use and speed limit."""
    if lane.use == "bike":
        return RoadType.LANE_BIKE
    return RoadType.LANE_FREEWAY if lane.speed > FREEWAY_MPS else RoadType.LANE_SURFACE


def road_surface(network: RoadNetwork) -> Any:
    """The area where vehicles may be, a shapely (multi)polygon: lanes with a margin, and junctions less pavements."""
    from shapely.geometry import LineString, Polygon
    from shapely.ops import unary_union

    lanes = [lane for lane in network.lanes.values() if lane.use != "sidewalk" and arc_length(lane.shape)[-1] > 0.1]
    bands = [LineString(e.shape).buffer(e.width / 2 + KERB_MARGIN_M, cap_style="flat") for e in lanes]
    inner = unary_union([Polygon(outline).buffer(0) for outline in network.junctions.values()])
    pavements = unary_union([Polygon(outline).buffer(0) for outline in network.walking_areas])
    surface = unary_union([*bands, inner.difference(pavements)])
    return surface.buffer(GAP_M, join_style="mitre").buffer(-GAP_M, join_style="mitre")


def edge_rings(surface: Any) -> list[np.ndarray]:
    """Borders of an area as closed rings that keep the area on their left: outer ones counter-clockwise, holes not.

    Args: surface: shapely Polygon or MultiPolygon [m].
    """
    from shapely.geometry import Polygon
    from shapely.geometry.polygon import orient

    rings = []
    for area in (orient(part, 1.0) for part in getattr(surface, "geoms", [surface])):
        islands = [ring for ring in area.interiors if Polygon(ring).area > LEAST_ISLAND_M2]
        rings += [np.array(ring.coords) for ring in (area.exterior, *islands)]
    return rings


def dividers(network: RoadNetwork) -> list[Feature]:
    """Lane lines between neighbouring car lanes of a road, outside junctions."""
    features = []
    for road in network.driving_roads():
        lanes = [network.lanes[name] for name in network.car_lanes(road)]
        for right, left in itertools.pairwise(lanes):
            features.append((RoadType.LINE_BROKEN_SINGLE_WHITE, between(right, left)))
    return features


def between(right: Lane, left: Lane) -> np.ndarray:
    """The line half way between two neighbouring lanes."""
    fraction = np.linspace(0.0, 1.0, max(2, len(right.shape), len(left.shape)))
    ends = [interpolate(lane.shape, fraction * arc_length(lane.shape)[-1]) for lane in (right, left)]
    return (ends[0] * left.width + ends[1] * right.width) / (left.width + right.width)


def densified(line: np.ndarray) -> np.ndarray:
    """The polyline with further points, so that it can be cropped; the given points stay."""
    along = arc_length(line)
    pieces = [
        np.linspace(start, end, max(1, int(np.ceil((end - start) / SPACING_M))), endpoint=False)
        for start, end in itertools.pairwise(along)
    ]
    return interpolate(line, np.concatenate([*pieces, along[-1:]]))


def cropped(features: list[Feature], path: np.ndarray, radius: float) -> list[Feature]:
    """The parts of features within `radius` [m] of the path's points; crosswalks whole or not at all."""
    low, high = path.min(0) - radius, path.max(0) + radius
    parts: list[Feature] = []
    for kind, line in features:
        if (line.max(0) < low).any() or (line.min(0) > high).any():
            continue
        near = np.hypot(*(line[:, None] - path[None]).transpose(2, 0, 1)).min(1) < radius
        if kind == RoadType.CROSSWALK:
            parts += [(kind, line)] if near.any() else []
        else:
            parts += [(kind, line[first:last]) for first, last in runs(near) if last - first > 1]
    return parts


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Half-open index ranges where flags, bool[n], are set."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return list(zip(changes[::2], changes[1::2], strict=True))
