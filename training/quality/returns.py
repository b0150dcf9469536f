"""What policies earn in a World: the simulator to ground, a world model to imagine, by the same rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from data.progress import Bar
from data.scene import Array, Scene
from simulator.config import SimulatorConfig
from simulator.dynamics import last_valid_step
from simulator.reward import FAILURES
from simulator.rollout import rollout
from simulator.score import driving_score
from simulator.world import Params, Policy, Rollout, World
from training.judge import row_keys
from training.quality.study import Study

QUANTITIES = ("return", "score", "failure", *FAILURES)


def drive(study: Study, title: str, world: World, params: Params) -> dict[str, np.ndarray]:
    """What every driver earns in a World: quantity to float64[P, N], policies by scenes; see `earned`."""
    found = []
    with Bar(title, len(study.drivers), unit="policies", compiles=True) as bar:
        for driver in bar.over(study.drivers.values()):
            parts = []
            for rows, count, scene in study.chunks():
                keys = row_keys(study.config.seed, rows)
                settings = (world, driver.policy, study.simulator, study.steps)
                told = jax.device_get(earned(*settings, params, driver.params, scene, keys))
                parts.append({name: values[:count] for name, values in told.items()})
            found.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return {name: np.stack([one[name] for one in found]).astype(np.float64) for name in found[0]}


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def earned(
    world: World,
    policy: Policy,
    config: SimulatorConfig,
    steps: int,
    world_params: Params,
    params: Params,
    scene: Scene,
    keys: tuple[jax.Array, jax.Array],
) -> dict[str, Array]:
    """Drives `Scene` [B, ...] with the policy's and the World's key[B].

    Returns: `QUANTITIES` as `driving_score` has them, [B] each; `predicted_return` where the World has heads.
    """
    driven = rollout(world, world_params, policy, params, scene, steps, *keys)
    driven = driven.replace(alive=driven.alive & within_log(driven, scene))
    score = driving_score(driven, scene, config)
    return {name: score[name] for name in QUANTITIES} | predicted_return(driven)


def within_log(driven: Rollout, scene: Scene) -> Array:
    """Steps wholly inside the log, bool[H, B]: a simulator that replays has no more, and imagination must not."""
    substeps = driven.outcome.valid.shape[-1]
    return driven.observation.time + substeps <= last_valid_step(scene)


def predicted_return(driven: Rollout) -> dict[str, Array]:
    """The return by the World's heads, float32[B], under its name: sum of reward x chance of getting to the step.

    It ends where geometry ends the rollout: there is nothing to predict from then on. Empty without heads.
    """
    heads = driven.outcome.predicted
    if not {"reward", "cont"} <= heads.keys():
        return {}
    cont = heads["cont"]
    reached = jnp.concatenate([jnp.ones_like(cont[:1]), jnp.cumprod(cont, axis=0)[:-1]])
    return {"predicted_return": jnp.sum(driven.alive * reached * heads["reward"], axis=0)}
