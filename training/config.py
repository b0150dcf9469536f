"""Settings of a run: frozen dataclasses, set from the command line (`python train.py cpu --rounds.group 8`).

`presets.py` holds the presets; this file says what the fields mean. `validation.py` checks their values, `settings.py`
writes them beside the run and reads them back.
"""

import dataclasses
import pathlib
from typing import Any, Literal

from tether.data.scene import SceneSpec
from tether.data.settings import setting, settings_of
from tether.policy.coach import CoachConfig
from tether.policy.vla import VLAConfig
from tether.simulator.config import SimulatorConfig
from tether.training.coaching import CoachingConfig
from tether.training.learning import ImitateConfig
from tether.training.mesh import MeshConfig
from tether.training.objectives.actor_critic import ActorCritic
from tether.training.objectives.grpo import GRPO
from tether.training.objectives.pmpo import PMPO
from tether.training.objectives.ppo import PPO
from tether.training.processes import DistributedConfig
from tether.training.returns import ReturnsConfig
from tether.training.scenes import DataConfig
from tether.training.watch import WatchConfig
from tether.worldmodel.fitting import FittingConfig
from tether.worldmodel.rssm import RSSMConfig
from tether.worldmodel.tokens import TokensConfig


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Fitting the world model.

    Attributes:
      steps: optimiser steps of the world model's first fit.
      refit_steps: optimiser steps of the world model's refit in each round; 0 leaves the model as it is.
      scenes: rollouts of whole scenes per step of a fit; in refits half are the expert's and half the policy's.
      perturbed: fraction of the first fit's rollouts that are a disturbed expert's; the others are the expert's own.
        Logs hold no crashes: without disturbed rollouts the cost heads learn that there are none.
      tracks: number of policy rollouts that are kept for refits; the oldest are dropped first.
      trust_quantile: quantile of the disagreement on held-out logs beyond which imagination stops.
      optimizer: optimiser of the world model's fit.
    """

    steps: int = setting(300, common=True)
    refit_steps: int = setting(20, least=0, later=True)
    scenes: int = 32
    perturbed: float = 0.5
    tracks: int = 512
    trust_quantile: float = setting(0.99, above=0, most=1)
    optimizer: FittingConfig = setting(FittingConfig())

    @property
    def perturbed_scenes(self) -> int:
        """How many of `scenes`."""
        return round(self.perturbed * self.scenes)


@dataclasses.dataclass(frozen=True)
class ClosedLoopConfig:
    """Closed-loop supervised fine-tuning (`cl_sft`).

    Attributes:
      steps: number of steps of closed-loop fine-tuning, each of which rolls out `scenes` scenes and learns from them; 0
        for no fine-tuning.
      scenes: rollouts per step of closed-loop fine-tuning.
      candidates: K, actions drawn per decision, of which the one nearest the logged continuation is executed.
      recover_above: distance to the log (`policy.action_space.deviation`) beyond which all candidates have diverged and
        the action nearest the log is executed instead.
      learning_rate: learning rate of closed-loop fine-tuning, constant.
      minibatch: transitions per update of closed-loop fine-tuning; every transition is used once.
    """

    steps: int = setting(30, least=0)
    scenes: int = 32
    candidates: int = 16
    recover_above: float = 8.0
    learning_rate: float = 2e-4
    minibatch: int = 128


@dataclasses.dataclass(frozen=True)
class ValueConfig:
    """Fitting the value of the frozen policy before it is improved.

    Attributes:
      steps: number of imagined batches on which the value is fitted before the rounds; 0 for no such fit.
      epochs: number of times that each transition is used when the value is fitted before the rounds.
      learning_rate: learning rate of the value, constant, in the rounds as well.
    """

    steps: int = setting(8, least=0)
    epochs: int = 2
    learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class RoundsConfig:
    """Rounds of imagination and grounding.

    Attributes:
      rounds: number of rounds of imagination and grounding; 0 for none.
      iterations: number of imagined batches per round.
      objective: objective of the rounds, by short name (`training/objectives`) or import path. `pmpo`, `grpo`,
        `actor_critic` and `ppo` weight the imagined decisions by their consequences, `dagger` learns the decisions of a
        teacher in the states that the policy reached, `cl_sft` fine-tunes on demonstrations in the simulator. The
        settings of an objective have its name, as in `--pmpo.alpha`.
      teacher: teacher of the objective `dagger`, the rule-based IDM or the run's `coach`.
      world: where the policy practises, in the learned model or in the log-replay simulator. The latter is a baseline,
        whose steps are added to the ledger.
      scenes: number of logged starts per imagined batch.
      group: number of rollouts from each start, with common random numbers.
      horizon: most world steps that a rollout is imagined for.
      minibatch: transitions per update of the policy in the rounds.
      epochs: number of times that each transition of an imagined batch is used.
      learning_rate: peak of the policy's learning rate in the rounds; linear warm-up and cosine decay to zero over all
        rounds.
      kl_weight: weight of KL(policy || imitation policy).
      entropy_weight: weight of the entropy of the policy's actions.
      dynamic_horizon: whether imagination ends where the disagreement exceeds that of held-out logs, and roll-backs may
        shorten the horizon; otherwise all imagined steps count.
      penalty: weight of the disagreement in the imagined reward at first; roll-backs raise it.
    """

    rounds: int = setting(4, least=0, common=True)
    iterations: int = 12
    objective: str = setting("pmpo", common=True)
    teacher: Literal["idm", "coach"] = "idm"
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
      scenes: number of grounding scenes that are rolled out, spread evenly over the split.
      roll_back: whether grounding decides about a round; otherwise every round is accepted and the last policy is the
        result.
      tolerance: largest fall of the grounded return, without contacts that are not the ego's fault, that is accepted
        [reward].
      failure_tolerance: largest rise of the failure rate that is accepted.
      bias_tolerance: absolute difference of imagined and grounded return beyond which a roll-back shortens the horizon
        as well [reward].
      horizon_min: fewest world steps to which roll-backs shorten the horizon.
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
      batch: number of scenes that are rolled out at once in the evaluation.
      animations: number of scenes with an improvement, and of scenes with a failure, that the report shows in motion; 0
        for none.
    """

    batch: int = 64
    animations: int = setting(1, least=0)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run.

    Attributes:
      name: name of the preset, which is part of the default run directory.
      seed: seed of all random numbers.
      directory: folder of the run, `runs/<name>-seed<seed>` if None; a run that it holds is resumed.
      start_from: folder of another run to start from, which has fitted its world model or imitated, and nothing more.
        All settings of these stages must be the same; runs that differ in later ones can share them. None starts from
        the beginning.
      fresh: whether to start anew; an earlier run in the folder is moved aside, to `<directory>.1` or the next free
        number.
      stage: stage to run, by its name (`training/stages`), or `all`; one alone needs the stages before it finished.
      world_model: world model, by short name (`worldmodel/registry.py`) or import path.
      compilation_cache: whether compiled programs are kept in `<directory>/../.compiled`, so that a resumed run starts
        at once.
      log_every: number of steps between two log lines.
      checkpoint_every_s: time between two checkpoints within a stage [s]; each stage ends with one anyway.
      keep_checkpoints: number of newest checkpoints that are kept; `training/checkpoint.py` says which others are.
      watch: What counts as going wrong with a run, and what follows.
      mesh: How the devices of all processes share the run; the product of the axes is the number of devices.
      distributed: Several processes that train one run, one per host (`docs/scaling.md`).
      data: Where the scenes come from.
      spec: Sizes of a scene, shared by data, simulator, models and policy.
      simulator: What the simulator computes with.
      rssm: Settings of the world model `rssm`, which act where it is chosen.
      tokens: Settings of the world model `tokens`, which act where it is chosen.
      policy: Size and behaviour of the policy.
      fit: Fitting the world model.
      imitation: Imitation of the logs.
      closed_loop: Closed-loop supervised fine-tuning, the stage `cl_sft`.
      value: Fitting the value of the policy before the rounds.
      returns: How returns are computed from imagined rewards.
      rounds: Rounds of imagination and grounding.
      coach: Size and eyes of the coach, which there is where `coaching.rounds` is above 0.
      coaching: How the coach is trained, the stage `coach`.
      pmpo: Settings of the objective `pmpo`, which act where it is chosen.
      grpo: Settings of the objective `grpo`, which act where it is chosen.
      actor_critic: Settings of the objective `actor_critic`, which act where it is chosen.
      ppo: Settings of the objective `ppo`, which act where it is chosen.
      grounding: How a round is grounded and accepted or rolled back.
      evaluation: The evaluation on the test split that ends a run.
    """

    name: str = setting("cpu", later=True)
    seed: int = setting(0, least=0, common=True)
    directory: str | None = setting(None, free=True, common=True)
    start_from: str | None = setting(None, free=True)
    fresh: bool = setting(False, free=True, common=True)
    stage: str = setting("all", free=True, common=True)
    world_model: str = setting("rssm", common=True)
    compilation_cache: bool = True
    log_every: int = setting(10, free=True)
    checkpoint_every_s: float = setting(60.0, free=True)
    keep_checkpoints: int = setting(2, free=True)
    watch: WatchConfig = setting(WatchConfig(), free=True)
    mesh: MeshConfig = setting(MeshConfig(), free=True)
    distributed: DistributedConfig = setting(DistributedConfig(), free=True)
    data: DataConfig = setting(DataConfig())
    spec: SceneSpec = setting(SceneSpec(), size=True)
    simulator: SimulatorConfig = setting(SimulatorConfig(), size=True)
    rssm: RSSMConfig = setting(RSSMConfig(), size=True, acts_with=("world_model", "rssm"))
    tokens: TokensConfig = setting(TokensConfig(), size=True, acts_with=("world_model", "tokens"))
    policy: VLAConfig = setting(VLAConfig(), size=True)
    fit: FitConfig = setting(FitConfig())
    imitation: ImitateConfig = setting(ImitateConfig())
    closed_loop: ClosedLoopConfig = setting(ClosedLoopConfig(), later=True)
    value: ValueConfig = setting(ValueConfig(), later=True)
    returns: ReturnsConfig = setting(ReturnsConfig(), later=True)
    rounds: RoundsConfig = setting(RoundsConfig(), later=True)
    coach: CoachConfig = setting(CoachConfig(), later=True)
    coaching: CoachingConfig = setting(CoachingConfig(), later=True)
    pmpo: PMPO = setting(PMPO(), later=True, acts_with=("rounds.objective", "pmpo"))
    grpo: GRPO = setting(GRPO(), later=True, acts_with=("rounds.objective", "grpo"))
    actor_critic: ActorCritic = setting(ActorCritic(), later=True, acts_with=("rounds.objective", "actor_critic"))
    ppo: PPO = setting(PPO(), later=True, acts_with=("rounds.objective", "ppo"))
    grounding: GroundingConfig = setting(GroundingConfig(), later=True)
    evaluation: EvaluationConfig = setting(EvaluationConfig(), later=True)

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
        """World steps from the current log step to the log's end: a whole rollout."""
        return self.spec.future_steps // self.simulator.substeps


def flatten(config: Any) -> dict[str, Any]:
    """Every field by its dotted name, as the command line calls it; tuples become lists, as in JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value, _ in settings_of(config)}
