"""The log-replay simulator behind the WorldModel protocol: the ceiling, and proof of the RL code before any model."""

import dataclasses

from tether.simulator.config import SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.worldmodel.interface import NothingToLearn


@dataclasses.dataclass(frozen=True)
class OracleConfig:
    """Settings of the model: there are none."""

    def build(self, simulator: SimulatorConfig) -> "Oracle":
        """The simulator's own log replay."""
        return Oracle(simulator)


class Oracle(NothingToLearn, LogReplay):
    """`WorldModel` that knows the future: each of its steps costs what a step of the simulator costs."""
