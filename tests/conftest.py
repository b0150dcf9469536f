"""Shared by all tests: a CPU, fast compilation, one compilation cache, tiny scenes.

The fixtures `sim_config`, `batch`, `keys` and `model_batch` are the conformance suite's.
"""

import os
import pathlib
import sys

from tether.worldmodel.conformance import ENVIRONMENT

os.environ.update(ENVIRONMENT | dict(os.environ))

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import scenes

from tether.data.scene import SceneSpec

pytest_plugins = ["tether.worldmodel.conformance.plugin"]
# Files go to workers whole, so that tests share what they compile; the longest first, or the last worker runs alone.
LONGEST_FIRST = (
    "test_training_job",
    "test_world_models",
    "test_settings",
    "test_worldmodel_tokens",
    "test_simulator_oracle",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the files; the order within one stays."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def spec() -> SceneSpec:
    """The tiny bucket of `scenes.py`."""
    return scenes.TINY


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real logs beside the repository; skips where there is none."""
    folder = pathlib.Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real logs are not beside the repository")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded noise."""
    return np.random.default_rng(0)
