"""The ego's route on the host: derived from lanes and log where a data set has none, and its instruction.

The log's path is matched to lane centre lines by the cheapest sequence of lanes (Viterbi over distance, heading and
connectivity). The route is the log's path shifted sideways onto the matched lanes, so it is continuous by construction,
changes lanes where the log does, and falls back to the log's own path where no lane fits (parking lots, driveways).
Beyond the log it follows the straightest successor lanes, or goes straight on where the map ends.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tether.data.errors import DataError
from tether.data.polyline import (
    arc_length,
    drop_repeats,
    foot_on_segments,
    headings,
    interpolate,
    project,
    resample,
    walk,
    wrap,
)
from tether.data.text import navigate

LOOK_AHEAD_M = 60.0
TURN_WINDOW_M = 30
TURN_RAD = np.deg2rad(40.0)
SHARP_RAD = np.deg2rad(35.0)
TURN_AROUND_RAD = np.deg2rad(135.0)
BEGIN_RAD = np.deg2rad(10.0)

MOST_LANES = 1000  # along one log; the cheapest sequence takes memory by the square
AHEAD_M = 120.0
BEHIND_M = 20.0
SAMPLE_M = 1.0
# Costs of the lane matching: squares of distance and heading error in these units, for each metre of path.
DISTANCE_UNIT_M = 1.0
HEADING_UNIT_RAD = 0.3
UNMATCHED_COST = 8.0
GATE_M = 4.0
GATE_RAD = np.deg2rad(60.0)
EXIT_COST, NEIGHBOR_COST, UNMATCHED_SWITCH_COST, JUMP_COST = 0.5, 6.0, 8.0, 30.0


@dataclasses.dataclass(frozen=True)
class Lane:
    """A driving lane.

    Attributes:
      points: float64[K, 2], centre line in driving direction, K >= 2 [m].
      exits, entries, neighbors: lane ids (those without a lane in the map are ignored).
      speed_limit: [m/s], 0 where unknown.
    """

    points: np.ndarray
    exits: tuple[int, ...] = ()
    entries: tuple[int, ...] = ()
    neighbors: tuple[int, ...] = ()
    speed_limit: float = 0.0


@dataclasses.dataclass(frozen=True)
class Route:
    """A derived route.

    Attributes:
      points: float64[K, 2], about 1 m apart.
      speed_limit: float64[K], [m/s], 0 where unknown.
      lanes: ids of the lanes that it follows.
    """

    points: np.ndarray
    speed_limit: np.ndarray
    lanes: frozenset[int]


def derive_route(x: np.ndarray, y: np.ndarray, heading: np.ndarray, lanes: Mapping[int, Lane]) -> Route:
    """The route of a logged ego: 20 m behind its first pose, along its log, 120 m beyond its last.

    Args:
      x, y, heading: float64[T], the ego's log, all steps valid.
      lanes: driving lanes by id.

    Raises: DataError for more lanes along the log than any map has.
    """
    path = _log_path(x, y, heading)
    match = _match(path, lanes)
    core = _shifted(path, match, lanes)
    back, _, back_lanes = _follow(core[0], core[0] - core[1], match[0], lanes, BEHIND_M, forward=False)
    ahead, ahead_limit, ahead_lanes = _follow(core[-1], core[-1] - core[-2], match[-1], lanes, AHEAD_M, forward=True)
    limit = np.array([lanes[i].speed_limit if i is not None else 0.0 for i in match])
    limits = np.concatenate([np.full(len(back), limit[0]), limit, ahead_limit])
    points = np.concatenate([back[::-1], core, ahead])
    followed = {i for i in match if i is not None} | back_lanes | ahead_lanes
    return Route(*_evened(points, limits), frozenset(followed))


def _evened(points: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    even = smooth(resample(drop_repeats(points), SAMPLE_M), 2.0)
    s = walk(even, points)
    nearest = np.searchsorted(arc_length(points), s).clip(0, len(limit) - 1)
    return even, limit[nearest]


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing along the first axis, `sigma` in samples; the ends are continued by point reflection.

    Straight lines stay as they are, and so do the end values.
    """
    reach = min(int(np.ceil(3 * sigma)), len(values) - 1)
    head = 2 * values[:1] - values[reach:0:-1]
    tail = 2 * values[-1:] - values[-2 : -2 - reach : -1]
    padded = np.concatenate([head, values, tail])
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
    return windows @ (kernel / kernel.sum())


def _log_path(x: np.ndarray, y: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """The log's way forward, a point per metre: jitter at standstill and reversing leave no trace."""
    log = smooth(np.stack([x, y], axis=1), 3.0)
    kept = [0]
    for step in range(1, len(log)):
        moved = log[step] - log[kept[-1]]
        if moved[0] * np.cos(heading[step]) + moved[1] * np.sin(heading[step]) >= SAMPLE_M:
            kept.append(step)
    path = log[kept]
    if len(path) == 1:
        return path + np.outer([0.0, SAMPLE_M], [np.cos(heading[0]), np.sin(heading[0])])
    return smooth(resample(path, SAMPLE_M), 2.0) if arc_length(path)[-1] >= 4 * SAMPLE_M else path


def _lane_cost(path: np.ndarray, heading: np.ndarray, lane: Lane) -> np.ndarray:
    """Cost of being on the lane for each path point, inf where it is out of the question: float64[N]."""
    _, distance = foot_on_segments(path[:, None], lane.points[:-1], lane.points[1:])
    apart = np.abs(wrap(heading[:, None] - headings(lane.points)[None, :-1]))
    cost = (distance / DISTANCE_UNIT_M) ** 2 + (apart / HEADING_UNIT_RAD) ** 2
    return np.where((distance < GATE_M) & (apart < GATE_RAD), cost, np.inf).min(1)


def _switch_cost(ids: list[int], lanes: Mapping[int, Lane]) -> np.ndarray:
    """float64[L + 1, L + 1], from row to column; the last index is "no lane"."""
    cost = np.full((len(ids) + 1, len(ids) + 1), JUMP_COST)
    cost[-1], cost[:, -1] = UNMATCHED_SWITCH_COST, UNMATCHED_SWITCH_COST
    index = {lane_id: i for i, lane_id in enumerate(ids)}
    for lane_id, row in index.items():
        hop = [after for exit_id in lanes[lane_id].exits if exit_id in lanes for after in lanes[exit_id].exits]
        for ways, price in ((lanes[lane_id].neighbors, NEIGHBOR_COST), (hop, 2 * EXIT_COST)):
            cost[row, [index[i] for i in ways if i in index]] = price
        cost[row, [index[i] for i in lanes[lane_id].exits if i in index]] = EXIT_COST
    np.fill_diagonal(cost, 0.0)
    return cost


def _match(path: np.ndarray, lanes: Mapping[int, Lane]) -> list[int | None]:
    """The lane of each path point, None where none fits: the cheapest sequence."""
    heading = headings(path)
    costs = {lane_id: _lane_cost(path, heading, lane) for lane_id, lane in lanes.items()}
    ids = [lane_id for lane_id, cost in costs.items() if np.isfinite(cost).any()]
    if len(ids) > MOST_LANES:
        raise DataError(f"expected at most {MOST_LANES} lanes within reach of the ego's log, found {len(ids)}", "map")
    cost = np.stack([*(costs[i] for i in ids), np.full(len(path), UNMATCHED_COST)], axis=1)
    switch = _switch_cost(ids, lanes)
    total, came_from = cost[0], []
    for row in cost[1:]:
        ways = total[:, None] + switch
        came_from.append(ways.argmin(0))
        total = ways.min(0) + row
    state = int(total.argmin())
    states = [state]
    for best in reversed(came_from):
        state = int(best[state])
        states.append(state)
    return [ids[i] if i < len(ids) else None for i in reversed(states)]


def _shifted(path: np.ndarray, match: list[int | None], lanes: Mapping[int, Lane]) -> np.ndarray:
    """The path moved sideways onto the matched lanes; jumps between lanes become ramps of some 20 m."""
    offset = np.zeros(len(path))
    for lane_id in set(match) - {None}:
        on_lane = np.array([i == lane_id for i in match])
        offset[on_lane] = -project(path[on_lane], lanes[lane_id].points)[1]
    offset = smooth(offset, 6.0) if len(path) > 2 else offset
    tangent = np.gradient(path, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) / np.maximum(np.hypot(*tangent.T), 1e-6)[:, None]
    return path + offset[:, None] * normal


def _follow(
    start: np.ndarray,
    direction: np.ndarray,
    lane_id: int | None,
    lanes: Mapping[int, Lane],
    length: float,
    forward: bool,
) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """Points from `start` (left out) along the lane and its straightest successors, or straight on without any.

    Returns: points float64[K, 2] `length` metres far, their speed limits, and the ids of the lanes followed.
    """
    line, limits, used = [start], [0.0], set()
    while lane_id is not None and lane_id not in used and arc_length(np.array(line))[-1] < length:
        lane = lanes[lane_id]
        points = lane.points if forward else lane.points[::-1]
        s = project(start[None], points)[0][0] if not used else 0.0
        rest = points[arc_length(points) > s + SAMPLE_M]
        limits += [lane.speed_limit] * len(rest)
        line += list(rest)
        used.add(lane_id)
        lane_id = _straightest(lane, lanes, forward)
    points, limit = np.array(line), np.array(limits)
    return *_to_length(points, limit, direction, length), used


def _straightest(lane: Lane, lanes: Mapping[int, Lane], forward: bool) -> int | None:
    """The successor (predecessor) whose far end turns least against this lane's end; None where there is none."""
    ways = [i for i in (lane.exits if forward else lane.entries) if i in lanes]
    end = headings(lane.points)[-1 if forward else 0]
    turns = [abs(float(wrap(headings(lanes[i].points)[-1 if forward else 0] - end))) for i in ways]
    return ways[int(np.argmin(turns))] if ways else None


def _to_length(
    line: np.ndarray, limit: np.ndarray, direction: np.ndarray, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts or continues (straight) a line to `length`, without its first point."""
    along = arc_length(line)
    if along[-1] < length:
        if len(line) > 1:
            direction = line[-1] - line[-2]
        step = direction / np.hypot(*direction)
        line = np.concatenate([line, (line[-1] + (length - along[-1]) * step)[None]])
        limit, along = np.append(limit, limit[-1]), np.append(along, length)
    s = np.arange(SAMPLE_M, length + 1e-6, SAMPLE_M)
    nearest = np.searchsorted(along, s).clip(0, len(limit) - 1)
    return interpolate(line, s), limit[nearest]


def navigation(ahead: np.ndarray) -> str:
    """The navigation instruction: `turn left in 30 m`, `follow the road`.

    The heading decides, not a junction's link names, since a roundabout's connectors are "straight". A turn is a net
    change of more than 40 degrees over the next 60 m, of which at least 35 degrees within some 30 m: a long bend is no
    turn. More than 135 degrees is turning around. The distance is where the heading first departs by 10 degrees.

    Args: ahead: float64[K, 2], the route from the ego's place on.
    """
    line = resample(ahead, 1.0)[: int(LOOK_AHEAD_M) + 1]
    if len(line) < 3:
        return navigate("follow the road")
    turned = np.unwrap(headings(line))
    turned = turned - turned[0]
    window = min(TURN_WINDOW_M, len(turned) - 1)
    sharpest = np.abs(turned[window:] - turned[:-window]).max()
    net = turned[-1]
    if abs(net) < TURN_RAD or sharpest < SHARP_RAD:
        return navigate("follow the road")
    distance = float(np.argmax(np.abs(turned) > BEGIN_RAD))
    return navigate(_maneuver(net), distance)


def _maneuver(net: float) -> str:
    if abs(net) > TURN_AROUND_RAD:
        return "turn around"
    return "turn left" if net > 0 else "turn right"
