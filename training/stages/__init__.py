"""The stages of a run, in order. A new one is a file with a `Stage`, and a place in this list."""

import difflib

from tether.training.config import Config
from tether.training.loop import Unit
from tether.training.stage import Part, Stage
from tether.training.stages import closed_loop, coach, imitate, post_train, value, world_model

STAGES: tuple[Stage, ...] = (
    world_model.STAGE,
    coach.STAGE,
    imitate.STAGE,
    closed_loop.STAGE,
    value.STAGE,
    post_train.STAGE,
)


def schedule(config: Config) -> list[Unit]:
    """All units of a run, in order."""
    return [unit for stage in STAGES for unit in stage.units(config)]


def check_name(name: str) -> None:
    """Raises: ValueError for what is neither a stage nor `all`."""
    names = ("all", *(stage.name for stage in STAGES))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"stage: expected one of {', '.join(names)}, found {name!r}{hint}")


def pending(config: Config, finished: tuple[str, ...]) -> list[Unit]:
    """The units to run now.

    Raises: ValueError where `--stage` asks for one that there is not, or whose needs are not finished.
    """
    check_name(config.stage)
    if config.stage == "all":
        return [unit for unit in schedule(config) if unit.name not in finished]
    place = [stage.name for stage in STAGES].index(config.stage)
    chosen, before = STAGES[place], () if STAGES[place].shared else STAGES[:place]
    needed = [unit for stage in before for unit in stage.units(config)]
    missing = [unit.name for unit in needed if unit.name not in finished]
    if missing:
        raise ValueError(f"stage {config.stage} needs {', '.join(missing)} first: run those, or --stage all")
    return [unit for unit in chosen.units(config) if unit.name not in finished]


def part(unit: Unit) -> Part:
    """What does a unit's work."""
    return next(stage for stage in STAGES if stage.name == unit.stage).parts[unit.part]


def title(unit: Unit, config: Config) -> str:
    """A unit's name for people, among the stages that the run has."""
    names = [stage.name for stage in STAGES if stage.units(config)]
    stage = f"stage {names.index(unit.stage) + 1} of {len(names)}, {unit.stage}"
    if unit.part == unit.stage:
        return stage
    rounds = max(one.round for one in schedule(config) if one.stage == unit.stage)
    return f"{stage}: round {unit.round} of {rounds}, {unit.part}" if unit.round else f"{stage}: {unit.part}"
