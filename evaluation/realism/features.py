"""The ten features of the realism meta-metric, of one scene's evaluated agents.

K rollouts, E evaluated agents, T steps.
"""

import dataclasses

import numpy as np

from tether.data.scene import AgentType
from tether.data.sim_agents import SimAgentsScene
from tether.evaluation.realism.interaction import Boxes, nearest_distance, time_to_collision
from tether.evaluation.realism.kinematics import angular, linear
from tether.evaluation.realism.lights import Lanes, runs_red_light
from tether.evaluation.realism.road import RoadEdges


@dataclasses.dataclass(frozen=True)
class Tracks:
    """Logged or simulated tracks of a scene's agents after the current step, in its world coordinates.

    Attributes:
      x, y, z: float64[K, A, H], box centre [m]; H steps.
      heading: float64[K, A, H], [rad].
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    heading: np.ndarray


class FeatureMap:
    """The map of a scene, prepared once for its log and all of its rollouts."""

    def __init__(self, scene: SimAgentsScene):
        """Raises: ValueError for a scene without road edges."""
        self.edges = RoadEdges(scene.road_edges)
        self.lanes = Lanes(scene.lanes, scene.lane_id)


def logged_tracks(scene: SimAgentsScene) -> Tracks:
    """The log after the current step as the only rollout, K = 1, invalid steps as they are."""
    return Tracks(*(getattr(scene, field.name)[None, :, scene.current + 1 :] for field in dataclasses.fields(Tracks)))


def features(scene: SimAgentsScene, tracks: Tracks, valid: np.ndarray, road: FeatureMap) -> dict[str, np.ndarray]:
    """Each feature by name, [K, E, H].

    Differences look back into the history. Invalid steps have values too: an invalid box is where the source left it,
    usually far away, which makes the agent fast at the neighbouring steps. Evaluate only where the log is valid.

    Args:
      tracks: `Tracks`.   valid: bool[A, H], boxes that the evaluated agents can meet.   road: of this scene.
    """
    whole = {field.name: _with_history(scene, tracks, field.name) for field in dataclasses.fields(Tracks)}
    there = np.concatenate([scene.valid[:, : scene.current + 1], valid], axis=1)
    evaluated = np.flatnonzero(scene.evaluated)
    of_evaluated = {name: values[:, evaluated] for name, values in whole.items()}
    speed, acceleration = linear(of_evaluated["x"], of_evaluated["y"], of_evaluated["z"], scene.dt)
    turn, turn_change = angular(of_evaluated["heading"], scene.dt)
    moving = {"linear_speed": speed, "linear_acceleration": acceleration}
    moving |= {"angular_speed": turn, "angular_acceleration": turn_change}
    after = scene.current + 1
    values = {name: series[..., after:] for name, series in moving.items()}
    values |= _interaction(scene, whole, there, evaluated)
    values["distance_to_road_edge"] = _edge_distance(scene, of_evaluated, evaluated, road.edges)
    values["traffic_light_violation"] = _red_lights(scene, of_evaluated, road.lanes)
    values["collision_indication"] = values["distance_to_nearest_object"] < 0
    values["offroad_indication"] = values["distance_to_road_edge"] > 0
    return values


def _with_history(scene: SimAgentsScene, tracks: Tracks, name: str) -> np.ndarray:
    future = getattr(tracks, name)
    past = np.broadcast_to(getattr(scene, name)[:, : scene.current + 1], (*future.shape[:2], scene.current + 1))
    return np.concatenate([past, future], axis=-1)


def _interaction(scene: SimAgentsScene, whole: dict, there: np.ndarray, evaluated: np.ndarray) -> dict[str, np.ndarray]:
    """The features of pairs of boxes, rollout by rollout, which bounds memory."""
    sizes = scene.length[:, None], scene.width[:, None]
    speeds = linear(whole["x"], whole["y"], np.zeros_like(whole["x"]), scene.dt)[0]
    after = slice(scene.current + 1, None)
    distance, seconds = [], []
    for x, y, heading, speed in zip(whole["x"], whole["y"], whole["heading"], speeds, strict=True):
        boxes = Boxes(x[:, after], y[:, after], heading[:, after], *sizes)
        distance.append(nearest_distance(boxes, there[:, after], evaluated))
        seconds.append(time_to_collision(boxes, speed[:, after], there[:, after], evaluated))
    return {"distance_to_nearest_object": np.stack(distance), "time_to_collision": np.stack(seconds)}


def _edge_distance(scene: SimAgentsScene, whole: dict, evaluated: np.ndarray, edges: RoadEdges) -> np.ndarray:
    """Signed distance of the bottom corner that is farthest off the road."""
    x, y, z, heading = (whole[name][..., scene.current + 1 :, None] for name in ("x", "y", "z", "heading"))
    length, width, height = (size[evaluated, None, None] for size in (scene.length, scene.width, scene.height))
    along, across = np.array([0.5, -0.5, -0.5, 0.5]) * length, np.array([0.5, 0.5, -0.5, -0.5]) * width
    cos, sin = np.cos(heading), np.sin(heading)
    corners = x + along * cos - across * sin, y + along * sin + across * cos, z - height / 2
    points = np.stack(np.broadcast_arrays(*corners), axis=-1)
    return edges.signed_distance(points.reshape(-1, 3)).reshape(points.shape[:-1]).max(axis=-1)


def _red_lights(scene: SimAgentsScene, whole: dict, lanes: Lanes) -> np.ndarray:
    steps = slice(scene.current, None)
    lights = scene.light_lane, scene.light_x[:, steps], scene.light_y[:, steps], scene.light_state[:, steps]
    return runs_red_light(whole["x"][..., steps], whole["y"][..., steps], lanes, *lights)


def is_vehicle(scene: SimAgentsScene) -> np.ndarray:
    """Evaluated agents that are vehicles, bool[E]."""
    return scene.agent_type[scene.evaluated] == AgentType.VEHICLE
