"""Rolls out policies in Worlds, with their scores, events and pictures."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from tether.evaluation import figures, findings
from tether.evaluation.judges import trace_of
from tether.evaluation.policies import check_count
from tether.evaluation.topview import Trace
from tether.scenes import Scenes, check_scenes
from tether.simulator.world import Policy, World
from tether.training import drives
from tether.training.config import EvaluationConfig
from tether.training.drives import Judge, NamedPolicy, Scored
from tether.worlds import judge_of

DRAWN = {".gif": figures.animate, ".png": figures.still}  # suffix to the function that draws such a file
HEADLINE = ("score", "failure", "progress")


@dataclasses.dataclass(frozen=True, eq=False)
class Rollouts:
    """Rollouts of a policy in N scenes, one each.

    Attributes:
      policy, world: the policy, and the World's name.   scenes: N.
      scores: by name, [N] each: score, failure, every kind of event, ..., see `simulator.score.driving_score`.
      paths: of ego and others, arrays [N, ...], see `training.drives.path_of`.
    """

    policy: NamedPolicy
    world: str
    scenes: Scenes
    scores: dict[str, np.ndarray]
    paths: dict[str, Any]

    def __len__(self) -> int:
        return len(self.scenes)

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {np.mean(self.scores[name]):.3g}" for name in HEADLINE)
        return f"<{self.policy.name} in {self.world}, {len(self)} scenes: {means}>"

    def metrics(self) -> dict[str, float]:
        """The mean of each score over the scenes; for an event, the fraction of scenes with it."""
        return {name: float(np.mean(self.scores[name])) for name in dict.fromkeys((*HEADLINE, *self.scores))}

    def trace(self, index: int = 0) -> Trace:
        """One of the rollouts, sub-step by sub-step. Raises: IndexError past the end."""
        record = self.scenes[index]
        path = jax.tree.map(lambda values: values[index], self.paths)
        return trace_of(self.policy, record, self.scores["score"][index], path, self.scenes.simulator.dt)

    def events(self) -> list[dict[str, Any]]:
        """The ego's events and causes: dicts of scenario_id, record (its row), policy, event, time_s, cause."""
        rows = enumerate(self.scenes.rows)
        return [event for index, row in rows for event in findings.events(self.trace(index), int(row))]

    def draw(self, path: str | pathlib.Path, index: int = 0) -> pathlib.Path:
        """Draws one of the rollouts, the first by default, into a file: `.gif` is animated, `.png` shows the end.

        Raises: ValueError for a file of another kind; IndexError past the end; OSError where it cannot be written.
        """
        path = pathlib.Path(path)
        if path.suffix not in DRAWN:
            raise ValueError(f"path: expected one that ends in {' or '.join(DRAWN)}, found {str(path)!r}")
        DRAWN[path.suffix]([self.trace(index)], path)
        return path


def drive(
    policy: Policy | NamedPolicy,
    scenes: Scenes,
    world: World | Judge | str = "log_replay",
    *,
    steps: int | None = None,
    seed: int = 0,
    batch: int = EvaluationConfig.batch,
) -> Rollouts:
    """Rolls out a policy in scenes, from the current step of each.

    A scene's rollout depends on the seed and on its row in the split, not on the other scenes. The first call with a
    policy, a World and a size of batch compiles; a bar on standard error shows it.

    Args:
      policy: one without parameters, such as `tether.IDM()`, or one of a run, `tether.load_run(DIR).policies[NAME]`.
      world: log_replay, reactive or referee; a world model that needs no fitting, kinematic, lanes or oracle; the
        import path of either kind of your own; a World without parameters; or a run's,
        `tether.load_run(DIR).world_model`.
      steps: of the World, half a second each; to the end of the log if None.
      seed: of the policy's and the World's keys.
      batch: largest number of scenes per batch.
    Raises: ValueError for a policy, World or scenes that cannot be used; DataError, a ValueError, for a damaged record;
      SumoError where the referee lacks SUMO.
    """
    check_scenes(scenes)
    check_count("steps", steps)
    check_count("batch", batch)
    named, (name, judge) = named_policy(policy), judge_of(world, scenes)
    scores, _, paths = drives.drive(
        *(named, scenes.records, judge, Scored(scenes.simulator, named.labels)),
        steps=scenes.steps if steps is None else steps,
        batch=min(batch, len(scenes)),
        keys=functools.partial(drives.row_keys, seed),
        rows=scenes.rows.tolist(),
    )
    return Rollouts(named, name, scenes, scores, paths)


def named_policy(policy: Policy | NamedPolicy) -> NamedPolicy:
    """A policy with its parameters and its name; without them, the parameters () and the class's name.

    Raises: ValueError for an object that is no policy.
    """
    if isinstance(policy, NamedPolicy):
        return policy
    missing = [name for name in ("reset", "act") if not callable(getattr(policy, name, None))]
    if missing or isinstance(policy, type):
        raise ValueError(f"policy: expected one with reset and act, such as tether.IDM(), found {policy!r}")
    return NamedPolicy(type(policy).__name__, policy, ())
