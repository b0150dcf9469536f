"""Speed of the simulator on this machine, as JSON:

python -m benchmarks.simulator [--scenario FILE] [--batch 1 16 64]

FILE is a TFRecord with a WOMD `Scenario`. Its first scene is padded to 128 agents with the whole map at its native
spacing. Without FILE the scene is random roads and agents of the same sizes. Rollouts of 80 steps of 0.1 s run as one
scan, the ego's actions at random, in Worlds whose step is 1 or 5 such steps. Rates count steps of 0.1 s, of all scenes
of the batch. On a CPU one core is used, and seconds are CPU-seconds of the process, which hold on a loaded machine.

The baseline tests every segment of the map for each corner, as simulators without an index do.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import command, timing
from tether.data.command_line import Parser
from tether.data.padding import pad
from tether.data.scene import DRIVING_LANE_TYPES, ROAD_EDGE_TYPES, Array, RoadType, Scene, SceneSpec, is_type
from tether.data.tfrecord import read_records
from tether.data.womd import convert, parse_scenario, road_features
from tether.simulator import geometry
from tether.simulator.config import SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.simulator.outcome import ego_box, lane_distances
from tether.simulator.prepare import prepare
from tether.simulator.render import rasterize_map
from tether.simulator.road_index import index_road
from tether.simulator.rollout import rollout
from tether.simulator.studies.everyone import logged_routes, measure_everyone, place
from tether.simulator.transition import HISTORY_STEPS, ego_track_of, log_agents, log_lights, replace_row, sweep
from tether.simulator.world import Action, EgoState, State

STEPS = 80
SPEC = SceneSpec(agents=128, polylines=1536)
CONFIG = SimulatorConfig(index_entries=131072)  # lists of a map with a point each 0.5 m


class Wanderer:
    """Draws small random actions."""

    def __init__(self, substeps: int):
        self.substeps = substeps

    def reset(self, params, scene):
        """No carry."""
        return ()

    def act(self, params, key, observation, carry):
        """Acceleration and curvature from the key."""
        noise = jax.vmap(lambda k: jax.random.normal(k, (2, self.substeps)))(key)
        return Action(acceleration=noise[:, 0], curvature=0.01 * noise[:, 1]), carry, {}


def logged_scene(path: str) -> Scene:
    """The first scene of a TFRecord file, with the whole map at its native spacing."""
    scenario = parse_scenario(next(iter(read_records(path))))
    record = pad(convert(scenario, scenario.scenario_id)[0], SPEC)
    x, y, heading = record.origin
    lines = []
    for kind, points in road_features(scenario):
        ahead, left = points[:, 0] - x, points[:, 1] - y
        cos, sin = np.cos(heading), np.sin(heading)
        moved = np.stack([cos * ahead + sin * left, cos * left - sin * ahead], axis=-1)
        last = max(len(moved) - 1, 1)
        lines += [(kind, moved[first : first + SPEC.points]) for first in range(0, last, SPEC.points - 1)]
    return with_road(record.scene, lines)


def with_road(scene: Scene, lines: list[tuple[int, np.ndarray]]) -> Scene:
    """The scene with other polylines: pairs of `RoadType` and float64[<= P, 2]."""
    road = np.zeros((2, SPEC.polylines, SPEC.points), np.float32)
    valid, kinds = np.zeros(road.shape[1:], bool), np.zeros(SPEC.polylines, np.int32)
    for row, (kind, points) in enumerate(lines):
        road[:, row, : len(points)], valid[row, : len(points)], kinds[row] = points.T, True, kind
    return dataclasses.replace(scene, road_x=road[0], road_y=road[1], road_valid=valid, road_type=kinds)


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene without padding: agents at constant velocity, winding polylines of all types, a straight route."""
    a, m, p, t = SPEC.agents, SPEC.polylines, SPEC.points, SPEC.steps
    time_s = (np.arange(t) - SPEC.current) * SPEC.dt
    velocity, start = rng.normal(0, 5, (2, a, 1)), rng.uniform(-80, 80, (2, a, 1))
    velocity[:, 0], start[:, 0] = [[10.0], [0.0]], 0.0
    x, y = start + velocity * time_s
    turn = rng.uniform(-np.pi, np.pi, (m, 1)) + rng.normal(0, 0.05, (m, p)).cumsum(-1)
    road = rng.uniform(-150, 150, (2, m, 1)) + 0.5 * np.stack([np.cos(turn), np.sin(turn)]).cumsum(-1)
    kinds = (RoadType.LANE_SURFACE, RoadType.EDGE_BOUNDARY, RoadType.LINE_SOLID_SINGLE_WHITE, RoadType.CROSSWALK)
    return Scene(
        x=x,
        y=y,
        heading=np.broadcast_to(np.arctan2(velocity[1], velocity[0]), (a, t)),
        vel_x=np.broadcast_to(velocity[0], (a, t)),
        vel_y=np.broadcast_to(velocity[1], (a, t)),
        valid=np.ones((a, t), bool),
        length=np.full(a, 4.5),
        width=np.full(a, 1.8),
        agent_type=rng.integers(1, 4, a),
        ego=np.int32(0),
        road_x=road[0],
        road_y=road[1],
        road_valid=np.ones((m, p), bool),
        road_type=rng.choice(kinds, m),
        light_x=rng.uniform(-50, 50, SPEC.lights),
        light_y=rng.uniform(-50, 50, SPEC.lights),
        light_route_s=np.arange(SPEC.lights) * 20.0,
        light_state=rng.integers(0, 7, (SPEC.lights, t)),
        light_valid=np.ones((SPEC.lights, t), bool),
        route_x=np.arange(SPEC.route_points) * SPEC.route_spacing_m,
        route_y=np.zeros(SPEC.route_points),
        route_speed_limit=np.full(SPEC.route_points, 15.0),
        route_valid=np.ones(SPEC.route_points, bool),
        instruction=np.zeros(SPEC.text, np.int32),
        map_tile=np.zeros((0, 0, 0), np.uint8),
    )


def device_types(scene: Scene) -> Scene:
    """float32 and int32, as the pipeline delivers."""
    narrow = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    return jax.tree.map(lambda field: np.asarray(field, narrow.get(field.dtype, field.dtype)), scene)


def ego_outcomes(substeps: int) -> Callable:
    """Dynamics, log replay and every field of `Outcome`, each step."""
    config = dataclasses.replace(CONFIG, substeps=substeps)

    def episode(scene, keys):
        world, policy = LogReplay(config), Wanderer(substeps)
        return rollout(world, (), policy, (), scene, STEPS // substeps, keys, keys).outcome

    return episode


def scanned(scene: Scene, keys: Array, substeps: int, carry: Any, record_of: Callable) -> Any:
    """The records of `record_of(state, swept, agents, carry) -> carry, record` of all steps of an endless rollout."""
    config = dataclasses.replace(CONFIG, substeps=substeps)
    world, policy = LogReplay(config), Wanderer(substeps)
    first = world.reset((), keys, scene, jnp.full(keys.shape, SceneSpec.current))

    def body(loop, step):
        state, carry = loop[0].replace(scene=scene), loop[1]
        action, _, _ = policy.act((), jax.vmap(jax.random.fold_in, (0, None))(keys, step), None, ())
        swept = sweep(state, action, config)
        times = state.time[:, None] + 1 + jnp.arange(substeps)
        agents = replace_row(log_agents(scene, times), scene.ego, ego_track_of(swept))
        carry, record = record_of(state, swept, agents, carry)
        history = state.history.then(agents)[..., -HISTORY_STEPS:]
        after = state.replace(time=state.time + substeps, ego=swept[:, -1], history=history, scene=None)
        return (after, carry), record

    return jax.lax.scan(body, (first.replace(scene=None), carry), jnp.arange(STEPS // substeps))


def motion_alone(substeps: int) -> Callable:
    """Dynamics and log replay without outcomes: the cost of the rollout alone."""

    def episode(scene, keys):
        return scanned(scene, keys, substeps, (), lambda state, swept, agents, carry: (carry, agents))

    return episode


def all_outcomes(substeps: int) -> Callable:
    """The same measures for every agent (`simulator/studies/everyone.py`)."""

    def episode(scene, keys):
        routes = jax.vmap(lambda one: logged_routes(one, CONFIG))(scene)

        def record_of(state: State, swept: EgoState, agents, route_s):
            times = state.time[:, None] + 1 + jnp.arange(substeps)
            lights = log_lights(scene, times)
            measures = jax.vmap(lambda *row: measure_everyone(*row, CONFIG))(state, agents, *lights, routes, route_s)
            return measures["route_s"][..., -1], measures

        start = jax.vmap(lambda one: place(one, SceneSpec.current))(routes)
        return scanned(scene, keys, substeps, start, record_of)[1]

    return episode


def whole_map(substeps: int) -> Callable:
    """The baseline: off road and wrong way of the ego by every segment of the map."""

    def events(scene: Scene, swept: EgoState) -> tuple[Array, Array]:
        road = geometry.segments(scene.road_x, scene.road_y, scene.road_valid)

        def of(types):
            chosen = road._replace(valid=road.valid & is_type(scene.road_type, types)[:, None])
            return geometry.Segments(*(field.reshape(-1) for field in chosen))

        beyond = geometry.signed_edge_distance(of(ROAD_EDGE_TYPES), *geometry.corners(ego_box(swept)))
        against, along = lane_distances(of(DRIVING_LANE_TYPES), swept.x, swept.y, swept.heading)
        wrong = (against < CONFIG.lane_range_m) & (against + CONFIG.lane_margin_m < along)
        return jnp.any(beyond > 0, axis=-1), wrong

    def episode(scene, keys):
        def record_of(state, swept, agents, carry):
            return carry, jax.vmap(events)(scene, swept)

        return scanned(scene, keys, substeps, (), record_of)[1]

    return episode


def timed(function: Callable, *args: Any, count: int) -> dict[str, float]:
    """Rate of a function that does `count` units of work, see `timing`."""
    compiled = jax.jit(function).lower(*args).compile()
    best = timing.seconds(compiled, *args)
    rates = {timing.unit(): round(count / best)}
    cost = compiled.cost_analysis() or {}
    bandwidth = timing.BANDWIDTH.get(jax.devices()[0].device_kind)
    if bandwidth and "bytes accessed" in cost:
        rates["fraction_of_memory_bandwidth"] = round(cost["bytes accessed"] / best / bandwidth, 4)
    return rates


def measure(prepared: Scene, size: int) -> dict[str, Any]:
    """All rates at one batch size."""
    scene = jax.tree.map(lambda field: jnp.broadcast_to(jnp.asarray(field), (size, *np.shape(field))), prepared)
    keys = jax.random.split(jax.random.key(0), size)
    report: dict[str, Any] = {}
    kinds = {
        "motion_alone": motion_alone,
        "ego_outcomes": ego_outcomes,
        "all_outcomes": all_outcomes,
        "whole_map_baseline": whole_map,
    }
    for substeps in (1, 5):
        for name, kind in kinds.items():
            print(f"batch {size}, {substeps} steps at a time: {name}", file=sys.stderr)
            rates = timed(kind(substeps), scene, keys, count=size * STEPS)
            report.setdefault(name, {})[f"{substeps}_at_a_time"] = rates
    world = LogReplay(CONFIG)
    state = world.reset((), keys, scene, jnp.full(size, SceneSpec.current))
    report["bev_frames"] = timed(lambda state: world.observe((), state).bev, state, count=size)
    return report


def host_work(scene: Scene) -> dict[str, float]:
    """The work done once per scene: CPU-milliseconds, and the prepared scene's bytes."""
    started = time.process_time()
    index_road(scene, CONFIG)
    indexed = time.process_time()
    rasterize_map(scene, CONFIG)
    drawn = time.process_time()
    prepared = prepare(scene, CONFIG)
    return {
        "road_index_cpu_ms": round((indexed - started) * 1e3, 1),
        "map_tile_cpu_ms": round((drawn - indexed) * 1e3, 1),
        "scene_bytes": sum(np.asarray(field).nbytes for field in jax.tree.leaves(prepared)),
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.simulator", description=__doc__)
    parser.add_argument("--scenario", help="TFRecord file with a WOMD Scenario (default: random roads)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64], help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measures and prints."""
    options = parse(arguments)
    timing.use_one_core()
    scene = logged_scene(options.scenario) if options.scenario else random_scene(np.random.default_rng(0))
    scene = device_types(scene)
    report = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "scene": "a WOMD scenario" if options.scenario else "random",
        "agents": int(scene.valid.any(-1).sum()),
        "map_points": int(scene.road_valid.sum()),
        "once_per_scene": host_work(scene),
        "batch": {},
    }
    prepared = prepare(scene, CONFIG)
    for size in options.batch:
        report["batch"][size] = measure(prepared, size)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    command.run(main)
