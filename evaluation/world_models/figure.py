"""The two kinds of chart that most measures need: intervals side by side, and lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tether.evaluation.figures import GREY, save
from tether.evaluation.topview import BLACK, BLUE, BROWN, GREEN, ORANGE, PURPLE, SKY, VERMILLION

FIXED = {"oracle": BLACK, "kinematic": GREY, "lanes": BROWN}
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, SKY)


def colours(subjects: Sequence[str]) -> dict[str, str]:
    """Subject to colour, the same in every chart; floors and ceiling have their own."""
    others = [name for name in subjects if name not in FIXED]
    return FIXED | {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(others)}


def forest(intervals: Mapping[str, Mapping[str, dict]], labels: Mapping[str, str], axis: str, path: Path) -> None:
    """Draws a row for each label, with a mark and its interval for each subject."""
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(labels)), layout="constrained")
    axes, colour_of = figure.subplots(), colours(list(intervals))
    step = 0.7 / max(len(intervals), 1)
    for index, (name, values) in enumerate(intervals.items()):
        rows = [(place, values[key]) for place, key in enumerate(labels) if key in values]
        heights = [place + (index + 0.5) * step - 0.35 for place, _ in rows]
        means = [one["mean"] for _, one in rows]
        below = [max(one["mean"] - one["low"], 0) for _, one in rows]
        above = [max(one["high"] - one["mean"], 0) for _, one in rows]
        axes.errorbar(means, heights, xerr=[below, above], fmt="o", ms=4, lw=1.5, color=colour_of[name], label=name)
    axes.set_yticks(range(len(labels)), labels.values())
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], across: str, upward: str, path: Path) -> None:
    """Draws a line for each subject."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes, colour_of = figure.subplots(), colours(list(lines))
    for name, (x, y) in lines.items():
        axes.plot(x, y, marker="o" if len(x) <= 20 else "", ms=4, color=colour_of[name], label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(upward)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)
