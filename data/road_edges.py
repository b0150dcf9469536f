"""The side of a road edge on which the road is, and whether the ego is off the road before any action.

WOMD draws its edges with the road on the left. Not all conversions of other data sets to its protos keep that rule; an
off-road test that relies on it finds every ego there off the road. The lanes show the side: they lie on the road.
"""

import math

import numpy as np

from tether.data.geometry import Box, Segments, corners, segments, signed_edge_distance
from tether.data.polyline import project
from tether.data.scene import DRIVING_LANE_TYPES, ROAD_EDGE_TYPES, Scene

MOST_PAIRS = 20_000_000  # pairs of lane point and edge point; of more, a part is read; real maps have up to 4 million
NEAR_M = 6.0  # lanes at most this far from an edge run along it
REVERSED_FRACTION = 0.5  # measured per scene: at most 0.10 in WOMD, at least 0.93 in reversed conversions


def fraction_on_right(lanes: list[np.ndarray], edges: list[np.ndarray]) -> float:
    """Fraction of the lane points near an edge that lie to the right of it; 0 where none is near.

    Args: lanes, edges: polylines float64[K, 2], two points or more each.
    """
    if not lanes or not edges:
        return 0.0
    points = np.concatenate(lanes)
    points = points[:: math.ceil(len(points) * sum(map(len, edges)) / MOST_PAIRS)]
    nearest = np.full(len(points), np.inf)
    right = np.zeros(len(points), bool)
    for edge in edges:
        _, offset = project(points, edge)
        closer = np.abs(offset) < nearest
        nearest[closer], right[closer] = np.abs(offset[closer]), offset[closer] < 0
    counted = nearest < NEAR_M
    return float(right[counted].mean()) if counted.any() else 0.0


def road_on_left(road_type: np.ndarray, road_points: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The road features, their edges reversed where the lanes show that the road is on the right of them.

    All edges of a scene are turned together: one converter drew them.
    """
    long = np.array([len(points) > 1 for points in road_points], bool)
    is_edge = np.isin(road_type, ROAD_EDGE_TYPES) & long
    is_lane = np.isin(road_type, DRIVING_LANE_TYPES) & long
    lanes, edges = ([p for p, wanted in zip(road_points, kind, strict=True) if wanted] for kind in (is_lane, is_edge))
    if fraction_on_right(lanes, edges) < REVERSED_FRACTION:
        return road_points
    return tuple(points[::-1] if turn else points for points, turn in zip(road_points, is_edge, strict=True))


def starts_off_road(scene: Scene, current: int) -> bool:
    """Whether the ego's logged box is off the road at the current step, by the rule that ends a rollout there.

    Driveways behind a kerb, bridges and noisy positions cause it. Every policy's rollout of such a scene fails at once.

    Args: scene: numpy arrays without batch axes.   current: index of the current step.
    """
    edge = np.isin(scene.road_type, ROAD_EDGE_TYPES)
    sides = segments(scene.road_x[edge], scene.road_y[edge], scene.road_valid[edge])
    edges = Segments(*(field[sides.valid] for field in sides))
    place = (field[scene.ego, current, None] for field in (scene.x, scene.y, scene.heading))
    box = Box(*place, length=scene.length[scene.ego, None], width=scene.width[scene.ego, None])
    return len(edges.ax) > 0 and bool((signed_edge_distance(edges, *corners(box)) > 0).any())
