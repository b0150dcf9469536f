"""Details of an evaluation: scenes to draw, events with their causes, sentences with the motion that followed."""

from typing import Any

import numpy as np

from tether.data.scene import AgentType, LightState
from tether.evaluation.report import PAIR, Results
from tether.evaluation.topview import Trace
from tether.simulator.events import LABELS

SENTENCES_PER_SCENE = 3


def improvements(results: Results, judge: str, count: int) -> list[int]:
    """Rows where imitation failed and the post-trained policy did not, the largest gain of return first."""
    after, before = (results.scores[judge][name] for name in PAIR)
    gain = np.where(before["failure"] & ~after["failure"], after["return"] - before["return"], -np.inf)
    return [int(row) for row in np.argsort(-gain, kind="stable")[:count] if np.isfinite(gain[row])]


def worst_failures(results: Results, judge: str, policy: str, count: int) -> list[int]:
    """Rows where a policy failed, the lowest return first."""
    scores = results.scores[judge][policy]
    returns = np.where(scores["failure"], scores["return"], np.inf)
    return [int(row) for row in np.argsort(returns, kind="stable")[:count] if np.isfinite(returns[row])]


def eventful(results: Results, judge: str, policy: str) -> list[int]:
    """Rows where a policy had any event at all, contacts that were not its fault and wrong ways included."""
    scores = results.scores[judge][policy]
    return [int(row) for row in np.flatnonzero(np.any([scores[name] for name in LABELS], axis=0))]


def events(trace: Trace, number: int) -> list[dict[str, Any]]:
    """The events of a rollout: each kind once, with the time at which it first happened and the cause.

    Args: number: of the record in its split; several egos may share a scenario.
    Returns: dicts of scenario_id, record (the number), policy, event, time_s, cause.
    """
    listed = []
    for name in LABELS:
        step = trace.first(name)
        if step is None or (name == "collision" and step == trace.first("at_fault")):
            continue
        cause = f"ego at {trace.ego_speed[step]:.1f} m/s, {describe(trace, name, step)}"
        where = {"scenario_id": trace.record.scenario_id, "record": number, "policy": trace.policy}
        listed.append({**where, "event": name, "time_s": round((step + 1) * trace.dt, 1), "cause": cause})
    return listed


def describe(trace: Trace, event: str, step: int) -> str:
    """The cause of an event, in words with numbers."""
    if event in ("at_fault", "collision"):
        return contact(trace, step)
    if event == "red_light":
        return f"light {LightState(red_light_passed(trace, step)).name}"
    return f"{metres(trace.offset[step], 'left', 'right')} of the route"


def contact(trace: Trace, step: int) -> str:
    """The agent that the ego touches: kind, size, relative place, and speed (or: first seen in this step)."""
    scene = trace.record.scene
    x, y = trace.agent_x[:, step] - trace.ego_x[step], trace.agent_y[:, step] - trace.ego_y[step]
    cos, sin = np.cos(trace.ego_heading[step]), np.sin(trace.ego_heading[step])
    ahead, left = cos * x + sin * y, cos * y - sin * x
    reach = np.hypot(scene.length, scene.width) / 2
    gap = np.hypot(x, y) - reach
    gap[~trace.agent_valid[:, step]], gap[int(scene.ego)] = np.inf, np.inf
    row = int(np.argmin(gap))
    before = max(step - 1, 0)
    moved = np.hypot(*(track[row, step] - track[row, before] for track in (trace.agent_x, trace.agent_y)))
    followed = step > before and trace.agent_valid[row, before]
    motion = f"{moved / trace.dt:.1f} m/s" if followed else "first seen in this step"
    size = f"{scene.length[row]:.1f} x {scene.width[row]:.1f} m"
    kind = AgentType(int(scene.agent_type[row])).name.lower()
    place = f"{metres(ahead[row], 'ahead', 'behind')}, {metres(left[row], 'left', 'right')} of its centre"
    return f"{kind} {row} ({size}, {motion}), {place}"


def metres(value: float, positive: str, negative: str) -> str:
    """`5.6 m behind`. Args: value [m]; the words for a positive and a negative value."""
    return f"{abs(value):.1f} m {positive if value > -0.05 else negative}"


def red_light_passed(trace: Trace, step: int) -> int:
    """State of the light on the route whose stop point is nearest to the ego's front."""
    scene = trace.record.scene
    front = scene.length[int(scene.ego)] / 2
    x = trace.ego_x[step] + front * np.cos(trace.ego_heading[step])
    y = trace.ego_y[step] + front * np.sin(trace.ego_heading[step])
    distance = np.where(scene.light_route_s >= 0, np.hypot(scene.light_x - x, scene.light_y - y), np.inf)
    return int(trace.light_state[int(np.argmin(distance)), step])


def sentences(trace: Trace) -> list[dict[str, Any]]:
    """The first different sentences of a rollout, each with the ego's motion in the second after it.

    Returns: dicts of scenario_id, policy, time_s, sentence, motion.
    """
    chosen = dict.fromkeys(sentence for sentence in trace.sentences if sentence)
    quotes = []
    for sentence in list(chosen)[:SENTENCES_PER_SCENE]:
        step = trace.sentences.index(sentence)
        where = {"scenario_id": trace.record.scenario_id, "policy": trace.policy, "time_s": round(step * trace.dt, 1)}
        quotes.append({**where, "sentence": sentence, "motion": motion_after(trace, step)})
    return quotes


def motion_after(trace: Trace, step: int) -> str:
    """Change of speed and heading in the second after a sub-step."""
    later = min(step + round(1 / trace.dt), len(trace) - 1)
    turned = np.degrees((trace.ego_heading[later] - trace.ego_heading[step] + np.pi) % (2 * np.pi) - np.pi)
    speeds = f"{trace.ego_speed[step]:.1f} to {trace.ego_speed[later]:.1f} m/s"
    return f"{speeds}, heading {turned:+.0f}°"
