"""The judges and policies of an evaluation. Each pair is one compiled program; scenes and keys are the same for all.

A new judge or policy needs only an entry in `JUDGES` or `BASELINES`. Your own needs none: name its import path.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.importing import Importable
from tether.data.scene import Record, Scene, SceneSpec
from tether.data.sumo.install import SumoError as SumoError  # for those that ask for the referee
from tether.evaluation.report import Results
from tether.evaluation.statistics import recordings
from tether.evaluation.topview import Trace
from tether.policy.baselines import IDM, ConstantSpeed, GoStraight, LogExpert
from tether.policy.language import sentence
from tether.simulator.config import SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.simulator.reactive import Reactive
from tether.simulator.referee.fleet import Fleet
from tether.simulator.referee.world import Referee
from tether.simulator.rollout import rollout
from tether.simulator.world import Params, Policy
from tether.training.drives import Judge, NamedPolicy, Scored, drive, row_keys
from tether.training.scenes import take
from tether.worldmodel.batch import ModelBatch, from_rollout
from tether.worldmodel.interface import WorldModel
from tether.worldmodel.registry import BUILT_IN

BASELINES: dict[str, Callable[[SimulatorConfig], Policy]] = {
    "expert": LogExpert,
    "idm": IDM,
    "constant_speed": ConstantSpeed,
    "go_straight": GoStraight,
}
LEARNED = ("imitation", "post_trained", "coach")


def referee(config: SimulatorConfig, records: Sequence[Record]) -> Judge:
    """See `simulator/referee/world.py`. Raises: SumoError without SUMO; ValueError for records of another source."""
    fleet = Fleet(records)
    return Judge(Referee(config, fleet), fleet.open)


JUDGES: dict[str, Callable[[SimulatorConfig, Sequence[Record]], Judge]] = {
    "log_replay": lambda config, records: Judge(LogReplay(config)),
    "reactive": lambda config, records: Judge(Reactive(config)),
    "referee": referee,
}

POLICIES = Importable("policy", dict.fromkeys((*BASELINES, *LEARNED), ""), ("reset", "act"))
WORLDS = Importable("judge", dict.fromkeys(JUDGES, "") | BUILT_IN, ("reset", "observe", "step"))


def named(kind: str, name: str, known: Iterable[str]) -> str:
    """The name itself. Raises: ValueError for an unknown one, with the nearest known name."""
    known = sorted(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    raise ValueError(
        f"unknown {kind} {name!r}, expected one of {known}" + (f"; did you mean {near[0]!r}?" if near else "")
    )


def baseline(name: str, config: SimulatorConfig) -> NamedPolicy:
    """A policy that needs no run: one of `BASELINES`, or your own by import path, whose params are ().

    Raises: ValueError for an unknown name, a learned policy, and as `Importable.build`.
    """
    if name in LEARNED:
        raise ValueError(f"policy {name!r} is learned: name the run directory that holds it")
    policy = BASELINES[name](config) if name in BASELINES else POLICIES.build(name, None, config)
    return NamedPolicy(name, policy, ())


def open_judge(name: str, config: SimulatorConfig, records: Sequence[Record]) -> Judge:
    """One of `JUDGES`, a world model that needs no fitting, or your own World by import path.

    A World's params are (), unless it has `open(records)`, which returns `Judge.params_of`, or `init`, as world models.

    Raises: ValueError for an unknown name, a model that has to be fitted, records that a judge cannot use, and as
      `Importable.build`.
    """
    if name in JUDGES:
        return JUDGES[name](config, records)
    world = WORLDS.build(name, None, config)
    if hasattr(world, "open"):
        return Judge(world, world.open(records))
    params = unfitted(name, world, config, records) if hasattr(world, "init") else ()
    return Judge(world, lambda rows: params)


def unfitted(name: str, world: WorldModel, config: SimulatorConfig, records: Sequence[Record]) -> Params:
    """The params of a world model that needs no fitting: a tree without arrays.

    Args: records: any; only the shapes of the first one are looked at.
    Raises: ValueError for a model that has to be fitted.
    """
    scene, key = take(records, [0]), jax.random.key(0)
    start = jnp.full(1, SceneSpec.current)
    steps = (scene.valid.shape[-1] - 1 - SceneSpec.current) // config.substeps

    def init(scene: Scene, keys: jax.Array) -> Params:
        logged = rollout(LogReplay(config), (), LogExpert(config), (), scene, steps, keys, keys)
        batch: ModelBatch = from_rollout(scene, start, logged, jnp.full(1, True))
        return world.init(key, batch)

    params = jax.eval_shape(init, scene, key[None])
    if jax.tree.leaves(params):
        raise ValueError(f"world model {name!r} has to be fitted: name the run directory that holds it")
    return params


def trace_of(policy: NamedPolicy, record: Record, score: float, path: dict[str, Any], dt: float) -> Trace:
    """One row of `drives.path_of`, on the host, cut where the rollout ended."""
    ego, agents, length = path["ego"], path["agents"], max(int(path["valid"].sum()), 1)
    sentences = [sentence(tokens) for tokens in path["tokens"]] if "tokens" in path else [""]
    each = -(-len(path["valid"]) // len(sentences))
    return Trace(
        record=record,
        policy=policy.name,
        score=float(score),
        **{f"ego_{name}": values[:length] for name, values in ego.items()},
        **{f"agent_{name}": values[:, :length] for name, values in agents.items()},
        light_state=path["light_state"][:, :length],
        offset=path["offset"][:length],
        events={name: values[:length] for name, values in path["events"].items()},
        sentences=tuple(np.repeat(sentences, each)[:length]),
        dt=dt,
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Policies, the judges in which they are evaluated, and the scenes.

    Attributes:
      policies: by name.   records: with prepared scenes.
      judges: names of `JUDGES`, or import paths; each is opened once.   simulator: for judges and scores.
      batch: scenes per batch.   steps: H.   seed: the same for all policies, so that comparisons are paired.
    """

    policies: dict[str, NamedPolicy]
    records: Sequence[Record]
    judges: tuple[str, ...]
    simulator: SimulatorConfig
    batch: int
    steps: int
    seed: int = 0

    @functools.cached_property
    def worlds(self) -> dict[str, Judge]:
        """The judges by name. Raises: as `open_judge`."""
        return {name: open_judge(name, self.simulator, self.records) for name in self.judges}

    def scores(self, judge: str, policy: str) -> dict[str, np.ndarray]:
        """The scores of a policy on all scenes, [N] each."""
        return self._drive(judge, policy, fetch=lambda kept: kept[0])

    def traces(self, judge: str, policy: str, rows: Sequence[int]) -> list[Trace]:
        """Traces of a policy in some of the scenes. Uses the program that `scores` has compiled."""
        if not rows:
            return []
        scores, _, paths = self._drive(judge, policy, rows=rows)
        each = (jax.tree.map(lambda values, b=b: values[b], paths) for b in range(len(rows)))
        return [
            trace_of(self.policies[policy], self.records[row], score, path, self.simulator.dt)
            for row, score, path in zip(rows, scores["score"], each, strict=True)
        ]

    def _drive(self, judge: str, policy: str, **settings: Any) -> Any:
        chosen = self.policies[policy]
        return drive(
            *(chosen, self.records, self.worlds[judge], Scored(self.simulator, chosen.labels)),
            steps=self.steps,
            batch=min(self.batch, len(self.records)),
            keys=functools.partial(row_keys, self.seed),
            **settings,
        )

    def results(self) -> Results:
        """Evaluates every policy on all scenes, in every judge."""
        scores = {judge: {name: self.scores(judge, name) for name in self.policies} for judge in self.judges}
        ids, off = zip(*((record.scenario_id, record.starts_off_road) for record in self.records), strict=True)
        return Results(ids, recordings(self.records), off, scores)
