"""Pytest plugin of the conformance suite: the option `--world-model`, and what the tests share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tether.data.scene import Array, Scene
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.world import Params, Rollout
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.conformance import batches
from tether.worldmodel.conformance.small import SMALL, config_of
from tether.worldmodel.fitting import FitState, FittingConfig, fit_step, start_fit
from tether.worldmodel.interface import WorldModel

FITTING = FittingConfig(learning_rate=1e-2, warmup_steps=5)
FIT_STEPS = 60


@dataclasses.dataclass(frozen=True)
class Case:
    """A model to test.

    Attributes:
      name: as given on the command line.   config: its `build` makes the model.   model: the built model.
      params: freshly initialised.
      imagine: `batches.imagine` as a function of (params, keys, batch), jitted.
    """

    name: str
    config: Any
    model: WorldModel
    params: Params
    imagine: Callable[[Params, jax.Array, ModelBatch], Rollout]

    @property
    def learns(self) -> bool:
        """Whether the model has parameters to fit."""
        return bool(jax.tree.leaves(self.params))


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fit of `FIT_STEPS` steps on the four scenes.

    Attributes:
      step: (state, key, batch) -> state and metrics, jitted.
      state: after it.
      history: the metrics of each step.
    """

    step: Callable[[FitState, jax.Array, ModelBatch], tuple[FitState, dict[str, Array]]]
    state: FitState
    history: list[dict[str, Array]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--world-model`."""
    parser.addoption(
        "--world-model",
        "--world_model",
        action="append",
        metavar="NAME",
        help="model to hold against the rules, by import path of its config (repeatable; default: the built-in ones)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case per model: those asked for, or those that a test module lists, or the built-in ones."""
    if "case" in metafunc.fixturenames:
        listed = getattr(metafunc.module, "WORLD_MODELS", tuple(SMALL))
        names = metafunc.config.getoption("--world-model") or listed
        metafunc.parametrize("case", names, indirect=True, scope="session")


def pytest_configure(config: pytest.Config) -> None:
    """Reports a wrong model name before any test runs."""
    try:
        for name in config.getoption("--world-model") or ():
            config_of(name)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def case_of(name: str, config: Any, simulator: SimulatorConfig, batch: ModelBatch) -> Case:
    """Builds and initialises a model."""
    model = config.build(simulator)
    params = jax.jit(model.init)(jax.random.key(1), batch)
    return Case(name, config, model, params, jax.jit(lambda *args: batches.imagine(model, *args)))


@pytest.fixture(scope="session")
def sim_config() -> SimulatorConfig:
    """The default simulator with a small image."""
    render = RenderConfig(height=16, width=16, resolution=4.0, tile_height=80, tile_width=80)
    return dataclasses.replace(SimulatorConfig(), render=render)


@pytest.fixture(scope="session")
def batch(sim_config) -> Scene:
    """Four prepared scenes [B = 4], numpy."""
    return batches.four_scenes(sim_config)


@pytest.fixture(scope="session")
def keys() -> jax.Array:
    """key[B = 4]."""
    return jax.random.split(jax.random.key(0), 4)


@pytest.fixture(scope="session")
def model_batch(batch, sim_config) -> ModelBatch:
    """The four scenes with agent 1 braking, replayed."""
    scene = jax.tree.map(jnp.asarray, batches.braking(batch))
    return jax.jit(batches.replay, static_argnums=1)(scene, sim_config)


@pytest.fixture(scope="session")
def case(request, model_batch, sim_config) -> Case:
    """The model under test."""
    return case_of(request.param, config_of(request.param), sim_config, model_batch)


@pytest.fixture(scope="session")
def imagined(case, keys, model_batch) -> Rollout:
    """The batch's actions, imagined in the model."""
    return case.imagine(case.params, keys, model_batch)


@pytest.fixture(scope="session")
def fitted(case, model_batch) -> Fit:
    """The model after a fit; one that learns nothing takes a single step. No step moves data on or off the device."""
    optimizer, history, key = FITTING.build(FIT_STEPS), [], jax.random.key(2)
    state = start_fit(case.params, optimizer)
    step = jax.jit(fit_step(case.model, optimizer))
    with jax.transfer_guard("disallow"):
        for _ in range(FIT_STEPS if case.learns else 1):
            state, metrics = step(state, key, model_batch)
            history.append(metrics)
    return Fit(step, state, history)
