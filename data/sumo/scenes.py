"""A window of a recording as a `RawScene`."""

import dataclasses
from typing import Any

import numpy as np

from tether.data.raw import RawScene
from tether.data.scene import LightState
from tether.data.sumo.road_map import Feature, cropped, road_features, road_surface
from tether.data.sumo.road_network import Link, RoadNetwork
from tether.data.sumo.routes import Route, route_of
from tether.data.sumo.simulate import Recording

STEPS, CURRENT = 91, 10
AGENT_RADIUS_M = 85.0
MOST_AGENTS = 32
ROAD_RADIUS_M = 90.0
LIGHT_RADIUS_M = 80.0

LIGHT_STATES = {
    "r": LightState.STOP,
    "u": LightState.STOP,  # red and yellow together: about to turn green
    "y": LightState.CAUTION,
    "Y": LightState.CAUTION,
    "g": LightState.GO,
    "G": LightState.GO,
    "s": LightState.FLASHING_STOP,
    "o": LightState.FLASHING_CAUTION,
    "O": LightState.UNKNOWN,
}


@dataclasses.dataclass(frozen=True)
class Town:
    """A network with what is derived from it once.

    Attributes:
      name: of the network; scenes carry it as their group.
      surface: shapely area of the road.
      features: of the whole roadgraph.
    """

    name: str
    network: RoadNetwork
    surface: Any
    features: list[Feature]


def town(name: str, network: RoadNetwork) -> Town:
    """Derives the map of a network."""
    surface = road_surface(network)
    return Town(name, network, surface, road_features(network, surface))


def raw_scene(place: Town, record: Recording, ego: int, start: int) -> tuple[RawScene, Route]:
    """The scene of an ego over the window from step `start`, and the ego's route."""
    window = slice(start, start + STEPS)
    rows, valid = near_agents(record, ego, window)
    route = route_of(place.network, record, ego, start, STEPS)
    path = np.stack([record.x[ego, window], record.y[ego, window]], 1)[::5]
    road = cropped(place.features, path, ROAD_RADIUS_M)
    tracks = {name: getattr(record, name)[rows, window] for name in ("x", "y", "heading", "vel_x", "vel_y")}
    scene = RawScene(
        scenario_id=f"{place.name}-{record.names[ego]}-{start}",
        source="sumo",
        group=place.name,
        **{name: np.where(valid, values, 0.0) for name, values in tracks.items()},
        valid=valid,
        length=record.length[rows],
        width=record.width[rows],
        agent_type=record.agent_type[rows],
        ego=int(np.flatnonzero(rows == ego)[0]),
        road_type=np.array([kind for kind, _ in road], np.int32),
        road_points=tuple(line for _, line in road),
        **light_fields(place.network, record, route, path, window),
        route_x=route.points[:, 0],
        route_y=route.points[:, 1],
        route_speed_limit=route.speed_limit,
        current=CURRENT,
    )
    return scene, route


def near_agents(record: Recording, ego: int, window: slice) -> tuple[np.ndarray, np.ndarray]:
    """The agents nearest to the ego, ego included, in the recording's order, and when they are near it.

    A parked one must be twice as near to take a row: an ego passes more of them than there are rows.

    Returns: rows int64[n] with n <= 32, valid bool[n, STEPS].
    """
    apart = np.hypot(record.x[:, window] - record.x[ego, window], record.y[:, window] - record.y[ego, window])
    seen = apart < AGENT_RADIUS_M  # False where absent
    least = np.where(seen, apart, np.inf).min(1) * np.where(record.parked, 2.0, 1.0)
    order = np.argsort(least, kind="stable")[:MOST_AGENTS]
    rows = np.sort(order[np.isfinite(least[order])])
    return rows, seen[rows]


def light_fields(
    network: RoadNetwork, record: Recording, route: Route, path: np.ndarray, window: slice
) -> dict[str, np.ndarray]:
    """The light fields of `RawScene`: one light per lane and sequence of states, at the end of the lane."""
    grouped: dict[tuple[str, tuple[int, ...]], bool] = {}
    for link in (link for links in network.links.values() for link in links):
        if link.signal is None or network.lanes[link.source].use != "car":
            continue
        if np.hypot(*(stop_point(network, link) - path).T).min() < LIGHT_RADIUS_M:
            key = (link.source, tuple(light_states(record, link, window)))
            grouped[key] = grouped.get(key, False) or is_followed(link, route)
    stops = np.array([network.lanes[source].shape[-1] for source, _ in grouped]).reshape(-1, 2)
    states = np.array([states for _, states in grouped], np.int32).reshape(-1, STEPS)
    return dict(
        light_x=stops[:, 0],
        light_y=stops[:, 1],
        light_state=states,
        light_valid=states != LightState.UNKNOWN,
        light_on_route=np.array(list(grouped.values()), bool),
    )


def stop_point(network: RoadNetwork, link: Link) -> np.ndarray:
    """The stop point of a link's light: the end of its source lane, float64[2]."""
    return network.lanes[link.source].shape[-1]


def is_followed(link: Link, route: Route) -> bool:
    """Whether the route crosses the junction by this link."""
    return any(name in route.lanes for name in link.via)


def light_states(record: Recording, link: Link, window: slice) -> list[LightState]:
    """The light's state at each step of the window."""
    name, index = link.signal
    return [LIGHT_STATES[letters[index]] for letters in record.lights[name][window]]
