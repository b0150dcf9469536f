"""The compiled functions of a run, each traced once: compilation is what a small run waits for."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from policy.vla import VLA
from simulator.log_replay import LogReplay
from training import imagination, improvement, open_loop
from training.config import Config
from training.drivers import ClosestToLog, Teacher
from worldmodel import registry
from worldmodel.fitting import fit_step
from worldmodel.interface import WorldModel


@dataclasses.dataclass(frozen=True)
class Programs:
    """Models and jitted functions; arguments are those that `functools.partial` leaves open below.

    Attributes:
      model: the world model.   vla: the policy as it explores and is trained.   deployed: as it is evaluated.
      fit: see `worldmodel.fitting.fit_step`.   imitate, improve, fit_value: see `improvement`.
      drive_expert, demonstrate, imagine, drive: see `imagination`.
      practise: `imagine` in the simulator, whose params are ().
      open_loop: see there.
      gather: the rows of a tree of arrays.
    """

    model: WorldModel
    vla: VLA
    drive_expert: Callable[..., Any]
    fit: Callable[..., Any]
    imitate: Callable[..., Any]
    demonstrate: Callable[..., Any]
    improve: Callable[..., Any]
    fit_value: Callable[..., Any]
    imagine: Callable[..., Any]
    practise: Callable[..., Any]
    drive: Callable[..., Any]
    open_loop: Callable[..., Any]
    gather: Callable[..., Any]


def build(config: Config) -> Programs:
    """Builds the models and wraps the functions; nothing is compiled before it is called."""
    simulator, steps = config.simulator, config.rollout_steps
    vla = config.policy.build(simulator, config.spec)
    model = registry.build(config.world_model, config.model_settings(config.world_model), simulator)
    closest = ClosestToLog(
        vla, simulator, config.imitation.labels, config.closed_loop.candidates, config.closed_loop.recover_above
    )
    teacher = Teacher(vla.head, simulator, config.imitation.labels)

    def jit(function: Callable[..., Any], *static: Any) -> Callable[..., Any]:
        return jax.jit(functools.partial(function, *static))

    return Programs(
        model=model,
        vla=vla,
        drive_expert=jit(imagination.drive_expert, simulator, steps),
        fit=jax.jit(fit_step(model, config.fit.optimizer.build(config.fit.steps))),
        imitate=jit(improvement.imitate, vla, simulator, config.imitation),
        demonstrate=jit(imagination.demonstrate, closest, steps),
        improve=jit(improvement.improve, vla),
        fit_value=jit(improvement.fit_value, vla),
        imagine=jit(imagination.imagine, model, vla, teacher, config.rounds),
        practise=jit(imagination.imagine, LogReplay(simulator), vla, teacher, config.rounds),
        drive=jit(imagination.drive, simulator, vla, steps),
        open_loop=jit(open_loop.open_loop, vla.with_temperature(0.0), simulator),
        gather=jax.jit(lambda tree, rows: jax.tree.map(lambda a: a[rows], tree)),
    )
