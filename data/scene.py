"""The two types that all packages share: `Scene`, a logged scenario, and `Observation`, the input of a policy.

Frame: metres and radians, x forward, y left, heading counter-clockwise, origin and axes at the ego's pose at the
current step (`SceneSpec.current`). Host records keep where that frame lies in the world (`Record.origin`, float64).
Letters: A agents, T log steps of 0.1 s, M roadgraph polylines, P points, L traffic lights, R route points, N text
tokens. Every array may carry leading batch axes `...`.
"""

import dataclasses
import enum
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from tether.data.settings import setting

Array = Any  # np.ndarray on the host, jax.Array on a device


class Indexed:
    """Arrays behind names, with axes in common: `scenes[0]`, `ego[:, None]`, `agents[..., -1]` index every field."""

    __iter__ = None  # Python would go on from index to index, without end

    def __getitem__(self, index: Any) -> Self:
        """The same type, every field indexed alike."""
        return jax.tree.map(lambda field: field[index], self)


class AgentType(enum.IntEnum):
    """Codes of WOMD `Track.ObjectType`."""

    UNSET = 0
    VEHICLE = 1
    PEDESTRIAN = 2
    CYCLIST = 3
    OTHER = 4


class RoadType(enum.IntEnum):
    """Codes of the WOMD tf.Example roadgraph; 0 pads. A road edge keeps the road on its left-hand side."""

    PADDING = 0
    LANE_FREEWAY = 1
    LANE_SURFACE = 2
    LANE_BIKE = 3
    LINE_UNKNOWN = 5
    LINE_BROKEN_SINGLE_WHITE = 6
    LINE_SOLID_SINGLE_WHITE = 7
    LINE_SOLID_DOUBLE_WHITE = 8
    LINE_BROKEN_SINGLE_YELLOW = 9
    LINE_BROKEN_DOUBLE_YELLOW = 10
    LINE_SOLID_SINGLE_YELLOW = 11
    LINE_SOLID_DOUBLE_YELLOW = 12
    LINE_PASSING_DOUBLE_YELLOW = 13
    EDGE_UNKNOWN = 14
    EDGE_BOUNDARY = 15
    EDGE_MEDIAN = 16
    STOP_SIGN = 17
    CROSSWALK = 18
    SPEED_BUMP = 19
    DRIVEWAY = 20


# What a map feature means, for everything: simulator, models, figures, realism. An unknown line is a line and an
# unknown edge an edge: the proto's default, which a converter that sets no type writes.
DRIVING_LANE_TYPES = (RoadType.LANE_FREEWAY, RoadType.LANE_SURFACE)
LANE_TYPES = (*DRIVING_LANE_TYPES, RoadType.LANE_BIKE)
LINE_TYPES = tuple(RoadType(code) for code in range(RoadType.LINE_UNKNOWN, RoadType.LINE_PASSING_DOUBLE_YELLOW + 1))
ROAD_EDGE_TYPES = (RoadType.EDGE_UNKNOWN, RoadType.EDGE_BOUNDARY, RoadType.EDGE_MEDIAN)
RING_TYPES = (RoadType.CROSSWALK, RoadType.SPEED_BUMP, RoadType.DRIVEWAY)  # areas within closed rings


# Groups of agent types; an agent of unknown type counts as a vehicle.
VEHICLE_TYPES = (AgentType.VEHICLE, AgentType.OTHER, AgentType.UNSET)
VULNERABLE_TYPES = (AgentType.PEDESTRIAN, AgentType.CYCLIST)


class LightState(enum.IntEnum):
    """Codes of WOMD `TrafficSignalLaneState.State`."""

    UNKNOWN = 0
    ARROW_STOP = 1
    ARROW_CAUTION = 2
    ARROW_GO = 3
    STOP = 4
    CAUTION = 5
    GO = 6
    FLASHING_STOP = 7
    FLASHING_CAUTION = 8


RED_STATES = (LightState.ARROW_STOP, LightState.STOP)
YELLOW_STATES = (LightState.ARROW_CAUTION, LightState.CAUTION)


def is_type(values: Array, types: tuple[int, ...]) -> Array:
    """Whether each code is one of `types`: bool[...]."""
    return jnp.any(jnp.stack([values == kind for kind in types]), axis=0)


@dataclasses.dataclass(frozen=True)
class SceneSpec:
    """Static sizes of one bucket of scenes; shared by data, simulator, models and policy.

    Attributes:
      agents: A, agents kept per scene, those nearest to the ego over the log first; the ego is always kept.
      polylines: M, roadgraph polylines kept per scene, those nearest to the ego's log first.
      points: P, points per polyline; longer map features are split into several polylines, which share their end point.
      lights: L, traffic lights kept per scene, those on the ego's route first.
      route_points: R, points of the ego's route, `route_spacing_m` apart.
      route_spacing_m: distance between two points of the ego's route [m].
      text: N, tokens of the instruction; 10 hold navigation and speed limit, free text needs more.
      steps: T, log steps of a scene, history included.
      current: index of the current log step; steps 0 to current are history, later ones are to be driven. 10 is the
        only value that works.
      dt: time between two log steps [s]; 0.1 is the only value that works.
    """

    agents: int = 32
    polylines: int = 256
    points: int = 16
    lights: int = 16
    route_points: int = 160
    route_spacing_m: float = setting(2.0, above=0)
    text: int = 10
    steps: int = 91
    current: int = 10
    dt: float = setting(0.1, above=0)

    @property
    def future_steps(self) -> int:
        """Log steps after the current one."""
        return self.steps - 1 - self.current


@flax.struct.dataclass
class CellLists:
    """Lists of segments, one for each of C cells, J entries in all.

    Attributes:
      begin, count: int32[..., C], where a cell's list begins and how long it is.
      entry: int32[..., J], rows of `RoadIndex.segments`.
    """

    begin: Array
    count: Array
    entry: Array


@flax.struct.dataclass
class RoadIndex:
    """The road edges and lanes that can matter at each place, and which lane leads to which; N = M * P, padded.

    `simulator/road_index.py` makes it.

    Attributes:
      segments: float32[..., N, 4], ax, ay, bx, by of the segment that begins at each point of the roadgraph [m].
      grid: float32[..., 5], corner x, y and size of a cell [m], rows and columns. A cell is row * columns + column.
      edges, lanes: `CellLists`.
      following: int32[..., N, 4], the driving-lane segments that begin where each one ends, from left to right
        (`simulator/lane_graph.py`); -1 pads.
    """

    segments: Array
    grid: Array
    edges: CellLists
    lanes: CellLists
    following: Array


@flax.struct.dataclass
class Scene(Indexed):
    """A logged scenario, padded to a `SceneSpec`. Invalid entries are 0.

    Attributes:
      x, y: float32[..., A, T], box centre [m].
      heading: float32[..., A, T], box heading [rad], wrapped to [-pi, pi).
      vel_x, vel_y: float32[..., A, T], velocity [m/s].
      valid: bool[..., A, T], the agent was observed at this step.
      length, width: float32[..., A], box size [m], the mean over the steps that have one.
      agent_type: int32[..., A], `AgentType`.
      ego: int32[...], the ego's index along A; its track is valid at every step from 0 to the last one driven.
      road_x, road_y: float32[..., M, P], roadgraph polylines [m]; a crosswalk, speed bump or driveway is a closed ring.
      road_valid: bool[..., M, P]; the valid points of a polyline come first.
      road_type: int32[..., M], `RoadType`.
      light_x, light_y: float32[..., L], stop point [m].
      light_route_s: float32[..., L], arc length of the stop point along the route [m]; -1 where not on the route.
      light_state: int32[..., L, T], `LightState`; 0 where not observed.
      light_valid: bool[..., L, T].
      route_x, route_y: float32[..., R], centre line that the ego is to follow [m], from behind its first pose onwards.
      route_speed_limit: float32[..., R], [m/s]; 0 where unknown.
      route_valid: bool[..., R]; valid points come first.
      instruction: int32[..., N], token ids of the instruction (`data/tokenizer.py`), 0 pads.
      map_tile: uint8[..., Ht, Wt, C], the roadgraph drawn once per scene (`simulator/render.py`); zero-sized until
        `simulator.prepare` has run.
      road_index: `RoadIndex`; () until `simulator.prepare` has run.
    """

    x: Array
    y: Array
    heading: Array
    vel_x: Array
    vel_y: Array
    valid: Array
    length: Array
    width: Array
    agent_type: Array
    ego: Array
    road_x: Array
    road_y: Array
    road_valid: Array
    road_type: Array
    light_x: Array
    light_y: Array
    light_route_s: Array
    light_state: Array
    light_valid: Array
    route_x: Array
    route_y: Array
    route_speed_limit: Array
    route_valid: Array
    instruction: Array
    map_tile: Array
    road_index: RoadIndex | tuple = ()


@dataclasses.dataclass(frozen=True)
class Record:
    """A host-side scene, with the fields that a device cannot hold.

    Attributes:
      scene: `Scene` of numpy arrays without batch axes.
      scenario_id: name of the scene; records with different egos share it.
      source: data set it came from (`sumo`, `womd`, ...).
      group: road network or location: splits never cut through a group.
      instruction: navigation, speed limit and free text, as text.
      origin: float64[3], world x [m], y [m] and heading [rad] of the scene's frame.
      starts_off_road: the ego's logged box is off the road at the current step, so that whatever acts fails at once
        (`data/road_edges.py`). Derived when a record is read; failure rates can be given without such records.
    """

    scene: Scene
    scenario_id: str
    source: str
    group: str
    instruction: str
    origin: np.ndarray
    starts_off_road: bool = False


@flax.struct.dataclass
class Observation(Indexed):
    """The input of a policy at one step, in the ego's frame at that step. The same type in every World.

    A VLA reads `bev`, `camera`, `ego` and `instruction`; the rest is privileged (models, baselines, ablations).

    Attributes:
      bev: uint8[..., H, W, C], ego-centred image, the policy's eyes; channels named in `simulator/render.py`.
      ego: float32[..., 4], speed [m/s], acceleration [m/s^2], curvature [1/m], speed limit [m/s] (0 unknown).
      ego_size: float32[..., 2], the ego's length and width [m].
      instruction: int32[..., N], token ids.
      pose: float32[..., 3], ego x, y, heading in the scene's frame.
      time: int32[...], log step of the observation.
      agent_x, agent_y, agent_heading, agent_vel_x, agent_vel_y: float32[..., A], the ego's own row included.
      agent_length, agent_width: float32[..., A].
      agent_type: int32[..., A].
      agent_valid: bool[..., A]; False in the ego's own row.
      route_x, route_y: float32[..., R], route points.
      route_valid: bool[..., R].
      route_s: float32[...], arc length of the ego along the route points, beyond the ends too [m].
      route_offset: float32[...], signed lateral offset of the ego from the route, left positive [m].
      light_distance: float32[..., L], distance along the route from the ego's front to the stop point [m]; +inf for
        lights that are not on the route, not observed, or already passed.
      light_state: int32[..., L], `LightState`.
      camera: uint8[..., N, H, W, 3], camera images; () where there are none, as in every World so far.
    """

    bev: Array
    ego: Array
    ego_size: Array
    instruction: Array
    pose: Array
    time: Array
    agent_x: Array
    agent_y: Array
    agent_heading: Array
    agent_vel_x: Array
    agent_vel_y: Array
    agent_length: Array
    agent_width: Array
    agent_type: Array
    agent_valid: Array
    route_x: Array
    route_y: Array
    route_valid: Array
    route_s: Array
    route_offset: Array
    light_distance: Array
    light_state: Array
    camera: Array | tuple = ()
