"""Speeds and accelerations of tracks by central differences, on the host. T steps; NaN where a neighbour is missing.

Source: waymo-open-dataset 1.6.7, sim_agents_metrics, described; the same throughout this package.
"""

import numpy as np

from tether.data.polyline import wrap


def central_difference(values: np.ndarray) -> np.ndarray:
    """Half the difference between the steps after and before, per step: float64[..., T], NaN at both ends."""
    out = np.full(values.shape, np.nan)
    out[..., 1:-1] = (values[..., 2:] - values[..., :-2]) / 2
    return out


def linear(x: np.ndarray, y: np.ndarray, z: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """Speed [m/s] and its change [m/s^2] of places [..., T]; the speed counts the climb too."""
    velocity = [central_difference(values) / dt for values in (x, y, z)]
    speed = np.sqrt(sum(component**2 for component in velocity))
    return speed, central_difference(speed) / dt


def angular(heading: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """Angular speed [rad/s] and acceleration [rad/s^2] of headings [..., T], the shorter way round over two steps."""
    turn = wrap(2 * central_difference(heading)) / 2
    return turn / dt, central_difference(turn) / dt**2


def difference_valid(valid: np.ndarray) -> np.ndarray:
    """Where a central difference of values valid at `valid`, bool[..., T], is valid: False at both ends."""
    out = np.zeros(valid.shape, bool)
    out[..., 1:-1] = valid[..., 2:] & valid[..., :-2]
    return out
