"""The report's figures: policies with intervals, imagined against grounded return, and side-by-side top views."""

import io
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from PIL import Image

from tether.data.scene import AgentType
from tether.evaluation.report import sample
from tether.evaluation.statistics import is_known
from tether.evaluation.topview import (
    AGENT_COLOURS,
    ASPHALT,
    BLACK,
    BLUE,
    EDGE,
    GREEN,
    GROUND,
    LANE,
    ORANGE,
    PAINT,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    TopView,
    Trace,
    extent,
)

GREY = "#8a8a8a"
POLICY_COLOURS = {"imitation": ORANGE, "post_trained": BLUE, "expert": GREEN}
POLICY_NAMES = {
    "expert": "expert (the log)",
    "post_trained": "post-trained",
    "imitation": "imitation",
    "idm": "IDM",
    "constant_speed": "constant speed",
    "go_straight": "go straight",
}
FRAME_STRIDE = 2  # sub-steps of 0.1 s between the frames of an animation


def policy_name(policy: str) -> str:
    """A policy's name in figures."""
    return POLICY_NAMES.get(policy, policy)


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Writes a PNG whole or not at all."""
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=dpi, facecolor="white")
    part.replace(path)


def policy_chart(policies: dict[str, dict], path: Path) -> None:
    """Dots and 95 % intervals of every policy: the driving score, and the rates of the events that decide it.

    Args: policies: name to metric to `{mean, low, high, n}`.
    """
    names = sorted(policies, key=lambda name: policies[name]["score"]["mean"])
    panels = {"score": "driving score", "failure": "failed", "at_fault": "at-fault collision", "off_road": "off road"}
    panels |= {"red_light": "red light run", "corridor": "left corridor"}
    figure = Figure(figsize=(11, 0.42 * len(names) + 1.3), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, width_ratios=[2.4, *[1] * (len(panels) - 1)])
    for axis, (metric, title) in zip(axes, panels.items(), strict=True):
        for row, name in enumerate(names):
            draw_interval(axis, row, policies[name][metric], POLICY_COLOURS.get(name, GREY))
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlim(-0.04, 1.04 if metric == "score" else rate_limit(policies))
        axis.grid(axis="x", color="#e6e6e6", lw=0.8)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.tick_params(axis="x", labelsize=8)
    axes[0].set_yticks(range(len(names)), [policy_name(name) for name in names])
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    over = sample(next(iter(policies.values()))["score"])
    figure.supxlabel(f"mean over {over}, 95 % bootstrap interval (rates: fraction of scenes)", fontsize=9)
    save(figure, path)


def rate_limit(policies: dict[str, dict]) -> float:
    """One upper end for all rate panels, so that their widths compare."""
    rates = ("failure", "at_fault", "off_road", "red_light", "corridor")
    intervals = [policies[name][rate] for name in policies for rate in rates]
    return min(1.04, 1.1 * max(one["high" if is_known(one) else "mean"] for one in intervals) + 0.02)


def draw_interval(axis: Axes, row: int, interval: dict, colour: str) -> None:
    """A dot at the mean with a line from low to high; the dot alone where there is no interval."""
    axis.plot([interval["low"], interval["high"]], [row, row], color=colour, lw=2, solid_capstyle="round")
    axis.plot(interval["mean"], row, "o", color=colour, ms=5)


def rounds_chart(rounds: list[dict], path: Path) -> None:
    """Imagined against grounded return by round, with the rule's decision under each round.

    Args: rounds: dicts with `round`, `imagined_return`, `grounded_return`, `decision`.
    """
    figure = Figure(figsize=(max(5.5, 1.1 * len(rounds) + 2.2), 3.6), layout="constrained")
    axis = figure.subplots()
    number = np.arange(len(rounds))
    series = {"imagined_return": ("imagined", PURPLE, "s--"), "grounded_return": ("grounded", BLUE, "o-")}
    for key, (label, colour, style) in series.items():
        axis.plot(number, [r[key] for r in rounds], style, color=colour, label=label, lw=1.8, ms=6)
    ends = ([r[key] for r in rounds] for key in series)
    axis.vlines(number, *ends, color="#cccccc", zorder=0)
    axis.set_xticks(number, [f"round {r['round']}\n{str(r['decision']).replace('_', ' ')}" for r in rounds], fontsize=9)
    for tick, entry in zip(axis.get_xticklabels(), rounds, strict=True):
        tick.set_color(VERMILLION if "roll" in str(entry["decision"]) else BLACK)
    axis.set_xlim(-0.5, len(rounds) - 0.5)
    axis.set_ylabel("return over the same horizon")
    axis.grid(axis="y", color="#e6e6e6", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
    save(figure, path)


def loops_chart(checks: list[dict], path: Path) -> None:
    """Open loop against closed loop, a dot for each checkpoint that was driven on the validation split.

    Args: checks: dicts with `stage`, `round`, `step`, `ade_6.4s_m`, `score`, as in `training.checks`.
    """
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    kinds = {"imitate": ("imitation, by step", ORANGE), "ground": ("accepted rounds", BLUE)}
    for stage, (name, colour) in kinds.items():
        of_stage = [one for one in checks if one["stage"] == stage]
        places = [one["ade_6.4s_m"] for one in of_stage], [one["score"] for one in of_stage]
        axis.plot(*places, "o-", color=colour, lw=1, ms=6, label=name)
        for x, y, one in zip(*places, of_stage, strict=True):
            label_text = str(one["step"] if stage == "imitate" else one["round"])
            axis.annotate(label_text, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8, color=colour)
    axis.set_xlabel("open loop: displacement of the plan to 6.4 s [m], less is better", fontsize=9)
    axis.set_ylabel("closed loop: driving score, more is better", fontsize=9)
    axis.grid(color="#e6e6e6", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    save(figure, path)


def legend_entries() -> list:
    """Legend of the colours and markers of a top view."""
    agents = {"vehicle": AgentType.VEHICLE, "pedestrian": AgentType.PEDESTRIAN, "cyclist": AgentType.CYCLIST}
    lights = {"red": ("s", VERMILLION), "yellow": ("^", YELLOW), "green": ("o", GREEN)}
    return [
        *(Patch(fc=AGENT_COLOURS[kind], label=name) for name, kind in agents.items()),
        Line2D([], [], color=SKY, alpha=0.5, lw=5, label="route"),
        *(
            Line2D([], [], marker=marker, mfc=fill, mec=BLACK, ls="", ms=6, label=name)
            for name, (marker, fill) in lights.items()
        ),
        Line2D([], [], marker="x", color=VERMILLION, ls="", ms=8, mew=2.4, label="failure"),
    ]


class SideBySide:
    """Two or more rollouts of the same scene, one panel each, under one title."""

    def __init__(self, traces: list[Trace], height_in: float = 5.2):
        bounds = extent(traces)
        aspect = (bounds[1] - bounds[0]) / (bounds[3] - bounds[2])
        panel_in = min(max(height_in * aspect, 3.1), 5.2)
        self.traces, self.wrap = traces, int(panel_in * 13)
        size = (panel_in * len(traces) + 0.1 * (len(traces) + 1), panel_in / aspect + 1.6)
        self.figure = Figure(figsize=size)
        margin, bottom, top = 0.1 / size[0], 0.95 / size[1], 1 - 0.65 / size[1]
        axes = self.figure.subplots(1, len(traces), squeeze=False)[0]
        self.figure.subplots_adjust(left=margin, right=1 - margin, bottom=bottom, top=top, wspace=0.03)
        pairs = zip(axes, traces, strict=True)
        self.views = [TopView(axis, trace, bounds, POLICY_COLOURS.get(trace.policy, BLUE)) for axis, trace in pairs]
        self.captions = [self._caption(axis) for axis in axes]
        record = traces[0].record
        title = f"{record.scenario_id}   “{record.instruction}”"
        self.figure.text(margin, 1 - 0.09 / size[1], title, fontsize=9, va="top", color="#555555", parse_math=False)
        self.figure.legend(
            handles=legend_entries(), loc="lower center", ncols=8 if size[0] > 5 else 4, fontsize=7, frameon=False,
            handlelength=1, columnspacing=0.9, handletextpad=0.4, borderaxespad=0.15,
        )  # fmt: skip

    def _caption(self, axis: Axes) -> Text:
        return axis.text(0, -0.025, "", transform=axis.transAxes, fontsize=8, va="top", family="DejaVu Sans")

    def show(self, step: int) -> None:
        """Moves all panels to a sub-step."""
        for view, caption, trace in zip(self.views, self.captions, self.traces, strict=True):
            view.show(step)
            k = min(step, len(trace) - 1)
            words, failed = trace.verdict()
            over = k == len(trace) - 1 or (failed is not None and k >= failed)
            colour = POLICY_COLOURS.get(trace.policy, BLUE)
            title = policy_name(trace.policy) + (f": {words}" if over else "")
            view.axes.set_title(title, fontsize=10, loc="left", color=colour, fontweight="bold", pad=4)
            quoted = f"“{trace.sentences[k]}”" if trace.sentences[k] else ""
            quoted = "\n".join(textwrap.wrap(quoted, self.wrap)[:2])
            caption.set_text(f"{(k + 1) * trace.dt:.1f} s   {trace.ego_speed[k] * 3.6:.0f} km/h\n{quoted}")

    def image(self, dpi: int) -> Image.Image:
        """The figure at its present sub-step, as an image."""
        return image_of(self.figure, dpi)


def image_of(figure: Figure, dpi: int) -> Image.Image:
    """A figure as an image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return Image.open(buffer).convert("RGB")


def quantized(figure: Figure, path: Path, dpi: int) -> None:
    """Writes a PNG of few colours, a third of the size, whole or not at all."""
    part = path.with_name(path.name + ".part")
    image_of(figure, dpi).quantize(palette=palette(), dither=Image.Dither.NONE).save(part, format="PNG", optimize=True)
    part.replace(path)


def palette() -> Image.Image:
    """The colours of top views, and each blended with the grounds that it is drawn on.

    An adaptive palette would drop rare colours, and a light covers only a few pixels.
    """
    inks = [BLACK, EDGE, PAINT, LANE, GREY, SKY, *AGENT_COLOURS.values(), *POLICY_COLOURS.values(), VERMILLION, YELLOW]
    ink = np.array([to_rgb(colour) for colour in inks])[:, None, None]
    ground = np.array([to_rgb(colour) for colour in (GROUND, ASPHALT)])[None, :, None]
    opacity = np.array([0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0])[None, None, :, None]
    blends = np.round(255 * (opacity * ink + (1 - opacity) * ground)).astype(np.uint8)
    chosen = np.unique(blends.reshape(-1, 3), axis=0)
    image = Image.new("P", (1, 1))
    image.putpalette(chosen.tobytes())
    return image


def animate(traces: list[Trace], path: Path, dpi: int = 90) -> None:
    """Writes the rollouts side by side as a GIF; the last frame stays for two seconds."""
    scene = SideBySide(traces)
    last = max(len(trace) for trace in traces) - 1
    frames = []
    for step in [*range(0, last, FRAME_STRIDE), last]:
        scene.show(step)
        frames.append(scene.image(dpi))
    colours = palette()
    frames = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
    wait_ms = round(1000 * FRAME_STRIDE * traces[0].dt)
    part = path.with_name(path.name + ".part")
    frames[0].save(
        part, format="GIF", save_all=True, append_images=frames[1:], loop=0,
        duration=[wait_ms] * (len(frames) - 1) + [2000],
    )  # fmt: skip
    part.replace(path)


def still(traces: list[Trace], path: Path, dpi: int = 110) -> None:
    """Writes the rollouts side by side at their last sub-step: the figure of the README."""
    scene = SideBySide(traces)
    scene.show(max(len(trace) for trace in traces) - 1)
    quantized(scene.figure, path, dpi)
