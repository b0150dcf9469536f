"""The stages that a run has finished, so that nothing is reported of arrays that are still random."""

import pathlib
from collections.abc import Sequence

import jax

from tether.evaluation.judges import LEARNED
from tether.training import stages
from tether.training.config import Config
from tether.training.stage import Stage
from tether.training.stages import schedule
from tether.training.state import Learned, Progress


def missing_stages(config: Config, progress: Progress) -> list[str]:
    """The stages of a run that are not finished, in order."""
    return list(dict.fromkeys(unit.stage for unit in schedule(config) if unit.name not in progress.finished))


def unfinished(config: Config, progress: Progress) -> str:
    """A sentence about the stages that a run has not finished; empty for a finished run."""
    missing = missing_stages(config, progress)
    done = f"{len(progress.finished)} of {len(schedule(config))} units are done"
    return f"Unfinished run: {done}, missing are the stages {', '.join(missing)}." if missing else ""


def require(directory: str | pathlib.Path, config: Config, progress: Progress, stage: Stage, what: str) -> None:
    """Refuses the use of arrays that a run has not trained yet: they are still random.

    Args: stage: the one that trains them.   what: a name of the arrays for the message.
    Raises: ValueError naming the stages that are missing.
    """
    missing = missing_stages(config, progress)
    if stage.name in missing:
        raise ValueError(
            f"{directory}: {what} is not trained yet: stage {stage.name} is not finished "
            f"(missing: {', '.join(missing)}); let train.py continue"
        )


def learned_policies(
    directory: str | pathlib.Path, config: Config, progress: Progress, asked: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The learned policies of a run: those asked for, or all that it has.

    Raises: ValueError for a policy that the run does not have, with the missing stages, or because no round was
      accepted.
    """
    if asked is not None and not set(LEARNED) & set(asked):
        return ()
    if asked is None or set(asked) & {"imitation", "post_trained"}:
        require(directory, config, progress, stages.imitate.STAGE, "its policy")
    coached = config.coaching.rounds > 0 and stages.coach.STAGE.name not in missing_stages(config, progress)
    has = {"imitation": True, "post_trained": progress.post_trained, "coach": coached}
    wanted = [name for name in LEARNED if (has[name] if asked is None else name in asked)]
    if "post_trained" in wanted and not progress.post_trained:
        require(directory, config, progress, stages.post_train.STAGE, "its post-trained policy")
        raise ValueError(f"{directory}: it has no post-trained policy, for no round was accepted: ask for imitation")
    if "coach" in wanted and not coached:
        require(directory, config, progress, stages.coach.STAGE, "its coach")
        raise ValueError(f"{directory}: it has no coach: coaching.rounds is 0")
    return tuple(wanted)


def remarks(config: Config, learned: Learned, progress: Progress) -> list[str]:
    """Sentences that begin a report about a run's policies: missing stages, or that no policy was accepted."""
    if missing := unfinished(config, progress):
        return [missing]
    if not progress.post_trained:
        return ["No round was accepted: there is no post-trained policy beside imitation."]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), learned.best, learned.imitation)
    if jax.tree.all(same):
        return ["No accepted policy scored higher on the validation split: the post-trained policy is imitation's."]
    return []
