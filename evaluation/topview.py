"""Top views of a rollout: the ego, the others, the policy's sentences, and where an event happened.

The x axis points up the page. Colours are Okabe & Ito's, which can be distinguished without red-green vision; traffic
lights differ by marker as well as by colour.
"""

import dataclasses

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection

from tether.data.scene import (
    LANE_TYPES,
    LINE_TYPES,
    RED_STATES,
    ROAD_EDGE_TYPES,
    YELLOW_STATES,
    AgentType,
    LightState,
    Record,
    RoadType,
    Scene,
)
from tether.simulator.events import FAILURES, LABELS

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#1a1a1a",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0c808",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
)
BROWN, GREY_BLUE = "#7a4b00", "#8c96a3"
GROUND, ASPHALT, LANE, EDGE, PAINT = "#f3f1ec", "#ffffff", "#dcd9d2", "#4d4d4d", "#bdbab1"
AGENT_COLOURS = {AgentType.VEHICLE: GREY_BLUE, AgentType.PEDESTRIAN: PURPLE, AgentType.CYCLIST: BROWN}
LANE_WIDTH_M = 3.4
SMALLEST_M = 1.4  # people are drawn no smaller, or they could not be seen


@dataclasses.dataclass(frozen=True)
class Trace:
    """One rollout of a policy in a scene, on the host, in the scene's frame; K valid sub-steps.

    Attributes:
      record: the scene.  policy: its name.  score: driving score.
      ego_x, ego_y, ego_heading, ego_speed: float[K], the ego after each sub-step [m], [rad], [m/s].
      agent_x, agent_y, agent_heading: float[A, K] and agent_valid: bool[A, K].
      light_state: int[L, K], `LightState`.
      offset: float[K], lateral offset from the route [m], left positive.
      events: name to bool[K].
      sentences: K sentences of the policy's reasoning, empty where there is none.
      dt: sub-step [s].
    """

    record: Record
    policy: str
    score: float
    ego_x: np.ndarray
    ego_y: np.ndarray
    ego_heading: np.ndarray
    ego_speed: np.ndarray
    agent_x: np.ndarray
    agent_y: np.ndarray
    agent_heading: np.ndarray
    agent_valid: np.ndarray
    light_state: np.ndarray
    offset: np.ndarray
    events: dict[str, np.ndarray]
    sentences: tuple[str, ...]
    dt: float

    def __len__(self) -> int:
        return len(self.ego_x)

    def first(self, event: str) -> int | None:
        """The sub-step at which an event first happened; None if it never did."""
        return int(np.argmax(self.events[event])) if self.events[event].any() else None

    def verdict(self) -> tuple[str, int | None]:
        """The first failure, in words, and its sub-step; the score and None if there is no failure."""
        when = {name: self.first(name) for name in FAILURES if self.first(name) is not None}
        if not when:
            return f"no failure, score {self.score:.2f}", None
        name = min(when, key=when.get)
        return f"{LABELS[name]} at {(when[name] + 1) * self.dt:.1f} s", when[name]


def boxes(x: np.ndarray, y: np.ndarray, heading: np.ndarray, length: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Corners of boxes on the page. All float[N]; returns float[N, 4, 2]."""
    forward, left = np.array([0.5, 0.5, -0.5, -0.5]), np.array([0.5, -0.5, -0.5, 0.5])
    along, across = forward * length[:, None], left * width[:, None]
    cos, sin = np.cos(heading)[:, None], np.sin(heading)[:, None]
    return page(x[:, None] + cos * along - sin * across, y[:, None] + sin * along + cos * across)


def page(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Scene coordinates on the page: x up, y to the left. Returns float[..., 2]."""
    return np.stack([-np.asarray(y), np.asarray(x)], -1)


def extent(traces: list[Trace], margin_m: float = 22.0, least_m: float = 55.0) -> tuple[float, float, float, float]:
    """The part of the page that holds every ego's path and its surroundings: left, right, bottom, top [m]."""
    points = np.concatenate([page(t.ego_x, t.ego_y) for t in traces])
    centre, span = (points.max(0) + points.min(0)) / 2, np.ptp(points, axis=0) + 2 * margin_m
    half = np.maximum(span, least_m) / 2
    half = np.maximum(half, half.max() * 0.5)  # neither a ribbon nor a column
    return centre[0] - half[0], centre[0] + half[0], centre[1] - half[1], centre[1] + half[1]


def draw_map(axes: Axes, scene: Scene, bounds: tuple[float, float, float, float]) -> None:
    """Draws the static map: lanes, paint, road edges, crosswalks and the route."""
    lines = [page(x[ok], y[ok]) for x, y, ok in zip(scene.road_x, scene.road_y, scene.road_valid, strict=True)]
    kinds = np.asarray(scene.road_type)

    def of(types: tuple[RoadType, ...]) -> list[np.ndarray]:
        return [line for line, kind in zip(lines, kinds, strict=True) if kind in types and len(line) > 1]

    scale = axes.get_window_extent().width / axes.figure.dpi * 72 / (bounds[1] - bounds[0])  # points per metre
    axes.add_collection(PolyCollection(of((RoadType.CROSSWALK,)), fc="#e4e0f0", ec="#a79fc4", lw=0.8, hatch="////"))
    axes.add_collection(PolyCollection(of((RoadType.SPEED_BUMP,)), fc="#ece7d3", ec=PAINT, lw=0.6))
    lanes = of(LANE_TYPES)
    axes.add_collection(LineCollection(lanes, colors=ASPHALT, lw=LANE_WIDTH_M * scale, capstyle="round", zorder=0))
    axes.add_collection(LineCollection(lanes, colors=LANE, lw=1.0, zorder=0.5))
    axes.add_collection(LineCollection(of(LINE_TYPES), colors=PAINT, lw=0.8, ls=(0, (4, 3))))
    axes.add_collection(LineCollection(of(ROAD_EDGE_TYPES), colors=EDGE, lw=1.3))
    route = page(scene.route_x, scene.route_y)[np.asarray(scene.route_valid)]
    axes.plot(*route.T, color=SKY, lw=5, alpha=0.35, solid_capstyle="round", zorder=1.5)
    axes.set(xlim=bounds[:2], ylim=bounds[2:], xticks=[], yticks=[], aspect="equal", facecolor=GROUND)
    axes.spines[:].set_color(PAINT)


class TopView:
    """One panel: draws the map once and moves the agents and lights."""

    def __init__(self, axes: Axes, trace: Trace, bounds: tuple[float, float, float, float], colour: str):
        self.axes, self.trace, self.scene = axes, trace, trace.record.scene
        draw_map(axes, self.scene, bounds)
        self.others = PolyCollection([], ec="white", lw=0.6, zorder=3)
        self.ego = PolyCollection([], fc=colour, ec=BLACK, lw=1.2, zorder=5)
        self.trail = axes.plot([], [], color=colour, lw=2.2, zorder=4, solid_capstyle="round")[0]
        self.lights = [
            axes.plot([], [], marker, mfc=fill, mec=BLACK, mew=0.6, ms=6.5, ls="", zorder=6)[0]
            for marker, fill in (("s", VERMILLION), ("^", YELLOW), ("o", GREEN), ("D", "#cccccc"))
        ]
        self.mark = axes.plot([], [], "x", color=VERMILLION, ms=13, mew=3.2, zorder=7)[0]
        axes.add_collection(self.others)
        axes.add_collection(self.ego)

    def show(self, step: int) -> None:
        """Moves everything to a sub-step; past the end of the rollout, its last sub-step stays."""
        k = min(step, len(self.trace) - 1)
        self._show_boxes(k)
        self._show_lights(k)
        self.trail.set_data(*page(self.trace.ego_x[: k + 1], self.trace.ego_y[: k + 1]).T)
        _, failed = self.trace.verdict()
        if failed is not None and k >= failed:
            self.mark.set_data(*page(self.trace.ego_x[failed : failed + 1], self.trace.ego_y[failed : failed + 1]).T)

    def _show_boxes(self, k: int) -> None:
        trace, scene = self.trace, self.scene
        ego = int(scene.ego)
        visible = trace.agent_valid[:, k] & (np.arange(len(scene.length)) != ego)
        size = np.maximum(scene.length, SMALLEST_M), np.maximum(scene.width, SMALLEST_M)
        pose = (trace.agent_x[:, k], trace.agent_y[:, k], trace.agent_heading[:, k], *size)
        self.others.set_verts(boxes(*(value[visible] for value in pose)))
        self.others.set_facecolor([AGENT_COLOURS.get(kind, GREY_BLUE) for kind in scene.agent_type[visible]])
        here = slice(k, k + 1)
        size = scene.length[[ego]], scene.width[[ego]]
        self.ego.set_verts(boxes(trace.ego_x[here], trace.ego_y[here], trace.ego_heading[here], *size))

    def _show_lights(self, k: int) -> None:
        state = self.trace.light_state[:, k]
        exists = np.asarray(self.scene.light_valid).any(-1)
        green = np.isin(state, (LightState.GO, LightState.ARROW_GO))
        red, yellow = np.isin(state, RED_STATES), np.isin(state, YELLOW_STATES)
        at = page(self.scene.light_x, self.scene.light_y)
        for artist, chosen in zip(self.lights, (red, yellow, green, ~(red | yellow | green)), strict=True):
            artist.set_data(*at[chosen & exists].T)
