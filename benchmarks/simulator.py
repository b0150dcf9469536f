"""Speed of the simulator on this machine, as JSON: `python benchmarks/simulator.py [--batch 64]`.

Random roads of the default bucket (32 agents, 256 polylines of 16 points, full), a random policy, 16 steps of 5
sub-steps as one scan. Times are CPU-seconds of the whole process on a CPU, so they hold on a loaded machine.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from data.scene import RoadType, Scene, SceneSpec
from simulator.config import SimulatorConfig
from simulator.log_replay import LogReplay
from simulator.prepare import prepare
from simulator.rollout import rollout
from simulator.world import Action

HORIZON = 16


class Wanderer:
    """Drives at random, gently."""

    def reset(self, params, scene):
        """No carry."""
        return ()

    def act(self, params, key, observation, carry):
        """Acceleration and curvature from the key."""
        noise = jax.vmap(lambda k: jax.random.normal(k, (2, 5)))(key)
        return Action(acceleration=noise[:, 0], curvature=0.01 * noise[:, 1]), carry, {}


def random_scene(spec: SceneSpec, rng: np.random.Generator) -> Scene:
    """Everything full: agents at constant velocity, winding polylines of all types, a straight route."""
    a, m, p, t = spec.agents, spec.polylines, spec.points, spec.steps
    time_s = (np.arange(t) - spec.current) * spec.dt
    velocity, start = rng.normal(0, 5, (2, a, 1)), rng.uniform(-80, 80, (2, a, 1))
    velocity[:, 0], start[:, 0] = [[10.0], [0.0]], 0.0
    x, y = start + velocity * time_s
    road = rng.uniform(-80, 80, (2, m, 1)) + rng.normal(0, 3, (2, m, p)).cumsum(-1)
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
        light_x=rng.uniform(-50, 50, spec.lights),
        light_y=rng.uniform(-50, 50, spec.lights),
        light_route_s=np.arange(spec.lights) * 20.0,
        light_state=rng.integers(0, 7, (spec.lights, t)),
        light_valid=np.ones((spec.lights, t), bool),
        route_x=np.arange(spec.route_points) * spec.route_spacing_m,
        route_y=np.zeros(spec.route_points),
        route_speed_limit=np.full(spec.route_points, 15.0),
        route_valid=np.ones(spec.route_points, bool),
        instruction=np.zeros(spec.text, np.int32),
        map_tile=np.zeros((0, 0, 0), np.uint8),
    )


def device_types(scene: Scene) -> Scene:
    """float32 and int32, as the pipeline delivers."""
    narrow = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    return jax.tree.map(lambda field: np.asarray(field, narrow.get(field.dtype, field.dtype)), scene)


def rate(function, *args, count: int, repeats: int = 3) -> dict[str, float]:
    """How many of `count` per CPU-second and per second, after one warm-up call."""
    jax.block_until_ready(function(*args))
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        jax.block_until_ready(function(*args))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"per_cpu_second": round(count * repeats / cpu), "per_second": round(count * repeats / wall)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    size = parser.parse_args().batch
    config, world, rng = SimulatorConfig(), LogReplay(SimulatorConfig()), np.random.default_rng(0)
    raw = [random_scene(SceneSpec(), rng) for _ in range(size)]
    started = time.process_time()
    prepared = [prepare(device_types(scene), config) for scene in raw]
    tile_ms = (time.process_time() - started) / size * 1e3
    scene = jax.tree.map(lambda *fields: jnp.stack(fields), *prepared)
    keys = jax.random.split(jax.random.key(0), size)
    state = world.reset((), keys, scene, jnp.full(size, SceneSpec.current))

    @jax.jit
    def outcomes(scene, keys):
        return rollout(world, (), Wanderer(), (), scene, HORIZON, keys, keys).outcome

    image = jax.jit(lambda state: world.observe((), state).bev)
    report = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "batch": size,
        "environment_steps_of_0.1_s": rate(outcomes, scene, keys, count=size * HORIZON * config.substeps),
        "bev_frames": rate(image, state, count=size),
        "map_tile_cpu_ms": round(tile_ms, 2),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
