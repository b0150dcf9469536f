"""What a run is at a moment: the arrays that it learns and where it stands. Both go into every checkpoint."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Self

import flax.struct

from tether.training.ledger import PURPOSES, Ledger
from tether.training.tracks import Tracks

Params = Any


@flax.struct.dataclass
class Learned:
    """Every array of a run.

    Attributes:
      policy: parameters being trained.   policy_optimizer: their optimiser's state.
      imitation: the frozen imitation policy, the reference of the KL.
      accepted: the last policy that passed grounding; a roll-back returns to it.
      best: the accepted policy with the highest driving score on the validation split; what is evaluated in the end.
      model: the world model's parameters.   model_optimizer: its optimiser's state and steps taken.
      tracks: replayed policy rollouts that the world model is refitted on.
      coach: parameters of the coach being trained, and `coach_accepted`, `coach_best` as above; () without a coach.
      coach_moments: the state of its optimiser, and the running largest advantage (`coaching.Coached`).
    """

    policy: Params
    policy_optimizer: Any
    imitation: Params
    accepted: Params
    best: Params
    model: Params
    model_optimizer: Any
    tracks: Tracks
    coach: Params = ()
    coach_moments: Any = ()
    coach_accepted: Params = ()
    coach_best: Params = ()


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a policy stands that learns in rounds; all of it is JSON.

    Attributes:
      horizon: steps imagined at most, shortened by roll-backs.
      penalty: weight of the disagreement in the imagined reward, raised by roll-backs.
      grounded_return: own return of the last accepted policy, per grounding row; empty before the first round.
      failures: failure rate of the last accepted policy on the same rows.
      best_score: driving score of the best accepted policy on the validation split.
      rounds: one record per finished round.
    """

    horizon: int = 0
    penalty: float = 0.0
    grounded_return: tuple[float, ...] = ()
    failures: float = 1.0
    best_score: float = -1.0
    rounds: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Self:
        """From what `dataclasses.asdict` gave. Raises: ValueError for names that are missing or unknown."""
        check_names("coach", values, [field.name for field in dataclasses.fields(cls)])
        return cls(**values | {name: tuple(values[name]) for name in ("grounded_return", "rounds")})


@dataclasses.dataclass(frozen=True)
class Progress(Standing):
    """Where a run stands, and the policy that is its result; all of it is JSON.

    Attributes:
      finished: names of the units that are done (`loop.Unit.name`), in order.
      step: steps done in the unit that comes next.
      total: steps and finished units so far; numbers the checkpoints.
      iterator: state of that unit's data iterator; None at its start.
      trust: the largest disagreement still believed, a quantile on held-out logs.
      best_checkpoint: the one written when the round of `Learned.best` was over; never pruned. 0 before the first.
      ledger: simulator steps by purpose.
      coach: where the coach stands.
      checks: one record for each time that a policy was driven on the validation split, see `training/checks.py`.
      wall_s: wall time spent so far [s].
    """

    finished: tuple[str, ...] = ()
    step: int = 0
    total: int = 0
    iterator: Any = None
    trust: float = float("inf")
    best_checkpoint: int = 0
    ledger: Ledger = dataclasses.field(default_factory=Ledger)
    coach: Standing = Standing()
    checks: tuple[dict[str, Any], ...] = ()
    wall_s: float = 0.0

    @property
    def post_trained(self) -> bool:
        """Whether there is a post-trained policy."""
        return some_accepted(self.rounds)

    @property
    def closing(self) -> int:
        """Number of the checkpoint that will be written when the unit under way is done."""
        return self.total + 1

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        values = dataclasses.asdict(dataclasses.replace(self, ledger=Ledger()))
        return {**values, "ledger": {"spent": self.ledger.count().spent}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """The inverse of `to_json`. Raises: ValueError for names that are missing or unknown."""
        check_names("progress", values, [field.name for field in dataclasses.fields(cls)])
        check_names("ledger", values["ledger"], ["spent"])
        check_names("ledger", values["ledger"]["spent"], PURPOSES)
        sequences = {name: tuple(values[name]) for name in ("finished", "rounds", "checks", "grounded_return")}
        parts = {"ledger": Ledger(**values["ledger"]), "coach": Standing.of_json(values["coach"])}
        return cls(**values | sequences | parts)


def check_names(of: str, values: dict[str, Any], expected: Sequence[str]) -> None:
    """Raises: ValueError for names that are missing or unknown."""
    wrong = sorted(values.keys() ^ set(expected))
    if wrong:
        raise ValueError(f"{of}: expected {sorted(expected)}, found other or missing names: {wrong}")


def some_accepted(rounds: Iterable[dict[str, Any]]) -> bool:
    """Whether the rounds of a run have accepted anything, so that its policy may be another than imitation's.

    Round 0 grounds the imitation policy itself, which does not count, or what fine-tuning has made of it, which does.
    """
    return any(one["decision"] == "accept" and (one["round"] > 0 or one["spent"].get("cl_sft")) for one in rounds)


@dataclasses.dataclass(frozen=True)
class RunState:
    """A run at a moment.

    Attributes:
      learned: its arrays.
      progress: where it stands.
    """

    learned: Learned
    progress: Progress

    def learn(self, **changes: Any) -> "RunState":
        """With some arrays replaced."""
        return dataclasses.replace(self, learned=self.learned.replace(**changes))

    def note(self, **changes: Any) -> "RunState":
        """With some of the progress replaced."""
        return dataclasses.replace(self, progress=dataclasses.replace(self.progress, **changes))

    def add_steps(self, purpose: str, alive: Any) -> "RunState":
        """With the steps of a simulator rollout, bool[H, B] or int[B], added to the ledger."""
        return self.note(ledger=self.progress.ledger.add(purpose, alive))

    def count_steps(self) -> "RunState":
        """With all steps of the ledger counted; waits for the device."""
        return self.note(ledger=self.progress.ledger.count())
