"""Presets: functions that return a config. Each says what it is for, how long it takes and what to expect."""

import difflib
import functools
import pathlib
import re
import sys
from typing import NoReturn

from tether.data.scene import SceneSpec
from tether.data.settings import settings_of
from tether.policy import vla
from tether.policy.sizes import SIZES
from tether.policy.vla import VLAConfig
from tether.training.config import (
    ClosedLoopConfig,
    Config,
    EvaluationConfig,
    FitConfig,
    GroundingConfig,
    RoundsConfig,
    ValueConfig,
    flatten,
)
from tether.training.idle import check_overrides
from tether.training.learning import ImitateConfig
from tether.training.objectives import OBJECTIVES
from tether.training.scenes import DataConfig
from tether.training.stages import check_name
from tether.training.validation import validate
from tether.worldmodel import registry, rssm_net, tokens_net
from tether.worldmodel.fitting import FittingConfig
from tether.worldmodel.rssm import RSSMConfig
from tether.worldmodel.tokens import TokensConfig


def cpu() -> Config:
    """The main job: starter set, two CPU cores.

    Time: 17 min 46 s on two cores, installation and evaluation included; other work used them as well for four of these
    minutes; 24.2 CPU minutes (2026-12-01, commit 4e5acbf). Result on 192 scenes of all 56 networks of the test split,
    seed 0: imitation scores 0.616 and the post-trained policy 0.854; it fails in 9.4 % of the scenes instead of 24.0 %,
    and is uncomfortable 18.2 % of the time instead of 4.6 % (IDM, its teacher's kind: 0.954, 2.1 %, 4.5 %; constant
    speed scores 0.540). That policy ships with the repository.
    """
    return Config(
        name="cpu",
        # About a third of these splits of the starter set, spread over all of their networks: a third of the time.
        data=DataConfig(validation_scenes=96, test_scenes=192),
        policy=VLAConfig(width=64, layers=3, heads=4, stem=(16, 32, 48, 64), value_width=64),
        fit=FitConfig(steps=250, refit_steps=15),
        imitation=ImitateConfig(steps=800, scenes=32, starts=4, learning_rate=1.5e-3),
        # No setting of cl_sft or pmpo has improved on imitation in this time (docs/experiments.md): neither is run, and
        # only pmpo needs a value.
        closed_loop=ClosedLoopConfig(steps=0),
        value=ValueConfig(steps=0),
        rounds=RoundsConfig(
            rounds=4,
            iterations=15,
            objective="dagger",
            scenes=64,
            group=1,
            horizon=16,
            learning_rate=5e-4,
            kl_weight=0.0,
        ),
        # About one standard error of the return's paired difference over 96 scenes, and about five of these scenes.
        grounding=GroundingConfig(scenes=96, tolerance=1.0, failure_tolerance=0.05),
    )


def tiny() -> Config:
    """The whole job at the smallest sizes that still run every part; for tests. It learns nothing worth reporting.

    Time: 3.5 CPU minutes with an empty compilation cache, nearly all of it compilation (at XLA's optimisation level 0).
    """
    return Config(
        name="tiny",
        log_every=1,
        data=DataConfig(train_scenes=8, grounding_scenes=4, validation_scenes=4, test_scenes=4),
        rssm=RSSMConfig(
            rssm_net.Sizes(deter=16, groups=2, classes=4, hidden=16, tokens=8, outcome_hidden=16, ensemble=2)
        ),
        tokens=TokensConfig(
            tokens_net.Sizes(width=16, layers=1, heads=2, things=8, window=4, outcome_hidden=16, ensemble=2)
        ),
        policy=vla.tiny(),
        fit=FitConfig(steps=4, refit_steps=2, scenes=4, tracks=16),
        imitation=ImitateConfig(steps=4, scenes=2, starts=4, checks=1),
        closed_loop=ClosedLoopConfig(steps=2, scenes=4, candidates=4, minibatch=16),
        value=ValueConfig(steps=2),
        rounds=RoundsConfig(
            rounds=2,
            iterations=2,
            scenes=2,
            group=2,
            horizon=8,
            minibatch=16,
        ),
        grounding=GroundingConfig(scenes=4),
        evaluation=EvaluationConfig(batch=4, animations=1),
    )


def h200() -> Config:
    """A large policy and model on one accelerator, for a converted full data set (`--data.directory`).

    Time and result are not measured yet. It is sized for 25 minutes: its matrix products take 13 of them at 30 % of an
    H200's TF32 peak (`benchmarks/compute.py`), and compilation and all else comes on top.
    """
    return Config(
        name="h200",
        spec=SceneSpec(agents=64, polylines=512),
        policy=SIZES["50m"],
        rssm=RSSMConfig(
            rssm_net.Sizes(
                deter=256,
                groups=16,
                classes=16,
                hidden=256,
                tokens=128,
                outcome_hidden=512,
                ensemble=5,
                dtype="bfloat16",
            )
        ),
        tokens=TokensConfig(
            tokens_net.Sizes(
                width=256,
                layers=4,
                heads=8,
                things=128,
                window=19,
                outcome_hidden=512,
                ensemble=5,
                dtype="bfloat16",
            )
        ),
        fit=FitConfig(
            steps=8_000,
            refit_steps=100,
            scenes=128,
            tracks=8192,
            optimizer=FittingConfig(learning_rate=5e-4, final_fraction=0.05),
        ),
        imitation=ImitateConfig(steps=10_000, scenes=128, starts=4, learning_rate=3e-4),
        # As in `cpu`: the objective that has improved on imitation, which needs neither fine-tuning nor a value.
        closed_loop=ClosedLoopConfig(steps=0, scenes=128, candidates=32, learning_rate=5e-5, minibatch=512),
        value=ValueConfig(steps=0),
        rounds=RoundsConfig(
            rounds=6,
            iterations=40,
            objective="dagger",
            scenes=512,
            group=1,
            horizon=16,
            minibatch=512,
            learning_rate=1e-4,
            kl_weight=0.0,
        ),
        grounding=GroundingConfig(scenes=1024),
        evaluation=EvaluationConfig(batch=256, animations=4),
    )


PRESETS = {"cpu": cpu, "tiny": tiny, "h200": h200}


def parse(arguments: list[str]) -> Config:
    """The config of a command line: a preset (`cpu` if none is named) and typed overrides, checked.

    Options may be written with dashes as well, `true` and `false` in either case, and alone for `true`. Unknown options
    end the process with the nearest names, values that cannot work with the list of them: status 2.
    """
    import tyro

    if arguments and arguments[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0)
    name, *options = arguments if arguments and not arguments[0].startswith("-") else ["cpu", *arguments]
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        refuse(f"preset {name!r}: expected one of {', '.join(PRESETS)}{hint}")
    preset = PRESETS[name]
    config = tyro.cli(
        Config,
        prog=f"train.py {name}",
        description=preset.__doc__,
        args=with_truths(options, preset()),
        default=preset(),
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )
    runs = [pathlib.Path(run) for run in (config.run_directory, config.start_from) if run is not None]
    try:
        validate(config)
        check_name(config.stage)
        check_overrides(config, preset())
        registry.WORLD_MODELS.check_source(config.world_model, runs)
        OBJECTIVES.check_source(config.rounds.objective, runs)
    except ValueError as error:
        refuse(str(error))
    return config


def usage() -> str:
    """What `train.py --help` prints."""
    presets = [f"  {name:<6}{(preset.__doc__ or '').splitlines()[0]}" for name, preset in PRESETS.items()]
    options = [(f"--{name} {value}", summary_of(name)) for name, value, facts in settings_of(cpu()) if facts.common]
    width = 2 + max(len(option) for option, _ in options)
    return "\n".join(
        (
            "usage: train.py [PRESET] [--FIELD VALUE ...]",
            "",
            "Trains and evaluates; goes on with a run that its directory holds. Presets, of which cpu is the default:",
            *presets,
            "",
            "The options that are changed most often, with their values in cpu:",
            *(f"  {option:<{width}}{text}" for option, text in options),
            "",
            "All options with their values: train.py PRESET --help. In names - and _ are the same.",
        )
    )


def summary_of(name: str) -> str:
    """The first clause of a setting's help text, which stands in the docstring of its config."""
    import docstring_parser

    *sections, field = name.split(".")
    config = functools.reduce(getattr, sections, Config())
    texts = {each.arg_name: each.description for each in docstring_parser.parse_from_object(type(config)).params}
    return re.split(r"[;.](?:\s|$)", texts[field])[0]


def with_truths(options: list[str], config: Config) -> list[str]:
    """The options with `True` or `False` after those that are either, whose value may be left out: `--fresh`."""
    truths = {f"--{name}" for name, value in flatten(config).items() if isinstance(value, bool)}
    out, rest = [], list(options)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if f"--{option[2:].replace('-', '_')}" not in truths:
            out.append(f"{option}{equals}{value}")
            continue
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("-") else "true"
        out += [option, value.capitalize()]
    return out


def refuse(message: str) -> NoReturn:
    """Ends the process as for all settings that cannot work."""
    print(message, file=sys.stderr)
    sys.exit(2)
