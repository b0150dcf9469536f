"""Displacement of the imagined others from the log: ADE and minADE."""

import pathlib

import numpy as np

from tether.evaluation.statistics import bootstrap, paired_difference
from tether.evaluation.world_models.draws import displacement_errors, distance_from_log
from tether.evaluation.world_models.figure import curves
from tether.evaluation.world_models.study import Finding, NotMeasurable, Study, against_floors

SECONDS = (1, 3, 5, 8)
COLUMNS = {
    **{f"{kind}_{s}s": f"{label} {s} s" for kind, label in (("ade", "ADE"), ("minade", "minADE")) for s in SECONDS},
    "unseen": "out of sight",
}
ABOUT = """Distance [m] of the others that move from where the log has them, averaged over agents and log steps up \
to a time, while the log sees them; the ego is on its log. ADE is the mean over {draws} draws, minADE the best draw \
of the scene as a whole. Means over the scenes in which others move. An agent that is out of sight in a draw keeps the \
velocity at which it was last seen. The last column is the fraction of the steps to 8 s, of those at which the log \
sees the agent, at which the draw does not."""


def measure(study: Study) -> Finding:
    """Measures every subject's draws."""
    errors = {name: errors_of(study, name) for name in study.imagined}
    # The log decides which scenes count, alike for every subject. A time at which nobody is seen has no column.
    some = next(iter(errors.values()))
    kept = {key: np.isfinite(values) for key, values in some.items() if np.isfinite(values).any()}
    if not kept:
        raise NotMeasurable(f"no agent but the ego moves in {len(study.records)} scenes of the split {study.split}")

    return Finding(
        title="Displacement",
        about=ABOUT.format(draws=study.draws),
        columns=COLUMNS,
        rows={
            name: {key: bootstrap(one[key][some], study.groups[some]) for key, some in kept.items()}
            for name, one in errors.items()
        },
        paired={
            title: {
                key: paired_difference(errors[name][key][some], errors[floor][key][some], study.groups[some])
                for key, some in kept.items()
            }
            for title, (name, floor) in against_floors(errors).items()
        },
        details={name: curve_of(study, name) for name in errors},
    )


def errors_of(study: Study, name: str) -> dict[str, np.ndarray]:
    """Column to float64[N], NaN for scenes in which nothing counts."""
    draws, counted = study.imagined[name], study.logged.counted
    unseen = np.where(counted, 1 - draws.seen.mean(1), 0).sum((1, 2))
    with np.errstate(invalid="ignore"):
        fraction = unseen / counted.sum((1, 2))
    return displacement_errors(draws, study.logged, study.simulator.dt, SECONDS) | {"unseen": fraction}


def curve_of(study: Study, name: str) -> dict[str, list[float]]:
    """Mean displacement at each time, over all agents that count then."""
    mean, counted = distance_from_log(study.imagined[name], study.logged).mean(1), study.logged.counted
    number = counted.sum((0, 1))
    error = np.where(counted, mean, 0.0).sum((0, 1)) / np.maximum(number, 1)
    seconds = study.simulator.dt * np.arange(1, len(number) + 1)
    return {"seconds": seconds.round(2).tolist(), "metres": error.round(4).tolist()}


def draw(finding: Finding, path: pathlib.Path) -> None:
    """Draws the displacement over time."""
    lines = {name: (one["seconds"], one["metres"]) for name, one in finding.details.items()}
    curves(lines, "time [s]", "displacement of the moving others [m]", path)
