"""Gates that disqualify a stretch of recording from being a scene; each is a function of plain arrays.

The same definitions as the simulator's events, with a margin, so that the log's own ego drives without an event.
"""

from typing import Any

import numpy as np

from tether.data.polyline import wrap
from tether.data.scene import LightState

YAW_STEP_RAD = 0.09
LATERAL_MPS2 = 5.5
LONGITUDINAL_MPS2 = 6.5
CURVATURE_PER_M = 0.28
SLIP_RAD = 0.15
CLEARANCE_M = 0.05
REAR_AXLE_FRACTION = 0.25  # of the length, behind the centre: the simulator's


def is_drivable(x: np.ndarray, y: np.ndarray, heading: np.ndarray, dt: float) -> bool:
    """Whether a car can drive the track; rejects artefacts of SUMO's geometry. x, y, heading: float64[n]."""
    step_x, step_y, turn = np.diff(x), np.diff(y), wrap(np.diff(heading))
    speed = np.hypot(step_x, step_y) / dt
    moving = speed > 1.0
    slip = wrap(np.arctan2(step_y, step_x) - heading[:-1] - turn / 2)
    return bool(
        (np.abs(turn) < YAW_STEP_RAD).all()
        and (np.abs(turn / dt * speed) < LATERAL_MPS2).all()
        and (np.abs(np.diff(speed)) / dt < LONGITUDINAL_MPS2).all()
        and (np.abs(turn / dt)[moving] < CURVATURE_PER_M * speed[moving]).all()
        and (np.abs(slip)[moving] < SLIP_RAD).all()
    )


def bicycle_heading(x: np.ndarray, y: np.ndarray, heading: np.ndarray, length: float) -> np.ndarray:
    """Headings of a bicycle whose centre follows a track: float64[n] [rad], the first one the track's own.

    The rear axle does not slip, so it is dragged along. SUMO's boxes slip: in a tight turn they point elsewhere, and a
    vehicle that drives the same track swings its corners farther out.

    Args: x, y [m], heading [rad]: float64[n].  length: of the box [m].
    """
    axle = REAR_AXLE_FRACTION * length
    rear, headings = np.array([x[0] - axle * np.cos(heading[0]), y[0] - axle * np.sin(heading[0])]), [heading[0]]
    for centre in np.stack([x, y], 1)[1:]:
        ahead = centre - rear
        rear = centre - axle * ahead / np.hypot(*ahead)
        headings.append(np.arctan2(ahead[1], ahead[0]))
    return np.array(headings)


def box_gap(dx: Any, dy: Any, turn: Any, size: tuple[Any, Any], other: tuple[Any, Any]) -> np.ndarray:
    """Signed gap of two oriented boxes by separating axes [m]: negative where they overlap.

    Args (arrays that broadcast): dx, dy: the other's centre in the first's frame [m].  turn: its heading there [rad].
      size, other: (length, width) [m].
    """
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    far_x, far_y = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
    gaps = (
        np.abs(dx) - (size[0] + other[0] * cos + other[1] * sin) / 2,
        np.abs(dy) - (size[1] + other[0] * sin + other[1] * cos) / 2,
        np.abs(far_x) - (other[0] + size[0] * cos + size[1] * sin) / 2,
        np.abs(far_y) - (other[1] + size[0] * sin + size[1] * cos) / 2,
    )
    return np.maximum.reduce(gaps)


def pair_gap(x: np.ndarray, y: np.ndarray, heading: np.ndarray, length: np.ndarray, width: np.ndarray, one: int) -> Any:
    """Gap between one agent's box and every other at each step: float64[N, T] [m].

    Args: x, y, heading: float64[N, T], nan where absent (then the gap is nan).  length, width: float64[N].
    """
    dx, dy = x - x[one], y - y[one]
    cos, sin = np.cos(heading[one]), np.sin(heading[one])
    sizes = (length[one], width[one]), (length[:, None], width[:, None])
    gap = box_gap(cos * dx + sin * dy, cos * dy - sin * dx, heading - heading[one], *sizes)
    gap[one] = np.inf
    return gap


def stays_on_road(x: np.ndarray, y: np.ndarray, heading: np.ndarray, size: tuple[float, float], surface: Any) -> bool:
    """Whether all corners of the box stay on the road. surface: shapely area, already shrunk by the margin wanted."""
    import shapely

    return bool(shapely.contains_xy(surface, *box_corners(x, y, heading, size)).all())


def box_corners(x: np.ndarray, y: np.ndarray, heading: np.ndarray, size: tuple[float, float]) -> Any:
    """Corner coordinates x and y, float64[4 n]."""
    cos, sin = np.cos(heading), np.sin(heading)
    offsets = [(a * size[0] / 2, b * size[1] / 2) for a in (1, -1) for b in (1, -1)]
    corner_x = np.concatenate([x + a * cos - b * sin for a, b in offsets])
    return corner_x, np.concatenate([y + a * sin + b * cos for a, b in offsets])


def runs_red(front_s: np.ndarray, stop_s: float, state: np.ndarray) -> bool:
    """Whether the front crosses the stop point while the light is red.

    Args: front_s: float64[T], arc length of the front bumper along the route [m].  state: int[T], `LightState`.
    """
    passed = front_s >= stop_s - CLEARANCE_M
    crossing = passed[1:] & ~(front_s[:-1] >= stop_s + CLEARANCE_M)
    return bool((crossing & ((state[1:] == LightState.STOP) | (state[:-1] == LightState.STOP))).any())
