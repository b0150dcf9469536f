"""Your own World as a judge: log replay in fog, where agents farther away than 25 m are not seen.

    python eval.py --policy idm --judge log_replay --judge examples.fog:FogConfig --scenes 48

A path names a config: a dataclass with `build(simulator)` and defaults for all its fields. What it builds has `reset`,
`observe` and `step`, like every World (`simulator/world.py`). Boxes, events and scores stay the simulator's. Only the
observation differs, in its image and in its list of agents.
"""

import dataclasses

import jax.numpy as jnp

from tether.data.scene import Observation
from tether.simulator.around import Around
from tether.simulator.config import SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.simulator.world import State


@dataclasses.dataclass(frozen=True)
class FogConfig:
    """The fog's settings.

    Attributes:
      range_m: distance between the ego's centre and another's beyond which it is not seen [m].
    """

    range_m: float = 25.0

    def build(self, simulator: SimulatorConfig) -> "Fog":
        """Fog over log replay; another World would take its place here."""
        return Fog(LogReplay(simulator), self.range_m)


@dataclasses.dataclass(frozen=True)
class Fog(Around):
    """A `simulator.world.World` around another one."""

    range_m: float

    def observe(self, params: tuple, state: State) -> Observation:
        """The observation with those boxes of `history`, `Agents` [B, A, K], that are within range."""
        boxes, ego = state.history, state.ego
        away = jnp.hypot(boxes.x - ego.x[:, None, None], boxes.y - ego.y[:, None, None])
        seen = boxes.replace(valid=boxes.valid & (away < self.range_m))
        return self.world.observe(params, state.replace(history=seen))
