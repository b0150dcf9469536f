"""Negative log-likelihood of the others' positions, for moving, parked and interacting agents apart."""

import pathlib

import numpy as np

from tether.evaluation.statistics import bootstrap, paired_difference
from tether.evaluation.world_models import forecasts as forecast
from tether.evaluation.world_models.figure import forest
from tether.evaluation.world_models.study import Finding, Study, against_floors

SECONDS = (1, 3, 5, 8)
SPLITS = ("moving", "parked", "interacting")
COLUMNS = {split: f"{split} [nats]" for split in SPLITS}
ABOUT = """Negative log-likelihood [nats] of the place of each other, -log of the density per m^2 that a kernel \
around each of {draws} draws gives it (Student t, two degrees of freedom, scale {kernel} m), averaged over 1, 3, 5 \
and 8 s and the scene's agents; the ego is on its log. Moving: by more than 2 m while seen; parked: all others; \
interacting: moving and within {near:.0f} m of another agent or the ego at some time. A draw exactly on the log costs \
{least:.2f}."""


def measure(study: Study) -> Finding:
    """Measures every subject's draws."""
    members = members_of(study)
    values = {name: values_of(study, name, members) for name in study.imagined}
    mean = {name: {split: one[split].mean(0) for split in SPLITS} for name, one in values.items()}
    # The log decides which scenes count, alike for every subject.
    finite = {split: np.isfinite(one) for split, one in next(iter(mean.values())).items()}
    kept = {split: scenes for split, scenes in finite.items() if scenes.any()}
    least = np.log(2 * np.pi * forecast.KERNEL_M**2)
    sizes = {"draws": study.draws, "kernel": forecast.KERNEL_M, "near": forecast.INTERACTING_M, "least": least}
    return Finding(
        title="Likelihood",
        about=ABOUT.format(**sizes),
        columns=COLUMNS,
        rows={name: {s: bootstrap(one[s][kept[s]], study.groups[kept[s]]) for s in kept} for name, one in mean.items()},
        paired={
            title: {s: paired_difference(mean[name][s][k], mean[floor][s][k], study.groups[k]) for s, k in kept.items()}
            for title, (name, floor) in against_floors(mean).items()
        },
        details={name: details_of(one, study.groups) for name, one in values.items()},
    )


def members_of(study: Study) -> dict[str, np.ndarray]:
    """Split to its agents, bool[N, A]."""
    log = study.logged
    near = [forecast.interacting(*scene) for scene in zip(log.x, log.y, log.valid, log.moving, strict=True)]
    return {"moving": log.moving, "parked": log.other & ~log.moving, "interacting": np.stack(near)}


def values_of(study: Study, name: str, members: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Split to mean over a scene's agents at each time: float64[len(SECONDS), N], NaN in scenes without any."""
    draws, log = study.imagined[name], study.logged
    by_split: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for second in SECONDS:
        step = round(second / study.simulator.dt)
        place = (draws.x[..., step - 1], draws.y[..., step - 1], log.x[..., step], log.y[..., step])
        nats = -forecast.log_density(*place)
        for split, member in members.items():
            counted = member & log.valid[..., step]
            number = counted.sum(1)
            mean = np.where(counted, nats, 0.0).sum(1) / np.maximum(number, 1)
            by_split[split].append(np.where(number > 0, mean, np.nan))
    # A scene counts at all times or at none: its agents may leave the log's sight.
    stacked = {split: np.stack(parts) for split, parts in by_split.items()}
    return {split: np.where(np.isfinite(one).all(0), one, np.nan) for split, one in stacked.items()}


def details_of(values: dict[str, np.ndarray], groups: np.ndarray) -> dict[str, dict]:
    """An interval for each split and time."""
    intervals = {}
    for split, one in values.items():
        kept = np.isfinite(one[0])
        if kept.any():
            intervals |= {f"{split}, {s} s": bootstrap(one[i][kept], groups[kept]) for i, s in enumerate(SECONDS)}
    return intervals


def draw(finding: Finding, path: pathlib.Path) -> None:
    """Draws each split and time."""
    keys = dict.fromkeys(key for one in finding.details.values() for key in one)
    forest(finding.details, {key: key for key in keys}, "negative log-likelihood [nats]", path)
