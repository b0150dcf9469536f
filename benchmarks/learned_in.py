"""Worlds as places to learn in: a coach is trained in each, with one budget, and driven in the judges.

python -m benchmarks.learned_in --cells benchmarks/cells/learned-in --worlds kinematic lanes rssm lanes@coach.width=64
    --runs rssm=runs/rssm-{seed} [-- --data.directory DIR --spec.agents 64]

A World is named as a judge is; one that is fitted is that of a run of --runs, where `{seed}` stands for the seed. What
follows `@` are settings that differ, separated by commas. Words after `--` are settings of all.

Each coach imitates the logs, practises in its World for the same number of decisions, and drives the test split without
chance. In a World that imagines, half of the agents follow the log meanwhile; `lanes@coaching.replayed=0` is the World
alone. Imitation, IDM and the log's own ego are driven in each World as well, and each coach in its own: where they fail
more often than in log replay, the World is gloomy; where a coach alone fails less often, it has exploited it.
Every finished cell is kept under --cells and never repeated; after each seed the page of `results/` is written.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.comparison import Cell, by_scene, grouped
from benchmarks.experiments import WHOLE_TEST, slug, split
from benchmarks.pages import add_folder, write_page
from tether.data.command_line import Parser
from tether.data.files import write_text
from tether.data.scene import Record
from tether.evaluation.judges import BASELINES, JUDGES, baseline, open_judge
from tether.evaluation.policies import open_records
from tether.evaluation.provenance import made_here, shortened
from tether.evaluation.report import TABLE, groups_of, signed, table, with_interval
from tether.evaluation.restore import read_run, restore
from tether.evaluation.statistics import bootstrap, recordings
from tether.policy.coach import Coach
from tether.training import models, presets, school
from tether.training.coaching import practised_in
from tether.training.config import Config
from tether.training.drives import Judge, NamedPolicy, Scored, drive, row_keys
from tether.worldmodel import registry

WORLDS = ("kinematic", "lanes", "log_replay")
COLUMNS = ("score", "failure", "at_fault", "off_road", "red_light", "collision", "uncomfortable", "progress")
TITLES = TABLE | {"collision": "contact of any kind"}
IMITATION = "imitation of the logs"
TRUTH = "log_replay"
PLACED = (IMITATION, "idm", "expert")  # driven in every World, as a measure of the World
PLACE = "as a place"


@dataclasses.dataclass(frozen=True)
class Setup:
    """What cells share.

    Attributes:
      words: settings of `train.py` that differ from those of preset `cpu`.   runs: the run of each fitted World.
      decisions: of a practice.   train, test: `Record`s.
    """

    words: tuple[str, ...]
    runs: dict[str, str]
    decisions: int
    train: Sequence[Record]
    test: Sequence[Record]

    @functools.cached_property
    def config(self) -> Config:
        """With a coach."""
        return presets.parse(["cpu", *WHOLE_TEST, "--coaching.rounds", "1", *self.words])

    @property
    def coach(self) -> Coach:
        """As it explores."""
        return self.config.coach.build(self.config.simulator, self.config.policy.actions)

    def of(self, name: str) -> "Setup":
        """The setup of a World, with the settings that stand after its name."""
        words = (word for setting in name.split("@")[1:] for each in setting.split(",") for word in each.split("="))
        own = [word if index % 2 else f"--{word}" for index, word in enumerate(words)]
        return dataclasses.replace(self, words=(*self.words, *own)) if own else self


def open_world(name: str, setup: Setup, records: Sequence[Record]) -> Judge:
    """A World by its name; a fitted one with the arrays of its run."""
    name = name.partition("@")[0]
    if name not in setup.runs:
        return open_judge(name, setup.config.simulator, records)
    run, simulator = pathlib.Path(setup.runs[name]), setup.config.simulator
    of_run = read_run(run)
    learned, _ = restore(run, of_run, models.build(of_run), records)
    # It is driven with the reward of today, whatever the run's was.
    world = registry.build(of_run.world_model, of_run.model_settings(of_run.world_model), simulator)
    return Judge(world, lambda rows: learned.model)


def scores(setup: Setup, policy: NamedPolicy, world: Judge) -> dict[str, list[float]]:
    """The scores of a policy on the test split, scene by scene."""
    simulator = setup.config.simulator
    kept = drive(
        *(policy, setup.test, world, Scored(simulator)),
        steps=setup.config.rollout_steps,
        batch=min(setup.config.evaluation.batch, len(setup.test)),
        keys=functools.partial(row_keys, 0),
        fetch=lambda kept: kept[0],
    )
    return {name: np.asarray(kept[name], float).round(6).tolist() for name in COLUMNS}


def cell(setup: Setup, arm: str, seed: int, judge: str, of_scenes: dict, **more: Any) -> Cell:
    """The scores of an arm under a judge, with what identifies them."""
    return {
        "arm": arm,
        "seed": seed,
        "judge": judge,
        "scenario_ids": [record.scenario_id for record in setup.test],
        "groups": list(recordings(setup.test)),
        "scores": of_scenes,
        "provenance": made_here(),
        **more,
    }


def coaches(setup: Setup, seed: int, names: Sequence[str]) -> Iterator[tuple[str, NamedPolicy, dict]]:
    """The coaches of these Worlds, and the one that imitates, by name, with facts about their training."""
    before = school.imitate(setup.coach, setup.config.coaching, setup.train, seed)
    for name in names:
        own, began = setup.of(name), time.process_time()
        coach, config = own.coach, own.config.coaching
        if name == IMITATION:
            yield name, NamedPolicy(name, coach.deployed, before.params), {}
            continue
        world = open_world(name, own, own.train)
        # Worlds that replay the log themselves have nothing to imagine.
        place = practised_in(world.world, own.config.simulator, config.replayed * hasattr(world.world, "loss"))
        state = before if own is setup else school.imitate(coach, config, own.train, seed)
        practice = world.params_of(np.arange(1)), own.train, own.decisions, seed
        state, log = school.practise(coach, config, state, place, *practice)
        facts = {
            "decisions": int(sum(one["decisions"] for one in log)),
            "cpu_s": round(time.process_time() - began, 1),
            "failure_there": float(np.mean([one["failure"] for one in log[-10:]])),
        }
        yield name, NamedPolicy(f"coach of {name}", coach.deployed, state.params), facts


def driven_in(arm: str, worlds: Sequence[str], judges: Sequence[str]) -> dict[str, str]:
    """The Worlds that an arm is driven in, by what a cell calls them: the judges, and Worlds as places."""
    places = [name for name in worlds if name != TRUTH and "@" not in name and (arm in PLACED or name == arm)]
    return {judge: judge for judge in judges} | {f"{PLACE} {name}": name for name in places}


def compute(setup: Setup, kept: pathlib.Path, worlds: Sequence[str], judges: Sequence[str], seed: int) -> None:
    """Computes the cells of a seed that are missing."""

    def lacking(arm: str) -> dict[str, pathlib.Path]:
        named = {called: kept / f"{slug(arm, seed, called)}.json" for called in driven_in(arm, worlds, judges)}
        return {called: path for called, path in named.items() if not path.exists()}

    def add(arm: str, policy: NamedPolicy, **facts: Any) -> None:
        for called, path in lacking(arm).items():
            scored = scores(setup, policy, opened(driven_in(arm, worlds, judges)[called]))
            write_text(path, json.dumps(cell(setup, arm, seed, called, scored, **facts)) + "\n")

    opened = functools.cache(lambda name: open_world(name, setup, setup.test))
    missing = [name for name in (IMITATION, *worlds) if lacking(name)]
    for name, policy, facts in coaches(setup, seed, missing) if missing else ():
        add(name, policy, **facts)
    for name in BASELINES if seed == 0 else ():
        add(name, baseline(name, setup.config.simulator))


def learned_table(cells: list[Cell]) -> str:
    """A row for each coach and baseline under one judge, the best score first, with its change against imitation."""
    arms, groups = grouped(cells, "arm"), groups_of(cells[0], "a cell")
    means = {arm: {name: by_scene(of_arm, name) for name in COLUMNS} for arm, of_arm in arms.items()}
    before, rows = means[IMITATION], []
    for arm in sorted(arms, key=lambda arm: -means[arm]["score"].mean()):
        own = [with_interval(bootstrap(means[arm][name], groups)) for name in COLUMNS]
        changes = [signed(bootstrap(means[arm][name] - before[name], groups)) for name in ("score", "failure")]
        decisions = [f"{one['decisions']:,}" for one in arms[arm] if "decisions" in one]
        minutes = [f"{one['cpu_s'] / 60:.1f}" for one in arms[arm] if "cpu_s" in one]
        rows.append([arm, str(len(arms[arm])), *own, *changes, ", ".join(decisions), ", ".join(minutes)])
    changed = [f"{TITLES[name]} - imitation's" for name in ("score", "failure")]
    return table(["policy", "seeds", *(TITLES[name] for name in COLUMNS), *changed, "decisions", "CPU min"], rows)


def place_table(cells: list[Cell]) -> str:
    """How policies fare in each World beside how they fare in log replay."""
    groups, rows = groups_of(cells[0], "a cell"), []
    names = ("failure", "at_fault", "off_road", "red_light", "collision")
    truth = grouped([one for one in cells if one["judge"] == TRUTH], "arm")
    for judge, of_judge in grouped([one for one in cells if one["judge"].startswith(PLACE)], "judge").items():
        place = judge.removeprefix(f"{PLACE} ")
        for arm, of_arm in grouped(of_judge, "arm").items():
            there = [with_interval(bootstrap(by_scene(of_arm, name), groups)) for name in names]
            changes = [by_scene(of_arm, name) - by_scene(truth[arm], name) for name in ("failure", "score")]
            title = "its own coach" if arm == place else arm
            rows.append([place, title, *there, *(signed(bootstrap(change, groups)) for change in changes)])
    changed = [f"{TITLES[name]} - in log replay" for name in ("failure", "score")]
    return table(["World", "policy", *(TITLES[name] for name in names), *changed], rows)


def page(cells: list[Cell], written_by: str) -> str:
    """The text of the page."""
    facts = {
        name: "; ".join(dict.fromkeys(str(one["provenance"][name]) for one in cells)) for name in ("commit", "machine")
    }
    facts["date"] = f"{min(c['provenance']['date'] for c in cells)} to {max(c['provenance']['date'] for c in cells)}"
    facts["seeds"] = "; ".join(sorted({str(one["seed"]) for one in cells}))
    facts |= {"intervals": "95 %, over recordings", "command": written_by}
    parts = ["# Worlds as places to learn in", table(["", ""], facts.items())]
    judged = [one for one in cells if not one["judge"].startswith(PLACE)]
    for judge, of_judge in grouped(judged, "judge").items():
        parts += [f"## Evaluated in {judge.replace('_', ' ')}", learned_table(of_judge)]
    about = "The same policies in each World itself, on the same scenes: a good World is as dangerous as log replay."
    return "\n\n".join([*parts, "## Bias as a place", about, place_table(cells)])


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    own, _, words = (list(part) for part in split(arguments))
    parser = Parser(
        prog="python -m benchmarks.learned_in",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cells", required=True, type=pathlib.Path, help="where finished cells are kept")
    parser.add_argument("--worlds", nargs="+", default=WORLDS, help="beside log_replay; default: %(default)s")
    parser.add_argument("--runs", nargs="+", default=[], metavar="WORLD=RUN", help="the runs of fitted Worlds")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument(
        "--judges", nargs="+", choices=JUDGES, default=["log_replay", "reactive"], help="default: %(default)s"
    )
    parser.add_argument("--decisions", type=int, default=2_400_000, help="of each practice; default: %(default)s")
    parser.add_argument("--section", default="learned-in", help="name of the page; default: %(default)s")
    add_folder(parser)
    options = parser.parse_args(own)
    options.words = tuple(words)
    return options


def main(arguments: list[str]) -> int:
    """Computes missing cells, writes the page after each seed, and returns the exit status."""
    options = parse(arguments)
    setup = Setup(options.words, {}, options.decisions, (), ())
    train, test = (open_records(setup.config, name) for name in ("train", "test"))
    worlds, judges = (tuple(dict.fromkeys([*names, TRUTH])) for names in (options.worlds, options.judges))
    options.cells.mkdir(parents=True, exist_ok=True)
    written_by = " ".join(["python -m benchmarks.learned_in", *map(shortened, arguments)])
    for seed in options.seeds:
        runs = dict(run.format(seed=seed).split("=", 1) for run in options.runs)
        compute(Setup(options.words, runs, options.decisions, train, test), options.cells, worlds, judges, seed)
        cells = [json.loads(path.read_text("utf-8")) for path in sorted(options.cells.glob("*.json"))]
        write_page(options.results, options.section, page(cells, written_by))
    return 0


if __name__ == "__main__":
    command.run(main)
