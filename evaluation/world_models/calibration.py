"""Calibration of predicted failures: heads and imagined boxes against grounded replays of several policies.

Letters: P policies, N scenes, E events, T horizons, B scenes of a chunk, H steps.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.scene import Array, Scene
from tether.data.sources import available_splits
from tether.evaluation.judges import BASELINES
from tether.evaluation.statistics import bootstrap_of
from tether.evaluation.world_models.probabilities import (
    LEAST_EVENTS,
    average_precision,
    brier_skill,
    calibration_error,
    fit_scaling,
    happened_by,
    incidence,
    reliability,
)
from tether.evaluation.world_models.study import Finding, Study, Subject
from tether.simulator.events import PREDICTED
from tether.simulator.log_replay import LogReplay
from tether.simulator.replay import replay_actions
from tether.simulator.rollout import rollout
from tether.simulator.unending import Unending
from tether.simulator.world import Outcome, World
from tether.training.drives import NamedPolicy
from tether.training.imagination import track
from tether.training.scenes import data_directory
from tether.worldmodel.batch import ModelBatch

HORIZONS_S = (0.5, 1, 2, 3, 4, 6, 8)
COLUMN_S = (1, 4, 8)  # horizons with columns of their own
EVENTS = ("failure", *PREDICTED)  # failure: any event that ends a rollout
DRAWS = 8  # rollouts of each scene
RESAMPLES = 300
HEADS, SCALED = "heads", "heads scaled"  # what of a model forecasts, beside its boxes
HELD_OUT = {"grounding": "validation"}  # where the scaling is fitted, by the evaluated split; else in grounding
EXPERT = "expert"  # the log itself: never fails, and what the models are fitted on
MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "skill": brier_skill,
    "ece": calibration_error,
    "precision": average_precision,
    "rate": lambda probability, happened: float(np.mean(happened)),
}
ABOUT = f"""Policies drive the scenes in the log-replay simulator, past their failures. Each world model repeats their
actions, {DRAWS} draws a scene. Forecast by horizon: the probability that an event has ended the rollout by then, the
mean over draws. *Heads*: the cumulative incidence of the heads' step-wise probabilities (failure: by `cont`).
*Boxes*: the fraction of draws whose imagined boxes show the event. *Heads scaled*: a factor and an offset on the
log-odds of each event (Platt). For each policy they are fitted on replays of all other policies in the grounding
split, so neither on the policy nor on the scenes that are evaluated; imagination itself uses the heads unscaled.
Truth: whether the first failure of the grounded replay was of that kind and came in time. An event after the first
failure does not count; `failure` also counts leaving the route's corridor, for which there is no head. Skill: Brier
skill against always predicting the base rate of the same rows; above 0 is better than that. ECE: expected calibration
error, 10 bins. AP: average precision (AUPRC), beside the base rate. "Worst" is the horizon, of
{", ".join(f"{s:g}" for s in HORIZONS_S)} s, at which the number is worst. Skill is left out where fewer than
{LEAST_EVENTS} rows had the event (or had not). `all` pools the policies: their base rates differ, and telling them
apart already gives skill; one policy alone has no such help. Intervals: bootstrap over recordings; that of ECE is
biased upwards, because resampling adds noise within bins. The oracle's boxes are the replay itself, which checks the
measure."""


class Forecasts(NamedTuple):
    """Predicted probabilities of events, and what happened.

    Attributes:
      probability: float32[P, N, E, T], or a dict of these by forecaster (`rssm, heads`).
      happened: bool[P, N, E, T].
      counted: bool[P, N, T], whether the log lasts that long.
    """

    probability: Any
    happened: np.ndarray
    counted: np.ndarray

    def of(self, forecaster: str, members: list[int]) -> "Forecasts":
        """The forecasts of one forecaster about some policies."""
        return Forecasts(self.probability[forecaster][members], self.happened[members], self.counted[members])

    def cell(self, name: str, event: int, horizon: int, rows: np.ndarray | slice = slice(None)) -> float:
        """One of `MEASURES` for an event and a horizon over scenes, all policies together."""
        there = self.counted[:, rows, horizon]
        return MEASURES[name](*(part[:, rows, event, horizon][there] for part in (self.probability, self.happened)))

    def worst(self, name: str, event: int, rows: np.ndarray) -> float:
        """The worst value of `cell` over the horizons that have one; NaN if none has."""
        cells = [self.cell(name, event, horizon, rows) for horizon in range(len(HORIZONS_S))]
        some = [value for value in cells if np.isfinite(value)] or [float("nan")]
        return max(some) if name == "ece" else min(some)


def measure(study: Study) -> Finding:
    """Calibration by heads and by boxes, of all policies together and of the learned policy that fails least."""
    policies = [policy for name, policy in study.policies.items() if name != EXPERT]
    other, there = HELD_OUT.get(study.split, "grounding"), available_splits(data_directory(study.config.data))
    evaluated, *fitted_on = forecasts([study, *([study.on(other)] if other in there else [])], policies)
    about = ABOUT.replace("\n", " ")
    if fitted_on:
        evaluated = evaluated._replace(probability=evaluated.probability | scaled(evaluated, *fitted_on))
    else:
        about += f" This data set has no split {other} to fit on: no heads are scaled."
    alone = {policy.name: [i] for i, policy in enumerate(policies)}
    everyone = {"all": list(range(len(policies)))}
    learned = [name for name in alone if name not in BASELINES]
    failed = {name: evaluated.happened[alone[name], :, 0, -1].mean() for name in learned}
    pools = everyone | {name: alone[name] for name in sorted(learned, key=failed.get)[:1]}
    rows = {
        f"{forecaster}, {pool}": intervals(study.groups, evaluated.of(forecaster, members))
        for forecaster in evaluated.probability
        for pool, members in pools.items()
    }
    curves = {pool: curves_of(evaluated, members) for pool, members in (everyone | alone).items()}
    details = {"horizons_s": HORIZONS_S, "events": EVENTS, "pools": list(pools), "curves": curves}
    return Finding("Calibration of costs and continuation", about, columns(), rows, {}, details)


def columns() -> dict[str, str]:
    """Column of the table to its title."""
    titles = {f"skill_{s:g}s": f"skill of failure, {s:g} s" for s in COLUMN_S}
    titles |= {f"ece_{s:g}s": f"ECE of failure, {s:g} s" for s in COLUMN_S}
    titles |= {"precision": "AP of failure, 8 s", "rate": "failed by 8 s"}
    titles |= {f"skill_{event}": f"{event}: worst skill" for event in EVENTS[1:]}
    return titles | {f"ece_{event}": f"{event}: worst ECE" for event in EVENTS[1:]}


def forecasts(studies: list[Study], policies: list[NamedPolicy]) -> list[Forecasts]:
    """`forecast` of studies that differ in their scenes alone."""
    replays = [jax.jit(replay(studies[0], policy)) for policy in policies]
    forecasters = {subject.name: jax.jit(forecaster_of(studies[0], subject)) for subject in studies[0].subjects}
    return [forecast(study, policies, replays, forecasters) for study in studies]


def forecast(
    study: Study, policies: list[NamedPolicy], replays: list[Callable], forecasters: dict[str, Callable]
) -> Forecasts:
    """Rolls out every policy in every scene (`replay`) and lets every model forecast it (`forecaster_of`)."""
    parts = [[] for _ in policies]
    for rows, new, scene in study.chunks():
        keys = study.keys(rows)
        for part, policy, run in zip(parts, policies, replays, strict=True):
            batch = run(policy.params, scene, keys)
            probability = {s.name: forecasters[s.name](s.params, batch, keys) for s in study.subjects}
            forecasts_of_batch = Forecasts(flat(probability), *truth(batch, at(study)))
            part.append(jax.tree.map(lambda a, new=new: np.asarray(a)[:new], forecasts_of_batch))
    joined = [jax.tree.map(lambda *a: np.concatenate(a), *part) for part in parts]
    return jax.tree.map(lambda *a: np.stack(a), *joined)


def scaled(evaluated: Forecasts, held_out: Forecasts) -> dict[str, np.ndarray]:
    """The heads' probabilities, scaled for each policy by a fit on the other policies' replays of held-out scenes."""
    probability = {}
    for forecaster in (name for name in evaluated.probability if name.endswith(f", {HEADS}")):
        values = np.empty_like(evaluated.probability[forecaster])
        for policy, event in np.ndindex(values.shape[0], len(EVENTS)):
            others = np.arange(len(values)) != policy
            there = held_out.counted[others]
            pairs = (part[others, :, event][there] for part in (held_out.probability[forecaster], held_out.happened))
            values[policy, :, event] = fit_scaling(*pairs)(evaluated.probability[forecaster][policy, :, event])
        probability[f"{forecaster.removesuffix(HEADS)}{SCALED}"] = values
    return probability


def flat(probability: dict[str, dict[str, Array]]) -> dict[str, Array]:
    """By forecaster: the model's name, and which part of it forecasts, such as `rssm, heads`."""
    return {
        f"{subject}, {source}": values for subject, sources in probability.items() for source, values in sources.items()
    }


def at(study: Study) -> np.ndarray:
    """The steps that end at the horizons, int[T]."""
    return np.array([round(seconds / study.simulator.step_s) - 1 for seconds in HORIZONS_S])


def replay(study: Study, policy: NamedPolicy) -> Callable[[Any, Scene, jax.Array], ModelBatch]:
    """A policy's grounded replay as a function of its params, scenes [B] and key[B]."""
    world = Unending(LogReplay(study.simulator), study.simulator)

    def drive(params: Any, scene: Scene, keys: jax.Array) -> ModelBatch:
        driven = rollout(world, (), policy.policy, params, scene, study.steps, keys, keys)
        return track(driven, scene)

    return drive


def forecaster_of(study: Study, subject: Subject) -> Callable[[Any, ModelBatch, jax.Array], dict[str, Array]]:
    """A model's forecast of a batch: `boxes` and, where it has them, `heads` to probabilities float32[B, E, T]."""
    world, steps = Unending(subject.world, study.simulator), at(study)

    def forecast(params: Any, batch: ModelBatch, keys: jax.Array) -> dict[str, Array]:
        drawn = jax.vmap(lambda k: jax.random.split(k, DRAWS), out_axes=1)(keys)
        outcome = jax.vmap(lambda key: outcome_of(world, params, key, batch))(drawn)
        probability = {"boxes": events_by(outcome)} | (
            {HEADS: heads_by(outcome.predicted)} if outcome.predicted else {}
        )
        return {source: values.mean(0)[..., steps] for source, values in probability.items()}

    return forecast


def outcome_of(world: World, params: Any, key: jax.Array, batch: ModelBatch) -> Outcome:
    """Outcome [B, H, ...] of repeating a batch's actions in a World."""
    driven = replay_actions(world, params, key, batch.scene, batch.start, batch.action)
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), driven.outcome)


def truth(batch: ModelBatch, steps: np.ndarray) -> tuple[Array, Array]:
    """What happened, bool[B, E, T], and where the log lasts that long, bool[B, T]."""
    return events_by(batch.outcome)[..., steps], batch.alive[:, steps]


def events_by(outcome: Outcome) -> Array:
    """Whether each event has ended a row by each step, by geometry: `Outcome` [..., H, S] -> bool[..., E, H]."""
    costs = [outcome.happened(name) for name in EVENTS[1:]]
    return jnp.stack([happened_by(event, outcome.termination) for event in (outcome.termination, *costs)], -2)


def heads_by(predicted: dict[str, Array]) -> Array:
    """The probability by the heads that each event has ended a row by each step: [..., H] -> float32[..., E, H]."""
    cont = predicted["cont"]
    return jnp.stack([incidence(p, cont) for p in (1 - cont, *(predicted[name] for name in EVENTS[1:]))], -2)


def intervals(groups: np.ndarray, forecasts: Forecasts) -> dict[str, dict]:
    """Column to interval of one row of the table; columns without a value are left out. groups: of the scenes, [N]."""
    partial = functools.partial
    statistics = {
        f"{name}_{s:g}s": partial(forecasts.cell, name, 0, HORIZONS_S.index(s))
        for name in ("skill", "ece")
        for s in COLUMN_S
    }
    statistics |= {name: partial(forecasts.cell, name, 0, len(HORIZONS_S) - 1) for name in ("precision", "rate")}
    for event, called in enumerate(EVENTS[1:], 1):
        statistics |= {f"{name}_{called}": partial(forecasts.worst, name, event) for name in ("skill", "ece")}
    by_column = {name: bootstrap_of(statistic, groups, RESAMPLES) for name, statistic in statistics.items()}
    return {name: interval for name, interval in by_column.items() if np.isfinite(interval["mean"])}


def curves_of(evaluated: Forecasts, members: list[int]) -> dict[str, Any]:
    """Every measure by forecaster, event and horizon, and the reliability at the longest horizon."""
    curves = {
        forecaster: {event: event_curves(evaluated.of(forecaster, members), i) for i, event in enumerate(EVENTS)}
        for forecaster in evaluated.probability
    }
    return {"rows": evaluated.counted[members].sum((0, 1)).tolist(), "by_forecaster": curves}


def event_curves(forecasts: Forecasts, event: int) -> dict[str, Any]:
    """Every measure of an event by horizon, and its reliability at the longest."""
    there = forecasts.counted[..., -1]
    diagram = reliability(*(part[..., event, -1][there] for part in (forecasts.probability, forecasts.happened)))
    measured = {name: [forecasts.cell(name, event, t) for t in range(len(HORIZONS_S))] for name in MEASURES}
    columns = {"forecast": diagram.probability, "happened": diagram.happened, "fraction": diagram.fraction}
    return measured | {"reliability": {name: part.tolist() for name, part in columns.items()}}


def draw(finding: Finding, path: pathlib.Path) -> None:
    """Skill and ECE by horizon and the reliability at the longest, for the last pool: a learned policy, if any."""
    from matplotlib.figure import Figure

    from tether.evaluation.figures import GREY, save

    details = finding.details
    pool = details["pools"][-1]
    curves = details["curves"][pool]["by_forecaster"]
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(3, len(EVENTS))
    for column, event in enumerate(EVENTS):
        for name, colour, style in looks(list(curves)):
            curve = curves[name][event]
            for axis, key in zip(axes[:2, column], ("skill", "ece"), strict=True):
                axis.plot(details["horizons_s"], curve[key], style, color=colour, label=name, lw=1.6, ms=4)
            axes[2, column].plot(
                curve["reliability"]["forecast"], curve["reliability"]["happened"], style, color=colour, ms=4
            )
        longest = details["horizons_s"][-1]
        axes[0, column].set(title=event.replace("_", " "), xlim=(0, longest + 0.3), ylim=(-0.5, 1.05))
        axes[0, column].axhline(0, color=GREY, lw=0.8)
        axes[1, column].axhline(0.05, color=GREY, lw=0.8, ls=":")
        axes[1, column].set(xlabel="horizon [s]", xlim=(0, longest + 0.3), ylim=(-0.005, 0.25))
        axes[2, column].plot([0, 1], [0, 1], color=GREY, lw=0.8)
        axes[2, column].set(xlabel=f"predicted, by {longest:g} s")
    for axis, label in zip(axes[:, 0], ("Brier skill", "expected calibration error", "happened"), strict=True):
        axis.set_ylabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(f"replays of: {pool}", fontsize=11)
    save(figure, path)


def looks(forecasters: list[str]) -> list[tuple[str, str, str]]:
    """Name, colour and line style of each forecaster: the colour by its model, the style by heads or boxes."""
    from tether.evaluation.world_models.figure import colours

    models = {forecaster: forecaster.rpartition(", ")[0] for forecaster in forecasters}
    colour_of = colours(list(dict.fromkeys(models.values())))
    styles = {HEADS: "o-", SCALED: "^:"}
    return [
        (name, colour_of[model], styles.get(name.removeprefix(f"{model}, "), "s--")) for name, model in models.items()
    ]
