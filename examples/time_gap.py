"""Your own policy: keeps a time gap to the agent ahead in its lane, stops at red lights, follows the route.

    python eval.py --policy examples.time_gap:TimeGapConfig --policy idm --scenes 48
    python eval.py --policy examples.time_gap:HurriedConfig --judge reactive --scenes 48

A path names a config: a dataclass with `build(simulator)` and defaults for all its fields. What it builds has `reset`
and `act`, like every policy (`simulator/world.py`). A network's weights may be fields of a class that is no dataclass.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tether.data.scene import RED_STATES, Observation, Scene
from tether.policy.baselines import follow_route
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Action

LANE_M = 1.6  # to each side of the ego's centre line
BRAKING, ACCELERATION = 6.0, 1.5  # m/s^2, the most
RESPONSE_S = 0.8  # time constant of the speed's correction


@dataclasses.dataclass(frozen=True)
class TimeGapConfig:
    """The policy's settings.

    Attributes:
      gap_s: time gap to the present position of the agent ahead [s].
      stand_m: distance kept at standstill [m].
      speed_mps: desired speed where no limit is known [m/s].
    """

    gap_s: float = 1.5
    stand_m: float = 3.0
    speed_mps: float = 12.0

    def build(self, simulator: SimulatorConfig) -> "TimeGap":
        """The policy for this simulator's step and vehicle."""
        return TimeGap(self, simulator)


@dataclasses.dataclass(frozen=True)
class HurriedConfig(TimeGapConfig):
    """Another variant is a class with other defaults."""

    gap_s: float = 0.8


@dataclasses.dataclass(frozen=True)
class TimeGap:
    """`simulator.world.Policy` without parameters. B rows, A agents, L lights, S sub-steps."""

    config: TimeGapConfig
    simulator: SimulatorConfig

    def reset(self, params: tuple, scene: Scene) -> tuple[()]:
        """No carry."""
        return ()

    def act(self, params: tuple, key: jax.Array, observation: Observation, carry: tuple) -> tuple[Action, tuple, dict]:
        """The action [B, S], the carry, and extras (none)."""
        o, config = observation, self.config
        inside = o.agent_valid & (o.agent_x > 0) & (jnp.abs(o.agent_y) < LANE_M)
        bumpers = o.agent_x - (o.agent_length + o.ego_size[:, :1]) / 2  # float32[B, A], distance between them [m]
        red = jnp.isin(o.light_state, jnp.array(sorted(RED_STATES)))
        gap = jnp.minimum(
            jnp.min(bumpers, axis=1, where=inside, initial=jnp.inf),
            jnp.min(o.light_distance, axis=1, where=red, initial=jnp.inf),
        )
        speed, limit = o.ego[:, 0], o.ego[:, 3]
        free = jnp.where(limit > 0, limit, config.speed_mps)
        wanted = jnp.minimum(free, jnp.maximum(gap - config.stand_m, 0.0) / config.gap_s)
        acceleration = jnp.clip((wanted - speed) / RESPONSE_S, -BRAKING, ACCELERATION)
        held = jnp.broadcast_to(acceleration[:, None], (len(speed), self.simulator.substeps))
        return follow_route(self.simulator, o, held), carry, {}
