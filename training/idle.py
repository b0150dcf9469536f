"""Settings that nothing reads, because another setting turns off what would read them."""

import dataclasses
from collections.abc import Iterator

from tether.data.settings import settings_of
from tether.training import objectives
from tether.training.coaching import CoachingConfig
from tether.training.config import Config, flatten

# The beginnings of settings' names; whether these settings act; what they act with.
Condition = tuple[tuple[str, ...], bool, str]
COACHING = tuple(f"coaching.{field.name}" for field in dataclasses.fields(CoachingConfig) if field.name != "rounds")


def check_overrides(config: Config, preset: Config) -> None:
    """Checks that what was set on the command line acts; a preset's own settings wait for what they act with.

    Raises: ValueError listing the fields that would do nothing, with what they act with.
    """
    reasons, idle = dict(_idle(config)), []
    for now, before in zip(settings_of(config), settings_of(preset), strict=True):
        if now.value != before.value and now.name in reasons:
            idle.append(f"  {now.name}: acts with {reasons[now.name]}")
    if idle:
        raise ValueError("\n".join(["these settings would do nothing:", *idle]))


def demonstrates(config: Config) -> bool:
    """Whether the policy learns from demonstrations in the simulator: in the stage `cl_sft`, or in the rounds."""
    return config.closed_loop.steps > 0 or (
        config.rounds.rounds > 0 and objectives.demonstrates(config.rounds.objective)
    )


def _idle(config: Config) -> Iterator[tuple[str, str]]:
    """Every setting that does nothing, with what it acts with."""
    values, conditions = flatten(config), [each for each in _conditions(config) if not each[1]]
    for name, _, facts in settings_of(config):
        if facts.acts_with is not None and values[facts.acts_with[0]] != facts.acts_with[1]:
            other, value = facts.acts_with
            yield name, f"{other} {value}, found {values[other]}"
        for names, _, needed in conditions:
            if name.startswith(names):
                yield name, needed


def _conditions(config: Config) -> list[Condition]:
    """What goes beyond one value of one other setting, which stands on the field (`Facts.acts_with`)."""
    rounds, grounding, some_rounds = config.rounds, config.grounding, config.rounds.rounds > 0
    any_rounds, coached = some_rounds or config.coaching.rounds > 0, config.coaching.rounds > 0
    improves = some_rounds and objectives.imagines(rounds.objective)
    practises = improves or config.value.steps > 0
    imagining = "rounds.rounds above 0 and an objective that imagines"
    return [
        (
            (
                "closed_loop.scenes",
                "closed_loop.candidates",
                "closed_loop.recover_above",
                "closed_loop.learning_rate",
                "closed_loop.minibatch",
            ),
            demonstrates(config),
            "closed_loop.steps above 0, or rounds.objective cl_sft",
        ),
        (("value.epochs",), config.value.steps > 0, "value.steps above 0"),
        (
            ("returns.", "value.learning_rate", "rounds.minibatch"),
            practises,
            f"value.steps above 0, or {imagining}",
        ),
        (("rounds.world", "rounds.penalty"), practises or coached, f"value.steps above 0, or {imagining}"),
        (
            ("rounds.epochs", "rounds.learning_rate", "rounds.kl_weight", "rounds.entropy_weight"),
            improves,
            imagining,
        ),
        (("coach.", *COACHING), coached, "coaching.rounds above 0"),
        (("coaching.replayed",), rounds.world == "model", "rounds.world model"),
        (("rounds.teacher",), improves and objectives.asks(rounds.objective), "rounds.objective dagger"),
        (("rounds.iterations",), some_rounds, "rounds.rounds above 0"),
        (("fit.refit_steps",), any_rounds, "rounds.rounds or coaching.rounds above 0"),
        (("fit.tracks",), any_rounds and config.fit.refit_steps > 0, "rounds.rounds and fit.refit_steps above 0"),
        (
            ("fit.trust_quantile", "grounding.horizon_min", "grounding.bias_tolerance"),
            rounds.dynamic_horizon,
            "rounds.dynamic_horizon",
        ),
        (("rounds.penalty", "grounding.penalty_growth"), rounds.world == "model", "rounds.world model"),
        (
            ("grounding.penalty_growth",),
            (practises or coached) and rounds.penalty > 0,
            "rounds.penalty above 0 and imagination",
        ),
        (
            (
                "grounding.tolerance",
                "grounding.failure_tolerance",
                "grounding.bias_tolerance",
                "grounding.horizon_min",
                "grounding.penalty_growth",
            ),
            grounding.roll_back,
            "grounding.roll_back",
        ),
    ]
