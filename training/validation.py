"""Checks the settings of a run before anything is computed: a setting that is accepted acts, and can work."""

import math
from collections.abc import Iterator
from typing import Any

from tether.data.scene import SceneSpec
from tether.policy.vla import VLAConfig
from tether.training import objectives, stages
from tether.training.config import Config, DistributedConfig, flatten

# Counts of which there may be none; `mesh.data` has a rule of its own. Of everything else there is at least one.
MAY_BE_ZERO = (
    *("seed", "distributed.index", "watch.most_skipped", "mesh.whole_below", "data.cached_scenes", "policy.cameras"),
    *("fit.refit_steps", "fit.optimizer.warmup_steps", "closed_loop.steps", "value.steps", "rounds.rounds"),
    "evaluation.animations",
)
LARGEST = 2**31 - 1  # of whole numbers: what a device counts with
# Beyond these no machine has the memory, and a run that says so is not to be tried.
LARGEST_SIZE, LARGEST_AREA = 2**20, 2**24
LARGEST_FLOAT = 1e30
SIZES = ("spec.", "simulator.", "rssm.", "tokens.", "policy.")
# Of all other fractional numbers none is negative,
MAY_BE_NEGATIVE = (
    *("simulator.limits.acceleration_min", "simulator.comfort.acceleration_min", "simulator.render.behind"),
    *("simulator.render.tile_x_min", "simulator.render.tile_y_min", "policy.actions.accelerations"),
    "watch.least_entropy",
)
# and these, which are divided by or taken the logarithm of, are not zero either.
POSITIVE = (
    *("spec.route_spacing_m", "spec.dt", "simulator.dt", "simulator.corridor_m", "simulator.limits.acceleration_max"),
    *("simulator.limits.curvature_max", "simulator.limits.lateral_acceleration_max", "simulator.render.resolution"),
    *("simulator.comfort.longitudinal_jerk", "simulator.comfort.window_s", "simulator.reward.reference_speed"),
    *("simulator.reward.ttc_safe", "tokens.vocabulary.max_acceleration", "tokens.vocabulary.max_turn"),
    *("policy.actions.finesse", "policy.actions.max_curvature", "policy.actions.lateral_acceleration"),
    *("policy.actions.dt", "policy.actions.along_m", "policy.actions.across_m", "policy.actions.heading_rad"),
    *("policy.actions.speed_mps", "policy.flow.noise", "fit.optimizer.clip", "fit.trust_quantile", "returns.discount"),
    *("imitation.labels.driver.acceleration", "imitation.labels.driver.deceleration", "watch.stall_s"),
    *("imitation.labels.driver.default_speed_mps", "imitation.labels.driver.curve_horizon_m", "grpo.clip", "ppo.clip"),
)
AT_MOST_ONE = (
    *("fit.trust_quantile", "fit.optimizer.final_share", "imitation.loss.perturbed", "rssm.sizes.unimix"),
    *("tokens.least_share", "pmpo.alpha", "returns.discount", "returns.lam", "grpo.clip", "ppo.clip"),
)

# Settings that act with some values of another one alone.
ACTS_WITH = {
    "rssm.": ("world_model", "rssm"),
    "tokens.": ("world_model", "tokens"),
    "policy.flow.": ("policy.head", "flow"),
    "pmpo.": ("rounds.objective", "pmpo"),
    "grpo.": ("rounds.objective", "grpo"),
    "actor_critic.": ("rounds.objective", "actor_critic"),
    "ppo.": ("rounds.objective", "ppo"),
}

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


def check_overrides(config: Config, preset: Config) -> None:
    """Checks that what was set on the command line acts; a preset's own settings wait for their model or objective.

    Raises: ValueError listing the fields that would do nothing.
    """
    now, before = flatten(config), flatten(preset)
    idle = []
    for name in (name for name in now if now[name] != before[name]):
        for beginning, (other, value) in ACTS_WITH.items():
            if name.startswith(beginning) and now[other] != value:
                idle.append(f"  {name}: acts with {other} {value}, found {now[other]}")
    if idle:
        raise ValueError("\n".join(["these settings would do nothing:", *idle]))


def _numbers(config: Config) -> Iterator[Need]:
    """Each number by itself, those in lists included."""
    for name, value in flatten(config).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float):
                yield name, number, *_fraction_need(name, number)
            elif isinstance(number, int) and not isinstance(number, bool) and name != "mesh.data":
                least = 0 if name in MAY_BE_ZERO else 1
                most = LARGEST_SIZE if name.startswith(SIZES) else LARGEST
                limit = f" and at most {most}" if number > most else ""
                yield name, number, least <= number <= most, f"at least {least}{limit}"


def _fraction_need(name: str, number: float) -> tuple[bool, str]:
    if not math.isfinite(number) or abs(number) > LARGEST_FLOAT:
        return False, "a finite number"
    least = -math.inf if name in MAY_BE_NEGATIVE else 0.0
    good = number > 0 if name in POSITIVE else number >= least
    most = 1.0 if name in AT_MOST_ONE else math.inf
    return good and number <= most, ("above 0" if name in POSITIVE else "at least 0") + ", at most 1" * (most == 1)


def _relations(config: Config) -> list[Need]:
    """How numbers go together."""
    rounds, fit, mesh, several = config.rounds, config.fit, config.mesh, config.distributed
    some_are_logged = 0 <= fit.perturbed < 1 and fit.perturbed_scenes < fit.scenes
    least_group = objectives.least_group(rounds.objective)
    least, clips = config.grounding.horizon_min, {"grpo": config.grpo.clip, "ppo": config.ppo.clip}
    names = [stage.name for stage in stages.STAGES]
    checks, steps, horizon = config.imitation.checks, config.imitation.steps, config.rollout_steps
    return [
        *_fixed(config),
        *_areas(config),
        ("fit.scenes", fit.scenes, fit.scenes % 2 == 0, "an even number"),
        ("fit.perturbed", fit.perturbed, some_are_logged, "0 to below 1"),
        ("imitation.checks", checks, checks <= steps, f"1 to imitation.steps = {steps}"),
        ("rounds.horizon", rounds.horizon, rounds.horizon <= horizon, f"1 to {horizon}"),
        ("grounding.horizon_min", least, least <= rounds.horizon, "1 to rounds.horizon"),
        ("rounds.group", rounds.group, rounds.group >= least_group, f"at least {least_group}"),
        *((f"{name}.clip", clip, clip < 1, "between 0 and 1") for name, clip in clips.items()),
        ("stage", config.stage, config.stage in ("all", *names), f"all, or one of {', '.join(names)}"),
        ("rounds.minibatch", rounds.minibatch, _divides(rounds.minibatch, _imagined(config)), _divisor(config)),
        ("closed_loop.minibatch", config.closed_loop.minibatch, *_closed_loop_minibatch(config)),
        ("mesh.data", mesh.data, mesh.data == -1 or 0 < mesh.data <= LARGEST, "at least 1, or -1"),
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
    return _divides(config.closed_loop.minibatch, whole), f"a divisor of scenes x {config.rollout_steps} = {whole}"
