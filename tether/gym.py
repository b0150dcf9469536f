"""A Gymnasium environment over any World: `DrivingEnv(tether.open_split("train"))`. Needs the extra `gym`.

One step of the environment is one step of the World, half a second by default. The action is held during it.
"""

import dataclasses
import functools
import importlib.util
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.pipeline import stack
from tether.data.scene import Array, Observation, Scene, SceneSpec
from tether.evaluation.judges import named
from tether.evaluation.policies import check_count
from tether.scenes import Scenes, check_scenes
from tether.simulator.config import SimulatorConfig
from tether.simulator.events import EVENTS
from tether.simulator.rollout import fold_in, substep_motion
from tether.simulator.world import Action, Agents, EgoState, Outcome, Params, State, World
from tether.training.drives import Judge
from tether.view import View
from tether.worlds import judge_of

Observed = dict[str, Any]  # arrays; Gymnasium's own type of what a Dict holds

if TYPE_CHECKING or importlib.util.find_spec("gymnasium"):
    import gymnasium
    from gymnasium import spaces

    Base = gymnasium.Env[Observed, np.ndarray]
else:  # without the extra the module can be imported, but no environment can be made
    Base = object

ALWAYS_SEEN = [field.name for field in dataclasses.fields(Observation) if field.default is dataclasses.MISSING]
POLICY_SEES = ("bev", "ego", "instruction")  # what the VLA reads of an `Observation`


class DrivingEnv(Base):
    """One scene per episode. The seed given to `reset` decides which scene, and the World's draws.

    Observation: Dict of fields of `Observation`. Action: Box of acceleration [m/s^2] and curvature [1/m], left
    positive, within the vehicle's limits. Reward: of the step (`simulator/reward.py`). An episode terminates with a
    failure; it is truncated at the log's end, or after `steps`. The `info` holds scenario_id, record (row of the split)
    and time_s (since the start), and after a step also events (names of the step's events), progress_m and
    reward_terms.

    `reset(options={"scene": 3})` takes the scene of that index.

    Args:
      scenes: to draw from.   world: see `tether.drive`.
      sees: fields of `Observation`; by default those that the VLA reads. Others are privileged.
      steps: largest number of an episode's steps; to the log's end if None.
      render_mode: rgb_array, a top view with the ego in its middle, or None.
    Raises: ModuleNotFoundError without Gymnasium; ValueError as `tether.drive`, and for an unknown field or mode.
    """

    def __init__(
        self,
        scenes: Scenes,
        world: World | Judge | str = "log_replay",
        *,
        sees: Sequence[str] = POLICY_SEES,
        steps: int | None = None,
        render_mode: str | None = None,
    ):
        if Base is object:
            raise ModuleNotFoundError('expected gymnasium, found none: pip install -e ".[gym]"')
        check_scenes(scenes)
        check_count("steps", steps)
        simulator = scenes.simulator
        step_hz = 1 / (simulator.substeps * simulator.dt)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": step_hz}
        self.render_mode = None if render_mode is None else named("render_mode", render_mode, ("rgb_array",))
        self.scenes, self.steps = scenes, scenes.steps if steps is None else steps
        self._sees = tuple(named("field of Observation", name, ALWAYS_SEEN) for name in sees)
        self._judge = judge_of(world, scenes)[1]
        self._state: State | None = None  # none before the first `reset` and after an episode
        self._view: View | None = None
        self.action_space = action_space(simulator)
        _, observed = jax.eval_shape(
            functools.partial(begin, *self._open(scenes.rows[0])), row_key(0), stack([scenes[0].scene])
        )
        self.observation_space = spaces.Dict({name: space_of(observed[name]) for name in self._sees})

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Starts an episode. Raises: ValueError for an unknown option; IndexError for a scene that is not there."""
        super().reset(seed=seed)
        for name in options or {}:
            named("option", name, ("scene",))
        drawn, seed = (int(self.np_random.integers(most)) for most in (len(self.scenes), 2**32))
        index = operator.index((options or {}).get("scene", drawn))
        self._record, self._row = self.scenes[index], int(self.scenes.rows[index])
        self._world, self._keys, self._count = self._open(self._row), row_key(seed), 0
        self._state, observed = begin(*self._world, self._keys, stack([self._record.scene]))
        if self.render_mode is not None:
            now = row((self._state.ego, self._state.history, self._state.light_state))
            self._view = View(self._record, self.scenes.simulator.dt, *now)
        return on_host(observed), self._info()

    def _open(self, record: int) -> tuple[World, tuple[str, ...], Params]:
        """The World, the fields of its observation, and its parameters for a record."""
        return self._judge.world, self._sees, self._judge.params_of(np.array([record]))

    def step(self, action: np.ndarray) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Holds an action for a step of the World.

        Raises: ValueError for an action of another shape, or one that is not finite; ResetNeeded where no episode is
          under way.
        """
        if self._state is None:
            raise gymnasium.error.ResetNeeded("no episode is under way: call reset() first")
        action = np.asarray(action, np.float32)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise ValueError(f"action: expected two finite numbers, acceleration and curvature, found {action}")
        held = Action(*np.tile(action[:, None, None], (1, 1, self.scenes.simulator.substeps)))
        self._state, outcome, swept, observed = advance(*self._world, self._keys, self._count, self._state, held)
        (ego, agents), outcome, lights = row((swept, outcome, self._state.light_state))
        self._count += 1
        if self._view is not None:
            self._view.add(ego, agents, outcome, lights)
        terminated = bool(outcome.termination)
        truncated = not terminated and (bool(outcome.truncation) or self._count >= self.steps)
        if terminated or truncated:
            self._state = None
        return on_host(observed), float(outcome.reward), terminated, truncated, self._info() | happened(outcome)

    def render(self) -> np.ndarray | None:
        """The present state, uint8[H, W, 3]; None without a render mode. Raises: ResetNeeded before `reset`."""
        if self.render_mode is None:
            return None
        if self._view is None:
            raise gymnasium.error.ResetNeeded("no episode was started: call reset() first")
        return self._view.image()

    def _info(self) -> dict[str, Any]:
        simulator = self.scenes.simulator
        time_s = round(self._count * simulator.substeps * simulator.dt, 3)
        return {"scenario_id": self._record.scenario_id, "record": self._row, "time_s": time_s}


def row_key(seed: int) -> jax.Array:
    """key[1] of a seed."""
    return jax.random.key(seed)[None]


@functools.partial(jax.jit, static_argnums=(0, 1))
def begin(
    world: World, sees: tuple[str, ...], params: Params, keys: jax.Array, scene: Scene
) -> tuple[State, dict[str, Array]]:
    """The state at the current step of `Scene` [B, ...], and its observed fields."""
    state = world.reset(params, fold_in(keys, 0), scene, jnp.full(scene.ego.shape, SceneSpec.current, jnp.int32))
    return state, seen(world, sees, params, state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def advance(
    world: World, sees: tuple[str, ...], params: Params, keys: jax.Array, step: int, state: State, action: Action
) -> tuple[State, Outcome, tuple[EgoState, Agents], dict[str, Array]]:
    """The next state, outcome, boxes after each sub-step, and observed fields; keys as in `rollout`."""
    after, outcome = world.step(params, fold_in(keys, step + 1), state, action)
    swept = substep_motion(state, after, action.acceleration.shape[-1])
    return after, outcome, swept, seen(world, sees, params, after)


def seen(world: World, sees: tuple[str, ...], params: Params, state: State) -> dict[str, Array]:
    """The fields `sees` of the observation, [B, ...]."""
    observation = world.observe(params, state)
    return {name: getattr(observation, name) for name in sees}


def row(tree: Any) -> Any:
    """The only row of a batch, on the host."""
    return jax.tree.map(lambda field: field[0], jax.device_get(tree))


def on_host(observed: dict[str, Array]) -> Observed:
    """The only row of observed fields, as new arrays of the spaces' types."""
    return {name: np.array(value, typed(value.dtype)) for name, value in row(observed).items()}


def typed(dtype: np.dtype) -> np.dtype:
    """The type of a space's arrays: MultiBinary holds booleans as int8."""
    return np.dtype(np.int8) if np.issubdtype(dtype, np.bool_) else dtype


def happened(outcome: Outcome) -> dict[str, Any]:
    """The entries of `info` for an outcome without batch axis."""
    return {
        "events": [event.name for event in EVENTS if outcome.happened(event.name)],
        "progress_m": float(np.sum(outcome.progress_m)),
        "reward_terms": {name: float(value) for name, value in outcome.reward_terms.items()},
    }


def action_space(simulator: SimulatorConfig) -> "spaces.Box":
    """Acceleration [m/s^2] and curvature [1/m] within the vehicle's limits."""
    limits = simulator.limits
    low = np.array([limits.acceleration_min, -limits.curvature_max], np.float32)
    return spaces.Box(low, np.array([limits.acceleration_max, limits.curvature_max], np.float32))


def space_of(array: jax.ShapeDtypeStruct) -> "spaces.Space[Any]":
    """The space of arrays [1, ...] without the first axis: MultiBinary for booleans, else a Box of the type's range."""
    shape, dtype = array.shape[1:], array.dtype
    if np.issubdtype(dtype, np.bool_):
        return spaces.MultiBinary(shape)
    if np.issubdtype(dtype, np.integer):
        return spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype.type)
    return spaces.Box(-np.inf, np.inf, shape, dtype.type)
