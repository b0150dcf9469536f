"""The stage `coach`: what each part does to a run's state."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest

from tether.policy.coach import CoachConfig
from tether.training import grounding, loop, mesh, models, presets, stages
from tether.training.coaching import CoachingConfig
from tether.training.grounding import Decision
from tether.training.scenes import open_splits
from tether.training.state import Progress, RunState

CONFIG = dataclasses.replace(
    presets.tiny(),
    world_model="kinematic",
    coach=CoachConfig(width=8, agent_width=4, agents=2),
    coaching=CoachingConfig(rounds=1, imitation_steps=2, batches=2, rows=4, minibatch=16),
)
UNITS = {unit.name: unit for unit in stages.coach.STAGE.units(CONFIG)}


class Silent(loop.Run):
    """Writes no log and no checkpoint."""

    def record(self, state, unit, metrics):
        pass

    def save(self, state):
        return state


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    splits = open_splits(CONFIG.data, CONFIG.spec, CONFIG.simulator)
    folder, built = tmp_path_factory.mktemp("run"), models.build(CONFIG)
    return Silent(CONFIG, folder, splits, built, None, None, loop.Stop(), mesh.ALONE, time.monotonic())


@pytest.fixture(scope="module")
def imitated(run):
    state = RunState(models.begin(CONFIG, run.models, run.splits.train), Progress())
    for name in ("0/imitate_coach", "0/trust_coach", "0/ground_coach"):
        state = done(run, state, name)
    return state


@pytest.fixture(scope="module")
def practised(run, imitated):
    return done(run, imitated, "1/practise_coach")


def done(run, state, name):
    return stages.part(UNITS[name])(run, dataclasses.replace(state).note(step=0, iterator=None), UNITS[name])[0]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_there_are_no_units_without_rounds():
    assert stages.coach.STAGE.units(presets.tiny()) == []
    assert [*UNITS] == [
        *("0/imitate_coach", "0/trust_coach", "0/ground_coach"),
        *("1/refit_coach", "1/practise_coach", "1/ground_coach"),
    ]


def test_imitation_is_what_the_first_round_is_compared_with(run, imitated):
    standing, learned = imitated.progress.coach, imitated.learned
    assert same(learned.coach, learned.coach_accepted) and same(learned.coach, learned.coach_best)
    assert standing.horizon == CONFIG.coaching.steps and len(standing.grounded_return) == 4
    assert [one["decision"] for one in standing.rounds] == ["accept"] and standing.best_score >= 0
    assert imitated.progress.rounds == () and not imitated.progress.post_trained


def test_the_model_is_trusted_as_far_as_it_agrees_with_itself(imitated):
    """This one has no ensemble, so it never disagrees."""
    assert Progress().trust == float("inf") and imitated.progress.trust == 0.0


def test_practice_changes_the_coach_alone_and_costs_no_simulator_steps(imitated, practised):
    before, after = imitated.learned, practised.learned
    assert not same(before.coach, after.coach)
    kept = ("policy", "model", "coach_accepted", "coach_best")
    assert all(same(getattr(before, name), getattr(after, name)) for name in kept)
    assert practised.count_steps().progress.ledger.spent["practise"] == 0


@pytest.mark.parametrize("accept", [True, False])
def test_a_round_is_accepted_or_rolled_back(run, practised, accept, monkeypatch):
    monkeypatch.setattr(grounding, "decide", lambda *_: Decision(accept, "asked for", horizon=5, penalty=2.0))
    after = done(run, practised, "1/ground_coach")
    standing = after.progress.coach
    assert (standing.horizon, standing.penalty, standing.rounds[-1]["round"]) == (5, 2.0, 1)
    kept = practised.learned.coach if accept else practised.learned.coach_accepted
    assert same(after.learned.coach, kept) and same(after.learned.coach_accepted, kept)
    assert "round 1: asked for" in (run.directory / "coach_decisions.txt").read_text()


def test_a_refit_keeps_what_the_coach_did(run, imitated):
    after = done(run, imitated, "1/refit_coach").count_steps()
    assert after.progress.ledger.spent["refit"] > 0
    assert not same(imitated.learned.tracks, after.learned.tracks)


def test_where_the_coach_stands_is_json(imitated):
    progress = imitated.count_steps().progress
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress
    values = progress.to_json()
    del values["coach"]["horizon"]
    with pytest.raises(ValueError, match=r"coach: expected .*horizon"):
        Progress.from_json(values)
