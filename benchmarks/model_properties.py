"""Properties of world models that do not depend on the data, conformance and speed, as a page of `results/`:

python -m benchmarks.model_properties --out out/properties [--section model-properties] [--results results]

Runs the conformance suite on the built-in models and the example, and `benchmarks.world_models`. Finished parts under
--out are not repeated.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree
from typing import Any

from benchmarks import command
from benchmarks.pages import add_folder, write_page
from tether.data.command_line import Parser
from tether.data.files import write_text
from tether.evaluation.provenance import made_here
from tether.evaluation.report import table

MODELS = ("kinematic", "lanes", "oracle", "rssm", "tokens", "pixels", "examples.residual:ResidualConfig")
RULES = ["-m", "tether.worldmodel.conformance", *(word for name in MODELS for word in ("--world-model", name))]
SPEED = ["-m", "benchmarks.world_models"]
ROOT = pathlib.Path(__file__).parents[1]
ABOUT_SPEED = """\
At the preset's sizes, on one core. A training scene is a rollout of 16 world steps. A world step is 0.5 s of one \
scene: five of the simulator's environment steps of 0.1 s. The simulator is log replay, run by the same loop on the \
same batch. How these rates were reached, and their profile: \
[benchmarks/throughput.md](../benchmarks/throughput.md)."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.model_properties", description=__doc__)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="where measurements are kept")
    parser.add_argument("--section", default="model-properties", help="name in the markers (default: %(default)s)")
    add_folder(parser)
    return parser.parse_args(arguments)


def check_rules(folder: pathlib.Path) -> dict[str, dict[str, str]]:
    """Runs the conformance suite. Returns: `{rule: {model: passed, skipped or failed}}`.

    Raises: ValueError where the suite ended before its last test.
    """
    path = folder / "rules.xml"
    if not path.exists():
        done = subprocess.run([sys.executable, *RULES, "-q", f"--junitxml={path.absolute()}"], cwd=ROOT)
        if done.returncode not in (0, 1):  # 1: a rule is broken, which the table shows
            path.unlink(missing_ok=True)
            raise ValueError(f"the conformance suite ended with exit status {done.returncode}")
    outcomes: dict[str, dict[str, str]] = {}
    for test in xml.etree.ElementTree.parse(path).iter("testcase"):
        rule, variants = re.fullmatch(r"test_(\w+)\[(.*)\]", test.get("name")).groups()
        model = next(name for name in MODELS if name in variants)
        variant = variants.replace(model, "").strip("-")
        rule = rule.replace("_", " ") + (f" ({variant})" if variant else "")
        ends = {child.tag for child in test}
        broken = ends & {"failure", "error"}
        outcomes.setdefault(rule, {})[model] = "failed" if broken else "skipped" if "skipped" in ends else "passed"
    return outcomes


def rules_table(outcomes: dict[str, dict[str, str]]) -> str:
    """A row for each rule; a dash where it does not apply."""
    marks = {"passed": "yes", "skipped": "-", "failed": "**no**"}
    return table(["rule", *MODELS], [[rule, *(marks[row[name]] for name in MODELS)] for rule, row in outcomes.items()])


def measure_speed(folder: pathlib.Path) -> dict[str, Any]:
    """The report that `benchmarks.world_models` prints. Raises: CalledProcessError where it fails."""
    path = folder / "speed.json"
    if not path.exists():
        done = subprocess.run([sys.executable, *SPEED], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        write_text(path, done.stdout)
    return json.loads(path.read_text("utf-8"))


def speed_table(speed: dict[str, Any]) -> str:
    """A row for each model, the simulator's last."""
    simulator = {f"imagined_{name}": value for name, value in speed["log_replay"].items()}
    unit = "per_cpu_second" if "world_steps_per_cpu_second" in speed["log_replay"] else "per_second"
    words = unit.replace("_", " ")
    columns = {
        "parameters": "parameters",
        f"training_scenes_{unit}": f"training scenes {words}",
        f"imagined_world_steps_{unit}": f"imagined world steps {words}",
        f"imagined_environment_steps_{unit}": f"environment steps {words}",
        "simulator_over_model": "simulator over model",
        "model_tflop": "TFLOP of a training step",
        "peak_memory_mb": "memory of a training step [MB]",
        "model_flop_utilisation": "model-FLOP utilisation",
    }
    rows = speed["models"] | {"log replay": simulator}
    present = {name: title for name, title in columns.items() if any(name in row for row in rows.values())}
    cells = [[name, *(f"{row[key]:,}" if key in row else "-" for key in present)] for name, row in rows.items()]
    return table(["world model", *present.values()], cells)


def section(rules: dict[str, dict[str, str]], speed: dict[str, Any]) -> str:
    """The section's text."""
    origin = {**made_here(), "batch": f"{speed['scenes']} scenes"}
    held = "`python -m tether.worldmodel.conformance`. A dash: the model has nothing to fit, or it is the log itself."
    return "\n\n".join(
        [
            "# World models: rules and speed",
            table(["", ""], [[name, value] for name, value in origin.items()]),
            "## Conformance",
            held,
            rules_table(rules),
            "## Speed",
            ABOUT_SPEED,
            speed_table(speed),
        ]
    )


def main(arguments: list[str]) -> None:
    """Measures the missing parts, and writes the section."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    write_page(options.results, options.section, section(check_rules(options.out), measure_speed(options.out)))


if __name__ == "__main__":
    command.run(main)
