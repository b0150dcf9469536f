"""A `Record` as a scene of the challenge, so that the same metric evaluates Worlds on any source, without protos.

The scene differs from the official one because a `Scene` holds less: it is planar, keeps the agents nearest to the
ego, has mean sizes, a map thinned to 5 cm and cut 150 m from the ego's log, parts of lanes instead of lanes, and lights
without their lane. Scores on records compare with each other, not with the leaderboard.
"""

import numpy as np

from tether.data.polyline import arc_length, foot_on_segments, interpolate, wrap
from tether.data.scene import ROAD_EDGE_TYPES, Record, RoadType, Scene, SceneSpec
from tether.data.sim_agents import SimAgentsScene
from tether.evaluation.realism.features import Tracks

LANE_SPACING_M = 0.5  # as in the official data: longer segments would change the nearest lane, see `lights.py`


def scene_of(record: Record, evaluated: np.ndarray, spec: SceneSpec) -> SimAgentsScene:
    """The agents of a record that are there at the current step, in the order of their rows, in world coordinates.

    Args: evaluated: bool[A], rows of the record to evaluate.   spec: of the record.
    """
    scene = record.scene
    rows = simulated_rows(record, spec)
    valid = np.asarray(scene.valid)[rows]
    x, y = to_world(record, np.asarray(scene.x)[rows], np.asarray(scene.y)[rows])
    edges = joined(polylines(record, ROAD_EDGE_TYPES))
    lanes = [dense(line) for line in polylines(record, (RoadType.LANE_SURFACE,))]
    heading = wrap(np.asarray(scene.heading, np.float64)[rows] + record.origin[2])
    flat = np.zeros(x.shape)
    return SimAgentsScene(
        scenario_id=record.scenario_id,
        agent_id=rows,
        agent_type=np.asarray(scene.agent_type)[rows],
        evaluated=evaluated[rows],
        **{"x": np.where(valid, x, 0), "y": np.where(valid, y, 0), "z": flat},
        **{"heading": np.where(valid, heading, 0), "valid": valid},
        **{name: np.asarray(getattr(scene, name), np.float64)[rows] for name in ("length", "width")},
        height=np.zeros(len(rows)),
        road_edges=tuple(in_the_plane(line) for line in edges),
        lanes=tuple(in_the_plane(line) for line in lanes),
        lane_id=np.arange(len(lanes)),
        **_lights(record, lanes),
        current=spec.current,
        dt=spec.dt,
    )


def tracks_of(record: Record, x: np.ndarray, y: np.ndarray, heading: np.ndarray, spec: SceneSpec) -> Tracks:
    """A World's rollouts of a record's agents as `realism` takes them.

    Args: x, y, heading: [K, A, H], of all rows, in the scene's frame; an agent that vanishes needs a position too.
    """
    rows = simulated_rows(record, spec)
    x, y, heading = (np.asarray(values, np.float64)[:, rows] for values in (x, y, heading))
    return Tracks(*to_world(record, x, y), np.zeros(x.shape), wrap(heading + record.origin[2]))


def simulated_rows(record: Record, spec: SceneSpec) -> np.ndarray:
    """Rows of the agents that are there at the current step: int, ascending."""
    return np.flatnonzero(np.asarray(record.scene.valid)[:, spec.current])


def to_world(record: Record, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World coordinates, float64, of places in the scene's frame."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    cos, sin = np.cos(record.origin[2]), np.sin(record.origin[2])
    return record.origin[0] + cos * x - sin * y, record.origin[1] + sin * x + cos * y


def polylines(record: Record, kinds: tuple[int, ...]) -> list[np.ndarray]:
    """The polylines of some types, float64[P, 2] each, two points or more, in world coordinates."""
    scene = record.scene
    points = np.stack(to_world(record, scene.road_x, scene.road_y), axis=-1)
    valid = np.asarray(scene.road_valid)
    rows = np.flatnonzero(np.isin(scene.road_type, kinds) & (valid.sum(1) > 1))
    return [points[row][valid[row]] for row in rows]


def joined(lines: list[np.ndarray]) -> list[np.ndarray]:
    """Polylines, joined where one ends exactly where exactly one other begins."""
    starts: dict[tuple, list[int]] = {}
    for index, line in enumerate(lines):
        starts.setdefault(tuple(line[0]), []).append(index)
    ends = {i: starts.get(tuple(line[-1]), []) for i, line in enumerate(lines)}
    following = {i: begins[0] for i, begins in ends.items() if len(begins) == 1}
    heads = [i for i in range(len(lines)) if i not in following.values()]
    whole, used = [], set()
    for head in (*heads, *range(len(lines))):  # rings have no head
        chain = []
        while head is not None and head not in used:
            used.add(head)
            chain.append(head)
            head = following.get(head)
        if chain:
            whole.append(np.concatenate([lines[chain[0]], *(lines[i][1:] for i in chain[1:])]))
    return whole


def dense(line: np.ndarray) -> np.ndarray:
    """The line [P, 2] with points at most `LANE_SPACING_M` apart, both ends included."""
    length = arc_length(line)[-1]
    return interpolate(line, np.linspace(0, length, max(int(np.ceil(length / LANE_SPACING_M)), 1) + 1))


def in_the_plane(line: np.ndarray) -> np.ndarray:
    """float64[P, 3] of [P, 2], at z = 0."""
    return np.pad(line, ((0, 0), (0, 1)))


def _lights(record: Record, lanes: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The lights that are ever observed, each on the lane nearest to its stop point."""
    scene: Scene = record.scene
    valid = np.asarray(scene.light_valid)
    rows = np.flatnonzero(valid.any(1)) if lanes else np.zeros(0, int)
    x, y = to_world(record, np.asarray(scene.light_x)[rows], np.asarray(scene.light_y)[rows])
    distance = [
        foot_on_segments(np.stack([x, y], axis=-1)[:, None], line[:-1], line[1:])[1].min(axis=1) for line in lanes
    ]
    return {
        "light_lane": np.argmin(distance, axis=0) if rows.size else rows,
        "light_x": np.where(valid[rows], x[:, None], 0),
        "light_y": np.where(valid[rows], y[:, None], 0),
        "light_state": np.where(valid[rows], np.asarray(scene.light_state)[rows], 0),
    }
