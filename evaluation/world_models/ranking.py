"""Does a world model rank policies as the simulator does? Imagined against grounded return of the same policies."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tether.evaluation.judges import BASELINES
from tether.evaluation.statistics import (
    bootstrap,
    bootstrap_of,
    excludes_zero,
    paired_difference,
    rank_violation,
    spearman,
)
from tether.evaluation.world_models.returns import earn
from tether.evaluation.world_models.study import Finding, Study, against_floors
from tether.simulator.log_replay import LogReplay

WITH_INTERVALS = ("return", "score", "failure")  # quantities of the figure's details
COLUMNS = {
    "spearman": "Spearman",
    "spearman_learned": "Spearman, learned policies",
    "spearman_better": "Spearman, better half",
    "pairs": "separable pairs in order",
    "mmrv": "MMRV",
    "bias": "bias",
    "absolute_bias": "mean abs. bias",
    "failure_spearman": "failures: Spearman",
    "failure_mmrv": "failures: MMRV",
    "failure_bias": "failures: bias",
    "failure_absolute_bias": "failures: mean abs. bias",
    "heads_spearman": "heads: Spearman",
    "heads_bias": "heads: bias",
}
ABOUT = (
    "{count} policies ({learned} of them learned, the others baselines) drive {scenes} scenes from the current step "
    "to the log's end, once in the log-replay simulator (grounded) and once in each world model (imagined), with the "
    "same keys. A policy's return is the mean over scenes of the undiscounted sum of the reward, which geometry gives "
    "for replayed and imagined boxes alike; failures are at-fault collisions, leaving the road, running a red light or "
    "leaving the route. Spearman: rank correlation over policies of the two returns; the better half, by grounded "
    "return, is the harder case: weak policies fail by their own steering, which no model has to predict. Separable "
    "pairs: of the {pairs} pairs of policies whose grounded returns differ by an interval without zero, the fraction "
    "that imagination orders alike. MMRV: mean over policies of the grounded return by which imagination misplaces the "
    "policy at worst. Bias: imagined - grounded, the mean over policies; above 0 imagination is too optimistic. Heads: "
    "the return that the learned heads predict, the reward weighted by the probability of reaching its step. 95 % "
    "intervals: bootstrap over recordings of the whole statistic; the policies stay the same. Differences are taken "
    "resample by resample."
)


def measure(study: Study) -> Finding:
    """Rolls out every policy in the simulator and in every subject, and compares their returns.

    Raises: ValueError with fewer than two policies.
    """
    names = list(study.policies)
    if len(names) < 2:
        raise ValueError(f"ranking: expected at least 2 policies, found {names}")
    learned = np.array([name not in BASELINES for name in names])
    grounded = earn(study, "grounded", LogReplay(study.simulator), ())
    imagined = {one.name: earn(study, one.name, one.world, one.params) for one in study.subjects}
    pairs = separable_pairs(grounded["return"], study.groups)
    measured = {name: statistics(grounded, one, learned, pairs) for name, one in imagined.items()}
    facts = {"count": len(names), "learned": learned.sum(), "scenes": len(study.records), "pairs": len(pairs[0])}
    return Finding(
        title="Ranking of policies",
        about=ABOUT.format(**facts),
        columns=COLUMNS,
        rows={name: intervals(one, study.groups) for name, one in measured.items()},
        paired={
            title: intervals(differences(measured[name], measured[floor]), study.groups)
            for title, (name, floor) in against_floors(measured).items()
        },
        details={
            "policies": names,
            "learned": learned.tolist(),
            "grounded": by_policy(grounded, study.groups),
            "imagined": {name: by_policy(one, study.groups) for name, one in imagined.items()},
            "scenes": {name: by_scene(grounded["return"], one["return"]) for name, one in imagined.items()},
            "misplaced": {name: misplaced(one["return"], pairs, names) for name, one in imagined.items()},
        },
    )


def separable_pairs(returns: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The better and the worse policy of every pair whose returns differ by an interval that excludes zero.

    Args: returns: float[P, N].   groups: see `bootstrap`.   Returns: two arrays of policies int[n].
    """
    pairs = [
        (a, b) if returns[a].mean() > returns[b].mean() else (b, a)
        for a, b in zip(*np.triu_indices(len(returns), 1), strict=True)
        if excludes_zero(paired_difference(returns[a], returns[b], groups))
    ]
    better, worse = np.array(pairs, int).reshape(-1, 2).T
    return better, worse


def statistics(
    grounded: dict[str, np.ndarray],
    imagined: dict[str, np.ndarray],
    learned: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
) -> dict[str, Callable[[np.ndarray], float]]:
    """Column to statistic of a subject, as a function of rows of scenes.

    Args: grounded, imagined: as `earn` returns them.   learned: bool[P].   pairs: see `separable_pairs`.
    """

    def of(measured: Callable, quantity: str = "return", predicted: str | None = None, chosen: Any = slice(None)):
        grounded_values, imagined_values = grounded[quantity][chosen], imagined[predicted or quantity][chosen]
        return lambda rows: measured(grounded_values[:, rows].mean(1), imagined_values[:, rows].mean(1))

    columns = {"pairs": of(functools.partial(in_order, pairs))}
    returns = grounded["return"].mean(1)
    for name, chosen in {"learned": learned, "better": returns >= np.median(returns)}.items():
        if chosen.sum() > 2:  # two can only be in order or not: `pairs` measures that
            columns[f"spearman_{name}"] = of(spearman, chosen=chosen)
    plain = {"spearman": spearman, "mmrv": rank_violation, "bias": bias, "absolute_bias": absolute_bias}
    for name, measured in plain.items():
        columns[name] = of(measured)
        columns[f"failure_{name}"] = of(measured, "failure")
    if "predicted_return" in imagined:
        for name in ("spearman", "bias"):
            columns[f"heads_{name}"] = of(plain[name], predicted="predicted_return")
    return columns


def in_order(pairs: tuple[np.ndarray, np.ndarray], grounded: np.ndarray, imagined: np.ndarray) -> float:
    """Fraction of the pairs (better, worse) that imagination orders alike; NaN without pairs."""
    better, worse = pairs
    return float(np.mean(imagined[better] > imagined[worse])) if len(better) else float("nan")


def bias(grounded: np.ndarray, imagined: np.ndarray) -> float:
    """Mean of imagined - grounded over policies. Args: float[P]."""
    return float(np.mean(imagined - grounded))


def absolute_bias(grounded: np.ndarray, imagined: np.ndarray) -> float:
    """Mean over policies of |imagined - grounded|. Args: float[P]."""
    return float(np.mean(np.abs(imagined - grounded)))


def differences(
    subject: dict[str, Callable[[np.ndarray], float]], floor: dict[str, Callable[[np.ndarray], float]]
) -> dict[str, Callable[[np.ndarray], float]]:
    """The statistics that both have, the floor's subtracted."""
    return {name: lambda rows, name=name: subject[name](rows) - floor[name](rows) for name in subject if name in floor}


def intervals(statistics: dict[str, Callable[[np.ndarray], float]], groups: np.ndarray) -> dict[str, dict]:
    """Each statistic with its interval; those that are not defined are left out."""
    by_column = {name: bootstrap_of(statistic, groups) for name, statistic in statistics.items()}
    return {name: interval for name, interval in by_column.items() if np.isfinite(interval["mean"])}


def by_policy(quantities: dict[str, np.ndarray], groups: np.ndarray) -> dict[str, list]:
    """Intervals of each policy's `SHOWN`, means of the rest."""
    return {
        name: [bootstrap(one, groups) for one in values] if name in WITH_INTERVALS else values.mean(1).tolist()
        for name, values in quantities.items()
    }


def by_scene(grounded: np.ndarray, imagined: np.ndarray) -> dict[str, float]:
    """Spearman over all pairs of a policy and a scene, and the same after subtracting each scene's mean.

    Args: returns, float[P, N].
    """
    centred = [np.ravel(returns - returns.mean(0)) for returns in (grounded, imagined)]
    return {"spearman": spearman(grounded.ravel(), imagined.ravel()), "spearman_within": spearman(*centred)}


def misplaced(imagined: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], names: list[str]) -> list[list[str]]:
    """The separable pairs (better, worse) that imagination orders the other way round. imagined: float[P, N]."""
    mean = imagined.mean(1)
    return [[names[a], names[b]] for a, b in zip(*pairs, strict=True) if mean[a] <= mean[b]]


def draw(finding: Finding, path: pathlib.Path) -> None:
    """A panel for each subject: imagined against grounded return by policy, with intervals and the diagonal."""
    from matplotlib.figure import Figure

    from tether.evaluation.figures import policy_name, save

    details, names = finding.details, [policy_name(name) for name in finding.details["policies"]]
    subjects = details["imagined"]
    figure = Figure(figsize=(3.4 * len(subjects) + 2.6, 3.9), layout="constrained")
    axes = figure.subplots(1, len(subjects), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (subject, returns) in zip(axes, subjects.items(), strict=True):
        scatter(axis, details["grounded"]["return"], returns["return"], details["learned"])
        rank = finding.rows[subject].get("spearman")  # none where all returns are the same
        axis.set_title(f"{subject}: Spearman {rank['mean']:.2f}" if rank else subject, fontsize=10, loc="left")
        axis.set_xlabel("grounded return")
    axes[0].set_ylabel("imagined return")
    axes[-1].text(1.05, 1, listing(names), transform=axes[-1].transAxes, va="top", fontsize=8)
    save(figure, path)


def scatter(axis: Any, grounded: list[dict], imagined: list[dict], learned: list[bool]) -> None:
    """Numbered policies, learned ones in blue. Args: intervals by policy."""
    from tether.evaluation.figures import GREY
    from tether.evaluation.topview import BLUE

    for number, (x, y, own) in enumerate(zip(grounded, imagined, learned, strict=True), 1):
        colour = BLUE if own else GREY
        axis.plot([x["low"], x["high"]], [y["mean"]] * 2, color=colour, lw=0.8, alpha=0.6)
        axis.plot([x["mean"]] * 2, [y["low"], y["high"]], color=colour, lw=0.8, alpha=0.6)
        axis.plot(x["mean"], y["mean"], "o" if own else "s", color=colour, ms=4)
        axis.annotate(str(number), (x["mean"], y["mean"]), (3, 3), textcoords="offset points", fontsize=7)
    axis.axline((0, 0), slope=1, color="#999999", lw=0.8, ls="--", zorder=0)
    axis.spines[["top", "right"]].set_visible(False)


def listing(names: list[str]) -> str:
    """The legend: each policy's number and name."""
    return "\n".join(f"{number}  {name}" for number, name in enumerate(names, 1))
