"""Fits world models, trains policies to rank in them, benchmarks the models and writes a page of `results/`:

python -m benchmarks.model_results --out out/models [--data DIR --agents 64] --section models --title "World models"

Finished parts under --out are not repeated, so a killed run continues where it stopped.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import command
from benchmarks.pages import add_folder, write_page
from tether.data.command_line import Parser
from tether.evaluation.report import table
from tether.evaluation.world_models.benchmark import tables

MODELS = {
    "rssm": ("--world_model", "rssm"),
    "rssm, no perturbed replays": ("--world_model", "rssm", "--fit.perturbed", "0"),
    "tokens": ("--world_model", "tokens"),
}
SNAPSHOTS = (10, 25, 50, 100, 200, 400)  # optimiser steps of imitation: policies from bad to fair
ROOT = pathlib.Path(__file__).parents[1]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.model_results", description=__doc__)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="where runs and the report are kept")
    parser.add_argument("--data", help="data set; the starter set by default")
    parser.add_argument("--agents", type=int, help="agents per scene, as the data set was built")
    parser.add_argument("--steps", type=int, help="optimiser steps of each fit; the preset's by default")
    parser.add_argument("--scenes", type=int, help="scenes in each of them; the preset's by default")
    parser.add_argument("--section", required=True, help="name of the page, e.g. models")
    parser.add_argument("--title", required=True, help="heading")
    add_folder(parser)
    return parser.parse_args(arguments)


def call(program: str, words: Sequence[str]) -> None:
    """Runs one of the repository's commands. Raises: CalledProcessError where it fails."""
    print("python", program, *words, flush=True)
    subprocess.run([sys.executable, str(ROOT / program), *words], check=True)


def data_words(options: argparse.Namespace) -> list[str]:
    """The words of the command line that name the data to train.py."""
    directory = ["--data.directory", options.data] if options.data else []
    return directory + (["--spec.agents", str(options.agents)] if options.agents else [])


def fit(options: argparse.Namespace) -> list[str]:
    """Fits every model. Returns: `NAME=RUN` of each."""
    sizes = {"--fit.steps": options.steps, "--fit.scenes": options.scenes}
    sized = [word for name, value in sizes.items() if value for word in (name, str(value))]
    named = []
    for name, words in MODELS.items():
        run = options.out / "runs" / name.replace(", ", "-").replace(" ", "-")
        common = ["cpu", "--stage", "fit_world_model", "--directory", str(run)]
        call("train.py", [*common, *words, *sized, *data_words(options)])
        named.append(f"{name}={run}")
    return named


def imitate(options: argparse.Namespace) -> list[str]:
    """Trains the policies. Returns: their runs."""
    runs = []
    for steps in SNAPSHOTS:
        run = options.out / "runs" / f"imitation-{steps}"
        common = ["cpu", "--stage", "imitate", "--imitation.scenes", "16", "--directory", str(run)]
        call("train.py", [*common, "--imitation.steps", str(steps), *data_words(options)])
        runs.append(str(run))
    return runs


def section(title: str, report: dict[str, Any]) -> str:
    """The section's text: the origin, and the table of each result."""
    names = ("date", "commit", "machine", "command", "seed", "data", "scenes", "draws")
    facts = [[name, str(report["provenance"][name])] for name in names]
    parts = [f"# {title}", "What is measured, and how: [docs/quality.md](../docs/quality.md).", table(["", ""], facts)]
    for finding in report["findings"].values():
        parts += [f"## {finding['title']}", finding["about"], tables(finding)]
    return "\n\n".join(parts)


def main(arguments: list[str]) -> int:
    """Runs the missing parts, writes the section, and returns the exit status."""
    options = parse(arguments)
    models = [word for model in fit(options) for word in ("--world-model", model)]
    policies = [word for run in imitate(options) for word in ("--policies-of", run)]
    data = ["--data", options.data] if options.data else []
    call("eval.py", [*models, *policies, *data, "--out", str(options.out)])
    report = json.loads((options.out / "models.json").read_text("utf-8"))
    write_page(options.results, options.section, section(options.title, report))
    return 0


if __name__ == "__main__":
    command.run(main)
