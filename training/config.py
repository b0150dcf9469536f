"""Settings of a run: frozen dataclasses, set from the command line (`python train.py cpu --rounds.group 8`).

`training/presets.py` holds the presets; this file says what the fields mean, and writes the resolved config beside the
run. `training/validation.py` checks their values.
"""

import dataclasses
import difflib
import json
import pathlib
import sys
import types
import typing
from typing import Any, Literal

from tether.data.errors import read_json
from tether.data.files import write_text
from tether.data.scene import SceneSpec
from tether.policy.imitation import ImitationConfig
from tether.policy.language import LabelConfig
from tether.policy.vla import VLAConfig
from tether.simulator.config import SimulatorConfig
from tether.training.validation import flatten, validate
from tether.worldmodel.fitting import FittingConfig
from tether.worldmodel.rssm import RSSMConfig
from tether.worldmodel.tokens import TokensConfig

STAGES = ("fit_world_model", "imitate", "cl_sft", "fit_value", "post_train")
# Where a run is kept, how much of it is run now, and when it is ended: none of them changes its numbers.
FREE_FIELDS = (
    *("directory", "start_from", "stage", "fresh", "log_every", "checkpoint_every_s", "keep_checkpoints"),
    *("mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.whole_below"),  # but for rounding
    *("distributed.detect", "distributed.coordinator", "distributed.processes", "distributed.index"),
    *("watch.not_finite", "watch.most_skipped", "watch.least_entropy", "watch.most_kl", "watch.stall_s"),
)


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
      rounds: how many.
      iterations: imagined batches per round.
      objective: `pmpo`, `grpo`, `actor_critic` and `ppo` learn from what imagined decisions were worth, each by its own
        weights (`training/credit.py`); `dagger` from what a rule-based teacher says in the states that the imagining
        policy gets itself into; `cl_sft` is the fine-tuning of stage 2 again, in the simulator in place of imagination.
      world: where the policy practises: in the learned model, or in the log-replay simulator itself, the baseline
        whose steps the ledger counts.
      scenes: logged starts per batch.   group: G, rollouts from each, with common random numbers.
      horizon: H, world steps imagined at most.   horizon_min: roll-backs shorten it no further.
      minibatch: transitions per update.   epochs: times each transition is used.
      learning_rate: of the policy, peak; linear warm-up and cosine decay to zero over all rounds together.
      alpha: share of the good actions, for `pmpo`.   dead_band: for `pmpo` and `grpo`, see `training/credit.py`.
      clip: of the probability ratio, for `grpo` and `ppo`.
      reasoning_weight: of the reasoning's log-probability against 1 for the action's in what is learned from imagined
        decisions; with 0 the reasoning is held by the KL alone. Demonstrations teach both.
      kl_weight: of KL(policy || imitation).   entropy_weight: of the action entropy.
      discount: per world step.   lam: lambda of the returns.
      pessimistic: whether the smallest of the value heads is believed where a rollout is cut; else their mean.
      dynamic_horizon: whether imagination ends where the disagreement exceeds that of held-out logs, and roll-backs may
        shorten it; else H steps are believed.
      penalty: first weight of the disagreement in the imagined reward; `penalty_growth` raises it on a roll-back.
      roll_back: whether grounding decides: a round may be rolled back, and the best on the validation split is the
        result. Else every round is accepted and the last policy is the result; the gap is measured all the same.
      grounding_scenes: scenes driven for real after each round, from the same starts as imagined ones; spread evenly
        over the split.
      tolerance: a round is accepted if its grounded return, without contacts that are not the ego's fault, fell by no
        more than this [reward].
      failure_tolerance: nor its failure rate rose by more than this.
      bias_tolerance: |imagined - grounded return| beyond which a roll-back distrusts the model: shorter horizon.
    """

    rounds: int = 4
    iterations: int = 12
    objective: Literal["pmpo", "grpo", "actor_critic", "ppo", "dagger", "cl_sft"] = "pmpo"
    world: Literal["model", "simulator"] = "model"
    scenes: int = 8
    group: int = 8
    horizon: int = 12
    horizon_min: int = 4
    minibatch: int = 128
    epochs: int = 1
    learning_rate: float = 1e-4
    alpha: float = 0.5
    dead_band: float = 0.25
    clip: float = 0.2
    reasoning_weight: float = 0.0
    kl_weight: float = 0.1
    entropy_weight: float = 0.0
    discount: float = 0.95
    lam: float = 0.95
    pessimistic: bool = True
    dynamic_horizon: bool = True
    penalty: float = 0.5
    penalty_growth: float = 2.0
    roll_back: bool = True
    grounding_scenes: int = 64
    tolerance: float = 0.3
    failure_tolerance: float = 0.02
    bias_tolerance: float = 2.0


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
      stage: run this stage alone (those it needs must be finished), or `all`.
      world_model: short name or import path, see `worldmodel/registry.py`.
      rssm, tokens: settings of these two, which act where `world_model` is that short name; any other model has its
        defaults.
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
    stage: Literal["all", "fit_world_model", "imitate", "cl_sft", "fit_value", "post_train"] = "all"
    world_model: str = "rssm"
    compilation_cache: bool = True
    log_every: int = 10
    checkpoint_every_s: float = 60.0
    keep_checkpoints: int = 2
    watch: WatchConfig = dataclasses.field(default_factory=WatchConfig)
    mesh: MeshConfig = MeshConfig()
    distributed: DistributedConfig = DistributedConfig()
    data: DataConfig = DataConfig()
    spec: SceneSpec = dataclasses.field(default_factory=SceneSpec)
    simulator: SimulatorConfig = dataclasses.field(default_factory=SimulatorConfig)
    rssm: RSSMConfig = dataclasses.field(default_factory=RSSMConfig)
    tokens: TokensConfig = dataclasses.field(default_factory=TokensConfig)
    policy: VLAConfig = dataclasses.field(default_factory=VLAConfig)
    fit: FitConfig = FitConfig()
    imitation: ImitateConfig = ImitateConfig()
    closed_loop: ClosedLoopConfig = ClosedLoopConfig()
    value: ValueConfig = ValueConfig()
    rounds: RoundsConfig = RoundsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def run_directory(self) -> pathlib.Path:
        """Where the run is kept."""
        return pathlib.Path(self.directory or f"runs/{self.name}-seed{self.seed}")

    def model_settings(self, name: str) -> Any:
        """A world model's settings; None for one from elsewhere, which has its own defaults."""
        return {"rssm": self.rssm, "tokens": self.tokens}.get(name)

    @property
    def rollout_steps(self) -> int:
        """World steps from the current log step to the log's end: a whole drive."""
        return self.spec.future_steps // self.simulator.substeps


def write(config: Config, path: pathlib.Path) -> None:
    """Writes the resolved config as JSON."""
    write_text(path, json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def read(path: pathlib.Path) -> Config:
    """The config of a run.

    Raises: ValueError for a file that is no JSON, a field that `Config` does not have, with the nearest name, a value
      of another type, and values that cannot work.
    """
    return from_json(read_json(path), str(path))


def from_json(values: Any, where: str) -> Config:
    """The config that was written as JSON. Args: where: it stands. Raises: ValueError as `read`."""
    config = _build(Config, values, where)
    try:
        validate(config)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return config


def differences(config: Config, earlier: Config) -> list[str]:
    """The fields that two configs disagree on, `name: earlier -> now`; those in `FREE_FIELDS` may differ."""
    now, then = flatten(config), flatten(earlier)
    return [
        f"{name}: {then[name]} -> {now[name]}" for name in now if name not in FREE_FIELDS and now[name] != then[name]
    ]


def _build(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected the fields of {kind.__name__}, found {str(values)[:80]}")
    hints = typing.get_type_hints(kind)
    for name in values.keys() - hints.keys():
        near = difflib.get_close_matches(name, hints, n=1)
        raise ValueError(
            f"{where}: unknown field {name!r} of {kind.__name__}" + (f"; did you mean {near[0]}?" if near else "")
        )
    fields = {name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return kind(**fields)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as the type that a field has."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        kinds = typing.get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if _fits(hint, value):
        return float(value) if hint is float else value
    raise ValueError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {str(value)[:80]!r}")


def _fits(hint: Any, value: Any) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(_fits(kind, value) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return False  # of which no list was made
    if hint is float:
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        return whole or isinstance(value, float)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
