"""What a stage of a run is: its parts, and the units of work that it consists of."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from tether.training.config import Config
from tether.training.loop import Metrics, Run, Unit
from tether.training.state import RunState

Part = Callable[[Run, RunState, Unit], tuple[RunState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a run, which can be run alone (`--stage`).

    Attributes:
      name: as on the command line, in logs and in reports.
      parts: its functions by name; each takes the state and returns the next one.
      order: the parts with their rounds, in the order in which they are done; each part once by default.
      shared: whether it needs no other stage and does not depend on what follows, so that other runs may start from it.
        Any other stage needs all that stand before it in the list of stages.
    """

    name: str
    parts: Mapping[str, Part]
    order: Callable[[Config], Sequence[tuple[str, int]]] | None = None
    shared: bool = False

    def units(self, config: Config) -> list[Unit]:
        """Its units of work in a run."""
        order = self.order(config) if self.order else [(part, 0) for part in self.parts]
        return [Unit(self.name, part, index) for part, index in order]
