"""Judges and drivers: the same scenes, the same keys, one compiled program for each pair of them.

A judge is a World that policies are evaluated in, with its params; a driver is a policy with its parameters. An entry
in `JUDGES` or `BASELINES` is all that a new one needs.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.progress import Bar
from data.scene import Array, Record, Scene
from data.sumo.install import SumoError as SumoError  # for those that ask for the referee
from policy.baselines import IDM, ConstantSpeed, GoStraight, LogExpert
from policy.language import LabelConfig, consistency, say
from simulator.config import SimulatorConfig
from simulator.log_replay import LogReplay
from simulator.reactive import Reactive
from simulator.referee.fleet import Fleet
from simulator.referee.world import Referee
from simulator.rollout import rollout
from simulator.score import driving_score
from simulator.world import Params, Policy, Rollout, World
from training.mesh import ALONE, Layout
from training.processes import to_host
from training.report import SPOKEN, Results
from training.scenes import chunks, take
from training.statistics import recordings
from training.topview import EVENT_NAMES, Trace

BASELINES: dict[str, Callable[[SimulatorConfig], Policy]] = {
    "expert": LogExpert,
    "idm": IDM,
    "constant_speed": ConstantSpeed,
    "go_straight": GoStraight,
}
LEARNED = ("imitation", "post_trained")


@dataclasses.dataclass(frozen=True)
class Judge:
    """A World that policies are judged in.

    Attributes:
      world: as in `simulator.world.World`.
      params_of: the World's params for a batch, given which records its rows are, int[B]; called before it is driven.
    """

    world: World
    params_of: Callable[[np.ndarray], Params] = lambda rows: ()


def referee(config: SimulatorConfig, records: Sequence[Record]) -> Judge:
    """See `simulator/referee/world.py`. Raises: SumoError without SUMO; ValueError for records of another source."""
    fleet = Fleet(records)
    return Judge(Referee(config, fleet), fleet.open)


JUDGES: dict[str, Callable[[SimulatorConfig, Sequence[Record]], Judge]] = {
    "log_replay": lambda config, records: Judge(LogReplay(config)),
    "reactive": lambda config, records: Judge(Reactive(config)),
    "referee": referee,
}


@dataclasses.dataclass(frozen=True)
class Driver:
    """A policy that can be judged.

    Attributes:
      name: as in the report.   policy: see `simulator.world.Policy`.   params: its parameters.
      labels: rules that taught it to speak, which its consistency is measured by.
    """

    name: str
    policy: Policy
    params: Params
    labels: LabelConfig = dataclasses.field(default_factory=LabelConfig)


def named(kind: str, name: str, known: Iterable[str]) -> str:
    """The name itself. Raises: ValueError for an unknown one, with the nearest known name."""
    known = sorted(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    raise ValueError(
        f"unknown {kind} {name!r}, expected one of {known}" + (f"; did you mean {near[0]!r}?" if near else "")
    )


def baseline(name: str, config: SimulatorConfig) -> Driver:
    """A policy that needs no run. Raises: ValueError for an unknown name."""
    return Driver(name, BASELINES[named("policy", name, (*BASELINES, *LEARNED))](config), ())


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def drive_batch(
    world: World,
    policy: Policy,
    labels: LabelConfig,
    config: SimulatorConfig,
    steps: int,
    world_params: Params,
    params: Params,
    scene: Scene,
    keys: tuple[jax.Array, jax.Array],
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Drives `Scene` [B, ...] from the current step.

    Returns: `driving_score` and `spoken` [B], and the drive itself, [B, ...] (see `trace_of`).
    """
    driven = rollout(world, world_params, policy, params, scene, steps, *keys)
    return driving_score(driven, scene, config) | spoken(driven, labels), path_of(driven)


def spoken(driven: Rollout, labels: LabelConfig) -> dict[str, Array]:
    """What there is of `report.SPOKEN`, means over the steps driven: dict of float32[B]."""
    steps = {name: values for name, values in driven.extras.items() if name in SPOKEN}
    if "decision" in driven.extras:
        speed = driven.observation.ego[..., 0]
        steps["consistency"] = consistency(labels, driven.extras["decision"].tokens, driven.action, speed)
    count = jnp.maximum(driven.alive.sum(0), 1)
    return {name: jnp.sum(jnp.where(driven.alive, values, 0.0), 0) / count for name, values in steps.items()}


def path_of(driven: Rollout) -> dict[str, Any]:
    """What a top view needs of a rollout, batch first: sub-steps joined to K = H * S."""
    outcome, substeps = driven.outcome, driven.outcome.valid.shape[-1]
    valid = outcome.valid & driven.alive[..., None]

    def joined(field: Array) -> Array:
        moved = jnp.moveaxis(field, 0, -2)
        return moved.reshape(*moved.shape[:-2], -1)

    fields = {
        "ego": {name: getattr(driven.ego, name) for name in ("x", "y", "heading", "speed")},
        "agents": {name: getattr(driven.agents, name) for name in ("x", "y", "heading", "valid")},
        "events": {name: getattr(outcome, name) & valid for name in EVENT_NAMES},
        "light_state": jnp.repeat(driven.light_state[..., None], substeps, axis=-1),
        "offset": outcome.route_offset_m,
        "valid": valid,
    }
    said = driven.extras.get("decision")  # baselines say nothing
    tokens = {} if said is None else {"tokens": jnp.swapaxes(said.tokens, 0, 1)}
    return jax.tree.map(joined, fields) | tokens


def trace_of(driver: Driver, record: Record, score: float, path: dict[str, Any], dt: float) -> Trace:
    """One row of `path_of`, on the host, cut where the rollout ended."""
    ego, agents, length = path["ego"], path["agents"], max(int(path["valid"].sum()), 1)
    said = [say(tokens) for tokens in path["tokens"]] if "tokens" in path else [""]
    each = -(-len(path["valid"]) // len(said))
    return Trace(
        record=record,
        policy=driver.name,
        score=float(score),
        **{f"ego_{name}": values[:length] for name, values in ego.items()},
        **{f"agent_{name}": values[:, :length] for name, values in agents.items()},
        light_state=path["light_state"][:, :length],
        offset=path["offset"][:length],
        events={name: values[:length] for name, values in path["events"].items()},
        sentences=tuple(np.repeat(said, each)[:length]),
        dt=dt,
    )


def row_keys(seed: int, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """The policy's and the World's keys of scenes, key[B] each: functions of the seed and of the scene alone."""
    kinds = jax.random.split(jax.random.key(seed))
    policy, world = (jax.vmap(jax.random.fold_in, (None, 0))(kind, rows) for kind in kinds)
    return policy, world


def drive(
    driver: Driver,
    records: Sequence[Record],
    judge: Judge,
    config: SimulatorConfig,
    *,
    batch: int,
    steps: int,
    seed: int = 0,
    rows: Sequence[int] | None = None,
    traced: bool = False,
    layout: Layout = ALONE,
) -> tuple[dict[str, np.ndarray], list[Trace]]:
    """Drives scenes in batches of one size, so that nothing is compiled twice; what pads the last one is dropped.

    Args:
      records: with prepared scenes.   batch: B.   steps: H.   seed: of all drivers alike: comparisons are paired.
      rows: which records; all if None. A scene's result does not depend on which others are driven.
      traced: whether to return the drives themselves, which `figures` draws.
      layout: of the rows; the driver's params lie there already. B grows to what its devices can share equally.
    Returns: `driving_score` as arrays [N], and N traces or none.
    """
    rows = np.arange(len(records)) if rows is None else np.asarray(rows)
    scores, traces = [], []
    batch += -batch % layout.row_parts
    with Bar(driver.name, len(rows), unit="scenes", compiles=True) as bar:
        for chunk in chunks(len(rows), batch):
            count, chosen = len(np.unique(chunk)), rows[chunk]
            params, keys = (judge.params_of(chosen), driver.params), layout.place(row_keys(seed, chosen))
            scene = layout.assemble(take(records, chosen[layout.own(batch)]))
            score, path = drive_batch(judge.world, driver.policy, driver.labels, config, steps, *params, scene, keys)
            scores.append({name: values[:count] for name, values in to_host(score).items()})
            if traced:
                path = to_host(path)
                for b in range(count):
                    one = jax.tree.map(lambda values, b=b: values[b], path)
                    traces.append(trace_of(driver, records[chosen[b]], scores[-1]["score"][b], one, config.dt))
            bar.advance(count)
    return {name: np.concatenate([part[name] for part in scores]) for name in scores[0]}, traces


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is judged, by whom, and on what.

    Attributes:
      drivers: by name.   records: with prepared scenes.
      judges: names out of `JUDGES`; each is set up once.   simulator: for judges and scores.
      batch: scenes driven at once.   steps: H.   seed: of the drives.
    """

    drivers: dict[str, Driver]
    records: Sequence[Record]
    judges: tuple[str, ...]
    simulator: SimulatorConfig
    batch: int
    steps: int
    seed: int = 0

    @functools.cached_property
    def worlds(self) -> dict[str, Judge]:
        """The judges by name. Raises: ValueError for an unknown name, or records that a judge cannot drive."""
        return {name: JUDGES[named("judge", name, JUDGES)](self.simulator, self.records) for name in self.judges}

    def drive(self, judge: str, driver: str, rows: Sequence[int] | None = None, traced: bool = False) -> tuple:
        """See `drive`; every call with the same judge and driver shares one compiled program."""
        size = min(self.batch, len(self.records))
        settings = {"batch": size, "steps": self.steps, "seed": self.seed, "rows": rows, "traced": traced}
        return drive(self.drivers[driver], self.records, self.worlds[judge], self.simulator, **settings)

    def results(self) -> Results:
        """Drives everyone over everything."""
        scores = {judge: {name: self.drive(judge, name)[0] for name in self.drivers} for judge in self.judges}
        ids, off = zip(*((record.scenario_id, record.starts_off_road) for record in self.records), strict=True)
        return Results(ids, recordings(self.records), off, scores)
