"""A World's disagreement as a predictor of the true error of what it imagines."""

import pathlib

import numpy as np

from tether.evaluation.statistics import bootstrap_of, spearman
from tether.evaluation.world_models.figure import curves
from tether.evaluation.world_models.study import Finding, Study
from tether.worldmodel.heads import NEAR_M

COLUMNS = {"rank": "rank correlation", "within": "at equal times", "scene": "of whole scenes"}
BINS = 10
ABOUT = """Spearman's correlation of a World's disagreement about a step with the true error at its end: mean \
displacement [m] of the others that the log sees within {near:.0f} m of the ego, both averaged over {draws} draws. \
The first column is over all scenes and steps. The second is the mean of the correlations at each step: both \
quantities grow with time, and this leaves that out. The third correlates the scenes' means. Worlds that do not \
disagree have no row."""


def measure(study: Study) -> Finding:
    """Measures every subject that disagrees at all."""
    error, counted = errors_of(study)
    rows, details = {}, {}
    for name, draws in study.imagined.items():
        if not draws.disagreement.any():
            continue
        disagreement = draws.disagreement.mean(1)
        pairs = (disagreement, error[name], counted)
        rows[name] = {
            "rank": bootstrap_of(lambda chosen, pairs=pairs: everywhere(pairs, chosen), study.groups),
            "within": bootstrap_of(lambda chosen, pairs=pairs: at_equal_times(pairs, chosen), study.groups),
            "scene": bootstrap_of(lambda chosen, pairs=pairs: of_scenes(pairs, chosen), study.groups),
        }
        details[name] = binned(disagreement[counted], error[name][counted])
    return Finding(
        title="Disagreement against error",
        about=ABOUT.format(near=NEAR_M, draws=study.draws),
        columns=COLUMNS,
        rows=rows,
        paired={},
        details=details,
    )


def errors_of(study: Study) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Subject to mean error at each step's end [m], float64[N, H], and where it is defined, bool[N, H]."""
    log, ends = study.logged, np.arange(1, study.steps + 1) * study.simulator.substeps
    x, y = log.x[..., ends], log.y[..., ends]
    rows = np.arange(len(log.ego))
    own_x, own_y = x[rows, log.ego][:, None], y[rows, log.ego][:, None]
    near = log.other[..., None] & log.valid[..., ends] & (np.hypot(x - own_x, y - own_y) < NEAR_M)
    number = near.sum(1)
    errors = {}
    for name, draws in study.imagined.items():
        away = np.hypot(draws.x[..., ends - 1] - x[:, None], draws.y[..., ends - 1] - y[:, None]).mean(1)
        errors[name] = np.where(near, away, 0.0).sum(1) / np.maximum(number, 1)
    return errors, number > 0


def everywhere(pairs: tuple[np.ndarray, ...], chosen: np.ndarray) -> float:
    """Correlation over all scenes and steps together."""
    disagreement, error, counted = (part[chosen] for part in pairs)
    return spearman(disagreement[counted], error[counted])


def at_equal_times(pairs: tuple[np.ndarray, ...], chosen: np.ndarray) -> float:
    """Mean over steps of the correlation over scenes."""
    disagreement, error, counted = (part[chosen] for part in pairs)
    each = [spearman(disagreement[c, h], error[c, h]) for h, c in enumerate(counted.T) if c.sum() > 2]
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def of_scenes(pairs: tuple[np.ndarray, ...], chosen: np.ndarray) -> float:
    """Correlation of the scenes' means over their steps."""
    disagreement, error, counted = (part[chosen] for part in pairs)
    kept = counted.any(1)
    number = counted[kept].sum(1)
    means = [np.where(counted, part, 0.0)[kept].sum(1) / number for part in (disagreement, error)]
    return spearman(*means)


def binned(disagreement: np.ndarray, error: np.ndarray) -> dict[str, list[float]]:
    """Mean error and disagreement in groups of equal number, from little disagreement to much."""
    parts = np.array_split(np.argsort(disagreement, kind="stable"), BINS)
    quantile = [(index + 0.5) / BINS for index in range(BINS)]
    kept = [
        (q, float(disagreement[p].mean()), float(error[p].mean()))
        for q, p in zip(quantile, parts, strict=True)
        if len(p)
    ]
    return dict(zip(("quantile", "disagreement", "error"), map(list, zip(*kept, strict=True)), strict=True))


def draw(finding: Finding, path: pathlib.Path) -> None:
    """Draws the error by quantile of the disagreement."""
    lines = {name: (one["quantile"], one["error"]) for name, one in finding.details.items()}
    curves(lines, "quantile of the disagreement", "true error [m]", path)
