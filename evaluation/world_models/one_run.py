"""The run's world model beside the kinematic floor: how far the imagined others stray from held-out logs."""

from collections.abc import Sequence

import jax
import numpy as np

from tether.data.scene import Array, Record
from tether.evaluation.statistics import bootstrap, recordings
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Params, World
from tether.training.disturbed_expert import drive_expert, undisturbed
from tether.training.scenes import take
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.quality import displacement, imagine_log

SECONDS = (1, 3, 8)


def compare(
    models: dict[str, tuple[World, Params]], records: Sequence[Record], simulator: SimulatorConfig, steps: int
) -> dict[str, dict[str, dict]]:
    """Average displacement of the moving others up to some times, the ego driving as in the log.

    Args: models: by name.   records: prepared scenes, all driven at once.   steps: H.
    Returns: model to `ade_<seconds>s` to interval [m] over the scenes in which others move; a time at which
      none does is left out.
    """
    scene = take(records, range(len(records)))
    keys = jax.random.split(jax.random.key(0), len(records))

    def errors(world: World, params: Params, batch: ModelBatch) -> tuple[Array, Array]:
        return displacement(imagine_log(world, params, keys, batch), batch, simulator.dt)

    expert = jax.jit(lambda scene: drive_expert(simulator, steps, scene, undisturbed(len(records)), keys))(scene)
    found = {}
    for name, (world, params) in models.items():
        distance, counted = map(np.asarray, jax.jit(errors, static_argnums=0)(world, params, expert))
        cuts = {f"ade_{s}s": round(s / simulator.dt) for s in SECONDS}
        some = {name: k for name, k in cuts.items() if counted[..., :k].any()}
        found[name] = {cut: scene_errors(distance, counted, k, recordings(records)) for cut, k in some.items()}
    return found


def scene_errors(distance: np.ndarray, counted: np.ndarray, substeps: int, groups: Sequence[str]) -> dict:
    """The mean error of each scene up to a sub-step, over scenes. Args: [B, A, H * S]; groups: [B]."""
    distance, counted = distance[..., :substeps], counted[..., :substeps]
    number = counted.sum((1, 2))
    mean, kept = distance.sum((1, 2)) / np.maximum(number, 1), number > 0
    return bootstrap(mean[kept], np.array(groups)[kept])
