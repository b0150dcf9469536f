"""Trains a coach: imitation of the logs, then practice in a World."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.progress import Bar
from tether.data.scene import Array, Record, Scene, SceneSpec
from tether.policy.coach import Coach
from tether.simulator.world import Params, World
from tether.training.coaching import Coached, CoachingConfig, begin, coaching_step, imitation_step
from tether.training.scenes import WithoutTiles, batches

Step = Callable[[Coached, Scene, Array, jax.Array, Array], tuple[Coached, dict[str, Array]]]
AT_CURRENT = 3  # one in so many rollouts starts at the current step, as evaluations do
SHOWN = ("imitation", "return", "failure", "uncomfortable")


class Lesson(NamedTuple):
    """A part of the training.

    Attributes:
      name: for people.   step: a batch of it.   count: of batches.
      latest: the latest log step to start from.
    """

    name: str
    step: Step
    count: int
    latest: int


def imitate(coach: Coach, config: CoachingConfig, records: Sequence[Record], seed: int) -> Coached:
    """A coach that imitates the logs; one that has learned nothing where `imitation_steps` is 0."""

    def step(state: Coached, *arrays: Array) -> tuple[Coached, dict[str, Array]]:
        return imitation_step(coach, config, state, *arrays)

    latest = records[0].scene.valid.shape[-1] - 1 - coach.config.actions.horizon
    lesson = Lesson("coach imitates", step, config.imitation_steps, latest)
    state, _ = teach(lesson, config, begin(coach, jax.random.key(seed)), records, seed)
    return begin(coach, jax.random.key(seed)).replace(params=state.params)


def practise(
    coach: Coach,
    config: CoachingConfig,
    state: Coached,
    world: World,
    world_params: Params,
    records: Sequence[Record],
    seed: int,
) -> tuple[Coached, list[dict[str, float]]]:
    """The coach after its practice in a World. Returns: it, and the metrics of each batch."""

    def step(state: Coached, *arrays: Array) -> tuple[Coached, dict[str, Array]]:
        return coaching_step(world, coach, config, world_params, state, *arrays)

    least = min(config.steps, 2) * coach.simulator.substeps  # a rollout that ends with the log has some steps
    latest = records[0].scene.valid.shape[-1] - 1 - least
    return teach(Lesson("coach practises", step, config.batches, latest), config, state, records, seed)


def teach(
    lesson: Lesson, config: CoachingConfig, state: Coached, records: Sequence[Record], seed: int
) -> tuple[Coached, list[dict[str, float]]]:
    """Batch after batch of a lesson, from random log steps of random scenes."""
    scenes, kept = batches(WithoutTiles(records), config.rows, seed), []
    with Bar(lesson.name, lesson.count, compiles=True) as bar:
        for index in bar.over(range(lesson.count)):
            k_start, k_step = jax.random.split(jax.random.fold_in(jax.random.key(seed), index))
            start = jax.random.randint(k_start, (config.rows,), SceneSpec.current, lesson.latest + 1)
            start = jnp.where(jnp.arange(config.rows) % AT_CURRENT == 0, SceneSpec.current, start)
            scene, _ = next(scenes)
            state, metrics = lesson.step(state, scene, start, k_step, jnp.float32(index / lesson.count))
            kept.append({name: float(value) for name, value in jax.device_get(metrics).items()})
            bar.show({name: f"{np.mean([one[name] for one in kept[-10:]]):.3g}" for name in SHOWN if name in kept[-1]})
    return state, kept
