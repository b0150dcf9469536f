"""The only place that drives scenes in batches: it places rows, draws keys, rolls out and keeps what is asked for.

Grounding, checks, evaluation, imagined returns and submissions are calls of `drive` or `roll_out` with another World,
policy or `keep`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from tether.data.progress import Bar
from tether.data.scene import Array, Record, Scene
from tether.policy.language import LabelConfig, consistency
from tether.simulator.config import SimulatorConfig
from tether.simulator.events import EVENTS
from tether.simulator.reward import own_reward
from tether.simulator.rollout import joined, rollout
from tether.simulator.score import driving_score
from tether.simulator.world import Params, Policy, Rollout, World
from tether.training.mesh import ALONE, Layout
from tether.training.processes import to_host
from tether.training.scenes import chunks, take

# Extras of a policy whose mean over the steps driven is one of its scores, beside `consistency`.
REASONING_CHANGES = ("reasoning_changed", "action_changed", "acceleration_change")

Keep = Callable[..., Any]  # (Rollout of scenes [B, ...], the scenes, more arguments) -> what is kept of it
Keys = tuple[jax.Array, jax.Array]  # the policy's and the World's, one for each scene


@dataclasses.dataclass(frozen=True)
class Judge:
    """A World that policies are evaluated in.

    Attributes:
      world: as in `simulator.world.World`.
      params_of: the World's params for a batch, given which records its rows are, int[B]; called before it is driven.
    """

    world: World
    params_of: Callable[[np.ndarray], Params] = lambda rows: ()


@dataclasses.dataclass(frozen=True)
class NamedPolicy:
    """A policy with its parameters and its name.

    Attributes:
      name: as in the report.   policy: see `simulator.world.Policy`.   params: its parameters.
      labels: the rules that its reasoning was labelled by, which its consistency is measured by.
    """

    name: str
    policy: Policy
    params: Params
    labels: LabelConfig = dataclasses.field(default_factory=LabelConfig)


def row_keys(seed: int, rows: np.ndarray) -> Keys:
    """The policy's and the World's keys of scenes, key[B] each: functions of the seed and of the scene alone."""
    kinds = jax.random.split(jax.random.key(seed))
    policy, world = (jax.vmap(jax.random.fold_in, (None, 0))(kind, rows) for kind in kinds)
    return policy, world


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def roll_out(
    world: World,
    policy: Policy,
    keep: Keep,
    steps: int,
    layout: Layout,
    world_params: Params,
    params: Params,
    scene: Scene,
    keys: Keys,
    start: Array | None = None,
    *more: Any,
) -> Any:
    """Drives `Scene` [B, ...] for `steps`, with key[B] each.

    Args:
      keep: hashable; equal ones share a compiled program.   more: further arguments of it.
      start: int32[B], log step to start from; the current step if None.
    Returns: what `keep` does.
    """
    world_params, params = layout.gathered((world_params, params))
    return keep(rollout(world, world_params, policy, params, scene, steps, *keys, start), scene, *more)


def drive(
    policy: NamedPolicy,
    records: Sequence[Record],
    judge: Judge,
    keep: Keep,
    *,
    steps: int,
    batch: int,
    keys: Callable[[np.ndarray], Keys],
    rows: Sequence[int] | None = None,
    layout: Layout = ALONE,
    fetch: Callable[[Any], Any] = lambda kept: kept,
) -> Any:
    """Drives scenes in batches of one size, so that nothing is compiled twice; what pads the last one is dropped.

    Args:
      records: with prepared scenes.   keep: see `roll_out`; gives arrays [B, ...].
      steps: H.   batch: B; grows to what the devices can share equally.
      keys: of records int[B]. A scene's result does not depend on which others are driven.
      rows: which records; all if None.   layout: of the rows; parameters lie there already.
      fetch: what is copied to the host of what `keep` keeps.
    Returns: the same as numpy arrays [N, ...].
    """
    rows = np.arange(len(records)) if rows is None else np.asarray(rows)
    batch += -batch % layout.row_parts
    parts = []
    with Bar(policy.name, len(rows), unit="scenes", compiles=True) as bar:
        for chunk in chunks(len(rows), batch):
            count, chosen = len(np.unique(chunk)), rows[chunk]
            params, placed = (judge.params_of(chosen), policy.params), layout.place(keys(chosen))
            scene = layout.assemble(take(records, chosen[layout.own(batch)]))
            kept = roll_out(judge.world, policy.policy, keep, steps, layout, *params, scene, placed)
            parts.append(jax.tree.map(lambda values, count=count: values[:count], to_host(fetch(kept))))
            bar.advance(count)
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


@dataclasses.dataclass(frozen=True)
class Scored:
    """Keeps the scores of a rollout, its steps and its path: what checks, grounding and evaluation look at.

    Attributes:
      config: of the simulator.   labels: see `NamedPolicy`.
    """

    config: SimulatorConfig
    labels: LabelConfig = dataclasses.field(default_factory=LabelConfig)

    def __call__(self, driven: Rollout, scene: Scene) -> tuple[dict[str, Array], "Steps", dict[str, Any]]:
        """`driving_score` and `reasoning_scores` [B], `steps_of` [B, H], and `path_of` [B, ...]."""
        scores = driving_score(driven, scene, self.config) | reasoning_scores(driven, self.labels)
        return scores, steps_of(driven, scene), path_of(driven)


@flax.struct.dataclass
class Steps:
    """The steps of rollouts; arrays [B, H].

    Attributes:
      alive: bool, before the step.   truncation: bool.
      reward: float32.   own_reward: float32, see `simulator.reward.own_reward`.   disagreement: float32.
      events: bool by name, whether it happened in the step.
      predicted: float32 by name, what the World's heads predict for the step; empty without heads.
    """

    alive: Array
    truncation: Array
    reward: Array
    own_reward: Array
    disagreement: Array
    events: dict[str, Array]
    predicted: dict[str, Array]


def steps_of(driven: Rollout, scene: Scene) -> Steps:
    """Keeps the steps of a rollout, without rewards after its end."""
    outcome = driven.outcome
    rewards = (jnp.where(driven.alive, one, 0.0) for one in (outcome.reward, own_reward(outcome)))
    events = {event.name: outcome.happened(event.name) for event in EVENTS}
    steps = Steps(driven.alive, outcome.truncation, *rewards, outcome.disagreement, events, outcome.predicted)
    return jax.tree.map(lambda field: jnp.swapaxes(field, 0, 1), steps)


def reasoning_scores(driven: Rollout, labels: LabelConfig) -> dict[str, Array]:
    """`consistency` and `REASONING_CHANGES`, as far as the policy gives them; means over the steps driven, float32[B].

    Consistency is how far the action agrees with the decision that the policy wrote.
    """
    steps = {name: driven.extras[name] for name in REASONING_CHANGES if name in driven.extras}
    if "decision" in driven.extras:
        speed = driven.observation.ego[..., 0]
        steps["consistency"] = consistency(labels, driven.extras["decision"].tokens, driven.action, speed)
    count = jnp.maximum(driven.alive.sum(0), 1)
    return {name: jnp.sum(jnp.where(driven.alive, values, 0.0), 0) / count for name, values in steps.items()}


def path_of(driven: Rollout) -> dict[str, Any]:
    """What a top view needs of a rollout, batch first: sub-steps joined to K = H * S."""
    outcome, substeps = driven.outcome, driven.outcome.valid.shape[-1]
    valid = outcome.valid & driven.alive[..., None]

    fields = {
        "ego": {name: getattr(driven.ego, name) for name in ("x", "y", "heading", "speed")},
        "agents": {name: getattr(driven.agents, name) for name in ("x", "y", "heading", "valid")},
        "events": {event.name: getattr(outcome, event.name) & valid for event in EVENTS},
        "light_state": jnp.repeat(driven.light_state[..., None], substeps, axis=-1),
        "offset": outcome.route_offset_m,
        "valid": valid,
    }
    decision = driven.extras.get("decision")  # scripted policies give none
    tokens = {} if decision is None else {"tokens": jnp.swapaxes(decision.tokens, 0, 1)}
    return joined(fields) | tokens
