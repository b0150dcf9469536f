"""Checks the settings of a run before anything is computed: what is accepted can work.

What holds for one setting stands on its field (`data/settings.py`); here is how settings go together.
"""

import math
import operator
from collections.abc import Iterator
from typing import Any

from tether.data.scene import SceneSpec
from tether.data.settings import Facts, settings_of
from tether.policy.vla import VLAConfig
from tether.training import objectives
from tether.training.config import Config
from tether.training.idle import demonstrates
from tether.training.processes import DistributedConfig

LARGEST = 2**31 - 1  # of whole numbers: what a device counts with
# Beyond these no machine has the memory, and a run that says so is not to be tried.
LARGEST_SIZE, LARGEST_AREA = 2**20, 2**24
LARGEST_FLOAT = 1e30

Need = tuple[str, Any, bool, str]  # a field, what was found, whether it is good, what was expected


def validate(config: Config) -> None:
    """Checks values before anything is computed.

    Raises: ValueError listing every field that is wrong, with what was expected and found.
    """
    # Relations are looked at among numbers that are good by themselves: some divide by others.
    for needs in (_numbers, _relations):
        wrong = [(name, expected, value) for name, value, good, expected in needs(config) if not good]
        if wrong:
            listed = "\n".join(f"  {name}: expected {expected}, found {value}" for name, expected, value in wrong)
            raise ValueError(f"these settings cannot work:\n{listed}")


def check_rows(config: Config, parts: int) -> None:
    """Args: parts: that the rows of a batch are cut into, see `mesh.Layout`.

    Raises: ValueError listing the fields whose rows cannot be cut into equal parts over the mesh."""
    rows = {
        "fit.scenes / 2": config.fit.scenes // 2,
        "imitation.scenes": config.imitation.scenes,
        "rounds.scenes": config.rounds.scenes,
        "rounds.minibatch": config.rounds.minibatch,
    }
    if config.coaching.rounds:
        rows["coaching.rows"] = config.coaching.rows
    if demonstrates(config):
        rows |= {f"closed_loop.{name}": getattr(config.closed_loop, name) for name in ("scenes", "minibatch")}
    wrong = [f"  {name}: expected a multiple of {parts}, found {n}" for name, n in rows.items() if n % parts]
    if wrong:
        first = f"mesh.data x mesh.fsdp = {parts} devices share the rows of each batch equally; these cannot be shared:"
        raise ValueError("\n".join([first, *wrong]))


def _numbers(config: Config) -> Iterator[Need]:
    """Each number by itself, those in lists included."""
    for name, value, facts in settings_of(config):
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, float):
                yield name, number, *_fraction_need(facts, number)
            elif isinstance(number, int) and not isinstance(number, bool):
                yield name, number, *_whole_need(facts, number)


def _whole_need(facts: Facts, number: int) -> tuple[bool, str]:
    least = 1 if facts.least is None else facts.least
    most = LARGEST_SIZE if facts.size else LARGEST
    return least <= number <= most, f"at least {least}" + f" and at most {most}" * (number > most)


def _fraction_need(facts: Facts, number: float) -> tuple[bool, str]:
    if not math.isfinite(number) or abs(number) > LARGEST_FLOAT:
        return False, "a finite number"
    least = 0 if facts.least is None and facts.above is None else facts.least
    bounds = (
        ("at least", least, operator.ge),
        ("above", facts.above, operator.gt),
        ("at most", facts.most, operator.le),
        ("below", facts.below, operator.lt),
    )
    checks = [(f"{word} {bound:g}", holds(number, bound)) for word, bound, holds in bounds if bound is not None]
    return all(good for _, good in checks), ", ".join(each for each, _ in checks)


def _relations(config: Config) -> list[Need]:
    """How numbers go together."""
    rounds, fit, mesh, several = config.rounds, config.fit, config.mesh, config.distributed
    some_are_logged = 0 <= fit.perturbed < 1 and fit.perturbed_scenes < fit.scenes
    least_group = objectives.least_group(rounds.objective)
    least, coached = config.grounding.horizon_min, config.coaching.rounds
    checks, steps, horizon = config.imitation.checks, config.imitation.steps, config.rollout_steps
    return [
        *_fixed(config),
        *_areas(config),
        ("fit.scenes", fit.scenes, fit.scenes % 2 == 0, "an even number"),
        ("fit.perturbed", fit.perturbed, some_are_logged, "0 to below 1"),
        ("imitation.checks", checks, checks <= steps, f"1 to imitation.steps = {steps}"),
        ("rounds.horizon", rounds.horizon, rounds.horizon <= horizon, f"1 to {horizon}"),
        ("grounding.horizon_min", least, least <= rounds.horizon, "1 to rounds.horizon"),
        ("coaching.rounds", coached, coached > 0 or rounds.teacher != "coach", "at least 1 for rounds.teacher coach"),
        ("rounds.group", rounds.group, rounds.group >= least_group, f"at least {least_group}"),
        ("rounds.minibatch", rounds.minibatch, _divides(rounds.minibatch, _imagined(config)), _divisor(config)),
        ("closed_loop.minibatch", config.closed_loop.minibatch, *_closed_loop_minibatch(config)),
        ("mesh.data", mesh.data, mesh.data != 0, "at least 1, or -1"),
        ("distributed.index", several.index, several.index < several.processes, "below distributed.processes"),
        ("distributed.coordinator", several.coordinator, *_coordinator(several)),
        *_model_needs(config),
        *_policy_needs(config),
    ]


def _fixed(config: Config) -> list[Need]:
    """What all data and code share: fields that say so, and can have one value."""
    actions, dt, current = config.policy.actions, SceneSpec.dt, SceneSpec.current
    return [
        ("spec.dt", config.spec.dt, config.spec.dt == dt, f"{dt}: data sets are at 10 Hz, other logs are resampled"),
        ("spec.current", config.spec.current, config.spec.current == current, f"{current}: the history of every World"),
        ("simulator.dt", config.simulator.dt, config.simulator.dt == dt, f"spec.dt, {dt}: logs are replayed by it"),
        ("simulator.substeps", config.simulator.substeps, config.simulator.substeps <= current, f"1 to {current}"),
        ("policy.actions.dt", actions.dt, actions.dt == dt, f"simulator.dt, {dt}"),
        (
            "policy.actions.commit",
            actions.commit,
            actions.commit == config.simulator.substeps,
            f"simulator.substeps, {config.simulator.substeps}: a World drives what a decision commits to",
        ),
    ]


def _areas(config: Config) -> Iterator[Need]:
    spec, render = config.spec, config.simulator.render
    fine = render.tile_height * render.tile_width * render.supersampling**2
    for name, value in (
        ("spec.agents x spec.steps", spec.agents * spec.steps),
        ("spec.polylines x spec.points", spec.polylines * spec.points),
        ("spec.lights x spec.steps", spec.lights * spec.steps),
        ("simulator.render.height x width", render.height * render.width),
        ("simulator.render.tile_height x tile_width x supersampling^2", fine),
    ):
        yield name, value, value <= LARGEST_AREA, f"at most {LARGEST_AREA}"


def _coordinator(several: DistributedConfig) -> tuple[bool, str]:
    if several.detect:
        return several.coordinator is None, "none, since distributed.detect asks the launcher"
    if several.coordinator is None:
        return several.processes == 1, "host:port of the first process"
    host, _, port = several.coordinator.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16, "host:port of the first process"


def _model_needs(config: Config) -> Iterator[Need]:
    tokens, substeps = config.tokens, config.simulator.substeps
    sizes, words = tokens.sizes, tokens.vocabulary
    for name, width in (("width", sizes.width), ("things", sizes.things)):
        yield "tokens.sizes.heads", sizes.heads, _divides(sizes.heads, width), f"a divisor of {name} = {width}"
    for name, value in (("accelerations", words.accelerations), ("turns", words.turns)):
        yield f"tokens.vocabulary.{name}", value, value % 2 == 1, "an odd number, so that zero is among them"
    most = SceneSpec.current // substeps
    for name in ("rssm", "tokens"):
        context = getattr(config, name).context
        good = context <= most or name != config.world_model  # with other sub-steps its default is too long
        yield f"{name}.context", context, good, f"1 to {most}, world steps of the history"


def _policy_needs(config: Config) -> list[Need]:
    policy, flow, actions = config.policy, config.policy.flow, config.policy.actions
    rising = list(actions.accelerations) == sorted(set(actions.accelerations))
    future = config.spec.future_steps
    beyond = actions.commit <= actions.horizon <= future
    return [
        ("policy.heads", policy.heads, _divides(policy.heads, policy.width), f"a divisor of width = {policy.width}"),
        ("policy.stem", policy.stem, len(policy.stem) > 0, "at least one convolution"),
        ("policy.cameras", policy.cameras, not any(policy.cameras), "none: no World or data set gives images of any"),
        ("policy.flow.layers", flow.layers, _reads(policy), f"1 to policy.layers = {policy.layers}, which it reads"),
        ("policy.actions.accelerations", actions.accelerations, rising, "rising numbers"),
        ("policy.actions.horizon", actions.horizon, beyond, f"policy.actions.commit to {future}, the log's future"),
    ]


def _reads(policy: VLAConfig) -> bool:
    return policy.head == "discrete" or 0 < policy.flow.layers <= policy.layers


def _imagined(config: Config) -> int:
    return config.rounds.scenes * config.rounds.group * config.rounds.horizon


def _divides(part: int, whole: int) -> bool:
    return part > 0 and whole % part == 0


def _divisor(config: Config) -> str:
    return f"a divisor of scenes x group x horizon = {_imagined(config)}"


def _closed_loop_minibatch(config: Config) -> tuple[bool, str]:
    whole = config.closed_loop.scenes * config.rollout_steps
    good = _divides(config.closed_loop.minibatch, whole) or not demonstrates(config)
    return good, f"a divisor of scenes x {config.rollout_steps} = {whole}"
