"""Runs the measures over a study and writes what they found: `models.json`, `models.md` and a figure for each."""

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from data.files import write_text
from data.progress import Bar
from training.evaluation import finite
from training.provenance import provenance
from training.quality import (
    calibration,
    disagreement,
    displacement,
    drift,
    likelihood,
    ranking,
    realism,
    sensitivity,
)
from training.quality.study import FLOOR, Finding, Study
from training.report import signed, table, with_interval


class Measure(NamedTuple):
    """A part of the benchmark.

    Attributes:
      measure: of a study.   draw: what was found, to a file.
    """

    measure: Callable[[Study], Finding]
    draw: Callable[[Finding, pathlib.Path], None]


MEASURES = {
    module.__name__.rpartition(".")[2]: Measure(module.measure, module.draw)
    for module in (realism, displacement, likelihood, drift, calibration, disagreement, ranking, sensitivity)
}


def run(study: Study, output: pathlib.Path, names: Sequence[str]) -> dict[str, Any]:
    """Measures, draws and writes; each finding is on disk before the next measure begins.

    Args: names: out of `MEASURES`.   Returns: what `models.json` holds.
    """
    (output / "figures").mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"provenance": origin(study), "findings": {}}
    with Bar("world models", len(names), unit="measures") as bar:
        for name in bar.over(names):
            began, part = time.process_time(), MEASURES[name]
            finding = part.measure(study)
            part.draw(finding, output / "figures" / f"models_{name}.png")
            told["findings"][name] = finite({**finding._asdict(), "cpu_s": round(time.process_time() - began, 1)})
            write_text(output / "models.json", json.dumps(told, indent=1) + "\n")
            write_text(output / "models.md", markdown(told))
    return told


def origin(study: Study) -> dict[str, Any]:
    """Where the numbers come from."""
    sizes = {"scenes": len(study.records), "draws": study.draws, "policies": list(study.drivers)}
    return provenance(study.config, study.split) | sizes | {"models": [subject.name for subject in study.subjects]}


def markdown(told: dict[str, Any]) -> str:
    """The report: a table and a figure for each finding."""
    facts = [[name, str(value)] for name, value in told["provenance"].items()]
    parts = ["# World models", table(["", ""], facts)]
    for name, finding in told["findings"].items():
        parts += [f"## {finding['title']}", finding["about"], tables(finding)]
        parts += [f"![{finding['title']}](figures/models_{name}.png)"]
    return "\n\n".join(parts) + "\n"


def tables(finding: dict[str, Any]) -> str:
    """The rows, then the differences to the floor."""
    columns = finding["columns"]
    rows = [[name, *(cell(row.get(key), with_interval) for key in columns)] for name, row in finding["rows"].items()]
    rows += [
        [f"**{name} - {FLOOR}**", *(cell(row.get(key), signed) for key in columns)]
        for name, row in finding["paired"].items()
    ]
    return table(["world model", *columns.values()], rows)


def cell(interval: dict | None, shown: Callable[[dict], str]) -> str:
    """An interval as text; a dash where there is none, or no number."""
    return "-" if interval is None or interval["mean"] is None else shown(interval)
