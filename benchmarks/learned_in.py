"""Worlds as places to learn in: a coach is trained in each, with one budget, and driven in the judges.

python -m benchmarks.learned_in --cells benchmarks/cells/learned-in [--worlds kinematic lanes rssm=runs/cpu-seed0]

A World is named as a judge is, or as NAME=RUN, the fitted world model of a run. Each coach imitates the logs, practises
in its World alone, and drives the test split without chance. IDM and the log's own ego are driven in each World as
well: where they fail more often than in log replay, the World is gloomy. Every finished cell is kept under --cells and
never repeated; after each seed the page of `results/` is written.
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
from benchmarks.experiments import slug
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
from tether.policy.coach import Coach, CoachConfig
from tether.training import models, presets, school
from tether.training.coaching import CoachingConfig
from tether.training.config import Config
from tether.training.drives import Judge, NamedPolicy, Scored, drive, row_keys
from tether.training.scenes import DataConfig
from tether.worldmodel import registry

WORLDS = ("kinematic", "lanes", "log_replay")
COLUMNS = ("score", "failure", "at_fault", "off_road", "red_light", "collision", "uncomfortable", "progress")
TITLES = TABLE | {"collision": "contact of any kind"}
IMITATION = "imitation of the logs"
TRUTH = "log_replay"
PLACED = ("idm", "expert")  # driven in every World, as a measure of the World
PLACE = "as a place"


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all cells share.

    Attributes:
      config: of the data and the simulator.   coaching: of the coach's training.   coach: the coach.
      train, test: `Record`s.
    """

    config: Config
    coaching: CoachingConfig
    coach: Coach
    train: Sequence[Record]
    test: Sequence[Record]


def open_world(name: str, setup: Setup, records: Sequence[Record]) -> Judge:
    """A World by the name of a judge, or as NAME=RUN."""
    label, equals, run = name.partition("=")
    if not equals:
        return open_judge(label, setup.config.simulator, records)
    of_run, simulator = read_run(pathlib.Path(run)), setup.config.simulator
    learned, _ = restore(pathlib.Path(run), of_run, models.build(of_run), records)
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


def coaches(setup: Setup, seed: int, worlds: Sequence[str], missing: Sequence[str]) -> Iterator[tuple[str, Any, dict]]:
    """Name, parameters and facts about the training of the imitating coach, and of those missing of each World."""
    imitating = school.imitate(setup.coach, setup.coaching, setup.train, seed)
    yield IMITATION, imitating.params, {}
    for name in worlds:
        if name not in missing:
            continue
        world, began = open_world(name, setup, setup.train), time.process_time()
        params = world.params_of(np.arange(1))
        learned, log = school.practise(setup.coach, setup.coaching, imitating, world.world, params, setup.train, seed)
        yield (
            name,
            learned.params,
            {
                "decisions": int(sum(one["decisions"] for one in log)),
                "cpu_s": round(time.process_time() - began, 1),
                "failure_there": float(np.mean([one["failure"] for one in log[-10:]])),
            },
        )


def compute(setup: Setup, kept: pathlib.Path, worlds: Sequence[str], judges: Sequence[str], seed: int) -> None:
    """Computes the cells of a seed that are missing."""

    def path(arm: str, judge: str) -> pathlib.Path:
        return kept / f"{slug(arm.partition('=')[0], seed, judge)}.json"

    def write(arm: str, judge: str, result: Cell) -> None:
        write_text(path(arm, judge), json.dumps(result) + "\n")

    def lacking(arm: str) -> list[str]:
        return [judge for judge in judges if not path(arm, judge).exists()]

    opened = functools.cache(lambda judge: open_world(judge, setup, setup.test))
    missing = [name for name in (IMITATION, *worlds) if lacking(name)]
    for name, params, facts in coaches(setup, seed, worlds, missing) if missing else ():
        policy = NamedPolicy(f"coach of {name}", setup.coach.deployed, params)
        label = name.partition("=")[0]
        for judge in lacking(name):
            write(name, judge, cell(setup, label, seed, judge, scores(setup, policy, opened(judge)), **facts))
    if seed > 0:
        return
    for name in BASELINES:
        for judge in lacking(name):
            write(
                name,
                judge,
                cell(setup, name, 0, judge, scores(setup, baseline(name, setup.config.simulator), opened(judge))),
            )
    for name in PLACED:
        for world in worlds:
            place = f"{PLACE} {world.partition('=')[0]}"
            if not path(name, place).exists():
                policy = baseline(name, setup.config.simulator)
                write(name, place, cell(setup, name, 0, place, scores(setup, policy, opened(world))))


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
    """Failures of policies in each World beside those in log replay."""
    groups, rows = groups_of(cells[0], "a cell"), []
    names = ("failure", "at_fault", "off_road", "red_light", "collision")
    truth = {one["arm"]: one["scores"] for one in cells if one["judge"] == f"{PLACE} {TRUTH}"}
    for one in cells:
        of_world = {name: np.array(one["scores"][name]) for name in names}
        own = [with_interval(bootstrap(of_world[name], groups)) for name in names]
        change = signed(bootstrap(of_world["failure"] - np.array(truth[one["arm"]]["failure"]), groups))
        rows.append([one["judge"].removeprefix(f"{PLACE} "), one["arm"], *own, change])
    return table(["World", "policy", *(TITLES[name] for name in names), "failed - in log replay"], rows)


def page(setup: Setup, cells: list[Cell], written_by: str) -> str:
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
    places = [one for one in cells if one["judge"].startswith(PLACE)]
    about = "The same policies in each World itself, on the same scenes: a good World is as dangerous as log replay."
    return "\n\n".join([*parts, "## Bias as a place", about, place_table(places)])


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.learned_in",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cells", required=True, type=pathlib.Path, help="where finished cells are kept")
    parser.add_argument("--worlds", nargs="+", default=WORLDS, help="names or NAME=RUN, beside log_replay")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument(
        "--judges", nargs="+", choices=JUDGES, default=["log_replay", "reactive"], help="default: %(default)s"
    )
    parser.add_argument(
        "--batches", type=int, default=CoachingConfig().batches, help="of practice; default: %(default)s"
    )
    parser.add_argument("--data", help="a data set's folder; the starter set if left out")
    parser.add_argument("--agents", type=int, help="agents kept per scene; the preset's if left out")
    parser.add_argument("--section", default="learned-in", help="name of the page; default: %(default)s")
    add_folder(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Computes missing cells, writes the page after each seed, and returns the exit status."""
    options = parse(arguments)
    config = dataclasses.replace(presets.cpu(), data=DataConfig(directory=options.data))
    if options.agents:
        config = dataclasses.replace(config, spec=dataclasses.replace(config.spec, agents=options.agents))
    coaching = dataclasses.replace(CoachingConfig(), batches=options.batches)
    splits = (open_records(config, split) for split in ("train", "test"))
    setup = Setup(config, coaching, CoachConfig().build(config.simulator), *splits)
    worlds = tuple(dict.fromkeys([*options.worlds, TRUTH]))
    options.cells.mkdir(parents=True, exist_ok=True)
    written_by = " ".join(["python -m benchmarks.learned_in", *map(shortened, arguments)])
    for seed in options.seeds:
        compute(setup, options.cells, worlds, options.judges, seed)
        cells = [json.loads(path.read_text("utf-8")) for path in sorted(options.cells.glob("*.json"))]
        write_page(options.results, options.section, page(setup, cells, written_by))
    return 0


if __name__ == "__main__":
    command.run(main)
