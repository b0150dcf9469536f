"""A top view of a rollout that is under way: the ego in the middle, x up."""

import numpy as np
from matplotlib.figure import Figure

from tether.data.scene import Array, Record
from tether.evaluation.figures import image_of
from tether.evaluation.topview import BLUE, TopView, Trace, page
from tether.simulator.events import EVENTS
from tether.simulator.world import Agents, EgoState, Outcome

ACROSS_M, ACROSS_IN, TITLE_IN, DPI = 80.0, 5.0, 0.3, 96


class View:
    """Collects the steps of one rollout, without batch axis, and draws its present state.

    Args: dt: of a sub-step [s].   ego, history, light_state: as in `State`, at the start.
    """

    def __init__(self, record: Record, dt: float, ego: EgoState, history: Agents, light_state: Array):
        self._record, self._dt = record, dt
        nothing = {event.name: np.zeros(1, bool) for event in EVENTS}
        self._parts = [part(ego[None], history[..., -1:], nothing, light_state)]
        height = ACROSS_IN + TITLE_IN
        self._figure = Figure(figsize=(ACROSS_IN, height))
        axes = self._figure.add_axes((0.0, 0.0, 1.0, ACROSS_IN / height))
        self._top = TopView(axes, self._trace(), (0.0, ACROSS_M, 0.0, ACROSS_M), BLUE)

    def add(self, ego: EgoState, agents: Agents, outcome: Outcome, light_state: Array) -> None:
        """Adds a step: the swept ego [S] and boxes [A, S], the outcome, and the lights [L] afterwards."""
        events = {event.name: getattr(outcome, event.name) & outcome.valid for event in EVENTS}
        self._parts.append(part(ego, agents, events, light_state))

    def image(self) -> np.ndarray:
        """The present state as an image, uint8[H, W, 3]."""
        self._top.trace = trace = self._trace()
        self._top.show(len(trace) - 1)
        x, y = page(trace.ego_x[-1], trace.ego_y[-1])
        half = ACROSS_M / 2
        self._top.axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half))
        words, failed = trace.verdict()
        outcome = f"   {words}" if failed is not None else ""
        title = f"{(len(trace) - 1) * self._dt:.1f} s   {trace.ego_speed[-1] * 3.6:.0f} km/h{outcome}"
        self._top.axes.set_title(title, fontsize=10, loc="left", pad=4)
        return np.asarray(image_of(self._figure, DPI))

    def _trace(self) -> Trace:
        fields = {name: np.concatenate([each[name] for each in self._parts], axis=-1) for name in self._parts[0]}
        events = {event.name: fields.pop(event.name) for event in EVENTS}
        count = len(fields["ego_x"])
        return Trace(
            record=self._record,
            policy="",
            score=float("nan"),
            **fields,
            offset=np.zeros(count),
            events=events,
            sentences=("",) * count,
            dt=self._dt,
        )


def part(ego: EgoState, agents: Agents, events: dict[str, Array], light_state: Array) -> dict[str, np.ndarray]:
    """Some sub-steps of a trace, by the names of its fields and of the events."""
    fields = {f"ego_{name}": getattr(ego, name) for name in ("x", "y", "heading", "speed")}
    fields |= {f"agent_{name}": getattr(agents, name) for name in ("x", "y", "heading", "valid")}
    lights = np.repeat(light_state[:, None], len(ego.x), axis=1)
    return {name: np.asarray(value) for name, value in (fields | events | {"light_state": lights}).items()}
