"""Trains a coach in a World without a run: imitation of the logs, then practice. For studies of Worlds."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.progress import Bar
from tether.data.scene import Array, Record, Scene
from tether.policy.coach import Coach
from tether.policy.imitation import ImitationConfig
from tether.simulator.world import Params, World
from tether.training.coaching import (
    Coached,
    CoachingConfig,
    begin,
    coaching_step,
    imitation_step,
    latest_start,
    starts,
    weights,
)
from tether.training.imagination import Trust
from tether.training.learning import cosine
from tether.training.scenes import WithoutTiles, batches

Step = Callable[[Coached, Scene, Array, jax.Array, int], tuple[Coached, dict[str, Array]]]
SHOWN = ("imitation", "return", "failure", "uncomfortable")


def imitate(coach: Coach, config: CoachingConfig, records: Sequence[Record], seed: int) -> Coached:
    """A coach that imitates the logs; one that has learned nothing where `imitation_steps` is 0."""

    def step(state: Coached, scene: Scene, start: Array, key: jax.Array, done: int) -> tuple:
        rate = jnp.float32(cosine(config.imitation_rate, done, config.imitation_steps))
        return imitation_step(coach, ImitationConfig(), state, scene, start, key, rate)

    fresh, latest = begin(coach, jax.random.key(seed)), latest_start(records, coach.space.horizon)
    work = "coach imitates", "steps", config.imitation_steps
    state, _ = _teach(*work, step, fresh, records, config.rows, latest, seed)
    return fresh.replace(params=state.params)


def practise(
    coach: Coach,
    config: CoachingConfig,
    state: Coached,
    world: World,
    world_params: Params,
    records: Sequence[Record],
    decisions: int,
    seed: int,
) -> tuple[Coached, list[dict[str, float]]]:
    """The coach after so many decisions in a World that is believed; the last batch is driven to its end.

    Returns: it, and the metrics of each batch.
    """
    trust = Trust(jnp.int32(config.steps), jnp.float32(jnp.inf), jnp.float32(0))

    def step(state: Coached, scene: Scene, start: Array, key: jax.Array, done: int) -> tuple:
        program = world, coach, config.steps, config.epochs, config.minibatch
        arrays = world_params, state, scene, start, key, trust
        return coaching_step(*program, *arrays, weights(config, done / decisions))

    latest = latest_start(records, coach.simulator.substeps)
    return _teach("coach practises", "decisions", decisions, step, state, records, config.rows, latest, seed)


def _teach(
    name: str,
    unit: str,
    total: int,
    step: Step,
    state: Coached,
    records: Sequence[Record],
    rows: int,
    latest: int,
    seed: int,
) -> tuple[Coached, list[dict[str, float]]]:
    """Batch after batch, from random log steps of random scenes; each counts its decisions, or as one step."""
    scenes, kept = batches(WithoutTiles(records), rows, seed), []
    with Bar(name, total, unit=unit, compiles=True) as bar:
        while bar.done < total:
            k_start, k_step = jax.random.split(jax.random.fold_in(jax.random.key(seed), len(kept)))
            scene, _ = next(scenes)
            state, metrics = step(state, scene, starts(k_start, rows, latest), k_step, bar.done)
            kept.append({name: float(value) for name, value in jax.device_get(metrics).items()})
            bar.show({name: f"{np.mean([one[name] for one in kept[-10:]]):.3g}" for name in SHOWN if name in kept[-1]})
            bar.advance(int(kept[-1].get("decisions", 1)))
    return state, kept
