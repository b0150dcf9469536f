"""Reads the policies and the world model of a run; never writes into it."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from tether.data.sources import STARTER
from tether.evaluation.policies import learned_policy, open_records, with_data
from tether.evaluation.restore import read_run, restore
from tether.evaluation.shipped import FOLDER, open_shipped
from tether.evaluation.trained import learned_policies, require
from tether.scenes import Scenes
from tether.scenes import open_split as open_starter
from tether.training import stages
from tether.training.config import Config
from tether.training.drives import Judge, NamedPolicy
from tether.training.models import Models, build
from tether.training.scenes import data_directory
from tether.training.state import Learned, Progress


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run of `train.py`, from its newest undamaged checkpoint.

    Attributes:
      directory: the run's.   config: its settings.   progress: finished stages, rounds and ledger.
      models: the trained models.   learned: their parameters, random where a stage is not finished.
    """

    directory: pathlib.Path
    config: Config
    progress: Progress
    models: Models
    learned: Learned

    def __repr__(self) -> str:
        return f"<run {self.directory}, {len(self.progress.finished)} units done>"

    @property
    def policies(self) -> dict[str, NamedPolicy]:
        """The greedy policies by name: imitation, and post_trained once a round was accepted.

        Raises: ValueError where imitation is not finished.
        """
        names = learned_policies(self.directory, self.config, self.progress)
        return {name: learned_policy(name, self.models, self.learned, temperature=0.0) for name in names}

    @property
    def world_model(self) -> Judge:
        """The World in which policies practise. Raises: ValueError where it is not fitted yet."""
        require(self.directory, self.config, self.progress, stages.world_model.STAGE, "its world model")
        return Judge(self.models.world_model, lambda rows: self.learned.model)

    def open_split(self, split: str, directory: str | pathlib.Path | None = None) -> Scenes:
        """Scenes of this run's sizes: those of its data set that it uses, or all of another data set.

        Raises: DataError, a ValueError, for a missing or damaged data set, or a split that it does not have.
        """
        config = with_data(self.config, None if directory is None else str(directory))
        records = open_records(config, split)
        name = f"split {split!r} of {data_directory(config.data)}"
        return Scenes(name, records, np.arange(len(records)), config.spec, config.simulator)


def load_run(directory: str | pathlib.Path | None = None, trust: Sequence[str] = ()) -> Run:
    """Reads a run. A run is data: nothing in its directory is executed, and nothing is written into it.

    Args:
      directory: the run's; None for the run that ships with Tether, which lacks what only training needs.
      trust: modules or import paths of world models that its settings may name, see SECURITY.md; built-in models need
        none.
    Raises: ValueError where there is no run, or no checkpoint yet, for settings that cannot work, and for a world model
      that is neither built in nor trusted.
    """
    if directory is None:
        config, programs, learned, progress = open_shipped()
        return Run(FOLDER, config, progress, programs, learned)
    directory = pathlib.Path(directory)
    config = read_run(directory, trust)
    models = build(config)
    starter = open_starter("train", STARTER, spec=config.spec, simulator=config.simulator)
    learned, progress = restore(directory, config, models, starter.records)  # uses only the shapes of scenes
    return Run(directory, config, progress, models, learned)
