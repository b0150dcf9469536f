"""Draws the figure of docs/architecture.md: the packages, which imports which, and the round of post-training:

python -m benchmarks.architecture [--file docs/architecture.svg]

The arrows between packages are read from the code; those that others imply are left out.
"""

import argparse
import ast
import itertools
import pathlib

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from benchmarks import command
from tether.data.command_line import Parser
from tether.evaluation.topview import BLACK, BLUE, GREEN, ORANGE, PURPLE

ROOT = pathlib.Path(__file__).parents[1]
BOX = (2.5, 0.8)  # width and height
ROOMS = {  # place of the middle, and what it holds
    "tether": (2.9, 5.6, "the face: train, evaluate, drive"),
    "evaluation": (2.9, 4.5, "metrics, reports, figures"),
    "training": (2.9, 3.4, "stages, objectives, rounds"),
    "worldmodel": (1.4, 2.3, "learned Worlds"),
    "policy": (4.4, 2.3, "vision, language, action"),
    "simulator": (2.9, 1.2, "World, outcome, the one loop"),
    "data": (2.9, 0.1, "Scene, Observation, sources"),
}
ROUND = {
    "fit or refit": (9.0, 5.3, "the world model, on logs and\nthe policy's own rollouts", PURPLE),
    "imagine": (11.3, 3.6, "roll out the policy\nin the learned World", PURPLE),
    "improve": (10.5, 1.5, "update the policy by\nreturns or a teacher's labels", BLUE),
    "ground": (7.5, 1.5, "roll out the same policy\nin the simulator", GREEN),
    "decide": (6.7, 3.6, "accept, or roll back:\nby the gap and the failures", ORANGE),
}


def imported_packages(package: str) -> set[str]:
    """The other packages that a package's code imports."""
    names = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names |= {node.module} if node.module != "tether" else {f"tether.{one.name}" for one in node.names}
            elif isinstance(node, ast.Import):
                names |= {one.name for one in node.names}
    inside = {name.split(".")[1] for name in names if name.startswith("tether.")}
    return inside & ROOMS.keys() - {package}


def arrows() -> list[tuple[str, str]]:
    """(package, package that it imports), without those that two others imply."""
    direct = {package: imported_packages(package) for package in ROOMS}
    beyond = {package: set() for package in ROOMS}
    for package in reversed(ROOMS):
        beyond[package] = set().union(*(direct[one] | beyond[one] for one in direct[package]))
    return [(package, one) for package in ROOMS for one in sorted(direct[package] - beyond[package])]


def box(axes: Axes, x: float, y: float, title: str, text: str, colour: str, size: tuple[float, float] = BOX) -> None:
    """A box with a title above its text."""
    corner, (width, height) = (x - size[0] / 2, y - size[1] / 2), size
    axes.add_patch(
        FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.1", fc=colour + "22", ec=colour, lw=1.5)
    )
    lines = text.count("\n") + 1
    axes.text(x, y + 0.12 * lines, title, ha="center", va="center", fontweight="bold", fontsize=11, color=BLACK)
    axes.text(x, y - 0.2, text, ha="center", va="center", fontsize=8.5, color=BLACK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float = 0.0) -> None:
    """From one place to another."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", end, start, arrowprops=style)


def draw_packages(axes: Axes) -> None:
    """Floors, the ground at the bottom; an arrow points to what is imported."""
    for name, (x, y, text) in ROOMS.items():
        box(axes, x, y, name, text, BLUE)
    for upper, lower in arrows():
        (x, y, _), (x_below, y_below, _) = ROOMS[upper], ROOMS[lower]
        reach = BOX[1] / 2 + 0.03
        shift = 0.55 * (x_below - x)
        arrow(axes, (x + shift, y - reach), (x_below - 0.2 * (x_below - x), y_below + reach), BLACK)


def draw_round(axes: Axes) -> None:
    """The steps of a round, each followed by the next; two of them are rollouts."""
    axes.text(
        9.0,
        3.2,
        "imagining and grounding\nare the same loop:\nsimulator/rollout.py",
        ha="center",
        fontsize=9,
        color=BLACK,
    )
    for name, (x, y, text, colour) in ROUND.items():
        box(axes, x, y, name, text, colour, (2.7, 1.0))
    for before, after in itertools.pairwise([*ROUND, next(iter(ROUND))]):
        (x, y, *_), (x_after, y_after, *_) = ROUND[before], ROUND[after]
        if abs(y - y_after) < 0.1:
            side = 1.38 if x_after > x else -1.38
            arrow(axes, (x + side, y), (x_after - side, y_after), BLACK)
        else:
            side = 0.53 if y_after > y else -0.53
            arrow(axes, (x + 0.3 * (x_after - x), y + side), (x_after - 0.3 * (x_after - x), y_after - side), BLACK)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.architecture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--file", type=pathlib.Path, default=pathlib.Path("docs/architecture.svg"))
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Draws and writes."""
    options = parse(arguments)
    figure = Figure(figsize=(12.8, 6.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 12.8), ylim=(-0.4, 6.6))
    axes.axis("off")
    titles = {"Packages: an arrow points to what is imported": 2.9, "A round of post-training": 9.0}
    for title, x in titles.items():
        axes.text(x, 6.35, title, ha="center", fontsize=11, color=BLACK)
    draw_packages(axes)
    draw_round(axes)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tether", "font.family": "sans-serif"}):
        figure.savefig(options.file, format="svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    command.run(main)
