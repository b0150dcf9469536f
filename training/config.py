"""Settings of a run: frozen dataclasses, set from the command line (`python train.py cpu --rounds.group 8`).

`presets.py` holds the presets; this file says what the fields mean. `validation.py` checks their values, `settings.py`
writes them beside the run and reads them back.
"""

import dataclasses
import pathlib
from typing import Any, Literal

from tether.data.scene import SceneSpec
from tether.policy.imitation import ImitationConfig
from tether.policy.language import LabelConfig
from tether.policy.vla import VLAConfig
from tether.simulator.config import SimulatorConfig
from tether.training.objectives.actor_critic import ActorCritic
from tether.training.objectives.grpo import GRPO
from tether.training.objectives.pmpo import PMPO
from tether.training.objectives.ppo import PPO
from tether.training.returns import ReturnsConfig
from tether.worldmodel.fitting import FittingConfig
from tether.worldmodel.rssm import RSSMConfig
from tether.worldmodel.tokens import TokensConfig


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """What counts as going wrong with a run, and what follows (`training.watch`).

    Attributes:
      not_finite: a step with a loss or a result that is not finite is left out, or ends the run.
      most_skipped: steps left out in a row that end it in any case.
      least_entropy: of the policy's actions [nats]; below it the policy has collapsed, and the run ends.
      most_kl: of the policy from imitation [nats]; beyond it the run ends.
      stall_s: waiting longer than this for a batch is told, and told again each time as much has passed.
    """

    not_finite: Literal["skip", "stop"] = "skip"
    most_skipped: int = 10
    least_entropy: float = 0.01
    most_kl: float = 50.0
    stall_s: float = 60.0


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices share what (`training/mesh.py`); their product is the number of devices of all processes.

    Attributes:
      data: parts of the rows of a batch; -1 for as many as the other axes leave.
      fsdp: parts of the rows as well, and of the large parameters.
      tensor: parts of the large parameters' features.
      whole_below: parameters with fewer elements are copied to every device.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    whole_below: int = 16384


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Several processes that train one run, one per host (`training/processes.py`, `docs/scaling.md`).

    Attributes:
      detect: ask the launcher for what follows: SLURM, Open MPI, Kubernetes or Cloud TPU.
      coordinator: `host:port` of the first process; None for a process on its own.
      processes: how many.
      index: which of them this one is.
    """

    detect: bool = False
    coordinator: str | None = None
    processes: int = 1
    index: int = 0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the scenes come from.

    Attributes:
      directory: a finished data set with the splits train, grounding, validation and test; the starter set if None.
      train_scenes, grounding_scenes, validation_scenes, test_scenes: the first so many of each split; all if None.
      cached_scenes: prepared scenes kept in memory per split, about 0.8 MB each.
    """

    directory: str | None = None
    train_scenes: int | None = None
    grounding_scenes: int | None = None
    validation_scenes: int | None = None
    test_scenes: int | None = None
    cached_scenes: int = 4096


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Fitting the world model.

    Attributes:
      steps: optimiser steps of the first fit.
      refit_steps: of the refit in each round; 0 leaves the model as it is.
      scenes: whole drives per step; in refits half are the expert's and half the policy's.
      perturbed: share of a disturbed expert's drives among those of the first fit; the others are the expert's. Logs
        hold no crashes: without perturbed drives the cost heads learn that there are none.
      tracks: policy rollouts kept for refits, the oldest go first.
      trust_quantile: imagination stops where the disagreement exceeds this quantile of held-out logs.
      optimizer: see `worldmodel.fitting`.
    """

    steps: int = 300
    refit_steps: int = 20
    scenes: int = 32
    perturbed: float = 0.5
    tracks: int = 512
    trust_quantile: float = 0.99
    optimizer: FittingConfig = dataclasses.field(default_factory=FittingConfig)

    @property
    def perturbed_scenes(self) -> int:
        """How many of `scenes`."""
        return round(self.perturbed * self.scenes)


@dataclasses.dataclass(frozen=True)
class ImitateConfig:
    """Imitation of the logs.

    Attributes:
      steps: optimiser steps.
      scenes: scenes per step.   starts: random log steps of each; their product is the batch.
      learning_rate: peak; linear warm-up over a twentieth, cosine decay to zero.
      weight_decay: of AdamW.
      loss: augmentation and weights of the terms.
      labels: rules that label the reasoning.
      checks: how often, evenly spread, the policy is driven on the validation split, with open and closed loop beside
        each other (`training.checks`).
    """

    steps: int = 600
    scenes: int = 32
    starts: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    loss: ImitationConfig = dataclasses.field(default_factory=ImitationConfig)
    labels: LabelConfig = dataclasses.field(default_factory=LabelConfig)
    checks: int = 4


@dataclasses.dataclass(frozen=True)
class ClosedLoopConfig:
    """Closed-loop supervised fine-tuning (`cl_sft`).

    Attributes:
      steps: each drives `scenes` scenes and learns from what was driven.
      scenes: rollouts per step.
      candidates: K, actions drawn per decision; the one nearest the logged continuation is driven.
      recover_above: distance to the log (`policy.action_space.deviation`) beyond which the whole set of candidates
        counts as diverged and the action nearest the log is driven instead.
      learning_rate: constant.
      minibatch: transitions per update; every transition is used once.
    """

    steps: int = 30
    scenes: int = 32
    candidates: int = 16
    recover_above: float = 8.0
    learning_rate: float = 2e-4
    minibatch: int = 128


@dataclasses.dataclass(frozen=True)
class ValueConfig:
    """Fitting the value of the frozen policy before it is improved.

    Attributes:
      steps: imagined batches.   epochs: times each transition is used.
      learning_rate: constant; also the value's in the rounds.
    """

    steps: int = 8
    epochs: int = 2
    learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class RoundsConfig:
    """Rounds of imagination and grounding.

    Attributes:
      rounds: how many rounds there are.
      iterations: imagined batches per round.
      objective: what is learned from a batch, by short name (`training/objectives`) or import path. `pmpo`, `grpo`,
        `actor_critic` and `ppo` weigh the imagined decisions by what they led to, `dagger` learns what a rule-based
        teacher would do in the states that the policy got itself into, `cl_sft` fine-tunes on demonstrations in the
        simulator. Settings of an objective: `--pmpo.alpha` and so on.
      world: where the policy practises, the learned model or the log-replay simulator. The latter is a baseline, whose
        steps the ledger counts.
      scenes: logged starts per batch.
      group: rollouts from each start, with common random numbers.
      horizon: world steps that are imagined at most.
      minibatch: transitions per update.
      epochs: times that each transition is used.
      learning_rate: peak of the policy's learning rate; linear warm-up and cosine decay to zero over all rounds.
      kl_weight: weight of KL(policy || imitation policy).
      entropy_weight: weight of the action entropy.
      dynamic_horizon: whether imagination ends where the disagreement exceeds that of held-out logs, and roll-backs may
        shorten the horizon; otherwise all steps are believed.
      penalty: first weight of the disagreement in the imagined reward.
    """

    rounds: int = 4
    iterations: int = 12
    objective: str = "pmpo"
    world: Literal["model", "simulator"] = "model"
    scenes: int = 8
    group: int = 8
    horizon: int = 12
    minibatch: int = 128
    epochs: int = 1
    learning_rate: float = 1e-4
    kl_weight: float = 0.1
    entropy_weight: float = 0.0
    dynamic_horizon: bool = True
    penalty: float = 0.5


@dataclasses.dataclass(frozen=True)
class GroundingConfig:
    """Grounding: the policy is driven in the simulator after each round, and the round is accepted or rolled back.

    Attributes:
      scenes: grounding scenes that are driven, spread evenly over the split.
      roll_back: whether grounding decides. Otherwise every round is accepted and the last policy is the result.
      tolerance: fall of the grounded return, without contacts that are not the ego's fault, that is still accepted
        [reward].
      failure_tolerance: rise of the failure rate that is still accepted.
      bias_tolerance: |imagined - grounded return| beyond which a roll-back shortens the horizon as well [reward].
      horizon_min: world steps that roll-backs leave of the horizon at least.
      penalty_growth: factor by which a roll-back raises the penalty on disagreement.
    """

    scenes: int = 64
    roll_back: bool = True
    tolerance: float = 0.3
    failure_tolerance: float = 0.02
    bias_tolerance: float = 2.0
    horizon_min: int = 4
    penalty_growth: float = 2.0


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The held-out evaluation that ends a run.

    Attributes:
      batch: scenes driven at once.
      animations: top views drawn of improvements and failures each.
    """

    batch: int = 64
    animations: int = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run.

    Attributes:
      name: of the preset; part of the default run directory.
      seed: of everything random.
      directory: the run's; `runs/<name>-seed<seed>` if None. A run found there is resumed.
      start_from: directory of another run that has fitted its world model and imitated, and nothing more: a new run
        goes on from there. All settings of these stages must be the same. Runs that differ in what follows share them.
      fresh: start anew: an earlier run in the directory is moved aside, to `<directory>.1` or the next free number.
      stage: name of the stage to run alone (`training/stages`), whose needs must be finished; or `all`.
      world_model: short name or import path, see `worldmodel/registry.py`.
      rssm: settings of the world model `rssm`, which act where it is chosen.
      tokens: settings of the world model `tokens`, which act where it is chosen.
      returns: how returns are made of imagined rewards.
      pmpo: settings of the objective `pmpo`, which act where it is chosen.
      grpo: settings of the objective `grpo`, which act where it is chosen.
      actor_critic: settings of the objective `actor_critic`, which act where it is chosen.
      ppo: settings of the objective `ppo`, which act where it is chosen.
      grounding: how a round is grounded and decided about.
      compilation_cache: keep compiled programs in `<directory>/../.compiled`, so that a resumed run starts at once.
      log_every: steps between log lines.
      checkpoint_every_s: seconds between checkpoints within a stage; each stage ends with one anyway.
      keep_checkpoints: how many of the newest are kept; others that are: `training/checkpoint.py`.
      watch: what counts as going wrong, and what follows.
      mesh, distributed: devices and processes that share the run.
    """

    name: str = "cpu"
    seed: int = 0
    directory: str | None = None
    start_from: str | None = None
    fresh: bool = False
    stage: str = "all"
    world_model: str = "rssm"
    compilation_cache: bool = True
    log_every: int = 10
    checkpoint_every_s: float = 60.0
    keep_checkpoints: int = 2
    watch: WatchConfig = dataclasses.field(default_factory=WatchConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    spec: SceneSpec = dataclasses.field(default_factory=SceneSpec)
    simulator: SimulatorConfig = dataclasses.field(default_factory=SimulatorConfig)
    rssm: RSSMConfig = dataclasses.field(default_factory=RSSMConfig)
    tokens: TokensConfig = dataclasses.field(default_factory=TokensConfig)
    policy: VLAConfig = dataclasses.field(default_factory=VLAConfig)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    imitation: ImitateConfig = dataclasses.field(default_factory=ImitateConfig)
    closed_loop: ClosedLoopConfig = dataclasses.field(default_factory=ClosedLoopConfig)
    value: ValueConfig = dataclasses.field(default_factory=ValueConfig)
    returns: ReturnsConfig = dataclasses.field(default_factory=ReturnsConfig)
    rounds: RoundsConfig = dataclasses.field(default_factory=RoundsConfig)
    pmpo: PMPO = dataclasses.field(default_factory=PMPO)
    grpo: GRPO = dataclasses.field(default_factory=GRPO)
    actor_critic: ActorCritic = dataclasses.field(default_factory=ActorCritic)
    ppo: PPO = dataclasses.field(default_factory=PPO)
    grounding: GroundingConfig = dataclasses.field(default_factory=GroundingConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    @property
    def run_directory(self) -> pathlib.Path:
        """Where the run is kept."""
        return pathlib.Path(self.directory or f"runs/{self.name}-seed{self.seed}")

    def model_settings(self, name: str) -> Any:
        """A world model's settings; None for one from elsewhere, which has its own defaults."""
        return {"rssm": self.rssm, "tokens": self.tokens}.get(name)

    def objective_settings(self, name: str) -> Any:
        """An objective's settings; None for one without, or from elsewhere, which has its own defaults."""
        return {"pmpo": self.pmpo, "grpo": self.grpo, "actor_critic": self.actor_critic, "ppo": self.ppo}.get(name)

    @property
    def rollout_steps(self) -> int:
        """World steps from the current log step to the log's end: a whole drive."""
        return self.spec.future_steps // self.simulator.substeps


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field by its dotted name, as the command line calls it; tuples become lists, as in JSON."""
    out = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            out |= flatten(value, f"{prefix}{field.name}.")
        else:
            out[prefix + field.name] = list(value) if isinstance(value, tuple) else value
    return out
