"""Does it matter to the imagined world what the ego does, and does it matter in the right way?

Two measures: how much worse the future is predicted when the ego drives what it drove in another scene, and pairs of
futures in which only the ego's actions differ and the sign of the difference is known (`probes.py`).
"""

import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.scene import Array, Scene
from tether.evaluation.report import Interval
from tether.evaluation.statistics import bootstrap_of
from tether.evaluation.world_models import probes
from tether.evaluation.world_models.counterfactual import losses_under
from tether.evaluation.world_models.figure import forest
from tether.evaluation.world_models.study import FLOOR, Finding, NotMeasurable, Study, Subject
from tether.simulator.reactive import Reactive
from tether.simulator.world import Action, Params
from tether.training.scenes import chunks, take

STARTS = (10, 25, 40)  # log steps that probes begin at: the last leaves their 5 s
SHUFFLED_S = 5.0  # of the drives with foreign actions
COLUMNS = {
    "near": "shuffle ratio, others near the ego",
    "all": "shuffle ratio, all others",
    "heads": "shuffle ratio, outcome heads",
    "probes": "probes right",
    "reacts": "of those that must react",
    "stays": "of those that must not",
    "cases": "probes right, by case",
}
REFERENCE = "reactive simulator"
ABOUT = """\
Action shuffle ratio: how far the others are from the log (average displacement to 5 s) when the ego drives what it \
drove in another scenario, over the same when it drives its log; near are those that come within 15 m of it in the \
log. Others never see the current action, only what it did, so the ratio exceeds 1 only as far as they react to the \
ego. For the outcome heads it is the ratio of their losses against the grounded outcome of the true drive: they see \
the ego's motion itself, which makes this the easier one. Probes: pairs of futures of 5 s from one logged moment with \
the same noise, in which only the ego differs, with a sign that must follow by rule. Those that must react have to get \
more than 1 m less far and not into the ego; those that must not, as far to 1 m. Whoever vanishes is wrong. "Probes \
right" is the mean over the kinds; by case, the many easy ones dominate. A log that is replayed and constant velocity \
never react: they are right in every kind that must not and in none that must. 95 % intervals over recordings."""


class Answers(NamedTuple):
    """Per moment and kind, int[M, kinds].

    Attributes:
      asked: agents that are cases.   right: those that did what they must.
    """

    asked: np.ndarray
    right: np.ndarray


def measure(study: Study) -> Finding:
    """Both, of every subject; of the probes also what the reactive simulator makes of them."""
    actions = driven_actions(study)
    foreign = actions[elsewhere(study.scenarios)]
    losses = {subject.name: shuffled(study, subject, foreign) for subject in study.subjects}
    moments = find_moments(study)
    groups = study.groups[[row for row, _ in moments]]
    reference = Subject(REFERENCE, Reactive(study.simulator), ())
    answers = {subject.name: answered(study, subject, moments) for subject in (*study.subjects, reference)}
    rows = {name: ratios(losses[name], study.groups) | shares(groups, answers[name]) for name in losses}
    paired = {name: shares(groups, answers[name], answers[FLOOR]) for name in losses if name != FLOOR}
    details = {"kinds": {name: by_kind(groups, found) for name, found in answers.items()}}
    return Finding("Action sensitivity", ABOUT, COLUMNS, rows, paired, details)


def driven_actions(study: Study) -> Action:
    """What the logged ego does at first in each scene, `Action` [N, H, S]."""
    steps = round(SHUFFLED_S / study.simulator.step_s)
    parts = [
        jax.tree.map(lambda a, new=new: np.asarray(a)[:new], study.drive_log(scene, study.keys(rows)).action)
        for rows, new, scene in study.chunks()
    ]
    return jax.tree.map(lambda *chunk: np.concatenate(chunk)[:, :steps], *parts)


def elsewhere(scenarios: np.ndarray) -> np.ndarray:
    """For each scene another one's row, all different, none of the same scenario: int[N].

    Raises: NotMeasurable where one scenario holds more than half of the scenes.
    """
    order = np.argsort(scenarios, kind="stable")
    largest = int(np.unique(scenarios, return_counts=True)[1].max())
    if 2 * largest > len(scenarios):
        raise NotMeasurable(f"actions cannot be exchanged: {largest} of {len(scenarios)} scenes are of one scenario")
    rows = np.empty(len(scenarios), int)
    rows[order] = np.roll(order, largest)
    return rows


def shuffled(study: Study, subject: Subject, foreign: Action) -> dict[str, np.ndarray]:
    """`losses_under` the ego's own actions and foreign ones, by name, float[N, 2]."""

    @jax.jit
    def both(params: Params, scene: Scene, keys: jax.Array, other: Action) -> dict[str, Array]:
        batch = study.drive_log(scene, keys)
        own = batch.action[:, : other.acceleration.shape[1]]
        pair = [losses_under(a, subject.world, params, keys, batch, study.simulator) for a in (own, other)]
        return jax.tree.map(lambda *values: jnp.stack(values, -1), *pair)

    parts = []
    for rows, new, scene in study.chunks():
        sums = both(subject.params, scene, study.keys(rows), foreign[rows])
        parts.append(jax.tree.map(lambda a, new=new: np.asarray(a)[:new], sums))
    return jax.tree.map(lambda *chunk: np.concatenate(chunk), *parts)


def ratios(losses: dict[str, np.ndarray], groups: np.ndarray) -> dict[str, Interval]:
    """Foreign over own; none for a World that is always right."""

    def ratio(values: np.ndarray, rows: np.ndarray) -> float:
        own, foreign = values[rows].sum(0)
        return foreign / own

    found = {name: values for name, values in losses.items() if values[:, 0].sum() > 0}
    return {name: bootstrap_of(functools.partial(ratio, values), groups) for name, values in found.items()}


def find_moments(study: Study) -> list[tuple[int, int]]:
    """Rows of records and log steps at which anybody is a case of a probe.

    Raises: NotMeasurable where there is none.
    """
    look = jax.jit(lambda scene, start: probes.pose(scene, start, study.simulator)[1])
    found = []
    for rows, new, scene in study.chunks():
        for start in STARTS:
            cases = look(scene, jnp.full(len(rows), start, jnp.int32))
            some = np.any([np.asarray(case).any(-1) for case in cases.values()], 0)[:new]
            found += [(int(row), start) for row in rows[:new][some]]
    if not found:
        raise NotMeasurable(f"no probe has a case in {len(study.records)} scenes of the split {study.split}")
    return found


def answered(study: Study, subject: Subject, moments: list[tuple[int, int]]) -> Answers:
    """What a World's others do at each moment."""

    @jax.jit
    def ask(params: Params, scene: Scene, start: Array, keys: jax.Array) -> tuple[Array, Array]:
        case, right = probes.ask(subject.world, params, keys, scene, start, study.simulator)
        return tuple(jnp.stack([found[name].sum(-1) for name in probes.KINDS], -1) for found in (case, right))

    parts = []
    for index in chunks(len(moments), study.batch):
        rows, start = np.array(moments)[index].T
        keys = jax.vmap(jax.random.fold_in)(study.keys(rows), start)
        found = ask(subject.params, take(study.records, rows), jnp.asarray(start, jnp.int32), keys)
        parts.append([np.asarray(field)[: len(np.unique(index))] for field in found])
    return Answers(*(np.concatenate(chunk) for chunk in zip(*parts, strict=True)))


def shares(groups: np.ndarray, found: Answers, floor: Answers | None = None) -> dict[str, Interval]:
    """The shares right that stand in the table; less the floor's, if it is given."""
    asked = found.asked.sum(0) > 0
    reacts = np.array([kind.reacts for kind in probes.KINDS.values()])
    right = found.right if floor is None else found.right - floor.right

    def over_kinds(kinds: np.ndarray, rows: np.ndarray) -> float:
        count = found.asked[rows][:, kinds].sum(0)
        return float(np.mean(right[rows][:, kinds].sum(0) / count)) if count.all() else np.nan

    def over_cases(rows: np.ndarray) -> float:
        return right[rows].sum() / found.asked[rows].sum()

    chosen = {"probes": asked, "reacts": asked & reacts, "stays": asked & ~reacts}
    means = {name: functools.partial(over_kinds, kinds) for name, kinds in chosen.items() if kinds.any()}
    return {name: bootstrap_of(mean, groups) for name, mean in (means | {"cases": over_cases}).items()}


def by_kind(groups: np.ndarray, found: Answers) -> dict[str, Interval]:
    """The share right of each kind that has cases; `n` counts these."""

    def share(kind: int, rows: np.ndarray) -> float:
        count = found.asked[rows, kind].sum()
        return found.right[rows, kind].sum() / count if count else np.nan

    asked = {name: (i, int(found.asked[:, i].sum())) for i, name in enumerate(probes.KINDS)}
    return {
        name: bootstrap_of(functools.partial(share, kind), groups) | {"n": count}
        for name, (kind, count) in asked.items()
        if count
    }


def draw(finding: Finding, path: pathlib.Path) -> None:
    """The share right of each kind."""
    found = finding.details["kinds"]
    cases = {name: share["n"] for name, share in found[FLOOR].items()}
    must = {True: "must react", False: "must not"}
    labels = {name: f"{name} ({must[probes.KINDS[name].reacts]}; {count})" for name, count in cases.items()}
    forest(found, labels, "share of probes right, 95 % interval (number of cases)", path)
