"""Hand-made `RawScene`s and WOMD protos with known answers."""

import dataclasses

import numpy as np

from tether.data.raw import RawScene
from tether.data.scene import ROAD_EDGE_TYPES, AgentType, LightState, RoadType

STEPS = 91
EAST_M, NORTH_M = 1000.0, 500.0


def straight_road(scenario_id: str = "straight", group: str = "road", speed: float = 10.0) -> RawScene:
    """The ego (row 1) drives east at `speed` from (1000, 500); others at 3.5 m to its left, 30 m ahead and far away.

    Lane at y = 500 and edges at y = 496 and 504, for x in 900..1400; a crosswalk and a light at x = 1030.
    """
    t = np.arange(STEPS) * 0.1
    x = np.stack([EAST_M + speed * t, EAST_M + speed * t, EAST_M + 30 + speed * t, EAST_M + 120 + 0 * t])
    y = np.stack([NORTH_M + 3.5 + 0 * t, NORTH_M + 0 * t, NORTH_M + 0 * t, NORTH_M + 90 + 0 * t])
    vel_x = np.array([[speed], [speed], [speed], [0.0]]) + 0 * t
    valid = np.ones((4, STEPS), bool)
    valid[0, :20] = valid[2, 50:60] = False
    road_x = np.arange(900.0, 1401.0)
    route_x = np.arange(960.0, 1300.0)
    zebra = np.array([[1030.0, 496.0], [1033.0, 496.0], [1033.0, 504.0], [1030.0, 504.0]])
    return RawScene(
        scenario_id=scenario_id,
        source="hand",
        group=group,
        x=np.where(valid, x, -1.0),
        y=np.where(valid, y, -1.0),
        heading=np.zeros((4, STEPS)),
        vel_x=vel_x,
        vel_y=np.zeros((4, STEPS)),
        valid=valid,
        length=np.array([4.0, 4.5, 5.0, 12.0]),
        width=np.array([1.8, 2.0, 2.1, 2.5]),
        agent_type=np.full(4, AgentType.VEHICLE),
        ego=1,
        road_type=np.array([RoadType.LANE_SURFACE, *[RoadType.EDGE_BOUNDARY] * 2, RoadType.CROSSWALK]),
        road_points=(
            *(np.stack([road_x, np.full(len(road_x), north)], axis=1) for north in (500.0, 496.0, 504.0)),
            zebra,
        ),
        light_x=np.array([1030.0, 1030.0]),
        light_y=np.array([NORTH_M, NORTH_M + 1.0]),
        light_state=np.repeat([[LightState.STOP], [LightState.GO]], STEPS, axis=1),
        light_valid=np.ones((2, STEPS), bool),
        light_on_route=np.array([True, False]),
        route_x=route_x,
        route_y=np.full(len(route_x), NORTH_M),
        route_speed_limit=np.full(len(route_x), 13.9),
    )


def bare_road(scenario_id: str, group: str) -> RawScene:
    """The straight road without lights and road edges, as from a map that knows neither."""
    raw = straight_road(scenario_id, group)
    lights = ("light_x", "light_y", "light_on_route", "light_state", "light_valid")
    kept = [i for i, kind in enumerate(raw.road_type) if kind not in ROAD_EDGE_TYPES]
    road = {"road_type": raw.road_type[kept], "road_points": tuple(raw.road_points[i] for i in kept)}
    return dataclasses.replace(raw, **road, **{name: getattr(raw, name)[:0] for name in lights})


def turned(raw: RawScene, angle: float) -> RawScene:
    """The same scene with its world turned about the origin."""
    cos, sin = np.cos(angle), np.sin(angle)

    def turn(x, y):
        return cos * x - sin * y, sin * x + cos * y

    pairs = (("x", "y"), ("vel_x", "vel_y"), ("light_x", "light_y"), ("route_x", "route_y"))
    fields = {}
    for x, y in pairs:
        fields[x], fields[y] = turn(getattr(raw, x), getattr(raw, y))
    points = tuple(np.stack(turn(p[:, 0], p[:, 1]), axis=1) for p in raw.road_points)
    return dataclasses.replace(raw, heading=raw.heading + angle, road_points=points, **fields)


def scenario(scenario_id: str = "made", vehicles: int = 2, east_m: float = 0.0):
    """A WOMD Scenario proto: vehicles 8 m apart drive east at 10 m/s on lane 7, whose light (stop at x = 50) is red.

    The first begins at x = `east_m`.
    """
    from waymo_open_dataset.protos import scenario_pb2

    made = scenario_pb2.Scenario(scenario_id=scenario_id, current_time_index=10, sdc_track_index=0)
    made.timestamps_seconds.extend(0.1 * step for step in range(STEPS))
    for row in range(vehicles):
        track = made.tracks.add(id=row, object_type=1)
        for step in range(STEPS):
            track.states.add(
                **dict(
                    center_x=east_m + step - 8.0 * row, center_y=0.0, center_z=0.0, length=4.5, width=2.0, height=1.5
                ),
                **dict(heading=0.0, velocity_x=10.0, velocity_y=0.0, valid=True),
            )
    _add_map(made)
    for _ in range(STEPS):
        state = made.dynamic_map_states.add().lane_states.add(lane=7, state=LightState.STOP)
        state.stop_point.x, state.stop_point.y = 50.0, 0.5
    return made


def _add_map(made) -> None:
    lane = made.map_features.add(id=7).lane
    lane.type, lane.speed_limit_mph = 2, 25.0
    line = made.map_features.add(id=8).road_line
    edge = made.map_features.add(id=9).road_edge
    line.type, edge.type = 3, 2
    for polyline, north in ((lane.polyline, 0.5), (line.polyline, 2.0), (edge.polyline, -2.0)):
        for east in range(-60, 300):
            polyline.add(x=east, y=north, z=0.0)
    stop = made.map_features.add(id=10).stop_sign
    stop.position.x, stop.position.y = 49.0, -2.0
    for name, feature_id in (("crosswalk", 11), ("speed_bump", 12), ("driveway", 13)):
        polygon = getattr(made.map_features.add(id=feature_id), name).polygon
        for east, north in ((60, -2), (64, -2), (64, 2), (60, 2)):
            polygon.add(x=east, y=north, z=0.0)
