"""The world model's part of a policy report: the displacement of the others, beside the floors."""

from collections.abc import Sequence

import jax
import numpy as np

from tether.data.scene import Record
from tether.evaluation.statistics import bootstrap, recordings
from tether.evaluation.world_models.draws import displacement_errors, imagine_draws, log_drive, logged
from tether.simulator.world import Params, World
from tether.training.config import Config
from tether.training.scenes import take

FLOORS = ("kinematic", "lanes")  # models without learning that a learned one has to beat; the higher one last
SECONDS = (1, 3, 8)
DRAWS = 4  # of each scene: the table shows the mean over draws, for which few suffice


def compare(
    models: dict[str, tuple[World, Params]], records: Sequence[Record], config: Config
) -> dict[str, dict[str, dict]]:
    """ADE of the moving others up to some times, as in the benchmark of world models (`displacement.py`).

    Args: models: by name.   records: prepared scenes, all rolled out in one batch.
    Returns: model to `ade_<seconds>s` to interval [m] over the scenes in which others move; a time without such a
      scene is left out.
    """
    log, groups, dt = logged(records, config.spec), np.array(recordings(records)), config.simulator.dt
    drive = jax.jit(log_drive(config.simulator, config.rollout_steps))
    rows = np.arange(len(records))
    batches = [(rows, len(rows), take(records, rows))]

    def keys(rows: np.ndarray) -> jax.Array:
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(config.seed), rows)

    # The log decides which scenes count, alike for every model.
    kept = {f"ade_{s}s": log.counted[..., : round(s / dt)].any((1, 2)) for s in SECONDS}
    table = {}
    for name, (world, params) in models.items():
        draws = imagine_draws(world, params, drive, batches, keys, DRAWS, dt, name)
        errors = displacement_errors(draws, log, dt, SECONDS)
        table[name] = {key: bootstrap(errors[key][some], groups[some]) for key, some in kept.items() if some.any()}
    return table
