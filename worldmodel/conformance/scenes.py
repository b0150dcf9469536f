"""Hand-made scenes with known answers, composed from small numpy functions.

`straight()` is a two-lane road along x: the ego's lane is centred on y = 0, the oncoming lane on y = 3.5, the road
edges lie at y = -2 and y = 5.5. The route follows y = 0 from x = -20 onwards, so route_s = x + 20.
"""

import dataclasses

import jax
import numpy as np

from tether.data.scene import AgentType, LightState, RoadType, Scene, SceneSpec
from tether.data.tokenizer import encode
from tether.simulator.config import SimulatorConfig
from tether.simulator.road_index import index_road

TINY = SceneSpec(agents=4, polylines=12, points=16, lights=2, route_points=64, text=4)
ROAD_X = (-60.0, 220.0)
RIGHT_EDGE_Y, LEFT_EDGE_Y, ONCOMING_Y = -2.0, 5.5, 3.5
ROUTE_START_X = -20.0
SPEED_LIMIT = 15.0


def empty(spec: SceneSpec = TINY) -> Scene:
    """A scene of padding alone."""
    tracks = {name: np.zeros((spec.agents, spec.steps), np.float32) for name in ("x", "y", "heading", "vel_x", "vel_y")}
    road = {name: np.zeros((spec.polylines, spec.points), np.float32) for name in ("road_x", "road_y")}
    lights = {name: np.zeros(spec.lights, np.float32) for name in ("light_x", "light_y")}
    route = {name: np.zeros(spec.route_points, np.float32) for name in ("route_x", "route_y", "route_speed_limit")}
    return Scene(
        **tracks,
        **road,
        **lights,
        **route,
        valid=np.zeros((spec.agents, spec.steps), bool),
        length=np.zeros(spec.agents, np.float32),
        width=np.zeros(spec.agents, np.float32),
        agent_type=np.zeros(spec.agents, np.int32),
        ego=np.int32(0),
        road_valid=np.zeros((spec.polylines, spec.points), bool),
        road_type=np.zeros(spec.polylines, np.int32),
        light_route_s=np.full(spec.lights, -1, np.float32),
        light_state=np.zeros((spec.lights, spec.steps), np.int32),
        light_valid=np.zeros((spec.lights, spec.steps), bool),
        route_valid=np.zeros(spec.route_points, bool),
        instruction=encode("follow the road", spec.text),
        map_tile=np.zeros((0, 0, 0), np.uint8),
    )


def indexed(scene: Scene, config: SimulatorConfig) -> Scene:
    """The scene with its road index, as `prepare` makes it, and an empty map tile: for rollouts without images."""
    return dataclasses.replace(scene, road_index=index_road(scene, config), map_tile=np.zeros((1, 1, 4), np.uint8))


def straight(spec: SceneSpec = TINY, speed: float = 10.0, ego: int = 0) -> Scene:
    """The ego drives along y = 0 at constant speed, at x = 0 at the current step."""
    scene = with_agent(dataclasses.replace(empty(spec), ego=np.int32(ego)), ego, x=0.0, y=0.0, speed=speed, spec=spec)
    for y, forward, kind in (
        (RIGHT_EDGE_Y, True, RoadType.EDGE_BOUNDARY),
        (LEFT_EDGE_Y, False, RoadType.EDGE_BOUNDARY),
        (0.0, True, RoadType.LANE_SURFACE),
        (ONCOMING_Y, False, RoadType.LANE_SURFACE),
    ):
        ends = ROAD_X if forward else ROAD_X[::-1]
        scene = with_polyline(scene, np.linspace(*ends, spec.points), np.full(spec.points, y), kind)
    return with_route(scene, ROUTE_START_X + spec.route_spacing_m * np.arange(spec.route_points), 0.0)


def with_agent(
    scene: Scene,
    row: int,
    x: float,
    y: float,
    heading: float = 0.0,
    speed: float = 0.0,
    agent_type: int = AgentType.VEHICLE,
    length: float = 4.5,
    width: float = 1.8,
    steps: range | None = None,
    spec: SceneSpec = TINY,
) -> Scene:
    """Row `row` becomes an agent at (x, y) at the current step, at constant velocity, valid at `steps` (all)."""
    time = (np.arange(spec.steps) - spec.current) * spec.dt
    seen = np.isin(np.arange(spec.steps), np.arange(spec.steps) if steps is None else list(steps))
    vel_x, vel_y = speed * np.cos(heading), speed * np.sin(heading)
    track = {
        "x": (x + vel_x * time) * seen,
        "y": (y + vel_y * time) * seen,
        "heading": heading * seen,
        "vel_x": vel_x * seen,
        "vel_y": vel_y * seen,
        "valid": seen,
        "length": length,
        "width": width,
        "agent_type": int(agent_type),
    }
    return with_rows(scene, row, track)


def with_polyline(scene: Scene, x: np.ndarray, y: np.ndarray, kind: int) -> Scene:
    """Fills the first padded polyline."""
    row = int(np.argmax(~scene.road_valid.any(-1)))
    points = scene.road_x.shape[-1]
    line = {
        "road_x": np.resize(x, points) * (np.arange(points) < len(x)),
        "road_y": np.resize(y, points) * (np.arange(points) < len(y)),
        "road_valid": np.arange(points) < len(x),
        "road_type": int(kind),
    }
    return with_rows(scene, row, line)


def with_route(scene: Scene, x: np.ndarray, y: np.ndarray | float, speed_limit: float = SPEED_LIMIT) -> Scene:
    """A route through the points, as many as fit."""
    count = scene.route_x.shape[-1]
    valid = np.arange(count) < len(x)
    return dataclasses.replace(
        scene,
        route_x=(np.resize(x, count) * valid).astype(np.float32),
        route_y=(np.resize(np.broadcast_to(y, len(x)), count) * valid).astype(np.float32),
        route_speed_limit=(speed_limit * valid).astype(np.float32),
        route_valid=valid,
    )


def with_light(scene: Scene, x: float, state: int = LightState.STOP, row: int = 0) -> Scene:
    """A light over the route of `straight` with its stop point at x, in one state throughout."""
    light = {
        "light_x": x,
        "light_y": 0.0,
        "light_route_s": x - ROUTE_START_X,
        "light_state": state,
        "light_valid": True,
    }
    return with_rows(scene, row, light)


def with_rows(scene: Scene, row: int, values: dict[str, object]) -> Scene:
    """A copy in which `values[name]` fills row `row` of field `name`."""
    fields = {}
    for name, value in values.items():
        array = getattr(scene, name).copy()
        array[row] = value
        fields[name] = array
    return dataclasses.replace(scene, **fields)


def lead_vehicle(gap: float = 20.0, speed: float = 10.0) -> Scene:
    """A vehicle whose rear is `gap` metres ahead of the ego's front at the current step."""
    return with_agent(straight(), 1, x=gap + 4.5, y=0.0, speed=speed)


def crossing_vehicle(x: float = 40.0, arrival_s: float = 4.0, speed: float = 8.0) -> Scene:
    """A vehicle from the right whose centre crosses y = 0 at `x`, `arrival_s` after the current step."""
    return with_agent(straight(), 1, x=x, y=-speed * arrival_s, heading=np.pi / 2, speed=speed)


def red_light(x: float = 40.0) -> Scene:
    """A red light on the route; the logged ego runs it."""
    return with_light(straight(), x)


def stack(scenes: list[Scene]) -> Scene:
    """Scene[B]."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *scenes)
