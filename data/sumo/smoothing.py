"""Savitzky-Golay smoothing whose result depends on no library and no processor.

SciPy's fits the ends by least squares in BLAS, whose kernels round differently from processor to processor: then the
same seed gives other bytes. Here additions and multiplications run in a fixed order.
"""

import numpy as np

WINDOW = 9


def smoothed(track: np.ndarray, spacing: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Fits a parabola through each nine neighbours, by least squares; at the ends, that of the nine outermost.

    With t = -4 ... 4 the polynomials 1, t and t^2 - 20/3 are orthogonal, their squares sum up to 9, 60 and 308.

    Args: track: float64[..., n] with n >= 9, a value every `spacing`.
    Returns: the parabola's value and its derivative, float64[..., n].
    Source: Savitzky & Golay 1964.
    """
    count, half = track.shape[-1] - WINDOW + 1, WINDOW // 2
    places = np.arange(-half, half + 1.0)
    neighbours = [track[..., first : first + count] for first in range(WINDOW)]
    mean = sum(neighbours) / 9
    slope = sum(t * values for t, values in zip(places, neighbours, strict=True)) / 60
    bend = sum((t * t - 20 / 3) * values for t, values in zip(places, neighbours, strict=True)) / 308
    fitted = np.clip(np.arange(track.shape[-1]) - half, 0, count - 1)
    t = np.arange(track.shape[-1]) - half - fitted
    mean, slope, bend = (values[..., fitted] for values in (mean, slope, bend))
    return mean + slope * t + bend * (t * t - 20 / 3), (slope + 2 * bend * t) / spacing
