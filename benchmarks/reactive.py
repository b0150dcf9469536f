"""How the others react to an ego that leaves its log, as JSON:

python -m benchmarks.reactive [--data DIR] [--split test] [--scenes N] [--agents 32]

There are two parts. Probes made in code (`tests/probes.py`) check the sign of one other vehicle's reaction at many
speeds, gaps, angles and offsets. In a data set's scenes, the starter set's by default, the ego drives its route and
brakes from the current step on, once under log replay and once under reactive traffic, or it keeps its own log.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.command_line import Parser

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

import probes
import scenes

from benchmarks import command
from tether.data.scene import AgentType, Array, Record, Scene, SceneSpec
from tether.data.sources import STARTER, open_split
from tether.policy.baselines import LogExpert, follow_route
from tether.simulator.config import SimulatorConfig
from tether.simulator.geometry import Box, penetration
from tether.simulator.log_replay import LogReplay
from tether.simulator.logged_paths import logged_paths
from tether.simulator.outcome import BEHIND_COS, ego_box
from tether.simulator.reactive import Reactive, reacts
from tether.simulator.rollout import rollout
from tether.simulator.transition import HISTORY_STEPS, log_agents
from tether.simulator.world import Agents, EgoState, Outcome, Policy, World

CONFIG = SimulatorConfig()
HORIZON, BATCH = 16, 32
BRAKING = (-6.0, -3.0)  # [m/s^2]
LISTED = 20  # wrong probes and remaining hits that are named
LEFT_M = 1e-3  # a vehicle this far from its log has left it


@dataclasses.dataclass(frozen=True)
class Brakes:
    """Follows the route at a constant deceleration; its params are the acceleration [m/s^2]."""

    config: SimulatorConfig

    def reset(self, params: Array, scene: Scene) -> tuple[()]:
        """No carry."""
        return ()

    def act(self, params: Array, key: jax.Array, observation: Any, carry: tuple) -> tuple:
        """Pure pursuit of the route."""
        acceleration = jnp.full((observation.time.shape[0], self.config.substeps), params)
        return follow_route(self.config, observation, acceleration), carry, {}


@functools.partial(jax.jit, static_argnums=(0, 1))
def drive(world: World, policy: Policy, params: Any, scene: Scene) -> tuple[EgoState, Agents, Outcome]:
    """Ego, agents and outcome of a whole log, as in `Rollout`; scene: `Scene` [B, ...]."""
    keys = jax.random.split(jax.random.key(0), scene.ego.shape[0])
    result = rollout(world, (), policy, params, scene, HORIZON, keys, keys)
    outcome = result.outcome.replace(valid=result.outcome.valid & result.alive[..., None])
    return result.ego, result.agents, outcome


def probe_report(kind: str) -> dict[str, Any]:
    """Cases, right signs and the mean reaction of one kind; see `probes.KINDS`."""
    make, right = probes.KINDS[kind]
    cases = list(make())
    scene = scenes.stack([scenes.indexed(probe.scene, CONFIG) for probe in cases])
    plans = scenes.stack([probe.plan for probe in cases])
    reacted, replayed = (
        probes.reactions(scene, *drive(world(CONFIG), probes.Planned(CONFIG), plans, scene))
        for world in (Reactive, LogReplay)
    )
    wrong = [probe.case for probe, reaction in zip(cases, reacted, strict=True) if not right(reaction)]
    return {
        "cases": len(cases),
        "right_sign": len(cases) - len(wrong),
        "hits_under_log_replay": sum(bool(reaction.hit) for reaction in replayed),
        "hits": sum(bool(reaction.hit) for reaction in reacted),
        "mean_hardest_braking_beyond_log_mps2": rounded(np.mean([one.extra_braking.max() for one in reacted])),
        "mean_way_behind_log_m": rounded(np.mean([one.lag[-1] for one in reacted])),
        "wrong": [{name: rounded(value) for name, value in case.items()} for case in wrong[:LISTED]],
    }


def rounded(value: float) -> float:
    """The value with three decimals."""
    return round(float(value), 3)


def batches(records: Sequence[Record], count: int) -> Iterator[tuple[range, Scene]]:
    """Record numbers and `Scene` [BATCH, ...]; the last batch is filled with its first scene."""
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        some = [scenes.indexed(records[i].scene, CONFIG) for i in numbers]
        yield numbers, scenes.stack(some + some[:1] * (BATCH - len(some)))


@jax.jit
def reacting_rows(scene: Scene) -> Array:
    """bool[B, A], see `simulator.reactive.reacts`."""
    return jax.vmap(lambda one: reacts(one, logged_paths(one), Reactive(CONFIG).config))(scene)


def able(scene: Scene) -> np.ndarray:
    """Agents that are not replayed, bool[B, A], on the host."""
    return np.asarray(reacting_rows(scene))


def contacts_of_others(scene: Scene, ego: EgoState, agents: Agents, outcome: Outcome) -> list[dict[str, Any] | None]:
    """For each scene its first contact that is not the ego's fault, and the other agent; None without one."""
    hit = probes.by_substep(outcome.collision & ~outcome.at_fault & outcome.valid)
    ego, agents = (jax.tree.map(probes.by_substep, part) for part in (ego, agents))
    reacting = able(scene)

    def contact(b):
        step = int(np.argmax(hit[b]))
        own, others = ego[b, step], agents[b, :, step]
        box = Box(others.x, others.y, others.heading, scene.length[b], scene.width[b])
        present = others.valid & (np.arange(len(others.x)) != scene.ego[b])
        row = int(np.argmax(np.where(present, penetration(ego_box(own), box), -np.inf)))
        ahead = np.cos(np.arctan2(others.y[row] - own.y, others.x[row] - own.x) - own.heading)
        return {
            "from_behind": bool(ahead <= BEHIND_COS),
            "after_s": rounded((step + 1) * SceneSpec.dt),
            "agent": row,
            "type": AgentType(int(scene.agent_type[b, row])).name.lower(),
            "replayed": not bool(reacting[b, row]),
            "first_seen_s": rounded((int(np.argmax(scene.valid[b, row])) - SceneSpec.current) * SceneSpec.dt),
        }

    return [contact(b) if hit[b].any() else None for b in range(len(hit))]


def braking_report(records: Sequence[Record], count: int, acceleration: float) -> dict[str, Any]:
    """Contacts that are not the ego's fault under both Worlds, over the same scenes."""
    contacts: dict[str, dict[int, Any]] = {"log_replay": {}, "reactive": {}}
    for numbers, scene in batches(records, count):
        for name, world in (("log_replay", LogReplay), ("reactive", Reactive)):
            result = drive(world(CONFIG), Brakes(CONFIG), jnp.float32(acceleration), scene)
            contacts[name] |= dict(zip(numbers, contacts_of_others(scene, *result), strict=False))
    hits = {name: {i: hit for i, hit in some.items() if hit} for name, some in contacts.items()}
    behind = {name: [i for i, hit in some.items() if hit["from_behind"]] for name, some in hits.items()}
    before, after = (len(behind[name]) for name in ("log_replay", "reactive"))
    return {
        "acceleration_mps2": acceleration,
        "rear_ends": {name: len(some) for name, some in behind.items()},
        "fall_percent": rounded(100 * (1 - after / before)) if before else None,
        "not_at_fault": {name: len(some) for name, some in hits.items()},
        "left_over": [{"record": i, **hit} for i, hit in hits["reactive"].items()][:LISTED],
    }


@jax.jit
def among_logged_ego(scene: Scene) -> Agents:
    """The others [B, A, H * S] under reactive traffic around an ego that is exactly where its log has it."""
    world = Reactive(CONFIG)
    keys = jax.random.split(jax.random.key(0), scene.ego.shape[0])
    start = jnp.full(scene.ego.shape, SceneSpec.current)
    row = scene.ego[:, None, None]

    def body(state, step):
        time = start + step * CONFIG.substeps
        log = log_agents(scene, time[:, None] + jnp.arange(1 - HISTORY_STEPS, CONFIG.substeps + 1))
        track = jax.tree.map(lambda field: jnp.take_along_axis(field, row, axis=1)[:, 0, HISTORY_STEPS:], log)
        latent, agents = jax.vmap(world.others)(state, track, log)
        history = state.history.then(agents)[..., -HISTORY_STEPS:]
        return state.replace(time=time + CONFIG.substeps, latent=latent, history=history), agents

    _, agents = jax.lax.scan(body, world.reset((), keys, scene, start), jnp.arange(HORIZON))
    return agents


def departures(scene: Scene, agents: Agents, counted: np.ndarray) -> np.ndarray:
    """How far [m] each vehicle that reacts and is seen gets from its log, in the sub-steps `counted` [B, H * S]."""
    future = slice(SceneSpec.current + 1, None)
    seen = scene.valid[..., future] & able(scene)[..., None] & counted[:, None]
    x, y = (probes.by_substep(field) for field in (agents.x, agents.y))
    away = np.hypot(x - scene.x[..., future], y - scene.y[..., future])
    return np.where(seen, away, 0.0).max(-1)[seen.any(-1)]


def own_log_report(records: Sequence[Record], count: int) -> dict[str, Any]:
    """Vehicles that leave their log although the ego keeps its own: exactly, or as well as the vehicle model can."""
    away: dict[str, list[np.ndarray]] = {"logged_ego": [], "expert": []}
    for numbers, scene in batches(records, count):
        _, agents, outcome = drive(Reactive(CONFIG), LogExpert(CONFIG), (), scene)
        alive = probes.by_substep(outcome.valid)
        in_log = scene.valid[np.arange(len(alive)), scene.ego, SceneSpec.current + 1 :]
        for name, some, counted in (("logged_ego", among_logged_ego(scene), in_log), ("expert", agents, alive)):
            counted = counted & (np.arange(len(counted)) < len(numbers))[:, None]
            away[name].append(departures(scene, some, counted))
    return {name: departure_summary(np.concatenate(parts)) for name, parts in away.items()}


def departure_summary(away: np.ndarray) -> dict[str, Any]:
    """Counts of vehicles by their departures [m] from the log, and the largest one."""
    return {
        "vehicles": len(away),
        "left_their_log": int((away > LEFT_M).sum()),
        "by_more_than_0.5_m": int((away > 0.5).sum()),
        "fraction_that_left": round(float((away > LEFT_M).mean()), 5),
        "farthest_m": rounded(away.max()),
    }


def data_report(records: Sequence[Record], count: int) -> dict[str, Any]:
    """The part of the report on a data set, of its first `count` records."""
    return {
        "scenes": count,
        "braking": [braking_report(records, count, acceleration) for acceleration in BRAKING],
        "own_log": own_log_report(records, count),
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.reactive", description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, default=STARTER, help="a data set; the starter set by default")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--scenes", type=int, help="the first so many; all by default, 0 for the probes alone")
    parser.add_argument("--agents", type=int, default=SceneSpec.agents, help="kept per scene (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measures and prints."""
    options = parse(arguments)
    records = open_split(options.data, options.split, SceneSpec(agents=options.agents))
    count = len(records) if options.scenes is None else min(options.scenes, len(records))
    report = {"probes": {kind: probe_report(kind) for kind in probes.KINDS}}
    if count:
        report["data"] = {"split": options.split, **data_report(records, count)}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    command.run(main)
