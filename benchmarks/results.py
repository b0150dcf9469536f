"""Writes a page of `results/` from finished runs, one per seed:

python -m benchmarks.results RUN RUN RUN --section headline --title "Preset cpu" [--results results]
"""

import argparse
import json
import pathlib
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.pages import add_folder, write_page
from tether.data.command_line import Parser
from tether.evaluation.report import (
    PAIR,
    PAIR_NAME,
    TABLE,
    Results,
    groups_of,
    sample,
    signed,
    summarise,
    table,
    with_interval,
)
from tether.evaluation.statistics import bootstrap, excludes_zero
from tether.training.state import some_accepted

SEED_COLUMNS = ("score", "failure", "at_fault", "off_road", "red_light", "corridor")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("runs", nargs="+", help="run directories with a report, one per seed")
    parser.add_argument("--section", required=True, help="name of the page, e.g. starter or real")
    parser.add_argument("--title", help="heading; the section's name by default")
    parser.add_argument("--judge", default="log_replay", help="whose numbers (default: %(default)s)")
    add_folder(parser)
    return parser.parse_args(arguments)


def read(directory: str, judge: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Report and scene-by-scene scores of a run. Raises: ValueError where they are missing."""
    folder = pathlib.Path(directory)
    try:
        report, scenes = (json.loads((folder / name).read_text("utf-8")) for name in ("report.json", "scenes.json"))
    except FileNotFoundError as error:
        missing = pathlib.Path(error.filename).name
        raise ValueError(f"{directory} has no finished report: {missing} is missing") from None
    for remark in report.get("remarks", ()):
        if remark.startswith("Unfinished"):
            raise ValueError(f"{directory}: {remark}")
    if judge in report["judges"]:
        fill_in(report, scenes, judge)
    if judge not in report["judges"] or PAIR_NAME not in report["judges"][judge]["paired"]:
        raise ValueError(f"{directory}: its report compares no imitation and post-trained policy under {judge!r}")
    groups_of(scenes, str(folder / "scenes.json"))
    return report, scenes


def fill_in(report: dict[str, Any], scenes: dict[str, Any], judge: str) -> None:
    """Adds a post-trained policy equal to imitation where every round was rolled back, so that the seed counts."""
    policies = scenes["scores"][judge]
    if PAIR[0] in policies or PAIR[1] not in policies or not report["rounds"] or some_accepted(report["rounds"]):
        return
    policies[PAIR[0]] = policies[PAIR[1]]
    fields = [tuple(scenes[name]) for name in ("scenario_ids", "groups", "starts_off_road")]
    report["judges"] |= summarise(Results(*fields, {judge: policies}))


def pooled(scenes: list[dict[str, Any]], judge: str) -> dict[str, dict[str, dict]]:
    """Intervals over recordings of each scene's mean over seeds: `{policy or PAIR_NAME: metric: interval}`.

    The intervals hold for these seeds: recordings are resampled, seeds are not.
    Raises: ValueError where the runs were evaluated on different scenes.
    """
    if any(one["scenario_ids"] != scenes[0]["scenario_ids"] for one in scenes):
        raise ValueError("the runs were evaluated on other scenes: a section's results must share a data set and split")
    policies = [name for name in scenes[0]["scores"][judge] if all(name in one["scores"][judge] for one in scenes)]
    mean = {
        policy: {m: np.mean([one["scores"][judge][policy][m] for one in scenes], axis=0) for m in TABLE}
        for policy in policies
    }
    after, before = (mean[name] for name in PAIR)
    mean[PAIR_NAME] = {metric: after[metric] - before[metric] for metric in TABLE}
    groups = groups_of(scenes[0], "scenes.json")
    return {name: {metric: bootstrap(values, groups) for metric, values in row.items()} for name, row in mean.items()}


def seeds_table(reports: list[dict[str, Any]], judge: str) -> str:
    """A row for each seed: both policies' scores and the paired differences."""
    rows = []
    for report in reports:
        summary, origin = report["judges"][judge], report["provenance"]
        scores = [with_interval(summary["policies"][name]["score"]) for name in reversed(PAIR)]
        change = [signed(summary["paired"][PAIR_NAME][metric]) for metric in SEED_COLUMNS]
        accepted = sum(one["decision"] == "accept" for one in report["rounds"])
        minutes = sum(origin.get("wall_s_by_stage", {}).values()) / 60
        rounds = f"{accepted} of {len(report['rounds'])}"
        rows.append([str(origin["seed"]), *scores, *change, rounds, f"{minutes:.1f}"])
    differences = [f"difference: {TABLE[metric]}" for metric in SEED_COLUMNS]
    header = ["seed", *(f"{name} score" for name in reversed(PAIR)), *differences, "rounds accepted", "training min"]
    return table(header, rows)


def pooled_table(rows: dict[str, dict[str, dict]]) -> str:
    """Rows: policies, the best first, and the difference last."""
    order = sorted((name for name in rows if name != PAIR_NAME), key=lambda name: -rows[name]["score"]["mean"])
    cells = [[name, *(with_interval(rows[name][metric]) for metric in TABLE)] for name in order]
    cells.append([f"**{PAIR_NAME}**", *(signed(rows[PAIR_NAME][metric]) for metric in TABLE)])
    return table(["policy", *TABLE.values()], cells)


def section(title: str, reports: list[dict[str, Any]], scenes: list[dict[str, Any]], judge: str) -> str:
    """The section's text."""
    changes = [report["judges"][judge]["paired"][PAIR_NAME]["score"] for report in reports]
    raised = sum(excludes_zero(change) and change["mean"] > 0 for change in changes)
    lowered = sum(excludes_zero(change) and change["mean"] < 0 for change in changes)
    rows, origins = pooled(scenes, judge), [report["provenance"] for report in reports]
    facts = {
        name: "; ".join(dict.fromkeys(str(origin[name]) for origin in origins))
        for name in ("date", "commit", "machine", "command")
    }
    summary = (
        f"Post-training raised the driving score with a 95 % paired interval above zero for {raised} of {len(reports)} "
        f"seeds" + (f" and lowered it for {lowered}" if lowered else "") + f"; all seeds together "
        f"{signed(rows[PAIR_NAME]['score'])} on {sample(rows[PAIR_NAME]['score'])} under {judge}."
    )
    return "\n\n".join(
        [
            f"# {title}",
            summary,
            table(["", ""], ([name, value] for name, value in facts.items())),
            seeds_table(reports, judge),
            "Each scene's mean over the seeds, intervals over recordings:",
            pooled_table(rows),
        ]
    )


def main(arguments: list[str]) -> None:
    """Reads the runs, and writes the page."""
    options = parse(arguments)
    reports, scenes = zip(*(read(run, options.judge) for run in options.runs), strict=True)
    body = section(options.title or options.section, list(reports), list(scenes), options.judge)
    write_page(options.results, options.section, body)


if __name__ == "__main__":
    command.run(main)
