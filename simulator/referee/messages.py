"""Messages between the referee's processes. Letters as in `simulator/world.py`; nothing here needs JAX."""

import dataclasses
from pathlib import Path

import numpy as np

from tether.data.sumo.generate import NetworkJob

Signal = tuple[str, int]  # a SUMO traffic light and the index of one of its links


@dataclasses.dataclass(frozen=True)
class Window:
    """A logged scene in the coordinates of its network.

    Attributes:
      scenario_id: as in the record.
      first: step of the recording that the log begins with.   current: log step at which the ego is taken over.
      x, y: float64[A, T], box centres [m], nan where not logged.
      light_x, light_y: float64[L], stop points [m].
      light_state: int32[L, T], `LightState`, 0 where not observed.
    """

    scenario_id: str
    first: int
    current: int
    x: np.ndarray
    y: np.ndarray
    light_x: np.ndarray
    light_y: np.ndarray
    light_state: np.ndarray

    @property
    def take_over(self) -> int:
        """Step of the recording after which the ego is driven from outside."""
        return self.first + self.current


@dataclasses.dataclass(frozen=True)
class Cast:
    """The agents and lights of the simulation, by row of the scene.

    Attributes:
      names: A SUMO ids, None for padding.
      signals: L links, None for padding.
    """

    names: tuple[str | None, ...]
    signals: tuple[Signal | None, ...]


@dataclasses.dataclass(frozen=True)
class TownRequest:
    """A task for a network's process: simulate, and stop at the take-over of each window."""

    job: NetworkJob
    windows: tuple[Window, ...]
    directory: Path

    def address(self, take_over: int) -> str:
        """The socket at which the simulation waits after a step of the recording."""
        return str(self.directory / f"{take_over}.sock")


@dataclasses.dataclass(frozen=True)
class Part:
    """A task for the process of one rollout.

    Attributes:
      cast: see `Cast`.   ego: SUMO id.   stream: seed of the drivers' parameters.
    """

    cast: Cast
    ego: str
    stream: str


@dataclasses.dataclass(frozen=True)
class Sight:
    """The simulation after one step.

    Attributes:
      agents: float64[A, 4], SUMO's x, y [m], angle [degrees clockwise from north] and speed [m/s]; nan where absent.
      light_state: int32[L], `LightState`.
      unlisted_m: distance from the ego's to the nearest position of an agent that has no row; inf where none is.
    """

    agents: np.ndarray
    light_state: np.ndarray
    unlisted_m: float
