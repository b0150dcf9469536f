"""Draws the examples of docs/language.md from the starter set, and counts the phrases of its labels:

python -m benchmarks.language [--scenes 320] [--file docs/language.md]

Writes the section `examples` of the page and the picture beside it. Each example is the first label of its kind.
"""

import argparse
import collections
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import command
from benchmarks.pages import write_section
from tether.data.command_line import Parser
from tether.data.pipeline import stack
from tether.data.progress import Bar
from tether.data.scene import Record, Scene, SceneSpec
from tether.data.sources import STARTER, open_split
from tether.data.text import DISTANCES_M, VOCABULARY
from tether.evaluation.figures import quantized
from tether.evaluation.report import table
from tether.evaluation.topview import BLUE, TopView, Trace, page
from tether.policy.imitation import ImitationConfig, imitation_targets
from tether.policy.language import SLOTS, LabelConfig, sentence
from tether.policy.vla import VLAConfig
from tether.simulator.config import SimulatorConfig
from tether.simulator.events import LABELS
from tether.simulator.prepare import prepare

STARTS = (10, 25, 40, 55, 70)
BATCH = 32
THEN = 30  # log steps in which something happens
KINDS = (
    {"stop", "red light"},
    {"wait", "red light"},
    {"yield", "crossing vehicle"},
    {"yield", "cyclist"},
    {"slow down", "lead vehicle"},
    {"keep distance", "lead vehicle"},
    {"speed up", "lead vehicle"},
    {"slow down", "curve"},
    {"keep speed", "speed limit"},
    {"steer left", "route"},
    {"slow down", "unseen cause"},
    {"speed up", "free road"},
)
COLUMNS, RADIUS_M = 4, 32.0
OUT_OF_VIEW = {f"{distance} m" for distance in DISTANCES_M if distance > 30}


class Label(NamedTuple):
    """A label: the record's index, the log step and the tokens of its phrases."""

    record: int
    start: int
    tokens: np.ndarray

    @property
    def phrases(self) -> set[str]:
        """The label's phrases as a set."""
        return {VOCABULARY[int(token)] for token in self.tokens}


def labelled(records: Sequence[Record], simulator: SimulatorConfig) -> list[Label]:
    """The labels that imitation learns from, of all records at those `STARTS` at which the log is long enough."""
    vla, on_the_log = VLAConfig().build(simulator, SceneSpec()), ImitationConfig(perturbed=0.0)

    @jax.jit
    def labels(scene: Scene, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(jax.random.key(0), BATCH)
        batch = imitation_targets(scene, start, keys, vla, simulator, on_the_log, LabelConfig())
        return batch.decision.tokens, batch.valid

    collected = []
    with Bar("labels", len(records) // BATCH, unit="batches", compiles=True) as bar:
        for first in bar.over(range(0, len(records) - BATCH + 1, BATCH)):
            scene = stack([prepare(records[first + row].scene, simulator) for row in range(BATCH)])
            for start in STARTS:
                tokens, valid = jax.device_get(labels(scene, jnp.full(BATCH, start)))
                collected += [Label(first + row, start, tokens[row, : len(SLOTS)]) for row in np.flatnonzero(valid)]
    return collected


def examples(labels: list[Label]) -> list[Label]:
    """The first label of each kind whose cause is in view, each from another record."""
    chosen: list[Label] = []
    for kind in KINDS:
        taken = {one.record for one in chosen}
        matching = (one for one in labels if kind <= one.phrases and not OUT_OF_VIEW & one.phrases)
        chosen += [one for one in matching if one.record not in taken][:1]
    return chosen


def logged(record: Record, dt: float) -> Trace:
    """The log as a trace."""
    scene = record.scene
    ego, count = int(scene.ego), int(np.flatnonzero(scene.valid[int(scene.ego)])[-1]) + 1
    return Trace(
        record=record,
        policy="expert",
        score=1.0,
        ego_x=scene.x[ego, :count],
        ego_y=scene.y[ego, :count],
        ego_heading=scene.heading[ego, :count],
        ego_speed=np.hypot(scene.vel_x, scene.vel_y)[ego, :count],
        agent_x=scene.x[:, :count],
        agent_y=scene.y[:, :count],
        agent_heading=scene.heading[:, :count],
        agent_valid=scene.valid[:, :count],
        light_state=scene.light_state[:, :count],
        offset=np.zeros(count),
        events={name: np.zeros(count, bool) for name in LABELS},
        sentences=("",) * count,
        dt=dt,
    )


def draw(axes: Axes, trace: Trace, number: int, start: int) -> None:
    """Draws the scene at the label's step, with the ego's next three seconds as a line."""
    x, y, heading = (values[start] for values in (trace.ego_x, trace.ego_y, trace.ego_heading))
    centre = page(x + 0.5 * RADIUS_M * np.cos(heading), y + 0.5 * RADIUS_M * np.sin(heading))
    bounds = tuple(float(c) + side * RADIUS_M for c in centre for side in (-1, 1))
    TopView(axes, trace, bounds, BLUE).show(start)
    later = slice(start, start + THEN + 1)
    axes.plot(*page(trace.ego_x[later], trace.ego_y[later]).T, color=BLUE, lw=2.5, alpha=0.5)
    axes.text(0.03, 0.97, str(number), transform=axes.transAxes, fontsize=13, fontweight="bold", va="top")


def happened(trace: Trace, start: int) -> str:
    """Change of speed and heading in the next three seconds."""
    end = min(start + THEN, len(trace) - 1)
    turned = np.degrees((trace.ego_heading[end] - trace.ego_heading[start] + np.pi) % (2 * np.pi) - np.pi)
    return f"{trace.ego_speed[start]:.1f} to {trace.ego_speed[end]:.1f} m/s, heading {turned:+.0f}°"


def frequencies(labels: list[Label]) -> str:
    """Table of the frequency of each phrase in the first three slots."""
    rows = []
    for index, slot in enumerate(("longitudinal", "lateral", "cause")):
        counts = collections.Counter(VOCABULARY[int(one.tokens[index])] for one in labels)
        rows.append([slot, ", ".join(f"{phrase} {count / len(labels):.1%}" for phrase, count in counts.most_common())])
    return table(["", f"fractions of {len(labels):,} labels"], rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.language", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=320, help="first so many training scenes (default: %(default)s)")
    parser.add_argument("--file", type=pathlib.Path, default=pathlib.Path("docs/language.md"))
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Labels, draws, writes."""
    options = parse(arguments)
    simulator, source = SimulatorConfig(), open_split(STARTER, "train")
    records = [source[index] for index in range(min(options.scenes, len(source)))]
    labels = labelled(records, simulator)
    chosen = examples(labels)
    traces = [logged(records[one.record], simulator.dt) for one in chosen]
    rows = -(-len(chosen) // COLUMNS)
    figure = Figure(figsize=(3 * COLUMNS, 3 * rows), layout="constrained")
    for number, (trace, one) in enumerate(zip(traces, chosen, strict=True), 1):
        draw(figure.add_subplot(rows, COLUMNS, number), trace, number, one.start)
    picture = options.file.with_suffix(".png")
    quantized(figure, picture, dpi=75)
    cells = [
        [str(n), trace.record.instruction, sentence(one.tokens), happened(trace, one.start)]
        for n, (one, trace) in enumerate(zip(chosen, traces, strict=True), 1)
    ]
    listing = table(["", "instruction at the scene's start", "label", "motion in the next 3 s"], cells)
    write_section(options.file, "examples", f"![Examples]({picture.name})\n\n{listing}\n\n{frequencies(labels)}")


if __name__ == "__main__":
    command.run(main)
