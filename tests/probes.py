"""Probes of the others' reaction: scenes of one other vehicle, an ego that leaves its log, and the sign to be expected.

The ego is row 0, at the origin at the current step; row 1 is the vehicle that should react, or not. Shared by
`tests/test_simulator_reactive.py`, `tests/test_simulator_probes.py` and `benchmarks/reactive.py`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scenes

from tether.data.scene import Scene, SceneSpec
from tether.simulator.dynamics import track_log
from tether.simulator.observe import ego_of
from tether.simulator.world import Action, Agents, EgoState, Outcome

STEPS = SceneSpec().future_steps
LENGTH, WIDTH, LANE_M = 4.5, 1.8, 3.5
REACTION_MPS2 = 0.3  # braking beyond the log that counts as a reaction
SAME_M, SAME_MPS = 0.01, 0.01  # nearer to the log than this is on it


class Plan(NamedTuple):
    """What an ego does from the current step on: float32[80] as in `Action`, or, if `expert`, what follows the log."""

    acceleration: np.ndarray
    curvature: np.ndarray
    expert: bool = False


class Planned(NamedTuple):
    """A policy that follows a `Plan` [B], its params."""

    config: object

    def reset(self, params, scene):
        return scene

    def act(self, params, key, observation, scene):
        logged = track_log(ego_of(observation), scene, observation.time, self.config.substeps, self.config)
        steps = observation.time[:, None] - SceneSpec.current + jnp.arange(self.config.substeps)
        planned = [jnp.take_along_axis(field, steps, axis=1) for field in params[:2]]
        return jax.tree.map(lambda *a: jnp.where(params.expert[:, None], *a), logged, Action(*planned)), scene, {}


class Probe(NamedTuple):
    """One case.

    Attributes:
      kind: of `KINDS`.   case: its parameters by name.   scene, plan: of the rollout, without batch axis.
    """

    kind: str
    case: dict[str, float]
    scene: Scene
    plan: Plan


class Reaction(NamedTuple):
    """What row 1 did, each sub-step of the log's future: float[80] but for `hit`.

    Attributes:
      speed, logged_speed: [m/s].   lag: way behind its log [m].   extra_braking: beyond the log's [m/s^2].
      away: distance from its logged position [m].   gap: from its centre to the ego's [m].
      hit: bool, the boxes of ego and row 1 met.
    """

    speed: np.ndarray
    logged_speed: np.ndarray
    lag: np.ndarray
    extra_braking: np.ndarray
    away: np.ndarray
    gap: np.ndarray
    hit: bool


def plan(acceleration=0.0, first=0, last=STEPS, steer=(), expert=False) -> Plan:
    """Constant acceleration over a span of steps, and curvatures over spans of steps."""
    steps = np.arange(STEPS)
    curvature = sum((value * ((steps >= begin) & (steps < end)) for begin, end, value in steer), np.zeros(STEPS))
    braking = np.where((steps >= first) & (steps < last), acceleration, 0.0)
    return Plan(braking.astype(np.float32), curvature.astype(np.float32), np.asarray(expert))


def moving(
    scene, row, x, speed, acceleration=0.0, y=0.0, heading=0.0, from_s=0.0, turn=0.0, offset=0.0, **kind
) -> Scene:
    """An agent whose speed changes from `from_s` after the current step on, until it stands.

    It is on a line that leaves (x, y) at `heading` with curvature `turn` [1/m], at the current step `offset` metres
    along it.
    """
    time = (np.arange(SceneSpec.steps) - SceneSpec.current) * SceneSpec.dt
    speeds = np.maximum(speed + acceleration * np.maximum(time - from_s, 0.0), 0.0)
    way = np.concatenate([[0.0], np.cumsum((speeds[1:] + speeds[:-1]) / 2 * SceneSpec.dt)])
    way += offset - way[SceneSpec.current]
    scene = scenes.with_agent(scene, row, 0.0, 0.0, **kind)
    headings = heading + turn * way
    chord = way * np.sinc(turn * way / 2 / np.pi)
    track = {
        "x": x + chord * np.cos(heading + turn * way / 2),
        "y": y + chord * np.sin(heading + turn * way / 2),
        "heading": (headings + np.pi) % (2 * np.pi) - np.pi,
        "vel_x": speeds * np.cos(headings),
        "vel_y": speeds * np.sin(headings),
    }
    return scenes.with_rows(scene, row, track)


def open_plain(speed: float) -> Scene:
    """The ego's lane without road edges: probes drive beside it."""
    scene = scenes.straight(speed=speed)
    return dataclasses.replace(scene, road_valid=np.zeros_like(scene.road_valid))


def in_file(speed: float, gap: float, turn: float, aside: float) -> Scene:
    """The ego and a follower at its speed, `gap` metres bumper to bumper, on a bend; `aside` of the ego's line."""
    way = np.arange(scenes.TINY.route_points) * 4.0 - 20.0
    chord = way * np.sinc(turn * way / 2 / np.pi)
    scene = scenes.with_route(open_plain(speed), chord * np.cos(turn * way / 2), chord * np.sin(turn * way / 2))
    scene = moving(scene, 0, 0.0, speed, turn=turn)
    return moving(scene, 1, 0.0, speed, y=aside, turn=turn, offset=-gap - LENGTH)


def file_shapes(speed: float) -> tuple[tuple[float, float], ...]:
    """Curvature [1/m] and lateral offset [m]: straight, off centre, bends to both sides."""
    bend = min(1.5 / speed**2, 0.02)
    return (0.0, 0.0), (0.0, 0.6), (bend, 0.0), (-bend, -0.3)


def files(kind: str, speeds, headways_s, accelerations, last_s: Callable = lambda speed: 8.0) -> Iterator[Probe]:
    """Probes of a follower, `headways_s` behind an ego that changes its speed until `last_s` of its speed."""
    for speed, headway_s, acceleration in itertools.product(speeds, headways_s, accelerations):
        for turn, aside in file_shapes(speed):
            gap = max(headway_s * speed, 2.0)
            case = {"speed": speed, "gap": gap, "acceleration": acceleration, "turn": turn, "aside": aside}
            last = round(last_s(speed) / SceneSpec.dt)
            ego_plan = plan(acceleration, last=last, steer=((0, STEPS, turn),))
            yield Probe(kind, case, in_file(speed, gap, turn, aside), ego_plan)


def brakes_hard() -> Iterator[Probe]:
    """The ego brakes to a standstill in front of a follower."""
    return files("brakes hard", (5.0, 10.0, 15.0, 20.0), (0.5, 1.0, 1.5), (-4.0, -6.0, -8.0))


def stops_in_lane() -> Iterator[Probe]:
    """The ego stops gently in front of a follower."""
    return files("stops in lane", (4.0, 7.0, 10.0), (0.8, 1.5, 2.0), (-2.0, -2.5, -3.0))


def accelerates_away() -> Iterator[Probe]:
    """The ego gains 3 s on its log."""
    return files("accelerates away", (5.0, 10.0, 15.0, 20.0), (0.5, 1.0, 2.0), (0.5, 1.5, 2.5), lambda speed: 3.0)


def beside() -> Iterator[tuple[dict[str, float], Scene, tuple]]:
    """A car as fast as the ego or faster, behind it in the next lane; and curvatures that take the ego there.

    The gap is a fraction of IDM's desired gap once the ego is there.
    """
    for speed, faster, fraction, side, half_s in itertools.product(
        (8.0, 12.0, 16.0), (0.0, 2.0, 4.0), (0.3, 0.5, 0.8), (-1.0, 1.0), (1.0, 1.4)
    ):
        gap = fraction * (2.0 + speed + faster) + faster * 1.5 * half_s
        scene = moving(open_plain(speed), 1, -gap - LENGTH, speed + faster, y=side * LANE_M)
        turn, half = side * LANE_M / (speed * half_s) ** 2, round(half_s / SceneSpec.dt)
        case = {"speed": speed, "faster": faster, "gap": gap, "side": side, "half_s": half_s}
        yield case, scene, ((0, half, turn), (half, 2 * half, -turn))


def cuts_in() -> Iterator[Probe]:
    """The ego changes into the lane of the car."""
    return (Probe("cuts in", case, scene, plan(steer=steer)) for case, scene, steer in beside())


def stays_in_lane() -> Iterator[Probe]:
    """The ego stays in its own lane, at its speed or braking hard."""
    for (case, scene, _), acceleration in zip(beside(), itertools.cycle((0.0, -6.0, -3.0)), strict=False):
        yield Probe("stays in lane", case | {"acceleration": acceleration}, scene, plan(acceleration))


def crossing(angle: float, ego_speed: float, speed: float, ego_s: float) -> tuple[float, float, float]:
    """Where two lines cross, reached by the ego after `ego_s`, and what its front and that of the crosser need to it.

    Returns: x of the crossing; half the length of the crossing along either line [m]; the time from one front's entry
      to the same vehicle's centre [s] of the crosser less that of the ego.
    """
    half = WIDTH / 2 * (1 + abs(np.cos(angle))) / np.sin(angle)
    reach = LENGTH / 2 + half
    return ego_speed * ego_s, half, reach / speed - reach / ego_speed


def crossings(lags: tuple[float, ...]) -> Iterator[tuple[dict[str, float], float, float]]:
    """Angles, sides, speeds and times. A lag is the fraction of the ego's time in the crossing after which the
    crosser's front enters it.

    Yields: the case; x of the crossing; half its length along the ego's way.
    """
    for degrees, side, ego_speed, speed, ego_s, lag in itertools.product(
        (60.0, 90.0, 120.0), (-1.0, 1.0), (5.0, 8.0, 11.0), (6.0, 10.0, 14.0), (3.0, 4.0), lags
    ):
        x, half, later_s = crossing(np.radians(degrees), ego_speed, speed, ego_s)
        inside_s = (LENGTH + 2 * half) / ego_speed
        case = {"angle": side * degrees, "ego_speed": ego_speed, "speed": speed, "ego_s": ego_s, "lag": lag}
        yield case | {"arrival_s": ego_s + later_s + lag * inside_s}, x, half


def with_crosser(scene: Scene, case: dict[str, float], x: float) -> Scene:
    """Row 1 drives at constant speed through (x, 0)."""
    return moving(
        scene, 1, x, case["speed"], heading=np.radians(case["angle"]), offset=-case["speed"] * case["arrival_s"]
    )


def yields() -> Iterator[Probe]:
    """The logged ego crosses before the crosser; this one brakes, at once or later, and waits before the crossing."""
    for (case, x, half), from_s in itertools.product(crossings((1.5, 2.5)), (0.0, 1.0)):
        speed = case["ego_speed"]
        way = x - half - LENGTH / 2 - 3.0 - speed * from_s
        braking = plan(-(speed**2) / (2 * way), first=round(from_s / SceneSpec.dt))
        yield Probe("yields", case | {"from_s": from_s}, with_crosser(open_plain(speed), case, x), braking)


def goes_first() -> Iterator[Probe]:
    """The logged ego waits for the crosser; this one does not, and has entered when the crosser comes."""
    for case, x, half in crossings((0.3, 0.6, 0.9)):
        way, speed = x - half - LENGTH / 2 - 1.5, case["ego_speed"]
        scene = moving(open_plain(speed), 0, 0.0, speed, -(speed**2) / (2 * way))
        yield Probe("goes first", case, with_crosser(scene, case, x), plan())


def by_substep(field: jax.Array) -> np.ndarray:
    """[H, B, ..., S] -> [B, ..., H * S]."""
    moved = np.moveaxis(np.asarray(field), 0, -2)
    return moved.reshape(*moved.shape[:-2], -1)


def reactions(scene: Scene, ego: EgoState, agents: Agents, outcome: Outcome) -> list[Reaction]:
    """What row 1 of each scene [B] did in a rollout from the current step to the log's end."""
    row = jax.tree.map(lambda field: by_substep(field)[:, 1], agents)
    log_x, log_y, logged_speed = (field[:, 1, SceneSpec.current :] for field in (scene.x, scene.y, speed_of(scene)))
    speed = np.concatenate([logged_speed[:, :1], speed_of(row)], axis=1)
    slower = logged_speed - speed
    fields = (
        speed[:, 1:],
        logged_speed[:, 1:],
        np.cumsum(slower[:, 1:], axis=1) * SceneSpec.dt,
        np.diff(slower, axis=1) / SceneSpec.dt,
        np.hypot(row.x - log_x[:, 1:], row.y - log_y[:, 1:]),
        np.hypot(row.x - by_substep(ego.x), row.y - by_substep(ego.y)),
        np.asarray((outcome.collision & outcome.valid).any((0, 2))),
    )
    return [Reaction(*one) for one in zip(*fields, strict=True)]


def speed_of(agents: Agents | Scene) -> np.ndarray:
    """Speeds of all rows [m/s]."""
    return np.hypot(agents.vel_x, agents.vel_y)


def braked(reaction: Reaction) -> bool:
    """It brakes more than in its log, falls behind it and has no contact."""
    return bool(reaction.extra_braking.max() > REACTION_MPS2 and reaction.lag[-1] > SAME_M and not reaction.hit)


def stopped(reaction: Reaction) -> bool:
    """It brakes and stops behind the ego, no nearer than bumper to bumper."""
    return bool(braked(reaction) and reaction.speed[-1] < 1.0 and reaction.gap.min() > LENGTH)


def as_logged(reaction: Reaction) -> bool:
    """It keeps its log."""
    slower = np.max(reaction.logged_speed - reaction.speed)
    return bool(reaction.away.max() < SAME_M and slower < SAME_MPS and not reaction.hit)


KINDS: dict[str, tuple[Callable[[], Iterator[Probe]], Callable[[Reaction], bool]]] = {
    "brakes hard": (brakes_hard, braked),
    "stops in lane": (stops_in_lane, stopped),
    "cuts in": (cuts_in, braked),
    "stays in lane": (stays_in_lane, as_logged),
    "yields": (yields, as_logged),
    "goes first": (goes_first, braked),
    "accelerates away": (accelerates_away, as_logged),
}
