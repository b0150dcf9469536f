"""The models of a run, built from its config, and its arrays at the beginning."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tether.data.scene import Record
from tether.policy.baselines import IDM
from tether.policy.coach import Coach
from tether.policy.language import LabelConfig
from tether.policy.vla import VLA
from tether.simulator.log_replay import LogReplay
from tether.simulator.world import Params
from tether.training import coaching, objectives, tracks
from tether.training.config import Config
from tether.training.drives import roll_out
from tether.training.imagination import Imagine, track
from tether.training.learning import optimiser
from tether.training.mesh import ALONE, Layout
from tether.training.scenes import take
from tether.training.state import Learned
from tether.training.teacher import Teacher
from tether.worldmodel import registry
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.fitting import FitState, start_fit
from tether.worldmodel.interface import WorldModel


@dataclasses.dataclass(frozen=True)
class Models:
    """What is trained, without its arrays.

    Attributes:
      world_model: see `worldmodel.interface.WorldModel`.
      vla: the policy as it explores and is trained.
      labels: rules that its reasoning is labelled by.
      coach: the coach as it explores.
    """

    world_model: WorldModel
    vla: VLA
    labels: LabelConfig
    coach: Coach

    @property
    def deployed(self) -> VLA:
        """The policy as it is deployed, without chance."""
        return self.vla.with_temperature(0.0)


def build(config: Config) -> Models:
    """The models that a config names, whose author has to be trusted: see `evaluation.restore.read_run`.

    Raises: ValueError for a name that stands for no model.
    """
    settings = config.model_settings(config.world_model)
    model = registry.build(config.world_model, settings, config.simulator)
    coach = config.coach.build(config.simulator, config.policy.actions)
    return Models(model, config.policy.build(config.simulator, config.spec), config.imitation.labels, coach)


def practice(config: Config, models: Models) -> Imagine:
    """What is kept of imagined rollouts. Raises: ValueError for an unknown objective."""
    objective = objectives.build(config.rounds.objective, config.objective_settings(config.rounds.objective))
    rules = IDM(config.simulator, models.labels.follower)
    policy = models.coach.deployed if config.rounds.teacher == "coach" else rules
    teacher = Teacher(policy, models.vla.head, models.labels)
    return Imagine(objective, config.returns, teacher, config.rounds.group)


def teacher_params(config: Config, learned: Learned) -> Params:
    """The parameters of the teacher: those of the best accepted coach, or none."""
    return learned.coach_best if config.rounds.teacher == "coach" else ()


def begin(config: Config, models: Models, records: Sequence[Record], layout: Layout = ALONE) -> Learned:
    """Freshly initialised arrays; also the template that checkpoints are restored into.

    Args: records: any scenes of the run's spec; only their shapes are looked at.
    """
    rows = config.rounds.scenes * config.rounds.group
    scene = take(records, [0] * rows)

    def init(key: jax.Array) -> tuple[Any, Any, FitState, ModelBatch]:
        k_policy, k_model = jax.random.split(key)
        policy, keys = models.vla.init(k_policy), jax.random.split(key, rows)

        def driven(*args: Any) -> ModelBatch:
            return roll_out(LogReplay(config.simulator), models.vla, track, config.rollout_steps, ALONE, (), *args)

        shapes = jax.eval_shape(driven, policy, scene, (keys, keys))
        batch = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        optimizer = config.fit.optimizer.build(config.fit.steps)
        fitting = start_fit(models.world_model.init(k_model, batch), optimizer)
        learned = layout.keep((policy, optimiser().init(policy), fitting))
        return *learned, batch.replace(scene=())

    policy, optimizer, fitting, batch = jax.jit(init)(jax.random.key(config.seed))
    coach = coaching.begin(models.coach, jax.random.key(config.seed)) if config.coaching.rounds else None
    return Learned(
        policy=policy,
        policy_optimizer=optimizer,
        imitation=policy,
        accepted=policy,
        best=policy,
        model=fitting.params,
        model_optimizer=(fitting.optimizer, fitting.step),
        tracks=tracks.empty(batch, config.fit.tracks),
        **(with_coach(coach, coach_accepted=coach.params, coach_best=coach.params) if coach else {}),
    )


def with_coach(coach: coaching.Coached, **more: Any) -> dict[str, Any]:
    """The fields of `Learned` that hold a coach."""
    return {"coach": coach.params, "coach_moments": (coach.optimizer, coach.largest), **more}
