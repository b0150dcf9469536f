"""Reads what a run has learned, for judging it; training itself resumes through `loop.resume`."""

import pathlib
from collections.abc import Sequence
from types import SimpleNamespace

import jax

from data.scene import Record
from training import stages
from training.checkpoint import Checkpoints
from training.config import Config
from training.mesh import ALONE
from training.programs import Programs
from training.state import Learned, Progress


def restore(
    directory: pathlib.Path, config: Config, programs: Programs, records: Sequence[Record]
) -> tuple[Learned, Progress]:
    """The newest undamaged checkpoint of a run.

    Args: records: any scenes of the run's spec; only their shapes are looked at.
    Raises: ValueError where the run has no checkpoint yet.
    """
    # Shapes are all that is needed: nothing is initialised. `begin` reads no more of a run than this.
    parts = SimpleNamespace(config=config, programs=programs, layout=ALONE, splits=SimpleNamespace(train=records))
    template = jax.eval_shape(lambda: stages.begin(parts))
    checkpoints = Checkpoints(directory / "checkpoints", config.keep_checkpoints)
    try:
        found = checkpoints.restore(template, repair=False)
    finally:
        checkpoints.close()
    if found is None:
        raise ValueError(f"{directory} has no checkpoint yet: let train.py go on until the imitation policy is trained")
    return jax.device_put(found[1]), Progress.from_json(found[3])
