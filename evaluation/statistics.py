"""Intervals for reported numbers: a seeded bootstrap over recordings, paired for differences."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tether.data.scene import Record

RESAMPLES = 4000
SEED = 20261122

Interval = dict[str, float | int]


def recordings(records: Iterable[Record]) -> tuple[str, ...]:
    """The recording of each scene, `Record.group`, by which intervals resample.

    Scenes of one recording (a drive, a location, a road network) share roads and traffic even in different scenarios,
    so they are not independent.
    """
    return tuple(record.group for record in records)


def bootstrap(values: np.ndarray, groups: Sequence[str] | np.ndarray | None = None, seed: int = SEED) -> Interval:
    """Mean with a 95 % percentile interval.

    Whole groups are drawn with replacement: scenes of one recording are not independent, and drawing them one by one
    would make the interval too narrow. A single group has no interval: low and high are NaN.

    Args:
      values: float[N], one number per scene.
      groups: [N] labels, see `recordings`; None where every scene stands alone.
      seed: of the resampling; the same values always give the same interval.
    Returns: `{mean, low, high, n, groups}`: n = N scenes, and the number of groups.
    Raises: ValueError where there is no value, a value is not finite, or the labels do not match.
    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 13.3 (percentile interval).
    """
    values = np.asarray(values, np.float64)
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    if values.ndim != 1 or len(values) == 0 or len(groups) != len(values):
        raise ValueError(f"bootstrap: expected values[N] and groups[N], found {values.shape} and {groups.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"bootstrap: {int((~np.isfinite(values)).sum())} of {len(values)} values are not finite")
    _, member = np.unique(groups, return_inverse=True)
    count = np.bincount(member).astype(np.float64)
    total = np.bincount(member, weights=values)
    draws = np.random.default_rng(seed).multinomial(len(count), np.full(len(count), 1 / len(count)), RESAMPLES)
    means = (draws @ total) / (draws @ count)
    low, high = np.percentile(means, [2.5, 97.5])
    mean = float(values.mean())
    # Resampled means of equal values can differ from their mean in the last bit: keep low <= mean <= high.
    return as_interval(mean, min(float(low), mean), max(float(high), mean), member)


def as_interval(mean: float, low: float, high: float, member: np.ndarray) -> Interval:
    """An `Interval`, without ends where there is a single group. Args: member: int[N], each scene's group."""
    groups = int(member.max()) + 1
    if groups == 1:
        low = high = float("nan")
    return {"mean": mean, "low": low, "high": high, "n": len(member), "groups": groups}


def paired_difference(
    after: np.ndarray, before: np.ndarray, groups: Sequence[str] | np.ndarray | None = None, seed: int = SEED
) -> Interval:
    """`bootstrap` of after - before, scene by scene: differences between scenes cancel.

    Args: after, before: float[N], the same scenes in the same order.
    Raises: ValueError where the two differ in length.
    """
    after, before = np.asarray(after, np.float64), np.asarray(before, np.float64)
    if after.shape != before.shape:
        raise ValueError(f"paired_difference: {after.shape} and {before.shape} are not the same scenes")
    return bootstrap(after - before, groups, seed)


def is_known(interval: Interval) -> bool:
    """Whether the mean has an interval. JSON holds None in place of NaN."""
    return interval["low"] is not None and bool(np.isfinite(interval["low"]))


def excludes_zero(interval: Interval) -> bool:
    """Whether the interval lies wholly on one side of zero; never where there is none."""
    return is_known(interval) and (interval["low"] > 0 or interval["high"] < 0)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties sharing their mean rank. values: float[N]; returns float64[N]."""
    _, member, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(count) - 1
    return (last - (count - 1) / 2)[member]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation in [-1, 1]; NaN where fewer than two values or one side is constant.

    Source: Spearman 1904, as the Pearson correlation of ranks with ties averaged.
    """
    if len(first) != len(second):
        raise ValueError(f"spearman: {len(first)} and {len(second)} values")
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def rank_violation(real: np.ndarray, predicted: np.ndarray) -> float:
    """Mean maximum rank violation (MMRV), in the unit of `real`; 0 where the order is the same.

    (1/N) sum_i max_j |real_i - real_j| [(predicted_i > predicted_j) != (real_i > real_j)]: the mean over items of the
    worst-case cost of a wrong order. Swapping items that hardly differ costs little, unlike in a rank correlation.

    Args: real, predicted: float[N].
    Source: SIMPLER, arXiv 2405.05941.
    """
    real, predicted = np.asarray(real, np.float64), np.asarray(predicted, np.float64)
    if real.shape != predicted.shape or len(real) == 0:
        raise ValueError(f"rank_violation: {real.shape} and {predicted.shape} values")
    wrong = (predicted[:, None] > predicted) != (real[:, None] > real)
    return float(np.mean(np.max(np.abs(real[:, None] - real) * wrong, axis=1)))


def bootstrap_of(
    statistic: Callable[[np.ndarray], float],
    groups: Sequence[str] | np.ndarray,
    resamples: int = 1000,
    seed: int = SEED,
) -> Interval:
    """Interval of a statistic that is not a mean over scenes, such as a rank correlation.

    Args:
      statistic: function of rows of scenes, int[M], with repetition; NaN where it is not defined.
      groups: [N] labels of the scenes, drawn as in `bootstrap`.
    Returns: as `bootstrap`; `mean` is the statistic of all scenes. All values are NaN where that is NaN. Resamples
      without a value are left out.
    """
    _, member = np.unique(groups, return_inverse=True)
    rows_of = [np.flatnonzero(member == group) for group in range(member.max() + 1)]
    rng = np.random.default_rng(seed)
    value = float(statistic(np.arange(len(member))))
    drawn = [
        statistic(np.concatenate([rows_of[group] for group in rng.integers(len(rows_of), size=len(rows_of))]))
        for _ in range(resamples if np.isfinite(value) else 0)
    ]
    finite = np.array([one for one in drawn if np.isfinite(one)] or [np.nan])
    low, high = np.percentile(finite, [2.5, 97.5])
    return as_interval(value, float(low), float(high), member)
