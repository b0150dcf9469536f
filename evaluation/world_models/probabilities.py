"""Measures of probabilistic forecasts: probabilities of events by some time, against what happened.

NumPy for what is counted on the host, JAX for what is computed with the rollouts. B rows, H steps, N forecasts.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from tether.data.scene import Array
from tether.training.grounding import brier

BINS = 10
LEAST_PROBABILITY = 1e-6  # a forecast of 0 must have log-odds too
LEAST_EVENTS = 5  # with fewer events, or fewer non-events, the skill has no value


def incidence(probability: Array, cont: Array) -> Array:
    """The probability that an event has ended a row by each step, when other events may end it before.

    I_t = sum over s <= t of p_s * prod over u < s of min(cont_u, 1 - p_u). The minimum keeps I within [0, 1] where the
    heads contradict each other: surviving a step is at most as likely as the event's not happening in it.

    Args: float32[..., H]; probability of the event in each step and of continuing after it, given that the row got
      there.
    Returns: float32[..., H].
    Source: the cumulative incidence function of competing risks, Kalbfleisch & Prentice, 8.2.
    """
    alive = jnp.cumprod(jnp.minimum(cont, 1 - probability), -1)
    before = jnp.concatenate([jnp.ones_like(alive[..., :1]), alive[..., :-1]], -1)
    return jnp.cumsum(probability * before, -1)


def happened_by(event: Array, termination: Array) -> Array:
    """Whether an event has happened by each step: in the first step with a termination, or before it. bool[..., H]."""
    ended = jnp.cumsum(termination, -1) - termination > 0
    return jnp.cumsum(event & ~ended, -1) > 0


class Reliability(NamedTuple):
    """Forecasts in equal-width bins of their probability; float64[bins], NaN in empty bins.

    Attributes:
      probability: mean forecast.   happened: fraction of the bin's forecasts whose event happened.
      fraction: of all forecasts that lie in the bin.
    """

    probability: np.ndarray
    happened: np.ndarray
    fraction: np.ndarray


def reliability(probability: np.ndarray, happened: np.ndarray, bins: int = BINS) -> Reliability:
    """The reliability diagram of forecasts [N]."""
    index = np.clip((probability * bins).astype(int), 0, bins - 1)
    count, summed, true = (np.bincount(index, w, bins) for w in (np.ones(len(index)), probability, happened))
    filled = np.where(count > 0, count, np.nan)
    return Reliability(summed / filled, true / filled, count / len(index))


def calibration_error(probability: np.ndarray, happened: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: |mean forecast - rate| by bin, weighted by the bins' sizes. Args: [N].

    Source: Naeini et al. 2015; Guo et al., arXiv 1706.04599, eq. 5.
    """
    index = np.clip((probability * bins).astype(int), 0, bins - 1)
    return float(np.abs(np.bincount(index, probability - happened, bins)).sum() / len(index))


def brier_skill(probability: np.ndarray, happened: np.ndarray) -> float:
    """1 - Brier score / Brier score of always forecasting the base rate. Args: [N].

    NaN with fewer than `LEAST_EVENTS` events or non-events. Source: Murphy 1973.
    """
    count = happened.sum()
    if min(count, len(happened) - count) < LEAST_EVENTS:
        return float("nan")
    score, base = brier(probability, happened)
    return float(1 - score / base)


class Scaling(NamedTuple):
    """Platt's scaling of forecasts: `factor` times their log-odds, plus `offset`."""

    factor: float
    offset: float

    def __call__(self, probability: np.ndarray) -> np.ndarray:
        """The scaled forecasts, of any shape."""
        return expit(self.factor * _log_odds(probability) + self.offset)


def fit_scaling(probability: np.ndarray, happened: np.ndarray) -> Scaling:
    """The scaling of maximum likelihood. Args: [N].

    One wrong forecast of each outcome is added, so that an event that never happened does not get infinite odds.
    Source: Platt 1999, eq. 4 and his targets.
    """
    odds, count = _log_odds(probability), happened.sum()
    target = np.where(happened, (count + 1) / (count + 2), 1 / (len(happened) - count + 2))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = theta[0] * odds + theta[1]
        wrong = expit(scaled) - target
        return np.mean(np.logaddexp(0, scaled) - target * scaled), np.array([np.mean(wrong * odds), np.mean(wrong)])

    return Scaling(*minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x)


def _log_odds(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(probability.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY))


def average_precision(probability: np.ndarray, happened: np.ndarray) -> float:
    """AUPRC as average precision: the precision at each threshold, weighted by the recall that it adds. Args: [N].

    Forecasts of one probability pass the threshold together. A random forecast reaches the base rate. NaN where
    nothing happened. Source: Davis & Goadrich 2006 (no linear interpolation between thresholds).
    """
    if not happened.any():
        return float("nan")
    thresholds, index = np.unique(-probability, return_inverse=True)
    true = np.cumsum(np.bincount(index, happened, len(thresholds)))
    flagged = np.cumsum(np.bincount(index, minlength=len(thresholds)))
    return float(np.sum(np.diff(true, prepend=0.0) * true / flagged) / true[-1])
