"""Drift: how the distribution of the others' motion changes over the steps of a rollout in a World."""

import pathlib
from typing import NamedTuple

import numpy as np

from tether.data.polyline import wrap
from tether.evaluation.statistics import bootstrap_of
from tether.evaluation.world_models.figure import curves
from tether.evaluation.world_models.forecasts import wasserstein
from tether.evaluation.world_models.study import Finding, NotMeasurable, Study

WINDOW_S = 2.0  # marginals are compared over stretches this long
STRIDE = 5  # steps of 0.1 s over which motion is read: differences of noise are not motion


class Marginal(NamedTuple):
    """A quantity of one agent at one time, and its histogram.

    Attributes:
      label: with unit.   low, high, bins: of the histogram; values outside count in the outermost bins.
    """

    label: str
    low: float
    high: float
    bins: int


MARGINALS = {
    "speed": Marginal("speed [m/s]", 0.0, 25.0, 50),
    "acceleration": Marginal("acceleration [m/s^2]", -6.0, 6.0, 48),
    "turn_rate": Marginal("turn rate [rad/s]", -0.6, 0.6, 48),
    "gap": Marginal("distance to the nearest other [m]", 0.0, 40.0, 40),
}
COLUMNS = {name: marginal.label for name, marginal in MARGINALS.items()}
ABOUT = """Wasserstein-1 distance between the marginals of the imagined and of the logged moving others in the last \
{s:g} of the 8 s, in the unit of each: speed and acceleration over half a second, turn rate, distance of the centres \
of the nearest other agent or the ego. All scenes and {draws} draws are pooled; 0 is the log's own distribution. \
The figure shows it over time for the speed."""


def measure(study: Study) -> Finding:
    """Measures every subject's draws."""
    windows = round(study.steps * study.simulator.substeps * study.simulator.dt / WINDOW_S)
    log = study.logged
    if not log.moving.any():
        raise NotMeasurable(f"no agent but the ego moves in {len(study.records)} scenes of the split {study.split}")
    truth = histograms(study, log.x[:, None, :, 1:], log.y[:, None, :, 1:], log.heading[:, None, :, 1:], windows)
    rows, details = {}, {}
    for name, draws in study.imagined.items():
        imagined = histograms(study, draws.x, draws.y, draws.heading, windows)

        def distance(key: str, window: int, chosen: np.ndarray, imagined: dict = imagined) -> float:
            counts = [one[key][chosen, window].sum(0) for one in (imagined, truth)]
            return wasserstein(*counts, (MARGINALS[key].high - MARGINALS[key].low) / MARGINALS[key].bins)

        rows[name] = {
            key: bootstrap_of(lambda c, k=key, d=distance: d(k, windows - 1, c), study.groups) for key in MARGINALS
        }
        every = np.arange(len(study.records))
        details[name] = {key: [distance(key, w, every) for w in range(windows)] for key in MARGINALS}
    return Finding("Drift", ABOUT.format(s=WINDOW_S, draws=study.draws), COLUMNS, rows, {}, details)


def histograms(study: Study, x: np.ndarray, y: np.ndarray, heading: np.ndarray, windows: int) -> dict[str, np.ndarray]:
    """Counts [N, windows, bins] of each marginal. Args: [N, K, A, T], T steps after the current one."""
    log, dt = study.logged, study.simulator.dt

    def with_start(field: np.ndarray, name: str) -> np.ndarray:
        start = np.broadcast_to(getattr(log, name)[:, None, :, :1], (*field.shape[:3], 1))
        return np.concatenate([start, field], -1)[..., ::STRIDE]

    x, y, heading = with_start(x, "x"), with_start(y, "y"), with_start(heading, "heading")
    speed = np.hypot(np.diff(x), np.diff(y)) / (STRIDE * dt)
    values = {
        "speed": speed[..., 1:],
        "acceleration": np.diff(speed) / (STRIDE * dt),
        "turn_rate": (wrap(np.diff(heading)) / (STRIDE * dt))[..., 1:],
        "gap": nearest(x, y, log.valid[..., ::STRIDE])[..., 2:],
    }
    valid = log.valid[..., ::STRIDE]
    counted = log.moving[..., None] & valid[..., 2:] & valid[..., 1:-1] & valid[..., :-2]
    window = np.minimum(np.arange(counted.shape[-1]) * windows // counted.shape[-1], windows - 1)
    return {key: histogram(MARGINALS[key], one, counted, window, windows) for key, one in values.items()}


def nearest(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Distance [m] of each agent to the nearest other one that the log sees then: [N, K, A, T]."""
    distance = np.full(x.shape, np.inf, np.float32)
    for row in range(x.shape[2]):
        away = np.hypot(x - x[:, :, row : row + 1], y - y[:, :, row : row + 1])
        there = valid[:, None, row : row + 1] & (np.arange(x.shape[2]) != row)[:, None]
        distance = np.minimum(distance, np.where(there, away, np.inf))
    return distance


def histogram(
    marginal: Marginal, values: np.ndarray, counted: np.ndarray, window: np.ndarray, windows: int
) -> np.ndarray:
    """int[N, windows, bins]. Args: values [N, K, A, T]; counted bool[N, A, T]; window int[T]."""
    scaled = (values - marginal.low) / (marginal.high - marginal.low) * marginal.bins
    index = np.clip(np.nan_to_num(scaled, posinf=marginal.bins), 0, marginal.bins - 1).astype(int)
    counts = np.zeros((len(values), windows, marginal.bins), int)
    for scene, (bins, keep) in enumerate(zip(index, counted, strict=True)):
        flat = (window * marginal.bins + bins)[np.broadcast_to(keep, bins.shape)]
        counts[scene] = np.bincount(flat, minlength=windows * marginal.bins).reshape(windows, marginal.bins)
    return counts


def draw(finding: Finding, path: pathlib.Path) -> None:
    """Draws the speed's drift over time."""
    lines = {
        name: ([WINDOW_S * (window + 0.5) for window in range(len(one["speed"]))], one["speed"])
        for name, one in finding.details.items()
    }
    curves(lines, "time [s]", "Wasserstein distance of the speed [m/s]", path)
