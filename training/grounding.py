"""Imagined against grounded: the gap of the same policy from the same starts, and the rule that decides about a round.

Letters: H steps, R rows (scenes of the grounding split).
"""

import dataclasses

import jax
import numpy as np

from tether.simulator.events import EVENTS
from tether.training.config import Config
from tether.training.drives import Steps
from tether.training.returns import counted
from tether.training.state import Progress


@dataclasses.dataclass(frozen=True)
class Grounded:
    """What a policy did in the simulator on the grounding scenes.

    Attributes:
      returns: float[R], undiscounted own reward (`simulator.reward.own_reward`) of the whole rollout.
      failures: bool[R].
    """

    returns: np.ndarray
    failures: np.ndarray


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of a round.

    Attributes:
      accept: keep the policy; otherwise the last accepted one comes back.
      reason: in words, with the numbers that decided.
      horizon: steps to imagine from now on.
      penalty: weight of the disagreement from now on.
    """

    accept: bool
    reason: str
    horizon: int
    penalty: float


def window(imagined: Steps, trust: float, horizon: int) -> np.ndarray:
    """bool[H, R], the steps that are compared: those that imagination would have believed, ended rollouts included."""
    believed = np.cumsum(np.asarray(imagined.disagreement) > trust, axis=0) == 0
    return believed & (np.arange(len(believed))[:, None] < horizon)


def gap(imagined: Steps, driven: Steps, trust: float, horizon: int) -> dict[str, float]:
    """How imagination differs from the simulator, paired by row and over the same steps.

    Args:
      imagined: [H, R].   driven: [H' >= H, R].
    Returns: `imagined_return`, `grounded_return` and their mean difference `bias` (positive: imagination is too
      optimistic), the mean absolute difference `gap`, their `correlation`; for each event
      `imagined_<event>`, `grounded_<event>` rates and `gap_<event>`; for each cost head its Brier score
      `brier_<event>` against what happened in the simulator, and `brier_base_<event>`, that of always predicting the
      rate.
    """
    steps = window(imagined, trust, horizon)
    believed = counted(imagined.alive, imagined.truncation, imagined.disagreement, horizon, trust)
    believed = steps & np.asarray(believed)
    real = jax.tree.map(lambda field: np.asarray(field)[: len(steps)], driven)
    lived = steps & real.alive
    imagined_return = np.sum(np.asarray(imagined.reward) * believed, axis=0)
    real_return = np.sum(real.reward * lived, axis=0)
    difference = imagined_return - real_return
    out = {
        "imagined_return": imagined_return.mean(),
        "grounded_return": real_return.mean(),
        "bias": difference.mean(),
        "gap": np.abs(difference).mean(),
        "correlation": correlation(imagined_return, real_return),
        "compared_steps": steps.sum(0).mean(),
    }
    for event in (event.name for event in EVENTS):
        occurred = np.any(np.asarray(imagined.events[event]) & believed, axis=0)
        happened = np.any(real.events[event] & lived, axis=0)
        out[f"imagined_{event}"], out[f"grounded_{event}"] = occurred.mean(), happened.mean()
        out[f"gap_{event}"] = occurred.mean() - happened.mean()
        if event in imagined.predicted:
            out |= head_scores(event, np.asarray(imagined.predicted[event]), believed, happened)
    return {name: float(value) for name, value in out.items()}


def head_scores(event: str, probability: np.ndarray, counted: np.ndarray, happened: np.ndarray) -> dict[str, float]:
    """`brier` of a cost head over a rollout: its chance of at least one event against whether it happened.

    Args: probability, counted: [H, R]; happened: bool[R].
    """
    score, base = brier(1 - np.prod(np.where(counted, 1 - probability, 1.0), axis=0), happened)
    return {f"brier_{event}": score, f"brier_base_{event}": base}


def brier(probability: np.ndarray, happened: np.ndarray) -> tuple[float, float]:
    """Brier score of forecasts [N], and that of always predicting the rate at which it happened.

    Source: Brier 1950; the second is the uncertainty of Murphy's decomposition, 1973.
    """
    rate = happened.mean()
    return np.mean(np.square(probability - happened)), rate * (1 - rate)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; 0 where either is constant."""
    spread = a.std() * b.std()
    return float(np.mean((a - a.mean()) * (b - b.mean())) / spread) if spread > 0 else 0.0


def decide(config: Config, progress: Progress, now: Grounded, bias: float) -> Decision:
    """Accepts a round, or rolls back and says what changes.

    A round is accepted if, on the same scenes with the same keys, the own return did not fall by more than
    `tolerance` and the failure rate did not rise by more than `failure_tolerance` against the last accepted policy;
    without `roll_back`, always. A roll-back raises the penalty on disagreement; if imagination was off by more than
    `bias_tolerance` and the horizon is dynamic, it also shortens that by a third: the model is not to be believed that
    far.
    """
    keep = {"horizon": progress.horizon, "penalty": progress.penalty}
    change = float(np.mean(now.returns - np.asarray(progress.grounded_return)))
    rise = float(now.failures.mean() - progress.failures)
    facts = f"own return {change:+.3f}, failure rate {rise:+.3f}, bias {bias:+.3f}"
    if not config.grounding.roll_back:
        return Decision(True, f"accepted unasked: {facts}", **keep)
    if change >= -config.grounding.tolerance and rise <= config.grounding.failure_tolerance:
        return Decision(True, f"accepted: {facts}", **keep)
    penalty = progress.penalty * config.grounding.penalty_growth
    if abs(bias) <= config.grounding.bias_tolerance or not config.rounds.dynamic_horizon:
        return Decision(False, f"rolled back, penalty raised to {penalty:g}: {facts}", progress.horizon, penalty)
    horizon = max(config.grounding.horizon_min, progress.horizon * 2 // 3)
    reason = f"rolled back, horizon cut to {horizon}, penalty raised to {penalty:g}: {facts}"
    return Decision(False, reason, horizon, penalty)
