"""Likelihood of the log under simulated rollouts: histograms per agent. K rollouts, E evaluated agents, T steps."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Equal bins over a closed range; values outside count in the outermost bins.

    Attributes:
      low, high: ends of the range, in the feature's unit.
      bins: number of bins.
      pseudocount: added to each bin, so that nothing is impossible.
    """

    low: float
    high: float
    bins: int
    pseudocount: float = 0.1

    def bin_of(self, values: np.ndarray) -> np.ndarray:
        """Bin of each value, int of the same shape. A value on an edge is in the upper bin, NaN in the last one."""
        edges = np.linspace(self.low, self.high, self.bins + 1)
        return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, self.bins - 1)


YES_OR_NO = Histogram(-0.5, 1.5, 2, 0.001)


def log_likelihood(histogram: Histogram, logged: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    """Log-probability of each logged value in the histogram of all of its agent's simulated values.

    Args: logged: [E, T]; simulated: [K, E, T], the steps pooled.
    Returns: float64[E, T].
    """
    agents = logged.shape[0]
    rows = np.arange(agents)[:, None] * histogram.bins
    index = histogram.bin_of(simulated) + rows
    counts = np.bincount(index.ravel(), minlength=agents * histogram.bins).reshape(agents, -1) + histogram.pseudocount
    log_probability = np.log(counts / counts.sum(1, keepdims=True))
    return np.take_along_axis(log_probability, histogram.bin_of(logged), axis=1)


def likelihood(histogram: Histogram, logged: np.ndarray, simulated: np.ndarray, valid: np.ndarray) -> float:
    """exp of the mean log-likelihood over `valid`, bool[E, T]; NaN where nothing is valid."""
    values = log_likelihood(histogram, logged, simulated)[valid]
    return float(np.exp(values.mean())) if values.size else float("nan")


def indication_likelihood(logged: np.ndarray, simulated: np.ndarray, valid: np.ndarray) -> float:
    """`likelihood` of whether something ever happens to an agent while the log sees it.

    Args: bool; logged [E, T], simulated [K, E, T], valid [E, T]. Every agent counts, also one that is never valid.
    """
    ever_logged, ever_simulated = ((happens & valid).any(-1, keepdims=True) for happens in (logged, simulated))
    return likelihood(YES_OR_NO, ever_logged, ever_simulated, np.ones_like(ever_logged))
