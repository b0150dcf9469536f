"""The simulator's documented definitions a second time, in NumPy float64: what the JAX code is compared with.

Written from the docstrings of `simulator/` and with other algorithms than theirs where there is a choice: arcs by the
circle's closed form, overlap by separating axes over explicit corner polygons, the side of a road edge by vertex
normals, and always over the whole map. Only settings (`SimulatorConfig`) and codes (`data/scene.py`) are shared. What
concerns the map is in `oracle_map.py`.

Letters: N sub-steps, A agents, K segments, Q points, H steps, S sub-steps of a step. Arrays [N + 1] begin with
the start. SI units.

A `Verdict` here is unclear within `NEAR_M` or `NEAR_RATE` of its threshold.
"""

from typing import NamedTuple

import numpy as np
from oracle_map import (
    NEAR_M,
    Place,
    Track,
    Verdict,
    corridor,
    log_places,
    off_road,
    red_light,
    route_of,
    walked,
    wrong_way,
)

from tether.data.scene import Scene
from tether.simulator.config import SimulatorConfig, VehicleLimits

DT = 0.1
HISTORY = 10  # log steps before the start
NEAR_RATE = 2e-3  # of speeds, accelerations, jerks and yaw rates
# Time to collision jumps where boxes barely pass each other: it is bracketed by boxes this much wider and narrower.
TTC_NEAR_M = 6e-3
FAILURES = ("at_fault", "off_road", "red_light", "corridor")
EVENTS = ("collision", *FAILURES, "wrong_way", "uncomfortable")


class Measures(NamedTuple):
    """All measures of a rollout that do not depend on where it ends.

    Attributes:
      events: `Verdict` by name, `EVENTS`.
      overlap_m: [N].   route: `Place` at the start and after each sub-step, [N + 1].
      ttc_s: float64[2, N], the earliest and latest that rounding allows, capped.
      longitudinal_jerk: [N].
    """

    events: dict[str, Verdict]
    overlap_m: np.ndarray
    route: list[Place]
    ttc_s: np.ndarray
    longitudinal_jerk: np.ndarray


class Episode(NamedTuple):
    """The ends, reward and score of a rollout.

    Attributes:
      valid: bool[N], up to the terminating event and the end of the log.
      known: how many sub-steps go before the first unclear failure; beyond them validity may rightly differ. All of
        them where a clear failure ends the rollout earlier.
      terms: the reward's terms float64[H].   alive, termination, truncation: bool[H].
      clear: bool[H], every decision and place that the step's reward hangs on is clear.
      score, progress, score_clear: of the whole rollout.
    """

    valid: np.ndarray
    known: int
    terms: dict[str, np.ndarray]
    alive: np.ndarray
    termination: np.ndarray
    truncation: np.ndarray
    clear: np.ndarray
    score: float
    progress: float
    score_clear: bool


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Into (-pi, pi] [rad]."""
    return np.arctan2(np.sin(angle), np.cos(angle))


def log_pose(scene: Scene, step: int) -> tuple[float, float, float]:
    """x, y, heading of the logged ego."""
    return tuple(float(getattr(scene, name)[scene.ego, step]) for name in ("x", "y", "heading"))


def log_start(scene: Scene, step: int) -> tuple[float, ...]:
    """The logged ego as the fields of `Track`: speed along its heading; rates from the past 0.3 s."""

    def speed_at(step):
        heading = log_pose(scene, step)[2]
        velocity = float(scene.vel_x[scene.ego, step]), float(scene.vel_y[scene.ego, step])
        return max(velocity[0] * np.cos(heading) + velocity[1] * np.sin(heading), 0.0)

    before = max(step - 3, 0)
    span = max(step - before, 1) * DT
    speed, speed_before = speed_at(step), speed_at(before)
    way = (speed + speed_before) / 2 * span
    turn = wrapped(log_pose(scene, step)[2] - log_pose(scene, before)[2])
    return *log_pose(scene, step), speed, (speed - speed_before) / span, turn / way if way > 0.5 else 0.0


def last_log_step(scene: Scene) -> int:
    """Where the ego's log ends."""
    return int(np.flatnonzero(scene.valid[scene.ego])[-1])


def drive(
    start: tuple[float, ...], acceleration: np.ndarray, curvature: np.ndarray, limits: VehicleLimits, length: float
) -> Track:
    """Drives actions [N] from `start` (fields of `Track`): exact arcs within the limits, no reversing.

    The arcs are the rear axle's, a quarter of the length behind the centre.
    """
    axle = length / 4
    states = [(start[0] - axle * np.cos(start[2]), start[1] - axle * np.sin(start[2]), *start[2:])]
    for a, k in zip(acceleration.astype(float), curvature.astype(float), strict=True):
        x, y, heading, speed, _, _ = states[-1]
        a = min(max(a, limits.acceleration_min), limits.acceleration_max)
        tightest = min(limits.curvature_max, limits.lateral_acceleration_max / max(speed, 0.1) ** 2)
        k = min(max(k, -tightest), tightest)
        moves_s = DT if speed + a * DT >= 0 else speed / -a
        way, after = speed * moves_s + a * moves_s**2 / 2, speed + a * moves_s
        x, y = along_arc(x, y, heading, way, k)
        states.append((x, y, heading + k * way, after, (after - speed) / DT, k))
    x, y, heading, *motion = np.array(states).T
    return Track(x + axle * np.cos(heading), y + axle * np.sin(heading), heading, *motion)


def along_arc(x: float, y: float, heading: float, way: float, curvature: float) -> tuple[float, float]:
    """The end of an arc, around a centre 1 / curvature to the left; a straight line where it hardly bends."""
    if abs(curvature * way) < 1e-6:
        return x + way * np.cos(heading), y + way * np.sin(heading)
    radius, after = 1 / curvature, heading + curvature * way
    centre_x, centre_y = x - radius * np.sin(heading), y + radius * np.cos(heading)
    return centre_x + radius * np.sin(after), centre_y - radius * np.cos(after)


def corners(x, y, heading, length, width) -> np.ndarray:
    """Corner points of boxes [...]: float64[..., 4, 2], around the box."""
    forward = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    left = np.stack([-np.sin(heading), np.cos(heading)], axis=-1)
    ahead = forward * np.asarray(length, float)[..., None] / 2
    aside = left * np.asarray(width, float)[..., None] / 2
    centre = np.stack([x, y], axis=-1)
    return np.stack(
        [centre + ahead + aside, centre + ahead - aside, centre - ahead - aside, centre - ahead + aside], -2
    )


def overlap_depth(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The least shift along an edge normal that parts two rectangles [..., 4, 2]; negative where they are apart."""
    depth = np.inf
    for box in (a, b):
        for i in (0, 1):
            edge = box[..., i + 1, :] - box[..., i, :]
            normal = (edge / np.linalg.norm(edge, axis=-1, keepdims=True))[..., None, :]
            along_a, along_b = (normal * a).sum(-1), (normal * b).sum(-1)
            one_way, other_way = along_a.max(-1) - along_b.min(-1), along_b.max(-1) - along_a.min(-1)
            depth = np.minimum(depth, np.minimum(one_way, other_way))
    return depth


class Others(NamedTuple):
    """The other agents as logged, at the start and after each sub-step: [A, N + 1]; box float64[A, N + 1, 4, 2]."""

    x: np.ndarray
    y: np.ndarray
    vel_x: np.ndarray
    vel_y: np.ndarray
    valid: np.ndarray
    box: np.ndarray


def others_of(scene: Scene, start: int, count: int) -> Others:
    """All agents but the ego that are seen at any of `count` log steps from `start`; after its end the log rests."""
    steps = np.minimum(start + np.arange(count), scene.x.shape[-1] - 1)
    rows = [row for row in range(len(scene.x)) if row != scene.ego and scene.valid[row, steps].any()]
    x, y, heading, vel_x, vel_y = (
        getattr(scene, name)[rows][:, steps].astype(float) for name in ("x", "y", "heading", "vel_x", "vel_y")
    )
    size = (np.broadcast_to(field[rows][:, None], x.shape) for field in (scene.length, scene.width))
    return Others(x, y, vel_x, vel_y, scene.valid[rows][:, steps], corners(x, y, heading, *size))


def ego_boxes(scene: Scene, track: Track) -> np.ndarray:
    """float64[N + 1, 4, 2]."""
    return corners(track.x, track.y, track.heading, *ego_size(scene))


def ego_size(scene: Scene) -> tuple[float, float]:
    """Length and width."""
    return float(scene.length[scene.ego]), float(scene.width[scene.ego])


def bearing_of(track: Track, others: Others) -> np.ndarray:
    """The angle at which the ego sees each centre, 0 ahead: [A, N + 1]."""
    return wrapped(np.arctan2(others.y - track.y, others.x - track.x) - track.heading)


def contacts(
    track: Track, others: Others, depth: np.ndarray, seen: np.ndarray, substeps: int
) -> tuple[Verdict, Verdict, np.ndarray]:
    """Contacts that begin, whether one is the ego's fault, and their greatest depth.

    A contact begins where the boxes overlap and were apart when the other was last seen, in the ten steps before the
    World's step or within it.

    Args: depth, seen: [A, HISTORY + N + 1], also before the start.
    """
    overlaps, near = seen & (depth > 0), seen & (np.abs(depth) < NEAR_M)
    begins, unclear = np.zeros((2, len(depth), len(track.x) - 1), bool)
    rows = np.arange(len(depth))
    for i in range(len(track.x) - 1):
        now, first = HISTORY + i + 1, i // substeps * substeps
        last = np.where(seen[:, first:now], np.arange(first, now), -1).max(1)
        before, known = (rows, last), last >= 0
        begins[:, i] = overlaps[:, now] & known & ~overlaps[before]
        unclear[:, i] = near[:, now] | (overlaps[:, now] & known & near[before])
    depth = depth[:, HISTORY:]
    speed = np.maximum(track.speed[1:], track.speed[:-1])
    other_speed = np.hypot(others.vel_x, others.vel_y)[:, 1:]
    from_behind = np.pi - np.abs(bearing_of(track, others))[:, 1:]
    fault = begins & (speed > 0.05) & ((other_speed <= 0.05) | (from_behind >= np.pi / 6))
    close_call = (np.abs(speed - 0.05) < NEAR_RATE) | (np.abs(other_speed - 0.05) < NEAR_RATE)
    close_call |= np.abs(from_behind - np.pi / 6) < NEAR_M
    collision = Verdict(begins.any(0), ~unclear.any(0))
    at_fault = Verdict(fault.any(0), ~(unclear | (begins & close_call)).any(0))
    return collision, at_fault, np.where(begins, depth[:, 1:], 0.0).max(0, initial=0.0)


def time_to_collision(scene: Scene, track: Track, others: Others, depth: np.ndarray, cap: float) -> np.ndarray:
    """Seconds until the ego meets something ahead if all keep their velocity, boxes widened along the ego's axes.

    Looked at are agents whose centre is in front of the ego's, that it does not overlap, while it moves.
    Returns: [2, N], earliest and latest.
    """
    cos, sin = np.cos(track.heading)[:, None], np.sin(track.heading)[:, None]
    from_ego = others.box - np.stack([track.x, track.y], axis=-1)[:, None]
    ahead, left = (
        from_ego[..., 0] * cos + from_ego[..., 1] * sin,
        from_ego[..., 1] * cos - from_ego[..., 0] * sin,
    )
    closing = others.vel_x * cos[:, 0] + others.vel_y * sin[:, 0] - track.speed
    drifting = others.vel_y * cos[:, 0] - others.vel_x * sin[:, 0]
    bearing = np.abs(bearing_of(track, others))
    bounds = []
    for slack in (1, -1):
        wider = slack * TTC_NEAR_M
        along = meeting(ahead, closing, float(scene.length[scene.ego]) / 2 + wider)
        across = meeting(left, drifting, float(scene.width[scene.ego]) / 2 + wider)
        begin, end = np.maximum(np.maximum(along[0], across[0]), 0.0), np.minimum(along[1], across[1])
        seen = others.valid & (depth <= slack * NEAR_M) & (bearing < np.pi / 2 + slack * NEAR_M)
        seen &= track.speed > 0.05 - slack * NEAR_RATE
        bounds.append(np.where(seen & (begin < end), begin, cap).min(0, initial=cap)[1:])
    return np.stack(bounds)


def meeting(reach: np.ndarray, speed: np.ndarray, half: float) -> tuple[np.ndarray, np.ndarray]:
    """When the span of `reach` [..., 4], moving at `speed` [...], begins and ceases to meet [-half, half]."""
    low, high = reach.min(-1), reach.max(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.sort(np.stack([(-half - high) / speed, (half - low) / speed]), axis=0)
    touches = (low < half) & (high > -half)
    still = speed == 0
    return np.where(still, np.where(touches, -np.inf, np.inf), times[0]), np.where(still, np.inf, times[1])


def rate(values: np.ndarray, substeps: int, window_s: float) -> np.ndarray:
    """The change since the step began, over the time since then but `window_s` at least: [N + 1] -> [N]."""
    after = np.arange(1, len(values))
    begun = (after - 1) // substeps * substeps
    return (values[1:] - values[begun]) / np.maximum((after - begun) * DT, window_s)


def comfort(track: Track, config: SimulatorConfig) -> tuple[Verdict, np.ndarray]:
    """Whether any comfort bound is exceeded, and the longitudinal jerk."""
    bounds, lateral, yaw_rate = config.comfort, track.curvature * track.speed**2, track.curvature * track.speed
    jerk, lateral_jerk, yaw_acceleration = (
        rate(values, config.substeps, bounds.window_s) for values in (track.acceleration, lateral, yaw_rate)
    )
    beyond = np.array(
        [
            bounds.acceleration_min - track.acceleration[1:],
            track.acceleration[1:] - bounds.acceleration_max,
            np.abs(lateral[1:]) - bounds.lateral_acceleration,
            np.abs(jerk) - bounds.longitudinal_jerk,
            np.hypot(jerk, lateral_jerk) - bounds.jerk,
            np.abs(yaw_rate[1:]) - bounds.yaw_rate,
            np.abs(yaw_acceleration) - bounds.yaw_acceleration,
        ]
    ).max(0)
    return Verdict(beyond > 0, np.abs(beyond) > NEAR_RATE), jerk


def measure(scene: Scene, track: Track, start: int, config: SimulatorConfig) -> Measures:
    """What happens to an ego on `track` from log step `start` among the log's others."""
    before = others_of(scene, start - HISTORY, HISTORY + len(track.x))
    others, boxes = Others(*(field[:, HISTORY:] for field in before)), ego_boxes(scene, track)
    past = corners(*np.array([log_pose(scene, step) for step in range(start - HISTORY, start)]).T, *ego_size(scene))
    deep = overlap_depth(np.concatenate([past, boxes]), before.box)
    there = np.append(scene.valid[scene.ego, start - HISTORY : start], np.ones(len(track.x), bool))
    depth = deep[:, HISTORY:]
    route = walked(route_of(scene), log_places(scene)[start], track.x, track.y)
    collision, at_fault, overlap_m = contacts(track, others, deep, before.valid & there, config.substeps)
    uncomfortable, jerk = comfort(track, config)
    events = {
        "collision": collision,
        "at_fault": at_fault,
        "off_road": off_road(scene, boxes[1:]),
        "red_light": red_light(scene, route, start),
        "corridor": corridor(route, config.corridor_m),
        "wrong_way": wrong_way(scene, track, config.lane_range_m),
        "uncomfortable": uncomfortable,
    }
    return Measures(
        events=events,
        overlap_m=overlap_m,
        route=route,
        ttc_s=time_to_collision(scene, track, others, depth, config.ttc_cap_s),
        longitudinal_jerk=jerk,
    )


def speed_limit(scene: Scene, point_s: np.ndarray, s: float) -> tuple[float, bool]:
    """Of the route point at or before `s` (0: unknown), and whether no other point is so near that it might count."""
    low, here, high = (
        float(scene.route_speed_limit[max(int((point_s <= s + d).sum()) - 1, 0)]) for d in (-NEAR_M, 0.0, NEAR_M)
    )
    return here, low == here == high


def episode(scene: Scene, measures: Measures, start: int, config: SimulatorConfig) -> Episode:
    """Ends a rollout at its first failure or with the log, and adds up its reward and score."""
    count = len(measures.overlap_m)
    first = first_true(np.any([measures.events[name].value for name in FAILURES], axis=0))
    unclear = first_true(~np.all([measures.events[name].clear for name in FAILURES], axis=0))
    left = last_log_step(scene) - start
    valid = (np.arange(count) <= first) & (np.arange(1, count + 1) <= left)
    ends = np.arange(1, count // config.substeps + 1) * config.substeps
    termination = (first < ends) & (first >= ends - config.substeps) & (first < left)
    over = termination | (ends >= left)
    alive = np.cumsum(over) - over == 0
    terms, clear = reward_terms(scene, measures, valid, config)
    failure, way = first < min(left, count), (measures.route[0], measures.route[valid.sum()])
    score, progress, score_clear = driving_score(scene, failure, way, start, count)
    return Episode(
        valid=valid,
        known=count if first < unclear else unclear,
        terms=terms,
        alive=alive,
        termination=termination & alive,
        truncation=alive & ~termination & (ends >= left),
        clear=clear,
        score=score,
        progress=progress,
        score_clear=score_clear,
    )


def first_true(values: np.ndarray) -> int:
    """Index of the first True; the length where there is none."""
    return int(np.argmax(values)) if values.any() else len(values)


def reward_terms(
    scene: Scene, measures: Measures, valid: np.ndarray, config: SimulatorConfig
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The terms of the reward of each step, float64[H], and whether all they hang on is clear."""
    rows, clear, route = [], [], route_of(scene)
    point_s = np.append(route.s, route.s[-1] + route.lines.length[-1])
    for first in range(0, len(valid), config.substeps):
        inside = np.arange(first, first + config.substeps)
        counted = inside[valid[inside]]
        limit, sure_limit = speed_limit(scene, point_s, measures.route[first].s)
        rows.append(step_terms(measures, counted, limit or config.reward.reference_speed, config))
        sure = [verdict.clear[counted].all() for verdict in measures.events.values()]
        sure += [measures.route[i].clear for i in (first, *(counted + 1))]
        sure += [np.ptp(measures.ttc_s[:, counted], axis=0).max(initial=0.0) < 0.05, sure_limit]
        clear.append(all(sure))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}, np.array(clear)


def step_terms(measures: Measures, counted: np.ndarray, reference: float, config: SimulatorConfig) -> dict[str, float]:
    """The terms of one step whose valid sub-steps are `counted`; costs per time count for its whole length."""
    weights, size = config.reward, config.substeps
    happened = {name: verdict.value[counted] for name, verdict in measures.events.items()}
    failed = any(happened[name].any() for name in FAILURES)
    gained = sum(measures.route[i + 1].s - measures.route[i].s for i in counted)
    innocent = happened["collision"] & ~happened["at_fault"]
    danger = np.clip(1 - measures.ttc_s.mean(0)[counted] / weights.ttc_safe, 0.0, 1.0)
    offset = np.abs([measures.route[i + 1].offset for i in counted]) / config.corridor_m
    jerk = np.abs(measures.longitudinal_jerk[counted]) / config.comfort.longitudinal_jerk
    full = weights.full_progress * reference * size * DT
    earned = 0.0 if failed else weights.progress * np.clip(gained / full, -1.0, 1.0)
    faults = {
        "jerk": weights.jerk * np.minimum(jerk, 1.0).sum() / size,
        "uncomfortable": weights.uncomfortable * happened["uncomfortable"].sum() / size,
        "ttc": weights.ttc * danger.sum() / size,
        "offset": weights.offset * (np.minimum(offset, 1.0) ** 2).sum() / size,
        "wrong_way": weights.wrong_way * happened["wrong_way"].sum() / size,
    }
    left = max(earned, 0.0) * np.cumprod([1.0, *(1 - fault for fault in faults.values())])
    return {
        "progress": earned,
        **dict(zip(faults, np.diff(left), strict=True)),
        **{name: -weights.failure * happened[name].any() for name in FAILURES},
        "contact": -weights.contact * innocent.any(),
        "overlap": -weights.overlap * min(measures.overlap_m[counted].max(initial=0.0), weights.overlap_cap),
    }


def driving_score(
    scene: Scene, failure: bool, way: tuple[Place, Place], start: int, count: int
) -> tuple[float, float, bool]:
    """The score, progress as a fraction of the log's own along the route (of 5 m at least), and whether both are clear.

    Args: way: where the rollout began and ended.
    """
    log = log_places(scene)
    log_way = log[start], log[min(start + count, last_log_step(scene))]
    logged, gained = (last.s - first.s for first, last in (log_way, way))
    progress = gained / max(logged, 5.0)
    earned = 1.0 if logged < 5.0 else min(min(max(progress, 0.0), 1.0) / 0.8, 1.0)
    clear = all(place.clear for place in (*way, *log_way)) and abs(logged - 5.0) > NEAR_M
    return 0.0 if failure else earned, progress, clear
