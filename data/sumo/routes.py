"""The route that an ego is to follow: the lanes it drove, and onwards along its SUMO route."""

import dataclasses
import itertools

import numpy as np

from tether.data.polyline import arc_length, interpolate, project
from tether.data.sumo.road_network import Lane, Link, RoadNetwork
from tether.data.sumo.simulate import Recording
from tether.data.sumo.smoothing import smoothed

BEFORE_STEPS, AFTER_STEPS = 50, 40  # driven steps taken around the window, so that lane changes begin and end
BEHIND_M, AHEAD_M = 25.0, 160.0
CENTRED_M = 0.4  # a lane change lasts while the car is further from the centre of its lane
LONGEST_CHANGE_STEPS = 50
CHANGE_M = 40.0
SPACING_M = 1.0


@dataclasses.dataclass(frozen=True)
class Route:
    """A route.

    Attributes:
      points: float64[K, 2], [m].   speed_limit: float64[K], [m/s].
      lanes: names of the lanes followed, in order, those within junctions too.
      ahead: metres of route past the ego's last position of the window.
    """

    points: np.ndarray
    speed_limit: np.ndarray
    lanes: tuple[str, ...]
    ahead: float


def route_of(network: RoadNetwork, record: Recording, agent: int, start: int, steps: int) -> Route:
    """The route of an agent over the window of `steps` steps from `start`."""
    first, last = driven_range(record, agent, start, steps)
    names = [record.lane_names[lane] for lane in record.lane[agent, first:last]]
    front = np.stack([record.front_x[agent, first:last], record.front_y[agent, first:last]], 1)
    centre_line = driven_centre(network, names, front)
    back = behind(network.lanes[names[0]], centre_line)
    pieces, lanes = onwards(network, names[-1], centre_line[-1], record.routes[agent])
    line = np.concatenate([back, centre_line, *pieces])
    limits = [np.full(len(back), network.lanes[names[0]].speed), [network.lanes[name].speed for name in names]]
    limits += [np.full(len(piece), network.lanes[name].speed) for piece, name in zip(pieces, lanes, strict=True)]
    points, speed_limit = even_route(line, np.concatenate(limits))
    ahead = arc_length(np.concatenate([centre_line[start + steps - 1 - first :], *pieces]))[-1]
    followed = [name for name, _ in itertools.groupby([*names, *lanes])]
    return Route(points, speed_limit, tuple(followed), float(ahead))


def driven_range(record: Recording, agent: int, start: int, steps: int) -> tuple[int, int]:
    """The half-open range of steps around the window over which the agent is present."""
    present = record.lane[agent] >= 0
    first, last = start, start + steps
    while first > max(start - BEFORE_STEPS, 0) and present[first - 1]:
        first -= 1
    while last < min(start + steps + AFTER_STEPS, record.steps) and present[last]:
        last += 1
    return first, last


def driven_centre(network: RoadNetwork, names: list[str], front: np.ndarray) -> np.ndarray:
    """The centre of the ego's lane at each step, blended over lane changes.

    Through a lane change the line keeps the car's own path, displaced so that it starts and ends on the centres of
    the two lanes. So it is smooth and never far from the log.

    Args: names: the lane at each step.   front: float64[n, 2], front bumper [m].
    Returns: float64[n, 2].
    """
    centre = np.array([nearest(network.lanes[name].shape, xy) for name, xy in zip(names, front, strict=True)])
    offset = np.hypot(*(centre - front).T)
    travelled = arc_length(front)
    for step in range(1, len(names)):
        if not are_siblings(network.lanes[names[step - 1]], network.lanes[names[step]]):
            continue
        begin, end = change_range(offset, step)
        span = max(travelled[end] - travelled[begin], 1e-6)
        fraction = ((travelled[begin : end + 1] - travelled[begin]) / span)[:, None]
        aside = (1 - fraction) * (centre - front)[begin] + fraction * (centre - front)[end]
        centre[begin : end + 1] = front[begin : end + 1] + aside
    return centre


def nearest(line: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """The point of the polyline nearest to xy."""
    along, _ = project(xy[None], line)
    return interpolate(line, along)[0]


def are_siblings(before: Lane, after: Lane) -> bool:
    """Whether going from one lane to the other is a lane change."""
    return before.edge == after.edge and before.index != after.index


def change_range(offset: np.ndarray, step: int) -> tuple[int, int]:
    """Steps at which a lane change begins and ends, whose lane switches before `step`.

    Args: offset: float64[n], distance of the car from the centre of its lane [m].
    """
    begin, end = step - 1, step
    while begin > 0 and offset[begin] > CENTRED_M and step - begin < LONGEST_CHANGE_STEPS:
        begin -= 1
    while end < len(offset) - 1 and offset[end] > CENTRED_M and end - step < LONGEST_CHANGE_STEPS:
        end += 1
    return begin, end


def behind(lane: Lane, centre_line: np.ndarray) -> np.ndarray:
    """The route before the first driven step: along the lane, then straight on backwards."""
    along = project(centre_line[:1], lane.shape)[0][0]
    start = max(along - BEHIND_M, 0.0)
    line = interpolate(lane.shape, np.linspace(start, along, max(2, round((along - start) / SPACING_M))))
    first, second = interpolate(lane.shape, np.array([0.0, SPACING_M]))
    direction = (second - first) / max(np.hypot(*(second - first)), 1e-6)
    back = np.arange(BEHIND_M - (along - start), 0.5, -SPACING_M)[:, None]
    return np.concatenate([line[0] - back * direction, line])[:-1]


def onwards(
    network: RoadNetwork, name: str, xy: np.ndarray, roads: tuple[str, ...]
) -> tuple[list[np.ndarray], list[str]]:
    """Pieces of route after the last driven step, and the lane of each.

    Args: name: the lane, xy: the place there; roads: the SUMO route.
    """
    lane, pieces, lanes = network.lanes[name], [], []
    begin = project(xy[None], lane.shape)[0][0]
    if lane.internal:
        lane, pieces, lanes = leave_junction(network, lane, begin, roads)
        begin = 0.0
    while True:
        link = next_link(network, lane, roads)
        target = lane if link is None else network.lanes[link.source]
        pieces.append(shifted(lane, target, begin))
        lanes.append(target.name)
        if link is None or sum(arc_length(piece)[-1] for piece in pieces) > AHEAD_M:
            return pieces, lanes
        pieces += [whole(network.lanes[via]) for via in link.via]
        lanes += link.via
        lane, begin = network.lanes[link.target], 0.0


def leave_junction(
    network: RoadNetwork, inner: Lane, begin: float, roads: tuple[str, ...]
) -> tuple[Lane, list[np.ndarray], list[str]]:
    """Follows a lane within a junction to the lane after it. Returns that lane, the pieces and their lanes."""
    links = [link for links in network.links.values() for link in links if inner.name in link.via]
    link = next(link for link in links if network.lanes[link.target].edge in roads)
    rest = link.via[link.via.index(inner.name) + 1 :]
    pieces = [shifted(inner, inner, begin), *(whole(network.lanes[name]) for name in rest)]
    return network.lanes[link.target], pieces, [inner.name, *rest]


def next_link(network: RoadNetwork, lane: Lane, roads: tuple[str, ...]) -> Link | None:
    """The link to the next road of the route that needs the fewest lane changes; None at the route's end."""
    places = [index for index, road in enumerate(roads[:-1]) if road == lane.edge]
    if not places:
        return None
    links = [link for name in network.car_lanes(lane.edge) for link in network.links.get(name, [])]
    suited = [link for link in links if network.lanes[link.target].edge == roads[places[-1] + 1]]
    suited = [link for link in suited if network.lanes[link.target].use == "car"]
    return min(suited, key=lambda link: abs(network.lanes[link.source].index - lane.index), default=None)


def whole(lane: Lane) -> np.ndarray:
    """The lane's centre line at 1 m."""
    return shifted(lane, lane, 0.0)


def shifted(lane: Lane, target: Lane, begin: float) -> np.ndarray:
    """The rest of a lane from arc length `begin` [m], moving over to the target lane within the next 40 m."""
    length = max(arc_length(lane.shape)[-1], 1e-6)  # SUMO has lanes of no length where roads touch
    along = np.linspace(begin, length, max(2, round((length - begin) / SPACING_M)))
    here = interpolate(lane.shape, along)
    there = interpolate(target.shape, along * arc_length(target.shape)[-1] / length)
    fraction = np.clip((along - begin) / min(CHANGE_M, max(length - begin, 1e-6)), 0.0, 1.0)
    weight = (fraction**2 * (3 - 2 * fraction))[:, None]
    return (1 - weight) * here + weight * there


def even_route(line: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The line every metre, without the corners where pieces meet, and the speed limit there.

    A parabola through nine metres keeps the curvature of a junction; an average would cut its corner.
    """
    kept = advancing(line)
    line, limit = line[kept], limit[kept]
    along = arc_length(line)
    s = np.arange(0.0, along[-1], SPACING_M)
    points, _ = smoothed(interpolate(line, s).T)
    return points.T, limit[np.searchsorted(along, s)]


def advancing(line: np.ndarray) -> np.ndarray:
    """Indices of the points that lie at least half a spacing beyond the last one kept: int64[<=n]."""
    kept = [0]
    for index in range(1, len(line)):
        if np.hypot(*(line[index] - line[kept[-1]])) >= SPACING_M / 2:
            kept.append(index)
    return np.array(kept)
