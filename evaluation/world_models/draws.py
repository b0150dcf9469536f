"""Draws: a World's continuations of each scene, K of them, on which realism and similar measures are computed."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.progress import Bar
from tether.data.scene import Array, Record, Scene, SceneSpec
from tether.evaluation.world_models import forecasts as forecast
from tether.simulator.config import SimulatorConfig
from tether.simulator.on_log import OnLog
from tether.simulator.replay import replay_actions
from tether.simulator.rollout import joined
from tether.simulator.world import Agents, Params, World
from tether.training.disturbed_expert import drive_expert, undisturbed
from tether.worldmodel.batch import ModelBatch, log_window


@dataclasses.dataclass(frozen=True)
class Draws:
    """A World's continuations of N scenes, K of each, the ego being on its log.

    Attributes:
      x, y, heading: float32[N, K, A, T], box centre [m] and heading [rad] of all rows after each of T log steps of the
        future; an agent out of sight keeps its velocity (`forecasts.keep_moving`).
      seen: bool[N, K, A, T], not out of sight.
      disagreement: float32[N, K, H].
    """

    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    seen: np.ndarray
    disagreement: np.ndarray


@dataclasses.dataclass(frozen=True)
class Logged:
    """The logs of N scenes, from the current step on.

    Attributes:
      x, y, heading: float32[N, A, 1 + T].   valid: bool[N, A, 1 + T].
      agent_type: int32[N, A].
      other: bool[N, A], an agent other than the ego that is there at the current step.
      moving: bool[N, A], see `forecasts.moving`.
      ego: int32[N].
    """

    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    valid: np.ndarray
    agent_type: np.ndarray
    other: np.ndarray
    moving: np.ndarray
    ego: np.ndarray

    @property
    def counted(self) -> np.ndarray:
        """Where errors count, bool[N, A, T]: the moving others while the log sees them."""
        return self.valid[..., 1:] & self.moving[..., None]


def logged(records: Sequence[Record], spec: SceneSpec) -> Logged:
    """The log of records after the current step."""
    scenes = [record.scene for record in records]

    def future(name: str) -> np.ndarray:
        return np.stack([np.asarray(getattr(scene, name))[:, spec.current :] for scene in scenes])

    fields = {name: future(name) for name in ("x", "y", "heading", "valid")}
    ego = np.array([int(scene.ego) for scene in scenes])
    rows = np.arange(fields["x"].shape[1])
    other = fields["valid"][..., 0] & (rows != ego[:, None])
    moving = forecast.moving(fields["x"], fields["y"], fields["valid"], ego)
    kinds = np.stack([np.asarray(scene.agent_type) for scene in scenes])
    return Logged(**fields, agent_type=kinds, other=other, moving=moving, ego=ego)


def log_drive(simulator: SimulatorConfig, steps: int) -> Callable[[Scene, jax.Array], ModelBatch]:
    """A function of scenes [B, ...] and key[B] that drives the ego along its log for H steps: `ModelBatch` [B]."""

    def drive(scene: Scene, keys: jax.Array) -> ModelBatch:
        return drive_expert(simulator, steps, scene, undisturbed(len(keys)), keys)

    return drive


def imagine_draws(
    world: World,
    params: Params,
    drive_log: Callable[[Scene, jax.Array], ModelBatch],
    parts: Iterable[tuple[np.ndarray, int, Scene]],
    keys: Callable[[np.ndarray], jax.Array],
    draws: int,
    dt: float,
    name: str,
) -> Draws:
    """Continues every scene K times in a World.

    Args: drive_log, keys: of `Study`; parts: as `Study.chunks`.   draws: K.   dt: of a log step [s].   name: for the
      progress bar.
    """

    @jax.jit
    def continued(params: Params, batch: ModelBatch, key: jax.Array) -> tuple[Agents, Array]:
        def once(index: Array) -> tuple[Agents, Array]:
            own = jax.vmap(jax.random.fold_in, (0, None))(key, index)
            driven = replay_actions(OnLog(world), params, own, batch.scene, batch.start, batch.action)
            now = log_window(batch.scene, batch.start, 0, 0)
            return forecast.keep_moving(now, joined(driven.agents), dt), driven.outcome.disagreement.T

        return jax.lax.map(once, jnp.arange(draws))

    parts_drawn = []
    batches = list(parts)
    with Bar(name, len(batches), unit="batches", compiles=True) as bar:
        for rows, new, scene in bar.over(batches):
            key = keys(rows)
            agents, disagreement = continued(params, drive_log(scene, key), key)
            arrays = (agents.x, agents.y, agents.heading, agents.valid, disagreement)
            parts_drawn.append([np.swapaxes(np.asarray(a), 0, 1)[:new] for a in arrays])
    return Draws(*(np.concatenate(one) for one in zip(*parts_drawn, strict=True)))


def distance_from_log(draws: Draws, log: Logged) -> np.ndarray:
    """float32[N, K, A, T], [m]."""
    return forecast.displacement(draws.x, draws.y, log.x[..., 1:], log.y[..., 1:])


def displacement_errors(draws: Draws, log: Logged, dt: float, seconds: Sequence[int]) -> dict[str, np.ndarray]:
    """`ade_<s>s` and `minade_<s>s` [m] of each scene up to some times, float64[N]; NaN where nothing counts."""
    distance, counted, errors = distance_from_log(draws, log), log.counted, {}
    for second in seconds:
        pair = forecast.joint_errors(distance, counted, round(second / dt))
        errors[f"ade_{second}s"], errors[f"minade_{second}s"] = pair
    return errors
