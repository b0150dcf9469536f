"""Runs the measures over a study and writes their results: `models.json`, `models.md` and a figure for each."""

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tether.data.files import check_writable, publish, write_text
from tether.data.progress import Bar
from tether.evaluation.policies import finite
from tether.evaluation.provenance import provenance
from tether.evaluation.report import keep_larger, signed, table, with_interval
from tether.evaluation.world_models import (
    calibration,
    disagreement,
    displacement,
    drift,
    likelihood,
    ranking,
    realism,
    sensitivity,
)
from tether.evaluation.world_models.study import Finding, NotMeasurable, Study
from tether.training.stop import Interrupted

UNFINISHED = "models-unfinished"  # name of a report whose measures are not all done


class Measure(NamedTuple):
    """A part of the benchmark.

    Attributes:
      measure: study to result.   draw: writes the result's figure to a file.
    """

    measure: Callable[[Study], Finding]
    draw: Callable[[Finding, pathlib.Path], None]


MEASURES = {
    module.__name__.rpartition(".")[2]: Measure(module.measure, module.draw)
    for module in (realism, displacement, likelihood, drift, calibration, disagreement, ranking, sensitivity)
}


def run(study: Study, output: pathlib.Path, names: Sequence[str]) -> dict[str, Any]:
    """Measures, draws and writes; each result is on disk before the next measure begins.

    Until the last measure is done the report is called `models-unfinished`: a whole report is only replaced by a whole
    one. A measure is left out, with the reason, where the scenes lack what it needs.

    Args: names: out of `MEASURES`.   Returns: what `models.json` holds.
    Raises: ValueError where nothing can be measured, or `output` cannot be written or holds a larger report;
      `stop.Interrupted` that names the finished measures.
    """
    check_writable(output)
    now = {"scenes": len(study.records), "draws": study.draws, "models": len(study.subjects), "measures": len(names)}
    keep_larger(output / "models.json", now, size_of)
    remarks = [subject.remark for subject in study.subjects if subject.remark]
    report: dict[str, Any] = {"provenance": origin(study), "remarks": remarks, "findings": {}, "left_out": {}}
    try:
        with Bar("world models", len(names), unit="measures") as bar:
            for name in bar.over(names):
                add(study, report, name, output)
    except Interrupted as stopped:
        listed = ", ".join(report["findings"])
        done = f"{output / UNFINISHED}.md has {listed}" if listed else "nothing is measured"
        raise Interrupted(f"{stopped}; {done}") from None
    if not report["findings"]:
        raise ValueError("\n".join(f"{name}: {reason}" for name, reason in report["left_out"].items()))
    publish(output, lambda folder: write(folder, report, "models"))
    for suffix in (".json", ".md"):
        (output / f"{UNFINISHED}{suffix}").unlink(missing_ok=True)
    return report


def add(study: Study, report: dict[str, Any], name: str, output: pathlib.Path) -> None:
    """Adds a measure's result to the report, and writes the report with the measure's figure."""
    began, part = time.process_time(), MEASURES[name]
    try:
        finding = part.measure(study)
    except NotMeasurable as reason:
        report["left_out"][name] = str(reason)
        return
    report["findings"][name] = finite({**finding._asdict(), "cpu_s": round(time.process_time() - began, 1)})

    def fill(folder: pathlib.Path) -> None:
        (folder / "figures").mkdir()
        part.draw(finding, folder / "figures" / f"models_{name}.png")
        write(folder, report, UNFINISHED)

    publish(output, fill)


def write(folder: pathlib.Path, report: dict[str, Any], name: str) -> None:
    """The report in both forms."""
    write_text(folder / f"{name}.json", json.dumps(report, indent=1) + "\n")
    write_text(folder / f"{name}.md", markdown(report))


def size_of(report: dict[str, Any]) -> dict[str, int]:
    """Numbers of scenes, draws, models and measures in `models.json`."""
    sizes = {"scenes": report["provenance"]["scenes"], "draws": report["provenance"]["draws"]}
    return sizes | {"models": len(report["provenance"]["models"]), "measures": len(report["findings"])}


def origin(study: Study) -> dict[str, Any]:
    """Where the numbers come from."""
    sizes = {"scenes": len(study.records), "draws": study.draws, "policies": list(study.policies)}
    return provenance(study.config, study.split) | sizes | {"models": [subject.name for subject in study.subjects]}


def markdown(report: dict[str, Any]) -> str:
    """The report: a table and a figure for each finding."""
    facts = [[name, str(value)] for name, value in report["provenance"].items()]
    parts = ["# World models", *report["remarks"], table(["", ""], facts)]
    for name, finding in report["findings"].items():
        parts += [f"## {finding['title']}", finding["about"], tables(finding)]
        parts += [f"![{finding['title']}](figures/models_{name}.png)"]
    if report["left_out"]:
        parts += ["## Left out", table(["measure", "why"], report["left_out"].items())]
    return "\n\n".join(parts) + "\n"


def tables(finding: dict[str, Any]) -> str:
    """The Markdown table: the rows, then the differences to the floors."""
    columns = finding["columns"]
    rows = [[name, *(cell(row.get(key), with_interval) for key in columns)] for name, row in finding["rows"].items()]
    rows += [
        [f"**{title}**", *(cell(row.get(key), signed) for key in columns)] for title, row in finding["paired"].items()
    ]
    return table(["world model", *columns.values()], rows)


def cell(interval: dict | None, text: Callable[[dict], str]) -> str:
    """An interval as text; a dash where there is none, or no number."""
    return "-" if interval is None or interval["mean"] is None else text(interval)
