"""The tracks of a WOMD `Scenario`: read, compared with each other, and freed of impossible ones.

A track with a fault is left out. If it is the log's own vehicle, or if so many tracks have the fault that the log must
have it, the record is left out. N tracks, T steps.
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tether.data.errors import DataError
from tether.data.physics import (
    FASTEST_MPS,
    HEADING_RAD,
    derived_velocities,
    heading_error,
    hermite,
    jumps,
    moving,
    neighbours,
    odd_steps,
    velocities_off,
)
from tether.data.polyline import wrap
from tether.data.raw import LARGEST_M
from tether.data.scene import AgentType
from tether.data.womd_proto import STATE_FIELDS, read_states

LEAST_SIZE_M, LARGEST_SIZE_M = 0.05, 60.0
SIZE_FACTOR = 2.0  # real logs: a size is at most 1.8 times the median of its track
LARGEST_RAD = 1e3  # a heading may have turned many times, within reason
MOTION = ("x", "y", "heading", "vel_x", "vel_y")
SYSTEMATIC = 0.5  # if this fraction of the moving tracks has the same fault, the log has it

# Length and width [m] of an agent that is logged without size: about the medians of WOMD.
USUAL_BOX = {
    AgentType.UNSET: (1.0, 1.0),
    AgentType.VEHICLE: (4.6, 2.0),
    AgentType.PEDESTRIAN: (0.9, 0.85),
    AgentType.CYCLIST: (1.85, 0.85),
    AgentType.OTHER: (1.0, 1.0),
}

NOT_WHOLE = "another number of states than of times"
TWICE = "the same track is there twice"
NOT_FINITE = "values that are not finite"
ABSURD = f"positions, headings or speeds beyond reason ({LARGEST_M / 2:g} m, {LARGEST_RAD:g} rad, {FASTEST_MPS:g} m/s)"
NO_SIZE = f"no size between {LEAST_SIZE_M:g} and {LARGEST_SIZE_M:g} m at most of its steps"
VELOCITY = "velocities that contradict the positions"
HEADING = "headings that are not along the motion"
JUMP = "positions that jump"
REVERSED = "headings against the motion"
BOXES = "agents without a size that have their type's usual box"
DERIVE = "; `data.build --derive-velocities` takes them from the positions"

Notes = collections.Counter  # counts defects in a record that is used nevertheless, see `SkipLedger.note`


@dataclasses.dataclass(frozen=True)
class Tracks:
    """Tracks of a log.

    Attributes:
      x, y, heading, vel_x, vel_y: float64[N, T], box centre [m], [rad] as logged, [m/s]; 0 where not valid.
      length, width: float64[N, T], [m]; 0 where not valid.
      valid: bool[N, T].
      agent_type: int[N], `AgentType`.
      whole: bool[N], the log has a state for each of its times; where not, the missing ones are not valid.
      again: bool[N], an earlier track has the same id and the same states.
    """

    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    vel_x: np.ndarray
    vel_y: np.ndarray
    length: np.ndarray
    width: np.ndarray
    valid: np.ndarray
    agent_type: np.ndarray
    whole: np.ndarray
    again: np.ndarray

    def steps(self, first: int, last: int) -> "Tracks":
        """Steps `first` to `last` (left out)."""
        cut = {name: getattr(self, name)[:, first:last] for name in (*STATE_FIELDS, "valid")}
        return dataclasses.replace(self, **cut)

    def rows(self, chosen: np.ndarray) -> "Tracks":
        """Args: chosen: indices or a mask of tracks."""
        return Tracks(**{field.name: getattr(self, field.name)[chosen] for field in dataclasses.fields(self)})

    @property
    def motion(self) -> tuple[np.ndarray, ...]:
        """x, y, vel_x, vel_y, valid, as `data.physics` takes them."""
        return self.x, self.y, self.vel_x, self.vel_y, self.valid

    @property
    def sized(self) -> np.ndarray:
        """Valid steps with a size that an agent may have, and not half or twice the track's median: bool[N, T]."""
        sizes = np.stack([self.length, self.width])
        sized = self.valid & ((sizes >= LEAST_SIZE_M) & (sizes <= LARGEST_SIZE_M)).all(0)
        ordered = np.sort(np.where(sized, sizes, np.inf), axis=2)
        median = ordered[:, np.arange(len(sized)), sized.sum(1) // 2, None]
        return sized & ((sizes * SIZE_FACTOR > median) & (sizes < median * SIZE_FACTOR)).all(0)

    def fields(self) -> dict[str, np.ndarray]:
        """The fields of a `RawScene`: headings wrapped, one size per track, the mean over the steps that have one."""
        sized = self.sized
        count = np.maximum(sized.sum(1), 1)
        sizes = {name: np.where(sized, getattr(self, name), 0.0).sum(1) / count for name in ("length", "width")}
        motion = {name: getattr(self, name) for name in ("x", "y", "vel_x", "vel_y", "valid", "agent_type")}
        return {**motion, "heading": wrap(self.heading), **sizes}


def read_tracks(scenario: Any) -> Tracks:
    """All tracks, whatever they hold. One of another length than the times is cut, or filled up with invalid steps."""
    count = len(scenario.timestamps_seconds)
    states = [read_states(track) for track in scenario.tracks]
    fields = {name: np.stack([_of_length(s[name], count) for s in states]) for name in (*STATE_FIELDS, "valid")}
    ids = [track.id for track in scenario.tracks]
    again = np.zeros(len(ids), bool)
    first: dict[int, int] = {}
    for row in [scenario.sdc_track_index, *range(len(ids))]:
        other = first.setdefault(ids[row], row)
        again[row] = other != row and all(np.array_equal(v[row], v[other], equal_nan=True) for v in fields.values())
    whole = np.array([len(s["valid"]) == count for s in states])
    return Tracks(**fields, agent_type=np.array([t.object_type for t in scenario.tracks]), whole=whole, again=again)


def centre(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A place in the middle of the scene, whatever some of the tracks hold: float64[2], 0 without any."""
    used = valid & np.isfinite(x) & np.isfinite(y)
    return np.array([np.median(x[used]), np.median(y[used])]) if used.any() else np.zeros(2)


def _of_length(values: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([values[:count], np.zeros(max(count - len(values), 0), values.dtype)])


def faults(tracks: Tracks, times: np.ndarray) -> np.ndarray:
    """The fault of each track that is seen at all: texts [N], empty for none."""
    fault = np.full(len(tracks.x), "", object)
    seen = tracks.valid.any(1)

    def mark(bad: np.ndarray, why: str) -> None:
        fault[bad & seen & (fault == "")] = why

    mark(~tracks.whole, NOT_WHOLE)
    mark(tracks.again, TWICE)
    mark(~_finite(tracks, MOTION), NOT_FINITE)
    middle = centre(tracks.x, tracks.y, tracks.valid)
    reasonable = [_reasonable(name, getattr(tracks, name), middle) for name in MOTION]
    mark((tracks.valid & ~np.all(reasonable, axis=0)).any(1), ABSURD)
    mark(tracks.sized.sum(1) * 2 < tracks.valid.sum(1), NO_SIZE)
    rows = np.flatnonzero(seen & (fault == ""))
    sound = tracks.rows(rows)
    checks = {
        VELOCITY: velocities_off(*sound.motion, times),
        JUMP: jumps(*sound.motion, times),
        HEADING: _sideways(sound, times),
    }
    for why, bad in checks.items():
        mark(np.isin(np.arange(len(seen)), rows[bad]), why)
    return fault


def _finite(tracks: Tracks, names: tuple[str, ...]) -> np.ndarray:
    return np.all([np.isfinite(getattr(tracks, name)).all(1) for name in names], axis=0)


def _reasonable(name: str, values: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Mask of the values that are finite and within reason. Args: middle: of the scene, see `centre`."""
    limit = {"heading": LARGEST_RAD, "vel_x": FASTEST_MPS, "vel_y": FASTEST_MPS}.get(name, LARGEST_M / 2)
    around = dict(zip("xy", middle, strict=True)).get(name, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(values - around) <= limit


def _headed(tracks: Tracks) -> np.ndarray:
    """Tracks whose heading is their direction of motion: bool[N]. A pedestrian may walk sideways."""
    return np.isin(tracks.agent_type, (AgentType.VEHICLE, AgentType.CYCLIST))


def _sideways(tracks: Tracks, times: np.ndarray) -> np.ndarray:
    return _headed(tracks) & (heading_error(tracks.x, tracks.y, tracks.heading, tracks.valid, times)[1] > HEADING_RAD)


def sound_tracks(tracks: Tracks, times: np.ndarray, own: int, record: str, notes: Notes) -> tuple[Tracks, int]:
    """The tracks without fault, and the row of the log's own vehicle among them.

    Args: times: float64[T].   own: row of the log's own vehicle.   notes: counts the others, by fault.
    Raises: DataError where the log's own vehicle is at fault, or so many that the log is.
    """
    fault = faults(tracks, times)
    check_log(tracks, times, fault, own, record)
    if fault[own]:
        raise DataError(f"the log's own vehicle has {fault[own]}{_way_out(fault[own])}", "tracks", record)
    notes.update(f"tracks left out: {why}" for why in fault if why)
    partly = (fault == "") & (tracks.sized.sum(1) < tracks.valid.sum(1))
    notes["tracks whose size at some steps is missing or unlike the others"] += int(partly.sum())
    return tracks.rows(fault == ""), int((fault[:own] == "").sum())


def _way_out(fault: str) -> str:
    return DERIVE if fault == VELOCITY else ""


def check_log(tracks: Tracks, times: np.ndarray, fault: np.ndarray, own: int, record: str) -> None:
    """Whether so many tracks are at fault that the log is.

    Args: fault: the tracks' `faults`.   own: row of the log's own vehicle.
    Raises: DataError where half of the moving tracks have the same fault, or all go too far in one step.
    """
    sound = np.isin(fault, ("", VELOCITY, HEADING))
    moves = np.zeros(len(fault), bool)
    moves[sound] = moving(tracks.x[sound], tracks.y[sound], tracks.valid[sound], times)
    for why in (VELOCITY, HEADING):
        bad = fault == why
        if bad.any() and bad.sum() >= SYSTEMATIC * (moves | bad).sum():
            reason = f"{bad.sum()} of {(moves | bad).sum()} moving tracks have {why}{_way_out(why)}"
            raise DataError(reason, "tracks", record)
    rows = np.flatnonzero((fault == "") & moves)
    step, ratio = odd_steps(*tracks.rows(rows).motion, times, rows == own)
    if step >= 0:
        reason = f"frames are missing or doubled: after step {step} the moving tracks go {ratio:.1f} times as far as "
        raise DataError(reason + "their velocities say", "tracks", record)
    rows = np.flatnonzero((fault == "") & moves & _headed(tracks))
    backward = heading_error(*(getattr(tracks, n)[rows] for n in ("x", "y", "heading", "valid")), times)[0] > np.pi / 2
    if backward.sum() >= max(2, SYSTEMATIC * len(rows)):
        raise DataError(f"{backward.sum()} of {len(rows)} moving tracks have {REVERSED}", "tracks", record)


def with_derived_velocities(tracks: Tracks, times: np.ndarray, notes: Notes) -> Tracks:
    """Velocities from positions where the logged ones are not finite or contradict them.

    Of all tracks where half of the moving ones are wrong: then the others are right by chance.
    Args: times: float64[T], finite and increasing.   notes: counts the tracks.
    """
    placed = tracks.valid.any(1) & _finite(tracks, ("x", "y")) & tracks.whole
    numbers = _finite(tracks, ("vel_x", "vel_y"))
    sound = tracks.rows(rows := np.flatnonzero(placed & numbers))
    with np.errstate(invalid="ignore", over="ignore"):
        off = velocities_off(*sound.motion, times)
        moves = moving(sound.x, sound.y, sound.valid, times)
    wrong = placed & ~numbers
    wrong[rows[off]] = True
    if off.any() and off.sum() >= SYSTEMATIC * (moves | off).sum():
        wrong = placed
    if not wrong.any():
        return tracks
    derived = derived_velocities(tracks.x[wrong], tracks.y[wrong], tracks.valid[wrong], times)
    velocity = {name: np.array(getattr(tracks, name)) for name in ("vel_x", "vel_y")}
    for name, values in zip(velocity, derived, strict=True):
        velocity[name][wrong] = values
    notes["tracks whose velocities are derived from their positions"] += int(wrong.sum())
    return dataclasses.replace(tracks, **velocity)


def resampled(tracks: Tracks, times: np.ndarray, wanted: np.ndarray) -> Tracks:
    """The tracks at other times: positions by cubics through the logged states, valid between two valid steps."""
    before, after, fraction = neighbours(times, wanted)
    seconds = times[after] - times[before]
    valid = tracks.valid[:, before] & tracks.valid[:, after]

    def between(name: str) -> tuple[np.ndarray, np.ndarray]:
        values = getattr(tracks, name)
        return values[:, before], values[:, after]

    linear = {
        name: a + fraction * (b - a) for name in ("vel_x", "vel_y", "length", "width") for a, b in [between(name)]
    }
    start, end = between("heading")
    fields = linear | {"heading": start + fraction * wrap(end - start)}
    for name, rate in (("x", "vel_x"), ("y", "vel_y")):
        fields[name] = hermite(*between(name), *(v * seconds for v in between(rate)), fraction)
    masked = {name: np.where(valid, values, 0.0) for name, values in fields.items()}
    return dataclasses.replace(tracks, **masked, valid=valid)


def present(tracks: Tracks, own: int, record: str, notes: Notes) -> tuple[dict[str, np.ndarray], int]:
    """The tracks of a history as a `RawScene` has them, all that are valid at its last step among them.

    Args: own: row of the log's own vehicle.   notes: counts what is not as it was logged.
    Returns: the fields, and the row of the log's own vehicle among them.
    Raises: DataError where an agent is valid at the last step but has no place there.
    """
    kept = tracks.rows(~tracks.again)
    notes[f"tracks left out: {TWICE}"] += int(tracks.again.sum())
    motion = {name: getattr(kept, name) for name in MOTION}
    motion, valid = repaired(motion, kept.valid, kept.x.shape[1] - 1, record, notes)
    fields = kept.fields() | motion | {"heading": wrap(motion["heading"]), "valid": valid}
    bare = valid.any(1) & ~kept.sized.any(1)
    fields |= dict(
        zip(("length", "width"), boxes(kept.agent_type, bare, fields["length"], fields["width"]), strict=True)
    )
    notes[BOXES] += int(bare.sum())
    return fields, own - int(tracks.again[:own].sum())


def boxes(agent_type: np.ndarray, bare: np.ndarray, length: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, ...]:
    """Length and width float64[N], where `bare` bool[N] the usual ones of the type."""
    usual = np.array([USUAL_BOX[AgentType(kind)] for kind in agent_type]).reshape(-1, 2).T
    return tuple(np.where(bare, common, size) for common, size in zip(usual, (length, width), strict=True))


def repaired(
    fields: Mapping[str, np.ndarray], valid: np.ndarray, now: int, record: str, notes: Notes
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """States without what is not finite or beyond reason: not valid, but at step `now`.

    There the last usable value before it stands, or 0 for one that is no position.
    Args: fields: float64[N, T] by name (`MOTION`, z).   valid: bool[N, T].   notes: counts the states.
    Raises: DataError where an agent is valid at that step but has no place there.
    """
    middle = centre(fields["x"], fields["y"], valid)
    usable = {name: _reasonable(name, values, middle) for name, values in fields.items()}
    keep = valid & np.all(list(usable.values()), axis=0)
    broken = valid & ~keep
    keep[:, now] = valid[:, now]
    mended = {name: np.where(usable[name], values, 0.0) for name, values in fields.items()}
    for row in np.flatnonzero(broken[:, now]):
        for name, values in mended.items():
            earlier = np.flatnonzero(valid[row, :now] & usable[name][row, :now])
            if not usable[name][row, now] and len(earlier):
                values[row, now] = values[row, earlier[-1]]
            elif not usable[name][row, now] and name in ("x", "y"):
                raise DataError(f"track {row} is valid at step {now}, and no step says where it is", name, record)
    notes["states that are not finite or beyond reason"] += int(broken.sum())
    return mended, keep
