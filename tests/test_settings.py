"""A setting that is accepted acts: a change of any leaf of the config changes a program or a result of the code that
reads it, or is refused. A new field needs no case here if its section has probes; without probes the test fails.
"""

import re
from typing import Any

import pytest
from settings_base import BASE, changed
from settings_programs import (
    acting,
    coach_acting,
    coach_network,
    deciding,
    demonstrating,
    disturbing,
    imitating,
    learning,
    model_fit,
    model_parameters,
    model_reset,
    model_step,
    network,
    optimising,
    padded,
    prepared,
    reasoning,
    world,
)
from settings_runs import (
    animated,
    beginning,
    cached,
    claimed,
    decided,
    going_on,
    joined,
    kept,
    meshed,
    planned,
    reading,
    watched,
)
from settings_units import Differs, units

from tether.data.settings import settings_of
from tether.training import models, presets
from tether.training.coaching import practised_in
from tether.training.config import flatten
from tether.training.validation import validate

# Other settings under which a leaf acts, where the base and the leaf's facts (`acts_with`) do not suffice.
WITH = {
    "distributed.processes": {"distributed.coordinator": "host:1"},
    "distributed.index": {"distributed.coordinator": "host:1", "distributed.processes": 2},
    "rounds.teacher": {"rounds.objective": "dagger"},
}
# The changed value of leaves for which the next whole number, or half the value, cannot work.
OTHER = {
    "stage": "imitate",
    "watch.not_finite": "stop",
    "rssm.sizes.dtype": "bfloat16",
    "tokens.sizes.dtype": "bfloat16",
    "policy.head": "flow",
    "rounds.objective": "actor_critic",
    "rounds.teacher": "coach",
    "rounds.world": "simulator",
    "mesh.data": 2,
    "evaluation.batch": 2,
    "checkpoint_every_s": 1e-9,
    "data.train_scenes": 9,
    "data.grounding_scenes": 5,
    "world_model": "oracle",
    "distributed.coordinator": "host:1234",
    "distributed.index": 1,
    "data.directory": "elsewhere",
    "start_from": "elsewhere",
    "policy.heads": 4,
    "policy.width": 32,
    "policy.stem": [8, 8, 16],
    "policy.actions.curvatures": 11,
    "policy.flow.layers": 1,
    "tokens.sizes.heads": 4,
    "tokens.sizes.width": 32,
    "tokens.sizes.things": 16,
    "tokens.vocabulary.accelerations": 19,
    "tokens.vocabulary.turns": 17,
    "rssm.context": 1,
    "tokens.context": 1,
    "fit.scenes": 6,
    "fit.trust_quantile": 0.5,
    "fit.perturbed": 0.25,
    "imitation.checks": 2,
    "imitation.steps": 5,
    "coach.sees": "image",
    "coach.decides": "likeliest",
    "coaching.rounds": 2,
    "rounds.horizon": 4,
    "rounds.minibatch": 8,
    "grounding.scenes": 2,
    "spec.steps": 86,
    "closed_loop.minibatch": 8,
    "closed_loop.scenes": 2,
    "simulator.substeps": 4,
    "simulator.near_edges": 1,
    "simulator.near_lanes": 1,
}
ALONG = {
    "simulator.substeps": {"policy.actions.commit": 4, "closed_loop.minibatch": 20},
    "spec.steps": {"closed_loop.minibatch": 20},
}
# Fields that can have one value; the refusal of any other names that value.
FIXED = ("spec.dt", "spec.current", "simulator.dt", "policy.actions.dt", "policy.actions.commit", "policy.cameras")


def other(name: str, value: Any) -> Any:
    """Another value of a leaf."""
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 0.5 * value if value else 0.5
    if isinstance(value, list):
        return [0.5 * one if isinstance(one, float) else one + 1 for one in value]
    return f"{value or ''}2"


FIT, IMITATE, IMPROVE = units("0/fit_world_model"), units("0/imitate"), units("1/improve")
# By the beginning of the leaf's name; the longest one counts. A leaf's probes are tried until one gives two results.
PROBES = {
    "name": [planned],
    "directory": [planned],
    "stage": [planned],
    "seed": [FIT],
    "start_from": [going_on],
    "fresh": [claimed],
    "world_model": [lambda config: type(models.build(config).world_model)],
    "compilation_cache": [cached],
    "log_every": [FIT],
    "checkpoint_every_s": [FIT],
    "keep_checkpoints": [kept],
    "watch.": [watched],
    "mesh.": [meshed],
    "distributed.": [joined],
    "data.": [reading],
    "spec.": [padded],
    "simulator.": [world],
    "simulator.render.": [prepared, world],
    "simulator.index_": [prepared],
    "simulator.near_": [prepared],
    "rssm.": [model_step, model_fit],
    "rssm.sizes.": [model_parameters, model_step],
    "rssm.context": [model_fit],
    "rssm.nonreactive": [model_reset],
    "rssm.loss.": [model_fit],
    "tokens.": [model_step, model_fit],
    "tokens.sizes.": [model_parameters, model_step],
    "tokens.loss.": [model_fit],
    "tokens.context": [model_fit],
    "tokens.nonreactive": [model_reset],
    "tokens.vocabulary.": [model_parameters, model_fit],
    "policy.": [network, acting],
    "policy.actions.": [deciding],
    "policy.flow.": [network, acting, deciding],
    "fit.": [FIT, units("1/refit"), units("0/measure_trust"), beginning],
    "fit.optimizer.": [optimising],
    "imitation.": [IMITATE, imitating],
    "imitation.loss.": [disturbing, imitating],
    "imitation.labels.": [reasoning],
    "closed_loop.": [units("0/cl_sft"), demonstrating],
    "value.": [units("0/fit_value")],
    "rounds.": [
        planned,
        decided,
        units("0/measure_trust", "0/fit_value"),
        units("1/improve"),
        units("0/ground"),
        learning,
    ],
    "coach.": [coach_network, coach_acting],
    "coaching.": [planned, units("0/imitate_coach"), units("1/practise_coach")],
    "coaching.replayed": [lambda config: practised_in("model", config.simulator, config.coaching.replayed)],
    "returns.": [learning],
    "pmpo.": [learning],
    "grpo.": [IMPROVE, learning],
    "actor_critic.": [learning],
    "ppo.": [IMPROVE, learning],
    "grounding.": [decided, units("0/ground")],
    "evaluation.": [IMITATE],
    "evaluation.animations": [animated],
}


def probes_of(name: str) -> list:
    """The probes of a leaf. Raises: KeyError for a leaf without any."""
    fitting = [each for each in PROBES if name == each or (each.endswith((".", "_")) and name.startswith(each))]
    if not fitting:
        raise KeyError(f"{name}: add what reads this field to PROBES")
    return PROBES[max(fitting, key=len)]


SEEN: dict[tuple, Any] = {}


def acts(probe: Any, before: Any, after: Any) -> bool:
    """Whether a probe gives different results for two configs."""
    key = probe, before
    if key not in SEEN:
        SEEN[key] = probe(before)
    try:
        result = probe(after, SEEN[key]) if "expected" in probe.__code__.co_varnames else probe(after)
    except Differs:
        return True
    return result != SEEN[key]


def leaves() -> dict[str, Any]:
    """Every field of the base config by its name."""
    return flatten(changed(presets.tiny(), BASE))


@pytest.mark.parametrize("name", leaves())
def test_every_setting_acts_or_is_refused(name):
    acts_with = next(each.facts.acts_with for each in settings_of(presets.tiny()) if each.name == name)
    before = changed(presets.tiny(), BASE | WITH.get(name, {}) | dict([acts_with] if acts_with else []))
    validate(before)
    value = flatten(before)[name]
    after = changed(before, {name: other(name, value)} | ALONG.get(name, {}))
    assert flatten(after)[name] != value
    if name in FIXED:
        with pytest.raises(ValueError, match=rf"{re.escape(name)}: expected"):
            validate(after)
        return
    validate(after)
    assert any(acts(probe, before, after) for probe in probes_of(name)), f"{name}: {value} and its change do the same"


def test_a_new_field_needs_a_probe():
    with pytest.raises(KeyError, match="novel: add what reads this field"):
        probes_of("novel")
