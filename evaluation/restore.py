"""Reads a run as data: its settings, its learned arrays and its progress.

Training itself resumes by `training/resume.py`.
"""

import pathlib
from collections.abc import Sequence

import jax

from tether.data.scene import Record
from tether.training import models
from tether.training.checkpoint import Checkpoints
from tether.training.config import Config
from tether.training.directory import read_settings
from tether.training.models import Models
from tether.training.resume import parse_progress
from tether.training.state import Learned, Progress
from tether.worldmodel import registry


def read_run(directory: pathlib.Path, trusted: Sequence[str] = ()) -> Config:
    """The settings of a run of any origin. All code that builds something from a run reads its settings here.

    Args: trusted: modules or import paths that the user named, see `Importable.check_trusted`.
    Raises: ValueError where there is no run, for settings that cannot work, and for a world model that is neither
      built in nor trusted.
    """
    config = read_settings(directory)
    if config is None:
        raise ValueError(f"{directory} is not a run: expected a config.json in it, as train.py writes it")
    try:
        registry.WORLD_MODELS.check_trusted(config.world_model, directory, trusted)
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'}: {error}") from None
    return config


def template(config: Config, built: Models, records: Sequence[Record]) -> Learned:
    """Shapes of all arrays of a run; nothing is initialised. Args: records: as in `restore`."""
    return jax.eval_shape(lambda: models.begin(config, built, records))


def restore(
    directory: pathlib.Path, config: Config, built: Models, records: Sequence[Record]
) -> tuple[Learned, Progress]:
    """The newest undamaged checkpoint of a run.

    Args: records: any scenes of the run's spec; only their shapes are looked at.
    Raises: ValueError where the run has no checkpoint yet.
    """
    none = f"{directory} has no checkpoint yet: let train.py continue until the imitation policy is trained"
    if not (directory / "checkpoints").is_dir():
        raise ValueError(none)
    checkpoints = Checkpoints(directory / "checkpoints", config.keep_checkpoints)
    try:
        restored = checkpoints.restore(template(config, built, records), parse_progress, repair=False)
    finally:
        checkpoints.close()
    if restored is None:
        raise ValueError(none)
    return jax.device_put(restored.state), restored.progress
