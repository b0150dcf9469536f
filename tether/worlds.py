"""The Worlds of the public face, by name or as objects."""

from tether.evaluation.judges import open_judge
from tether.scenes import Scenes
from tether.simulator.world import World
from tether.training.drives import Judge


def judge_of(world: World | Judge | str, scenes: Scenes) -> tuple[str, Judge]:
    """A World with its parameters, and its name.

    Args: world: see `rollouts.drive`.
    Raises: ValueError for an unknown name, a model that has to be fitted, and anything that is no World; SumoError
      where the referee lacks SUMO.
    """
    if isinstance(world, Judge):
        return type(world.world).__name__, world
    if not isinstance(world, str):
        missing = [name for name in ("reset", "observe", "step") if not callable(getattr(world, name, None))]
        if missing or isinstance(world, type):
            raise ValueError(f"world: expected a name or a World, with reset, observe and step, found {world!r}")
        return type(world).__name__, Judge(world)
    return world, open_judge(world, scenes.simulator, scenes.records)
