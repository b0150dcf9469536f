"""Shared by all tests: a CPU, fast compilation, one compilation cache, tiny scenes."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles twice as fast
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the cache warns of machine features at length
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "tether-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import dataclasses
import pathlib
import sys

import jax
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import scenes

from data.scene import Scene, SceneSpec
from simulator.config import RenderConfig, SimulatorConfig
from simulator.prepare import prepare

# Files go to workers whole, so that tests share what they compile; the longest first, or the last worker runs alone.
LONGEST_FIRST = ("test_training_job", "test_world_models", "test_worldmodel_tokens", "test_simulator_oracle")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the files; the order within one stays."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def spec() -> SceneSpec:
    """The tiny bucket of `scenes.py`."""
    return scenes.TINY


@pytest.fixture(scope="session")
def sim_config() -> SimulatorConfig:
    """The default simulator with a small image."""
    render = RenderConfig(height=16, width=16, resolution=4.0, tile_height=80, tile_width=80)
    return dataclasses.replace(SimulatorConfig(), render=render)


@pytest.fixture(scope="session")
def batch(sim_config) -> Scene:
    """Four prepared scenes [B = 4]: free road, lead vehicle, crossing vehicle, red light."""
    some = [scenes.straight(), scenes.lead_vehicle(), scenes.crossing_vehicle(), scenes.red_light()]
    return scenes.stack([prepare(scene, sim_config) for scene in some])


@pytest.fixture(scope="session")
def keys() -> jax.Array:
    """key[B = 4]."""
    return jax.random.split(jax.random.key(0), 4)


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
