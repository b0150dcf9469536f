"""The log's ego, more or less disturbed: what the world model is first fitted on."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Observation, Scene, SceneSpec
from tether.policy.baselines import LogExpert, follow_route
from tether.simulator.config import SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.simulator.world import Action
from tether.training.drives import roll_out
from tether.training.imagination import track
from tether.training.mesh import ALONE
from tether.worldmodel.batch import ModelBatch

HELD_MPS2 = 0.7  # standard deviation of the acceleration held in a lapse


@flax.struct.dataclass
class Disturbance:
    """How each row's expert is disturbed; float32[B].

    Attributes:
      acceleration: standard deviation [m/s^2], 0 is none.
      curvature: standard deviation, as lateral acceleration at the current speed [m/s^2], 0 is none.
      lapse_s: from this time of the scene on the ego reacts neither to traffic nor to lights; infinite is never.
      held: acceleration that is held from then on [m/s^2].
    """

    acceleration: Array
    curvature: Array
    lapse_s: Array
    held: Array

    @property
    def none(self) -> Array:
        """bool[B], the expert itself."""
        return (self.acceleration == 0) & (self.curvature == 0) & jnp.isinf(self.lapse_s)


@dataclasses.dataclass(frozen=True)
class DisturbedExpert:
    """The log's ego under slowly varying disturbances, so that crashes and departures happen and can be learned.

    Its params are a `Disturbance`. The noise is an Ornstein-Uhlenbeck process over steps: white noise would average
    out before the ego leaves its lane. Noise alone hardly ever leads to another agent or a red light, because the
    expert corrects it. So a row has a lapse as well: from then on the ego follows its route and reacts to nobody, as a
    policy does that overlooks an agent.

    Attributes:
      config: of the simulator.
      memory: fraction of the noise that the next step keeps.
    """

    config: SimulatorConfig
    memory: float = 0.8

    def reset(self, params: Disturbance, scene: Scene) -> tuple[Scene, Array, Array]:
        """The logged scene and no noise yet."""
        nothing = jnp.zeros_like(params.acceleration)
        return scene.replace(map_tile=(), road_index=()), nothing, nothing

    def act(self, params: Disturbance, key: jax.Array, observation: Observation, carry: tuple) -> tuple:
        """The expert's action plus noise."""
        scene, *noise = carry
        action, _, _ = LogExpert(self.config).act((), key, observation, scene)
        fresh = jax.vmap(lambda k: jax.random.normal(k, (2,)))(key)
        pushes = [self.memory * old + (1 - self.memory**2) ** 0.5 * fresh[:, i] for i, old in enumerate(noise)]
        held = jnp.broadcast_to(params.held[:, None], action.acceleration.shape)
        lapsed = (observation.time * SceneSpec.dt >= params.lapse_s)[:, None]
        action = jax.tree.map(
            lambda blind, expert: jnp.where(lapsed, blind, expert), follow_route(self.config, observation, held), action
        )
        speed = jnp.maximum(observation.ego[:, 0], 3.0)
        disturbed = Action(
            acceleration=action.acceleration + (params.acceleration * pushes[0])[:, None],
            curvature=action.curvature + (params.curvature * pushes[1] / speed**2)[:, None],
        )
        return disturbed, (scene, *pushes), {}


def undisturbed(count: int) -> Disturbance:
    """Rows of the expert itself."""
    nothing = jnp.zeros(count)
    return Disturbance(nothing, nothing, jnp.full(count, jnp.inf), nothing)


def disturbance(key: jax.Array, count: int) -> Disturbance:
    """Rows from hardly to badly disturbed: magnitudes up to 3 m/s^2 along and 4 m/s^2 across, squared towards 0.

    All lapse at some time of the scene, rather early than late, and hold about their speed then.
    """
    along, across, late = jax.random.uniform(key, (3, count)) ** 2
    lapse_s = (SceneSpec.current + late * (SceneSpec.steps - SceneSpec.current)) * SceneSpec.dt
    held = HELD_MPS2 * jax.random.normal(jax.random.fold_in(key, 1), (count,))
    return Disturbance(3.0 * along, 4.0 * across, lapse_s, held)


def drive_expert(
    simulator: SimulatorConfig, steps: int, scene: Scene, disturbed: Disturbance, keys: jax.Array
) -> ModelBatch:
    """Drives the logged ego of `Scene` [B, ...] in the simulator. Rows that are not disturbed are uniform log data."""
    # What disturbs the expert lies on the devices as rows do, not as parameters: `ALONE` leaves it there.
    program = LogReplay(simulator), DisturbedExpert(simulator), track, steps, ALONE
    driven = roll_out(*program, (), disturbed, scene, (keys, keys))
    return driven.replace(dynamics=disturbed.none)
