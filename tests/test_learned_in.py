"""Worlds as places to learn in: which cells there are, that they are kept, and the page, on made-up results."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from benchmarks import experiments, learned_in
from benchmarks.learned_in import COLUMNS, IMITATION, PLACE
from tether.training.coaching import CoachingConfig

SCENES = [SimpleNamespace(scenario_id=f"s{i}", group=f"g{i // 2}") for i in range(4)]
FAILURES = {"log_replay": 1, "kinematic": 2, "rssm": 3}  # of the four scenes, by any policy


@pytest.fixture
def study(monkeypatch):
    """A study in which nothing is driven: the number of calls of each kind, and the setup."""
    calls = {"trained": [], "driven": []}

    def coaches(setup, seed, names):
        for name in names:
            calls["trained"].append((name, seed))
            facts = {} if name == IMITATION else {"decisions": 1000 + seed, "cpu_s": 60.0}
            yield name, SimpleNamespace(name=f"coach of {name}"), facts

    def scores(setup, policy, world):
        calls["driven"].append((policy.name, world))
        failed = [float(i < FAILURES[world]) for i in range(4)]
        return {name: [1 - one for one in failed] if name == "score" else failed for name in COLUMNS}

    monkeypatch.setattr(learned_in, "coaches", coaches)
    monkeypatch.setattr(learned_in, "scores", scores)
    monkeypatch.setattr(learned_in, "open_world", lambda name, setup, records: name)
    return calls, learned_in.Setup((), {}, 1000, (), SCENES)


def test_every_coach_is_driven_in_the_judges_and_in_its_own_world(study, tmp_path):
    calls, setup = study
    worlds = ("kinematic", "rssm", "log_replay")
    learned_in.compute(setup, tmp_path, worlds, ("log_replay",), 0)
    assert [name for name, _ in calls["trained"]] == [IMITATION, *worlds]
    assert ("coach of rssm", "rssm") in calls["driven"] and ("idm", "kinematic") in calls["driven"]
    assert ("coach of rssm", "kinematic") not in calls["driven"] and ("go_straight", "kinematic") not in calls["driven"]


def test_settings_that_differ_stand_after_the_name(study, tmp_path):
    """Such a World is no place: that is measured once, with the settings of all."""
    _, setup = study
    name = "kinematic@coach.width=64,coaching.replayed=0"
    assert setup.config.coach.width == 128 and setup.config.coaching.replayed == 0.5
    assert setup.of(name).config.coach.width == 64 and setup.of(name).config.coaching.replayed == 0
    assert setup.of("kinematic") is setup
    learned_in.compute(setup, tmp_path, (name, "log_replay"), ("log_replay",), 0)
    assert (tmp_path / f"{experiments.slug(name, 0, 'log_replay')}.json").exists()
    assert not [path for path in tmp_path.glob("*.json") if PLACE.replace(" ", "-") in path.name]


def test_finished_cells_are_not_repeated(study, tmp_path):
    calls, setup = study
    worlds = ("kinematic", "log_replay")
    learned_in.compute(setup, tmp_path, worlds, ("log_replay",), 0)
    (tmp_path / "kinematic-0-log_replay.json").unlink()
    for done in calls.values():
        done.clear()
    learned_in.compute(setup, tmp_path, worlds, ("log_replay",), 0)
    assert calls == {"trained": [("kinematic", 0)], "driven": [("coach of kinematic", "log_replay")]}


def test_the_page_sets_each_world_beside_log_replay(study, tmp_path):
    _, setup = study
    for seed in (0, 1):
        learned_in.compute(setup, tmp_path, ("rssm", "log_replay"), ("log_replay",), seed)
    cells = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    page = learned_in.page(cells, "python -m benchmarks.learned_in")
    evaluated, places = page.split("## Bias as a place")
    assert "| rssm | 2 | 0.750 [" in evaluated and "1,000, 1,001 | 1.0, 1.0 |" in evaluated
    own = next(row for row in places.splitlines() if row.startswith("| rssm | its own coach |"))
    assert "| 0.750 [" in own and "| +0.500 [" in own and "| -0.500 [" in own


def test_the_budget_counts_decisions(monkeypatch):
    """A World that ends rollouts early is practised in for more batches."""
    from tether.training import school

    monkeypatch.setattr(school, "batches", lambda *_: iter(lambda: (None, None), 0))
    monkeypatch.setattr(school, "latest_start", lambda *_: 80)
    monkeypatch.setattr(school, "WithoutTiles", lambda records: records)
    seen = []

    def coaching_step(*arguments):
        seen.append(arguments[-1])
        return None, {"decisions": 30.0, "return": 1.0}

    monkeypatch.setattr(school, "coaching_step", coaching_step)
    config = dataclasses.replace(CoachingConfig(), rows=2)
    coach = SimpleNamespace(simulator=SimpleNamespace(substeps=5))
    _, log = school.practise(coach, config, None, None, (), (), 100, 0)
    assert len(log) == 4  # 30, 60, 90, 120 decisions
    rates = [float(one.rate) / config.learning_rate for one in seen]
    assert rates == pytest.approx([1.0, 0.7, 0.4, 0.1])
