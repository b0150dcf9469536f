"""What is kept of rollouts to learn from.

The objects here are given to `drives.roll_out` as `keep`. Letters: R rows (starts x G), H steps.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.simulator.rollout import fold_in
from tether.simulator.world import Params, Rollout
from tether.training.experience import Experience, demonstrated
from tether.training.objectives import Objective
from tether.training.returns import ReturnsConfig, Targets, counted, masked_mean, targets
from tether.training.teacher import Teacher
from tether.worldmodel.batch import ModelBatch, from_rollout


@flax.struct.dataclass
class Trust:
    """How far imagination is believed; scalars.

    Attributes:
      horizon: int32, steps at most.
      disagreement: float32, the largest believed.
      penalty: float32, weight of the disagreement in the reward.
    """

    horizon: Array
    disagreement: Array
    penalty: Array


@flax.struct.dataclass
class Imagined:
    """Imagined rollouts as they are learned from.

    Attributes:
      experience: `Experience` [H, R].
      disagreement: float32[H, R].
      valid: bool[H, R], the transition counts.
      metrics: scalars by name.
    """

    experience: Experience
    disagreement: Array
    valid: Array
    metrics: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Imagine:
    """Keeps of imagined rollouts what the objective learns from.

    Attributes:
      objective, returns: see there.   teacher: for objectives that ask one.
      group: G, rollouts from one start, which stand next to each other.
    """

    objective: Objective
    returns: ReturnsConfig
    teacher: Teacher
    group: int

    def __call__(self, driven: Rollout, scene: Scene, key: jax.Array, trust: Trust, taught_by: Params) -> Imagined:
        """Keeps a rollout.

        Args:
          driven: [H, R].   key: key[R], the policy's.
          trust: how far the rollout is believed.   taught_by: parameters of the teacher.
        """
        outcome, value = driven.outcome, driven.extras["value"]
        valid = counted(driven.alive, outcome.truncation, outcome.disagreement, trust.horizon, trust.disagreement)
        aims = targets(outcome, valid, value, driven.final_extras["value"], trust.penalty, self.returns)
        beyond = fold_in(key, driven.alive.shape[0] + 1)  # the rollout's own steps use the keys up to H
        asked = functools.partial(self.teacher.label, taught_by)
        experience = self.objective.experience(driven, aims, self.group, asked, beyond)
        return Imagined(experience, outcome.disagreement, valid, metrics_of(driven, aims))


def row_keys(key: jax.Array, starts: int, group: int) -> tuple[jax.Array, jax.Array]:
    """Policy keys, all different, and World keys, equal within a group: common random numbers. key[R] each."""
    k_policy, k_world = jax.random.split(key)
    return jax.random.split(k_policy, starts * group), jnp.repeat(jax.random.split(k_world, starts), group)


def metrics_of(driven: Rollout, aims: Targets) -> dict[str, Array]:
    """Scalars about imagined rollouts."""
    value = driven.extras["value"].mean(-1)
    error = masked_mean((aims.returns - value) ** 2, aims.valid)
    centred = aims.returns - masked_mean(aims.returns, aims.valid)
    return {
        "return": aims.undiscounted.mean(),
        "failure": jnp.any(driven.outcome.termination & aims.valid, axis=0).mean(),
        "steps": aims.valid.sum(0).mean(),
        "disagreement": masked_mean(driven.outcome.disagreement, aims.valid),
        "value_explained": 1 - error / jnp.maximum(masked_mean(centred**2, aims.valid), 1e-6),
        "informative": jnp.mean(aims.advantage != 0),
        **{
            f"reward_{name}": jnp.sum(jnp.where(aims.valid, term, 0.0), axis=0).mean()
            for name, term in driven.outcome.reward_terms.items()
        },
    }


def track(driven: Rollout, scene: Scene) -> ModelBatch:
    """Keeps a rollout in the simulator as training data of the world model, not of its loss of others' motion."""
    start = driven.observation.time[0]
    return from_rollout(scene, start, driven, jnp.zeros(start.shape, bool))


def demonstrate(driven: Rollout, scene: Scene) -> tuple[Experience, ModelBatch, dict[str, Array]]:
    """Keeps a rollout of `ClosestToLog` as demonstrations; one that failed is not copied."""
    failed, extras = jnp.any(driven.outcome.termination, axis=0), driven.extras
    valid = driven.alive & ~failed
    experience = demonstrated(driven, extras["decision"], valid, jnp.zeros(valid.shape))
    metrics = {
        "failure": failed.mean(),
        "recovered": masked_mean(extras["recovered"], driven.alive),
        "deviation": masked_mean(extras["deviation"], driven.alive),
        "return": jnp.sum(jnp.where(driven.alive, driven.outcome.reward, 0.0), axis=0).mean(),
    }
    return experience, track(driven, scene), metrics
