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
INNER_RADIUS_M = 0.75  # of kerbs; slits up to twice as wide belong to the road
JUNCTION_RADIUS_M = 1.5  # parts of a junction up to twice as wide belong to the road only where a lane runs
OUTER_RADIUS_M = 1.0  # of kerbs; parts of the road up to twice as wide are none
TOLERANCE_M = 0.02
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
    """The area where vehicles may be, a shapely MultiPolygon: lanes and junctions less pavements, with a margin.

    SUMO's outlines of junctions and pavements do not quite meet: between them lie slivers, which opening takes away,
    and slits, which closing fills. Both round the kerbs.
    """
    from shapely.geometry import LineString, MultiPolygon, Polygon
    from shapely.ops import unary_union

    lanes = [lane for lane in network.lanes.values() if arc_length(lane.shape)[-1] > 0.1]
    driven = [(LineString(lane.shape), lane.width / 2) for lane in lanes if lane.use != "sidewalk"]
    walked = [(LineString(lane.shape), lane.width / 2) for lane in lanes if lane.use == "sidewalk"]
    middle = unary_union([line for line, _ in driven])
    bands = [line.buffer(half + KERB_MARGIN_M, cap_style="flat") for line, half in driven]
    pavements = [line.buffer(half, cap_style="flat") for line, half in walked]
    pavements += [Polygon(outline).buffer(0) for outline in network.walking_areas]
    junctions = unary_union([Polygon(outline).buffer(0) for outline in network.junctions.values()])
    crossed = junctions.difference(unary_union(pavements)).buffer(-JUNCTION_RADIUS_M)
    inner = [part.buffer(JUNCTION_RADIUS_M + KERB_MARGIN_M) for part in parts_of(crossed) if part.intersects(middle)]
    area = unary_union([*bands, *inner])
    area = area.buffer(INNER_RADIUS_M).buffer(-INNER_RADIUS_M - OUTER_RADIUS_M).buffer(OUTER_RADIUS_M)
    return MultiPolygon([simple_kerb(part) for part in parts_of(area) if part.intersects(middle)]).normalize()


def parts_of(area: Any) -> list[Any]:
    """The polygons of a shapely Polygon or MultiPolygon."""
    return list(getattr(area, "geoms", [area]))


def simple_kerb(area: Any) -> Any:
    """A shapely Polygon with few points, to the centimetre, without small islands."""
    from shapely.geometry import Polygon

    area = area.simplify(TOLERANCE_M)
    outer, *islands = (np.round(ring.coords, 2) for ring in (area.exterior, *area.interiors))
    return Polygon(outer, [island for island in islands if Polygon(island).area > LEAST_ISLAND_M2])


def edge_rings(surface: Any) -> list[np.ndarray]:
    """Borders of an area as closed rings that keep the area on their left: outer ones counter-clockwise, holes not.

    Args: surface: shapely Polygon or MultiPolygon [m].
    """
    from shapely.geometry.polygon import orient

    areas = [orient(part, 1.0) for part in parts_of(surface)]
    return [np.array(ring.coords) for area in areas for ring in (area.exterior, *area.interiors)]


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
