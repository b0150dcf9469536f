"""Checks a log's times, positions, velocities and headings against each other: impossible motion is a fault.

Everything here is NumPy on the host, float64. N tracks, T steps; entries where `valid` is False are ignored.
"""

import numpy as np

from tether.data.errors import DataError
from tether.data.polyline import wrap

STEP_S = 0.1
STEP_ERROR_S = 0.03  # largest error of one step; real logs: at most 0.024
RATE_ERROR_S = 0.005  # largest error of the median step; real logs: at most 0.0001
SHORTEST_S, LONGEST_S = 0.01, 0.55  # steps that resampling takes: 100 Hz to 2 Hz, with some jitter
RESAMPLE = f"; `data.build --resample` resamples steps of up to {LONGEST_S:g} s"

WINDOW_S = 1.0  # displacements are compared over windows, so that jitter of the positions averages out
MOVES_M = 10.0  # a track that moves less has no direction, and its velocities are jitter
VELOCITY_ERROR, VELOCITY_ERROR_M = 0.2, 5.0  # fraction of the way, and metres, both exceeded
FAST_MPS = 3.0
REVERSE_MPS = 8.0  # no vehicle reverses faster
HEADING_RAD = 0.6
# Bounds of the ratio of moving tracks' displacements in one step to those that their velocities give (real logs: 0.69
# to 1.46, one track alone 0.45 to 2.02); a lost frame doubles it, and a doubled one brings it to 0.
ODD, ODD_ALONE, ODD_LEAST_M = (0.5, 1.8), (0.25, 2.5), 0.5
JUMP_M, JUMP_MPS2 = 3.5, 10.0  # real logs: jumps of at most 3.0 m
FASTEST_MPS = 100.0


def check_times(times: np.ndarray, record: str, resample: bool = False) -> None:
    """Whether a log's steps are 0.1 s.

    Args:
      times: float64[T], [s].
      record: how errors name it.
      resample: whether the log will be resampled: then any steps between 0.01 and 0.55 s will do.

    Raises: DataError for times that are not finite or do not increase, and for steps other than 0.1 s.
    """
    field = "timestamps_seconds"
    if not np.isfinite(times).all():
        raise DataError(f"expected finite times, found {int((~np.isfinite(times)).sum())} others", field, record)
    steps = np.diff(times)
    if not len(steps):
        return
    if steps.min() <= 0:
        at = int(np.argmax(steps <= 0))
        reason = f"expected times that increase, found {times[at]:.4f} s at step {at}, then {times[at + 1]:.4f} s"
        raise DataError(reason, field, record)
    median = float(np.median(steps))
    if resample:
        if steps.min() < SHORTEST_S or steps.max() > LONGEST_S:
            reason = f"expected steps of {SHORTEST_S:g} to {LONGEST_S:g} s to resample, "
            raise DataError(reason + f"found {steps.min():.4f} to {steps.max():.4f} s", field, record)
        return
    if abs(median - STEP_S) > RATE_ERROR_S:
        reason = f"expected steps of {STEP_S:g} s (10 Hz), found {median:.4f} s ({1 / median:.3g} Hz)"
        raise DataError(reason + RESAMPLE, field, record)
    off = np.abs(steps - STEP_S)
    if off.max() > STEP_ERROR_S:
        at = int(off.argmax())
        reason = f"expected steps of {STEP_S:g} s, found {steps[at]:.4f} s after step {at}"
        raise DataError(reason + RESAMPLE, field, record)


def _windows(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Sums of float64[N, T - 1] over windows of about 1 s: float64[N, W]."""
    per_window = max(round(WINDOW_S / float(np.median(np.diff(times)))), 1)
    return np.add.reduceat(values, np.arange(0, values.shape[1], per_window), axis=1)


def _displacements(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dy float64[N, T - 1], 0 where one of the two ends is not valid, and where both are: bool[N, T - 1]."""
    both = valid[:, 1:] & valid[:, :-1]
    return np.where(both, np.diff(x, axis=1), 0.0), np.where(both, np.diff(y, axis=1), 0.0), both


def velocities_off(
    x: np.ndarray, y: np.ndarray, vel_x: np.ndarray, vel_y: np.ndarray, valid: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Tracks whose velocities and displacements contradict each other: bool[N].

    Over windows of 1 s the displacement and the integral of the velocity may differ, as vectors, by a fifth of the way
    or by 5 m in all. So velocities of 0, of another frame, or in another unit are off where the track moves.
    """
    if x.shape[1] < 2:
        return np.zeros(len(x), bool)
    dx, dy, both = _displacements(x, y, valid)
    seconds = np.where(both, np.diff(times), 0.0)
    by_x, by_y = ((v[:, 1:] + v[:, :-1]) / 2 * seconds for v in (vel_x, vel_y))
    way, integral, error = (
        np.hypot(_windows(a, times), _windows(b, times)).sum(1)
        for a, b in ((dx, dy), (by_x, by_y), (dx - by_x, dy - by_y))
    )
    return error > np.maximum(VELOCITY_ERROR * np.maximum(way, integral), VELOCITY_ERROR_M)


def moving(x: np.ndarray, y: np.ndarray, valid: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Tracks that move, jitter left aside: bool[N]."""
    if x.shape[1] < 2:
        return np.zeros(len(x), bool)
    dx, dy, _ = _displacements(x, y, valid)
    return np.hypot(_windows(dx, times), _windows(dy, times)).sum(1) > MOVES_M


def heading_error(
    x: np.ndarray, y: np.ndarray, heading: np.ndarray, valid: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Angle between heading and motion of each track, the mean over the way that it goes faster than 3 m/s.

    Returns: `apart` float64[N] in [0, pi] [rad], and `sideways`, the same with reversing (below 8 m/s) left aside. Both
    are 0 for a track that goes less than 10 m so fast.
    """
    if x.shape[1] < 2:
        return np.zeros(len(x)), np.zeros(len(x))
    dx, dy, both = _displacements(x, y, valid)
    step_x, step_y, seconds = (_windows(v, times) for v in (dx, dy, np.where(both, np.diff(times), 0.0)))
    face_x, face_y = (_windows(np.where(both, part(heading[:, :-1]), 0.0), times) for part in (np.cos, np.sin))
    way = np.hypot(step_x, step_y)
    speed = way / np.maximum(seconds, 1e-9)
    angle = np.abs(wrap(np.arctan2(step_y, step_x) - np.arctan2(face_y, face_x)))
    weight = np.where(speed > FAST_MPS, way, 0.0)
    total = weight.sum(1)
    folded = np.where(speed < REVERSE_MPS, np.minimum(angle, np.pi - angle), angle)
    scale = np.where(total > MOVES_M, 1 / np.maximum(total, MOVES_M), 0.0)
    return (weight * angle).sum(1) * scale, (weight * folded).sum(1) * scale


def jumps(
    x: np.ndarray, y: np.ndarray, vel_x: np.ndarray, vel_y: np.ndarray, valid: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Tracks that are somewhere else from one valid step to the next, farther than their velocities explain: bool[N].

    Over a time without a valid step the velocity may have changed by 10 m/s^2. Faster than 100 m/s is a jump as well.
    """
    steps = np.arange(x.shape[1])
    last = np.maximum.accumulate(np.where(valid, steps, -1), axis=1)
    before = np.concatenate([np.full((len(x), 1), -1), last[:, :-1]], axis=1)
    there = valid & (before >= 0)
    earlier = np.maximum(before, 0)

    def change(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        past = np.take_along_axis(values, earlier, axis=1)
        return values - past, (values + past) / 2

    seconds = np.where(there, times - times[earlier], 1.0)
    (dx, _), (dy, _), (_, mean_x), (_, mean_y) = map(change, (x, y, vel_x, vel_y))
    excess = np.hypot(dx - mean_x * seconds, dy - mean_y * seconds)
    far = excess > JUMP_M + JUMP_MPS2 / 2 * seconds**2
    return (there & (far | (np.hypot(dx, dy) > FASTEST_MPS * seconds))).any(1)


def odd_steps(
    x: np.ndarray,
    y: np.ndarray,
    vel_x: np.ndarray,
    vel_y: np.ndarray,
    valid: np.ndarray,
    times: np.ndarray,
    sure: np.ndarray,
) -> tuple[int, float]:
    """The step of a log at which the displacements of its moving tracks contradict their velocities most.

    Args: of moving tracks alone.   sure: bool[N], those that count where no other one moves.
    Returns: the index of the step's start, -1 where none is odd; and the median ratio of the displacement to the one
      that the velocities give.
    """
    dx, dy, both = _displacements(x, y, valid)
    seconds = np.where(both, np.diff(times), 0.0)
    way = np.hypot(dx, dy)
    meant = np.hypot(*((v[:, 1:] + v[:, :-1]) / 2 * seconds for v in (vel_x, vel_y)))
    used = np.maximum(way, meant) > ODD_LEAST_M
    odd, worst = -1, 1.0
    for step in np.flatnonzero((used.sum(0) > 1) | (used & sure[:, None]).any(0)):
        ratio = float(np.median(way[used[:, step], step] / np.maximum(meant[used[:, step], step], 1e-3)))
        least, most = ODD_ALONE if used[:, step].sum() == 1 else ODD
        if not least <= ratio <= most and abs(np.log(max(ratio, 1e-3))) > abs(np.log(max(worst, 1e-3))):
            odd, worst = int(step), ratio
    return odd, worst


def derived_velocities(
    x: np.ndarray, y: np.ndarray, valid: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Velocities from positions: central differences, one-sided beside steps that are not valid, 0 without neighbours.

    Returns: vel_x, vel_y float64[N, T], [m/s].
    """
    steps = np.arange(x.shape[1])
    first = np.where(np.roll(valid, 1, axis=1) & (steps > 0), steps - 1, steps)
    last = np.where(np.roll(valid, -1, axis=1) & (steps < len(steps) - 1), steps + 1, steps)
    seconds = times[last] - times[first]
    rate = np.where(valid & (seconds > 0), 1 / np.where(seconds > 0, seconds, 1.0), 0.0)
    differences = (np.take_along_axis(v, last, axis=1) - np.take_along_axis(v, first, axis=1) for v in (x, y))
    return tuple(difference * rate for difference in differences)


def even_steps(times: np.ndarray, at: float) -> tuple[np.ndarray, int]:
    """Times 0.1 s apart within `times`, one of them `at`: float64[T'], and the index of that one."""
    slack = 1e-3  # a last step that falls short by rounding still counts
    before = int((at - times[0] + slack) / STEP_S)
    after = int((times[-1] - at + slack) / STEP_S)
    return np.clip(at + STEP_S * np.arange(-before, after + 1), times[0], times[-1]), before


def neighbours(times: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps before and after each wanted time, and how far it is between them: int[T'], int[T'], float64[T'] in [0, 1].

    A time within a thousandth of a step is that step: both are the same.
    """
    before = np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, max(len(times) - 2, 0))
    after = np.minimum(before + 1, len(times) - 1)
    fraction = np.where(after > before, (wanted - times[before]) / np.maximum(times[after] - times[before], 1e-9), 0.0)
    after = np.where(fraction < 1e-3, before, after)
    before = np.where(fraction > 1 - 1e-3, after, before)
    return before, after, np.where(after > before, fraction, 0.0)


def hermite(
    start: np.ndarray, end: np.ndarray, rate_start: np.ndarray, rate_end: np.ndarray, fraction: np.ndarray
) -> np.ndarray:
    """The cubic between two values with these rates, all per interval."""
    f2, f3 = fraction**2, fraction**3
    to_end = 3 * f2 - 2 * f3
    return start * (1 - to_end) + end * to_end + rate_start * (fraction - 2 * f2 + f3) + rate_end * (f3 - f2)
