"""The traffic lights of a WOMD `Scenario`: many messages about one light become one stop point and one state a step."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from tether.data.raw import LARGEST_M
from tether.data.scene import LightState

MOVES_M = 2.0  # in real logs a stop point stays exactly where it is
NOT_LOGGED = -1

# From unknown to the most restrictive: of two messages about one light in one step the later one here counts.
RESTRICTIVE = (
    LightState.UNKNOWN,
    *(LightState.GO, LightState.ARROW_GO),
    *(LightState.FLASHING_CAUTION, LightState.CAUTION, LightState.ARROW_CAUTION),
    *(LightState.FLASHING_STOP, LightState.ARROW_STOP, LightState.STOP),
)
RANK = {int(state): rank for rank, state in enumerate(RESTRICTIVE)}


@dataclasses.dataclass(frozen=True)
class Lights:
    """Lights of a log, L of them.

    Attributes:
      lane: int64[L], id of the lane that a light controls.
      x, y: float64[L], stop point [m].
      state: int32[L, T], `LightState`; 0 where not valid.
      valid: bool[L, T], the log has a message about the light.
    """

    lane: np.ndarray
    x: np.ndarray
    y: np.ndarray
    state: np.ndarray
    valid: np.ndarray

    def steps(self, chosen: slice | np.ndarray) -> "Lights":
        """Args: chosen: which steps, in which order."""
        return dataclasses.replace(self, state=self.state[:, chosen], valid=self.valid[:, chosen])

    def fields(self) -> dict[str, np.ndarray]:
        """The fields of a `RawScene`."""
        return dict(light_x=self.x, light_y=self.y, light_state=self.state, light_valid=self.valid)


def light_messages(frames: Any, steps: int) -> Iterator[tuple[int, Any]]:
    """(step, message), one for each light and step: of several the known one, then the more restrictive one."""
    for step, frame in enumerate(frames[:steps]):
        best: dict[int, Any] = {}
        for message in frame.lane_states:
            if message.lane not in best or RANK[message.state] > RANK[best[message.lane].state]:
                best[message.lane] = message
        yield from ((step, message) for message in best.values())


def read_lights(scenario: Any, steps: int, centre: np.ndarray, notes: collections.Counter) -> Lights:
    """The lights that have a place, as the first `steps` steps of the log have them.

    A light stands where the median of its stop points is, so that a bad one does not move it. One step without a
    message, or with an unknown state, between two of the same state has that state: a red light is not erased.

    Args: centre: float64[2], a place in the scene [m]; a light far beyond is none of it.   notes: counts.
    """
    frames = scenario.dynamic_map_states
    chosen = list(light_messages(frames, steps))
    rows = {lane: row for row, lane in enumerate(dict.fromkeys(message.lane for _, message in chosen))}
    state = np.full((len(rows), steps), NOT_LOGGED, np.int32)
    for step, message in chosen:
        state[rows[message.lane], step] = message.state
    filled = _without_single_gaps(state)
    place, moved = _places(frames[:steps], rows, centre)
    placed = np.isfinite(place).all(1)
    notes["traffic lights left out: no stop point in the scene"] += int((~placed).sum())
    notes["traffic lights whose stop point moves"] += int((moved & placed).sum())
    notes["states of traffic lights taken from the steps beside"] += int((filled != state)[placed].sum())
    notes["messages of traffic lights of which a step has several"] += sum(
        len(frame.lane_states) for frame in frames[:steps]
    ) - len(chosen)
    notes["logs with lights for another number of steps"] += 0 < len(frames) != len(scenario.timestamps_seconds)
    lane = np.array(list(rows), np.int64)[placed]
    filled, (x, y) = filled[placed], place[placed].T
    return Lights(lane, x, y, np.maximum(filled, 0), filled != NOT_LOGGED)


def _places(frames: Any, rows: dict[int, int], centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place of each light, float64[L, 2], NaN where unknown; and whether it is elsewhere at some step."""
    seen: dict[int, list[tuple[float, float]]] = collections.defaultdict(list)
    for frame in frames:
        for message in frame.lane_states:
            if message.HasField("stop_point"):
                seen[rows[message.lane]].append((message.stop_point.x, message.stop_point.y))
    place, moved = np.full((len(rows), 2), np.nan), np.zeros(len(rows), bool)
    for row, points in seen.items():
        near = np.array([p for p in points if np.abs(np.subtract(p, centre)).max() <= LARGEST_M / 2])
        if len(near):  # empty for NaN
            place[row] = np.median(near, axis=0)
            moved[row] = np.hypot(*(near - place[row]).T).max() > MOVES_M
    return place, moved


def _without_single_gaps(state: np.ndarray) -> np.ndarray:
    before, at, after = state[:, :-2], state[:, 1:-1], state[:, 2:]
    gap = (at <= LightState.UNKNOWN) & (before == after) & (before > LightState.UNKNOWN)
    filled = state.copy()
    filled[:, 1:-1] = np.where(gap, before, at)
    return filled
