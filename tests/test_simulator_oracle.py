"""The simulator agrees with `oracle.py` on random scenes, on the starter set and on every real log.

A `Table` holds the results of simulator and oracle for all rollouts of one source, and whether rounding could change
the oracle's.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_map
import pytest
import scenes
from oracle_cases import CONFIG, HORIZON, Case, simulated_cases

from tether.data.errors import SkipLedger
from tether.data.padding import pad
from tether.data.scene import ROAD_EDGE_TYPES, LightState, RoadType, Scene, SceneSpec
from tether.data.sources import STARTER, open_split
from tether.data.womd import read_file
from tether.simulator.outcome import map_events
from tether.simulator.road_index import EDGE_REACH_M
from tether.simulator.world import Action, EgoState

SPEC = SceneSpec()
DECISIONS = (*oracle.EVENTS, "valid", "alive", "termination", "truncation")
TERMS = ("progress", *oracle.FAILURES, "contact", "overlap", "jerk", "uncomfortable", "ttc", "offset", "wrong_way")
POSE = ("x", "y", "heading", "speed")
VALUES = ("overlap_m", "route_offset_m", "progress_m", "ttc_s")
TOLERANCES = {name: 2e-4 for name in (*POSE, "progress_m", "route_offset_m", "overlap_m")}
TOLERANCES |= {"score": 1e-4, "progress": 1e-4, "reward": 2e-3} | {f"reward_{name}": 1e-3 for name in TERMS}
LEAST_CLEAR = 0.9  # fraction of the comparisons, of each kind
LEAST_EVENTS = {"random": 4, "starter": 1, "real": 4}  # of each kind


Table = dict[str, np.ndarray]  # float64[n, 3] by name: the simulator's result, the oracle's, and whether that is clear


def compare(cases: list[Case]) -> Table:
    """Rolls out all cases in the simulator and in the oracle."""
    tables = [compare_row(*one) for one in simulated_cases(cases, np.random.default_rng(1))]
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def compare_row(case: Case, action: Action, results: tuple, row: int) -> Table:
    """The results of simulator (`results` of the batch) and oracle for one case."""
    ego, outcome, alive, score = results
    scene, start = case.scene, case.start
    actions = action.acceleration[row], action.curvature[row]
    track = oracle.drive(oracle.log_start(scene, start), *actions, CONFIG.limits, float(scene.length[scene.ego]))
    measures = oracle.measure(scene, track, start, CONFIG)
    episode = oracle.episode(scene, measures, start, CONFIG)
    simulated = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    swept = {name: getattr(ego, name)[:, row].reshape(-1) for name in POSE}
    by_substep = {name: simulated[name][:, row].reshape(-1) for name in (*oracle.EVENTS, *VALUES, "valid")}
    table = substep_rows(by_substep, swept, track, measures, episode)
    steps = {name: simulated[name][:, row] for name in ("termination", "truncation", "reward")}
    terms = {name: values[:, row] for name, values in outcome.reward_terms.items()}
    table |= step_rows(steps | {"alive": alive[:, row]}, terms, episode)
    clear = episode.known >= episode.valid.sum() and episode.score_clear
    for name in ("score", "progress"):
        table[name] = rows_of(score[name][row : row + 1], getattr(episode, name), clear)
    return table


def rows_of(simulated, expected, clear) -> np.ndarray:
    """float64[n, 3] of arrays [n] or scalars."""
    return np.stack(np.broadcast_arrays(simulated, expected, clear), axis=-1).astype(float)


def substep_rows(simulated, swept, track, measures, episode) -> Table:
    """Rows of the sub-steps that both call valid, and of validity itself, up to the first unclear failure."""
    known = np.arange(len(episode.valid)) < episode.known
    table = {"valid": rows_of(simulated["valid"], episode.valid, known)}
    both = simulated["valid"] & episode.valid & known
    for name, verdict in measures.events.items():
        table[name] = rows_of(simulated[name], verdict.value, verdict.clear)[both]
    s, offset, clear = (np.array([getattr(place, n) for place in measures.route]) for n in ("s", "offset", "clear"))
    table["progress_m"] = rows_of(simulated["progress_m"], np.diff(s), clear[1:] & clear[:-1])[both]
    table["route_offset_m"] = rows_of(simulated["route_offset_m"], offset[1:], clear[1:])[both]
    table["overlap_m"] = rows_of(simulated["overlap_m"], measures.overlap_m, measures.events["collision"].clear)[both]
    for bound, value in zip(("ttc_earliest", "ttc_latest"), measures.ttc_s, strict=True):
        table[bound] = rows_of(simulated["ttc_s"], value, True)[both]
    for name, values in swept.items():
        expected = getattr(track, name)[1:]
        expected = values + oracle.wrapped(expected - values) if name == "heading" else expected
        table[name] = rows_of(values, expected, True)[both]
    return table


def step_rows(simulated, terms, episode) -> Table:
    """Rows of the steps that lie before the first unclear failure: how they end, and while alive what they earn."""
    known = (np.arange(HORIZON) + 1) * CONFIG.substeps <= episode.known
    table = {name: rows_of(simulated[name], getattr(episode, name), known) for name in ("termination", "truncation")}
    table["alive"] = rows_of(simulated["alive"], episode.alive, known)
    compared = known & episode.alive & simulated["alive"]
    for name, values in episode.terms.items():
        table[f"reward_{name}"] = rows_of(terms[name], values, episode.clear)[compared]
    table["reward"] = rows_of(simulated["reward"], sum(episode.terms.values()), episode.clear)[compared]
    return table


def jagged_scene(rng: np.random.Generator) -> Scene:
    """Road edges, lanes and a route that wind and fold back sharply, no two alike, within about 40 m."""
    scene = scenes.empty(SPEC)
    for kind in rng.permutation([RoadType.EDGE_BOUNDARY, RoadType.LANE_SURFACE] * 12):
        scene = scenes.with_polyline(scene, *jagged_line(rng).T, kind)
    return scenes.with_route(scene, *jagged_line(rng).T)


def jagged_line(rng: np.random.Generator) -> np.ndarray:
    """float64[12, 2]."""
    heading = rng.uniform(-np.pi, np.pi) + np.cumsum(rng.normal(0, 1.2, 12))
    step = rng.uniform(1, 6, (12, 1)) * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    return rng.uniform(-30, 30, 2) + np.cumsum(step, axis=0)


def random_scene(rng: np.random.Generator) -> Scene:
    """A winding two-way road, with or without edges, loose lines, agents of all kinds and lights that change."""
    centre = winding_line(rng)
    scene = scenes.empty(SPEC)
    edges = (
        (-rng.uniform(1.8, 4.0), True, RoadType.EDGE_BOUNDARY),
        (rng.uniform(5.0, 6.5), False, RoadType.EDGE_MEDIAN),
    )
    lanes = ((0.0, True, RoadType.LANE_SURFACE), (3.5, False, RoadType.LANE_FREEWAY))
    for offset, forward, kind in (*lanes[rng.choice([0, 0, 1]) :], *edges[: rng.choice([0, 2, 2])]):
        for part in chunks(beside(centre, offset)[:: 1 if forward else -1]):
            scene = scenes.with_polyline(scene, *part.T, kind)
    for kind in rng.choice([1, 2, 2, 3, 7, 15, 16], rng.integers(6)):
        scene = scenes.with_polyline(scene, *loose_line(rng, centre).T, kind)
    scene = scenes.with_route(scene, *beside(centre, rng.normal(0, 0.3))[12:, :2].T)
    limits = np.repeat(rng.choice([0.0, 7.0, 13.0, 25.0], SPEC.route_points // 10), 10)
    scene = dataclasses.replace(scene, route_speed_limit=(limits * scene.route_valid).astype(np.float32))
    scene = random_agents(with_random_ego(scene, rng, centre), rng, centre)
    return random_lights(scene, rng)


def winding_line(rng: np.random.Generator) -> np.ndarray:
    """x, y, heading every 2 m from 40 m before the origin: float64[n, 3]."""
    curvature = np.repeat(rng.normal(0, 0.03, 14), 10)
    heading = np.cumsum(2 * curvature)
    x, y = np.cumsum(2 * np.cos(heading)), np.cumsum(2 * np.sin(heading))
    return np.stack([x - x[20], y - y[20], heading], axis=-1)


def beside(line: np.ndarray, offset: float) -> np.ndarray:
    """The points x, y that lie `offset` to the left of a line [n, 3]."""
    return line[:, :2] + offset * np.stack([-np.sin(line[:, 2]), np.cos(line[:, 2])], axis=-1)


def chunks(points: np.ndarray) -> list[np.ndarray]:
    """Parts that share their end points and fit into a polyline."""
    step = SPEC.points - 1
    return [points[first : first + SPEC.points] for first in range(0, len(points) - 1, step)]


def loose_line(rng: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    """A short random walk somewhere beside the road."""
    count = rng.integers(2, SPEC.points + 1)
    place = beside(centre, rng.uniform(-6, 10))[rng.integers(15, 100)]
    heading = rng.uniform(-np.pi, np.pi) + np.cumsum(rng.normal(0, 0.3, count))
    step = rng.uniform(0.5, 4.0) * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    return place + np.cumsum(step, axis=0)


def with_random_ego(scene: Scene, rng: np.random.Generator, centre: np.ndarray) -> Scene:
    """The ego drives along the road at a changing speed; some logs end early."""
    last = rng.choice([90, 90, 35, 58, 71])
    speed = np.maximum(rng.uniform(0, 16) + np.cumsum(rng.normal(0, 0.15, SPEC.steps)), 0)
    s = 2 * 20 + np.cumsum(speed) * SPEC.dt
    x, y, heading = (np.interp(s - s[SPEC.current] + 40, 2 * np.arange(len(centre)), column) for column in centre.T)
    track = with_velocity(x, y, heading, speed, np.arange(SPEC.steps) <= last)
    ego = int(rng.integers(SPEC.agents))
    return dataclasses.replace(scenes.with_rows(scene, ego, track | {"length": 4.6, "width": 1.9}), ego=np.int32(ego))


def with_velocity(x, y, heading, speed, valid) -> dict[str, np.ndarray]:
    """A track [T] that moves along its heading, 0 where it is not seen."""
    track = {"x": x, "y": y, "heading": (heading + np.pi) % (2 * np.pi) - np.pi}
    track |= {"vel_x": speed * np.cos(heading), "vel_y": speed * np.sin(heading)}
    return {name: values * valid for name, values in track.items()} | {"valid": valid}


def random_agents(scene: Scene, rng: np.random.Generator, centre: np.ndarray) -> Scene:
    """Agents that stand, creep or drive on circles, seen for a while; every third follows on the ego's lane."""
    time = (np.arange(SPEC.steps) - SPEC.current) * SPEC.dt
    rows = np.delete(np.arange(SPEC.agents), scene.ego)
    for i, row in enumerate(rng.choice(rows, rng.integers(1, 12), replace=False)):
        follows = i % 3 == 0
        place = int(rng.integers(8, 18) if follows else rng.integers(24, 80))
        start = beside(centre, rng.normal(0, 0.5) if follows else rng.uniform(-4, 6))[place]
        speed = rng.uniform(8, 18) if follows else rng.choice([0.0, 0.03, rng.uniform(0, 15)])
        heading = centre[place, 2] + (0 if follows else rng.choice([0, np.pi, rng.uniform(-np.pi, np.pi)]))
        headings = heading + rng.normal(0, 0.03) * speed * time
        x, y = (start[i] + np.cumsum(speed * f(headings)) * SPEC.dt for i, f in enumerate((np.cos, np.sin)))
        seen = (np.arange(SPEC.steps) >= rng.integers(-60, 40)) & (np.arange(SPEC.steps) <= rng.integers(40, 150))
        size = {"length": rng.uniform(0.4, 9), "width": rng.uniform(0.4, 2.6), "agent_type": rng.integers(1, 5)}
        scene = scenes.with_rows(scene, row, with_velocity(x, y, headings, speed, seen) | size)
    return scene


def random_lights(scene: Scene, rng: np.random.Generator) -> Scene:
    """Lights on and off the route that change every second and are not always observed."""
    states = [LightState.STOP, LightState.ARROW_STOP, LightState.CAUTION, LightState.GO]
    for row in range(rng.integers(1, 6)):
        valid = np.repeat(rng.random(10) < 0.8, 10)[: SPEC.steps]
        light = {
            "light_route_s": rng.choice([-1.0, rng.uniform(18, 80), rng.uniform(18, 40), rng.uniform(18, 40)]),
            "light_state": np.repeat(rng.choice(states, 10), 10)[: SPEC.steps] * valid,
            "light_valid": valid,
        }
        scene = scenes.with_rows(scene, row, light)
    return scene


def random_cases() -> list[Case]:
    """Also from later log steps than the current one."""
    rng = np.random.default_rng(0)
    changes = ((0.0, 0.0), (0.3, 1.0), (0.3, -2.0), (1.0, 0.0))
    return [Case(random_scene(rng), int(rng.choice([10, 10, 13, 40])), *changes[i % 4]) for i in range(128)]


def starter_cases() -> list[Case]:
    """Some scenes, each with accelerating, braking and strongly disturbed actions."""
    source = open_split(STARTER, "train", SPEC)
    chosen = [source[i].scene for i in range(0, len(source), len(source) // 24)]
    return [Case(scene, SPEC.current, *change) for scene in chosen for change in ((0.1, 1.0), (0.5, -1.0), (1.0, 0.0))]


def real_cases(folder) -> list[Case]:
    """Every scene, once with the log's own actions and once with others."""
    files, ledger = sorted((folder / "train").glob("*.tfrecord")), SkipLedger(1.0)
    logged = [pad(scene, SPEC).scene for path in files for scene in read_file(str(path), ledger)]
    changes = ((1.0, 0.0), (0.3, 1.5), (0.3, -2.0))
    other = [Case(scene, SPEC.current, *changes[i % 3]) for i, scene in enumerate(logged)]
    return [Case(scene, SPEC.current, 0.0) for scene in logged] + other


@pytest.fixture(scope="module", params=LEAST_EVENTS)
def source(request) -> str:
    """Where the scenes come from."""
    return request.param


@pytest.fixture(scope="module")
def table(source, request) -> Table:
    """What is compared of one source."""
    if source == "real":
        pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")
        return compare(real_cases(request.getfixturevalue("real_data")))
    return compare({"random": random_cases, "starter": starter_cases}[source]())


def clear_rows(table: Table, name: str) -> np.ndarray:
    """The results of simulator and oracle where rounding cannot change them: float64[n, 2]."""
    return table[name][table[name][:, 2] > 0, :2]


@pytest.mark.parametrize("name", (*DECISIONS, *TOLERANCES))
def test_simulator_and_oracle_agree(table, name):
    simulated, expected = clear_rows(table, name).T
    np.testing.assert_allclose(simulated, expected, rtol=0, atol=TOLERANCES.get(name, 0))


@pytest.mark.parametrize("name", ("off_road", "wrong_way"))
def test_road_events_agree_at_scattered_poses(name, rng):
    """Sharp vertices, free ends and lanes that point everywhere, which few rollouts meet; within the index's reach."""
    scene, count = jagged_scene(rng), 2000
    x, y, heading = (rng.uniform(-size, size, count).astype(np.float32) for size in (35, 35, np.pi))
    zero, ones = np.zeros(count, np.float32), np.ones(count, np.float32)
    ego = EgoState(x, y, heading, zero, zero, zero, 0.5 * ones, 0.25 * ones)
    one_substep = ego[:, None]
    road = jax.tree.map(jnp.asarray, scenes.indexed(scene, CONFIG))
    simulated = jax.jit(jax.vmap(lambda ego: map_events(road, ego, CONFIG)))(one_substep)[name][:, 0]
    track = oracle_map.Track(
        *(np.append(field[:1], field).astype(float) for field in (x, y, heading, zero, zero, zero))
    )
    boxes = oracle.corners(*track[:3], 0.5 * np.ones(count + 1), 0.25 * np.ones(count + 1))[1:]
    edges = oracle_map.road_segments(scene, ROAD_EDGE_TYPES)
    near = oracle_map.feet(np.stack([x, y], axis=-1), edges)[1].min(1) < EDGE_REACH_M - 2
    if name == "off_road":
        expected = oracle_map.off_road(scene, boxes)
    else:
        expected = oracle_map.wrong_way(scene, track, CONFIG.lane_range_m)
    assert (
        expected.clear.mean() > LEAST_CLEAR and near.mean() > 0.6 and 50 < expected.value[near].sum() < near.sum() - 50
    )
    compared = expected.clear & near
    np.testing.assert_array_equal(np.asarray(simulated)[compared], expected.value[compared])


def test_time_to_collision_lies_within_what_rounding_allows(table):
    simulated, earliest = table["ttc_earliest"][:, :2].T
    latest = table["ttc_latest"][:, 1]
    assert (simulated >= earliest - 1e-3).all() and (simulated <= latest + 1e-3).all()
    assert (latest - earliest < 0.05).mean() > LEAST_CLEAR and (latest < CONFIG.ttc_cap_s).sum() > 100


def test_the_comparison_is_not_empty(table, source):
    """Nearly everything is clear, and everything that can happen does."""
    assert min(rows[:, 2].mean() for rows in table.values()) > LEAST_CLEAR
    happened = {name: int((clear_rows(table, name)[:, 1] != 0).sum()) for name in (*DECISIONS, "reward_contact")}
    assert min(happened.values()) >= LEAST_EVENTS[source], happened
    assert happened["valid"] > 2000
