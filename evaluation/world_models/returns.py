"""Returns of policies in a World, grounded (the simulator) or imagined (a world model), by the same rules."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from tether.data.scene import Array, Scene
from tether.evaluation.world_models.study import Study
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import last_valid_step
from tether.simulator.events import FAILURES
from tether.simulator.score import driving_score
from tether.simulator.world import Params, Rollout, World
from tether.training import drives
from tether.training.drives import Judge, row_keys

QUANTITIES = ("return", "score", "failure", *FAILURES)


def earn(study: Study, title: str, world: World, params: Params) -> dict[str, np.ndarray]:
    """Rolls out every policy in a World. Returns: quantity to float64[P, N], policies by scenes; see `Earned`."""
    by_policy = [
        drives.drive(
            *(dataclasses.replace(policy, name=f"{title}, {policy.name}"), study.records),
            *(Judge(world, lambda rows: params), Earned(study.simulator)),
            steps=study.steps,
            batch=min(study.batch, len(study.records)),
            keys=functools.partial(row_keys, study.config.seed),
        )
        for policy in study.policies.values()
    ]
    return {name: np.stack([one[name] for one in by_policy]).astype(np.float64) for name in by_policy[0]}


@dataclasses.dataclass(frozen=True)
class Earned:
    """Keeps `QUANTITIES` as `driving_score` has them, [B] each; `predicted_return` where the World has heads.

    Attributes:
      config: of the simulator.
    """

    config: SimulatorConfig

    def __call__(self, driven: Rollout, scene: Scene) -> dict[str, Array]:
        """Counts the steps within the log."""
        driven = driven.replace(alive=driven.alive & within_log(driven, scene))
        score = driving_score(driven, scene, self.config)
        return {name: score[name] for name in QUANTITIES} | predicted_return(driven)


def within_log(driven: Rollout, scene: Scene) -> Array:
    """Steps wholly inside the log, bool[H, B]: log replay has no others, and imagination must not count more."""
    substeps = driven.outcome.valid.shape[-1]
    return driven.observation.time + substeps <= last_valid_step(scene)


def predicted_return(driven: Rollout) -> dict[str, Array]:
    """`predicted_return`, the return by the World's heads, float32[B]; empty without heads.

    It is the sum of the reward times the probability of reaching the step, up to the step at which geometry ends the
    rollout: the heads have nothing to predict from then on.
    """
    heads = driven.outcome.predicted
    if not {"reward", "cont"} <= heads.keys():
        return {}
    cont = heads["cont"]
    reached = jnp.concatenate([jnp.ones_like(cont[:1]), jnp.cumprod(cont, axis=0)[:-1]])
    return {"predicted_return": jnp.sum(driven.alive * reached * heads["reward"], axis=0)}
