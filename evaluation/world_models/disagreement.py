"""Whether a World knows when it is wrong: its disagreement against the true error of what it imagines."""

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
Over all scenes and steps; then the mean of the correlations at each step, which owes nothing to both growing with \
time; then of the scenes' means. Worlds that do not disagree have no row."""


def measure(study: Study) -> Finding:
    """Measures every subject that disagrees at all."""
    error, counted = errors_of(study)
    rows, details = {}, {}
    for name, draws in study.imagined.items():
        if not draws.disagreement.any():
            continue
        said = draws.disagreement.mean(1)
        pairs = (said, error[name], counted)
        rows[name] = {
            "rank": bootstrap_of(lambda chosen, pairs=pairs: everywhere(pairs, chosen), study.groups),
            "within": bootstrap_of(lambda chosen, pairs=pairs: at_equal_times(pairs, chosen), study.groups),
            "scene": bootstrap_of(lambda chosen, pairs=pairs: of_scenes(pairs, chosen), study.groups),
        }
        details[name] = binned(said[counted], error[name][counted])
    return Finding(
        title="Disagreement against error",
        about=ABOUT.format(near=NEAR_M, draws=study.draws),
        columns=COLUMNS,
        rows=rows,
        paired={},
        details=details,
    )


def errors_of(study: Study) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By subject the mean error at each step's end, float64[N, H], and where there is one, bool[N, H]."""
    log, ends = study.logged, np.arange(1, study.steps + 1) * study.simulator.substeps
    x, y = log.x[..., ends], log.y[..., ends]
    rows = np.arange(len(log.ego))
    own_x, own_y = x[rows, log.ego][:, None], y[rows, log.ego][:, None]
    near = log.other[..., None] & log.valid[..., ends] & (np.hypot(x - own_x, y - own_y) < NEAR_M)
    number = near.sum(1)
    found = {}
    for name, draws in study.imagined.items():
        away = np.hypot(draws.x[..., ends - 1] - x[:, None], draws.y[..., ends - 1] - y[:, None]).mean(1)
        found[name] = np.where(near, away, 0.0).sum(1) / np.maximum(number, 1)
    return found, number > 0


def everywhere(pairs: tuple[np.ndarray, ...], chosen: np.ndarray) -> float:
    """Over all scenes and steps."""
    said, error, counted = (part[chosen] for part in pairs)
    return spearman(said[counted], error[counted])


def at_equal_times(pairs: tuple[np.ndarray, ...], chosen: np.ndarray) -> float:
    """Mean over steps of the correlation over scenes."""
    said, error, counted = (part[chosen] for part in pairs)
    each = [spearman(said[c, h], error[c, h]) for h, c in enumerate(counted.T) if c.sum() > 2]
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def of_scenes(pairs: tuple[np.ndarray, ...], chosen: np.ndarray) -> float:
    """Of means over the steps of a scene."""
    said, error, counted = (part[chosen] for part in pairs)
    kept = counted.any(1)
    number = counted[kept].sum(1)
    means = [np.where(counted, part, 0.0)[kept].sum(1) / number for part in (said, error)]
    return spearman(*means)


def binned(said: np.ndarray, error: np.ndarray) -> dict[str, list[float]]:
    """Mean error and disagreement in groups of equal number, from little disagreement to much."""
    parts = np.array_split(np.argsort(said, kind="stable"), BINS)
    share = [(index + 0.5) / BINS for index in range(BINS)]
    kept = [(s, float(said[p].mean()), float(error[p].mean())) for s, p in zip(share, parts, strict=True) if len(p)]
    return dict(zip(("quantile", "disagreement", "error"), map(list, zip(*kept, strict=True)), strict=True))


def draw(finding: Finding, path: pathlib.Path) -> None:
    """Error by disagreement."""
    lines = {name: (one["quantile"], one["error"]) for name, one in finding.details.items()}
    curves(lines, "quantile of the disagreement", "true error [m]", path)
