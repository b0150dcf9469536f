"""The log-replay simulator behind the WorldModel protocol: the ceiling, and proof of the RL code before any model."""

import dataclasses

import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.simulator.config import SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.worldmodel.batch import ModelBatch


@dataclasses.dataclass(frozen=True)
class OracleConfig:
    """Settings of the model: there are none."""

    def build(self, simulator: SimulatorConfig) -> "Oracle":
        """The simulator's own log replay."""
        return Oracle(simulator)


class Oracle(LogReplay):
    """`WorldModel` that knows the future: each of its steps costs what a step of the simulator costs."""

    sees_images = False

    def init(self, key: jax.Array, batch: ModelBatch) -> tuple:
        """Nothing to learn."""
        return ()

    def loss(self, params: tuple, key: jax.Array, batch: ModelBatch) -> tuple[Array, dict[str, Array]]:
        """Nothing to minimise."""
        return jnp.zeros(()), {}
