"""The compiled functions of a run, each traced once: compilation is what a small run waits for."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.policy.language import LabelConfig
from tether.policy.vla import VLA
from tether.simulator.log_replay import LogReplay
from tether.training import imagination, improvement, open_loop
from tether.training.config import Config
from tether.training.drivers import ClosestToLog, Teacher
from tether.training.mesh import ALONE, Layout
from tether.worldmodel import registry
from tether.worldmodel.fitting import FitState, fit_step
from tether.worldmodel.interface import WorldModel


@dataclasses.dataclass(frozen=True)
class Programs:
    """Models and jitted functions; arguments are those that `functools.partial` leaves open below.

    Attributes:
      model: the world model.   vla: the policy as it explores and is trained.   labels: rules that teach it to speak.
      fit: see `worldmodel.fitting.fit_step`.   imitate, improve, fit_value: see `improvement`.
      drive_expert, demonstrate, imagine, drive: see `imagination`.
      practise: `imagine` in the simulator, whose params are ().
      foresee, drive_deployed: the policy as it is deployed, without chance, in both Worlds, for grounding.
      open_loop: see there.
      gather: transitions of an `Experience` [H, R], numbered step by step: [N].
      join: the rows of two trees of arrays.
      fresh_optimizer: the state of `improvement.optimiser` for a policy.
    """

    model: WorldModel
    vla: VLA
    labels: LabelConfig
    drive_expert: Callable[..., Any]
    fit: Callable[..., Any]
    imitate: Callable[..., Any]
    demonstrate: Callable[..., Any]
    improve: Callable[..., Any]
    fit_value: Callable[..., Any]
    imagine: Callable[..., Any]
    practise: Callable[..., Any]
    foresee: Callable[..., Any]
    drive: Callable[..., Any]
    drive_deployed: Callable[..., Any]
    open_loop: Callable[..., Any]
    gather: Callable[..., Any]
    join: Callable[..., Any]
    fresh_optimizer: Callable[..., Any]


def build_model(config: Config) -> WorldModel:
    """The world model that a config names, which its author has to be trusted for: see `restore.read_run`.

    Raises: ValueError for a name that stands for no model.
    """
    return registry.build(config.world_model, config.model_settings(config.world_model), config.simulator)


def build(config: Config, layout: Layout = ALONE) -> Programs:
    """Builds the models and wraps the functions; nothing is compiled before it is called.

    Args: layout: of the parameters that steps return, and of minibatches; every other array lies where XLA puts it.
    """
    simulator, steps = config.simulator, config.rollout_steps
    vla = config.policy.build(simulator, config.spec)
    deployed = vla.with_temperature(0.0)
    model = build_model(config)
    closest = ClosestToLog(
        vla, simulator, config.imitation.labels, config.closed_loop.candidates, config.closed_loop.recover_above
    )
    teacher = Teacher(vla.head, simulator, config.imitation.labels)

    def jit(function: Callable[..., Any], *static: Any) -> Callable[..., Any]:
        return jax.jit(functools.partial(function, *static))

    def rollouts(function: Callable[..., Any], *static: Any, learned: int) -> Callable[..., Any]:
        """Drives with as many parameter trees, the first arguments."""
        return jax.jit(lambda *args: function(*static, *layout.gathered(args[:learned]), *args[learned:]))

    def updates(function: Callable[..., Any], *static: Any, learned: tuple[int, ...] = (0,)) -> Callable[..., Any]:
        """Returns parameters, optimiser states and metrics; `learned` says which arguments are parameters."""

        def kept(*args: Any) -> Any:
            args = tuple(layout.gathered(arg) if i in learned else arg for i, arg in enumerate(args))
            return layout.keep(function(*static, *args))

        return jax.jit(kept)

    def fit(state: FitState, key: jax.Array, batch: Any) -> Any:
        step = fit_step(model, config.fit.optimizer.build(config.fit.steps))
        return step(state.replace(params=layout.gathered(state.params)), key, batch)

    def transitions(tree: Any, numbers: Array) -> Any:
        return layout.spread(jax.tree.map(lambda a: a[numbers // a.shape[1], numbers % a.shape[1]], tree))

    return Programs(
        model=model,
        vla=vla,
        labels=config.imitation.labels,
        drive_expert=jit(imagination.drive_expert, simulator, steps),
        fit=updates(fit, learned=()),
        imitate=updates(improvement.imitate, vla, simulator, config.imitation),
        demonstrate=rollouts(imagination.demonstrate, closest, steps, learned=1),
        improve=updates(improvement.improve, vla, learned=(0, 2)),
        fit_value=updates(improvement.fit_value, vla),
        imagine=rollouts(imagination.imagine, model, vla, teacher, config.rounds, learned=2),
        practise=rollouts(imagination.imagine, LogReplay(simulator), vla, teacher, config.rounds, learned=2),
        foresee=rollouts(imagination.foresee, model, deployed, config.rounds.horizon, learned=2),
        drive=rollouts(imagination.drive, simulator, vla, steps, learned=1),
        drive_deployed=rollouts(imagination.drive, simulator, deployed, steps, learned=1),
        open_loop=rollouts(open_loop.open_loop, deployed, simulator, learned=1),
        gather=jax.jit(transitions),
        join=jax.jit(lambda first, second: layout.spread(join(first, second))),
        fresh_optimizer=updates(improvement.optimiser().init, learned=()),
    )


def join(first: Any, second: Any) -> Any:
    """The rows of both."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
