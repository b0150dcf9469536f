"""Action sensitivity: whether a World's others react to the ego's actions, and rightly.

There are two measures. The first is how much worse the future is predicted when the ego repeats its actions of another
scene. The second uses pairs of futures that differ in the ego's actions alone, with an effect of known sign
(`probes.py`).
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
from tether.evaluation.world_models.study import Finding, NotMeasurable, Study, Subject, against_floors
from tether.simulator.reactive import Reactive
from tether.simulator.world import Action, Params
from tether.training.scenes import chunks, take

STARTS = (10, 25, 40)  # log steps at which probes begin; after the last one 5 s of log are left
SHUFFLED_S = 5.0  # of the rollouts with foreign actions
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
Action shuffle ratio: the others' average displacement from the log to 5 s when the ego repeats its actions of another \
scenario, divided by the same when it drives its log; near are those that come within 15 m of it in the log. The \
others never see the current action, only its effect, so the ratio exceeds 1 only as far as they react to the ego. For \
the outcome heads it is the ratio of their losses against the grounded outcome of the true rollout. The heads see the \
ego's motion itself, which makes this ratio the easier one. Probes: pairs of futures of 5 s from one logged moment \
with the same noise, in which only the ego differs and the sign of the effect is known by rule. Agents that must react \
have to get more than 1 m less far and not into the ego; agents that must not react have to get as far, within 1 m. An \
agent that vanishes counts as wrong. "Probes right" is the mean over the kinds; by case, the many easy ones dominate. \
Log replay and constant velocity never react: they are right in every kind that must not and in none that must. 95 % \
intervals over recordings."""


class Answers(NamedTuple):
    """Counts of agents per moment and kind of probe, int[M, kinds].

    Attributes:
      asked: agents that are cases.   right: cases that did what they must.
    """

    asked: np.ndarray
    right: np.ndarray


def measure(study: Study) -> Finding:
    """Measures both for every subject; the reactive simulator answers the probes as a reference."""
    actions = driven_actions(study)
    foreign = actions[elsewhere(study.scenarios)]
    losses = {subject.name: shuffled(study, subject, foreign) for subject in study.subjects}
    moments = find_moments(study)
    groups = study.groups[[row for row, _ in moments]]
    reference = Subject(REFERENCE, Reactive(study.simulator), ())
    answers = {subject.name: answered(study, subject, moments) for subject in (*study.subjects, reference)}
    rows = {name: ratios(losses[name], study.groups) | fractions_right(groups, answers[name]) for name in losses}
    paired = {
        title: fractions_right(groups, answers[name], answers[floor])
        for title, (name, floor) in against_floors(losses).items()
    }
    details = {"kinds": {name: by_kind(groups, one) for name, one in answers.items()}}
    return Finding("Action sensitivity", ABOUT, COLUMNS, rows, paired, details)


def driven_actions(study: Study) -> Action:
    """The logged ego's actions in the first `SHUFFLED_S` of each scene, `Action` [N, H, S]."""
    steps = round(SHUFFLED_S / study.simulator.step_s)
    parts = [
        jax.tree.map(lambda a, new=new: np.asarray(a)[:new], study.drive_log(scene, study.keys(rows)).action)
        for rows, new, scene in study.chunks()
    ]
    return jax.tree.map(lambda *chunk: np.concatenate(chunk)[:, :steps], *parts)


def elsewhere(scenarios: np.ndarray) -> np.ndarray:
    """For each scene the row of one of another scenario, each row once: int[N].

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
    """Name to `losses_under` the ego's own and foreign actions, float[N, 2]."""

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
    """Name to loss under foreign actions over loss under own ones; left out where the own loss is 0."""

    def ratio(values: np.ndarray, rows: np.ndarray) -> float:
        own, foreign = values[rows].sum(0)
        return foreign / own

    fallible = {name: values for name, values in losses.items() if values[:, 0].sum() > 0}
    return {name: bootstrap_of(functools.partial(ratio, values), groups) for name, values in fallible.items()}


def find_moments(study: Study) -> list[tuple[int, int]]:
    """Rows of records and log steps at which any agent is a case of a probe.

    Raises: NotMeasurable where there is none.
    """
    look = jax.jit(lambda scene, start: probes.pose(scene, start, study.simulator)[1])
    moments = []
    for rows, new, scene in study.chunks():
        for start in STARTS:
            cases = look(scene, jnp.full(len(rows), start, jnp.int32))
            some = np.any([np.asarray(case).any(-1) for case in cases.values()], 0)[:new]
            moments += [(int(row), start) for row in rows[:new][some]]
    if not moments:
        raise NotMeasurable(f"no probe has a case in {len(study.records)} scenes of the split {study.split}")
    return moments


def answered(study: Study, subject: Subject, moments: list[tuple[int, int]]) -> Answers:
    """Rolls out the probes of each moment in a World and counts the right answers."""

    @jax.jit
    def ask(params: Params, scene: Scene, start: Array, keys: jax.Array) -> tuple[Array, Array]:
        case, right = probes.ask(subject.world, params, keys, scene, start, study.simulator)
        return tuple(jnp.stack([part[name].sum(-1) for name in probes.KINDS], -1) for part in (case, right))

    parts = []
    for index in chunks(len(moments), study.batch):
        rows, start = np.array(moments)[index].T
        keys = jax.vmap(jax.random.fold_in)(study.keys(rows), start)
        asked = ask(subject.params, take(study.records, rows), jnp.asarray(start, jnp.int32), keys)
        parts.append([np.asarray(field)[: len(np.unique(index))] for field in asked])
    return Answers(*(np.concatenate(chunk) for chunk in zip(*parts, strict=True)))


def fractions_right(groups: np.ndarray, answers: Answers, floor: Answers | None = None) -> dict[str, Interval]:
    """The table's columns of fractions right; less the floor's, if it is given."""
    asked = answers.asked.sum(0) > 0
    reacts = np.array([kind.reacts for kind in probes.KINDS.values()])
    right = answers.right if floor is None else answers.right - floor.right

    def over_kinds(kinds: np.ndarray, rows: np.ndarray) -> float:
        count = answers.asked[rows][:, kinds].sum(0)
        return float(np.mean(right[rows][:, kinds].sum(0) / count)) if count.all() else np.nan

    def over_cases(rows: np.ndarray) -> float:
        return right[rows].sum() / answers.asked[rows].sum()

    chosen = {"probes": asked, "reacts": asked & reacts, "stays": asked & ~reacts}
    means = {name: functools.partial(over_kinds, kinds) for name, kinds in chosen.items() if kinds.any()}
    return {name: bootstrap_of(mean, groups) for name, mean in (means | {"cases": over_cases}).items()}


def by_kind(groups: np.ndarray, answers: Answers) -> dict[str, Interval]:
    """Kind to interval of its fraction right, for kinds with cases; `n` is the number of cases."""

    def fraction(kind: int, rows: np.ndarray) -> float:
        count = answers.asked[rows, kind].sum()
        return answers.right[rows, kind].sum() / count if count else np.nan

    asked = {name: (i, int(answers.asked[:, i].sum())) for i, name in enumerate(probes.KINDS)}
    return {
        name: bootstrap_of(functools.partial(fraction, kind), groups) | {"n": count}
        for name, (kind, count) in asked.items()
        if count
    }


def draw(finding: Finding, path: pathlib.Path) -> None:
    """Draws the fraction right of each kind."""
    kinds = finding.details["kinds"]
    cases = {name: interval["n"] for name, interval in kinds[REFERENCE].items()}
    must = {True: "must react", False: "must not"}
    labels = {name: f"{name} ({must[probes.KINDS[name].reacts]}; {count})" for name, count in cases.items()}
    forest(kinds, labels, "fraction of probes right, 95 % interval (number of cases)", path)
