"""The start and the transition of a State, shared by all Worlds. A World supplies the others' motion and the lights."""

from typing import Any

import jax
import jax.numpy as jnp

from tether.data.geometry import from_frame, rotate, to_frame, wrap_angle
from tether.data.scene import Array, Scene, SceneSpec
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import advance, last_valid_step, log_ego, velocity
from tether.simulator.events import EVENTS, FAILURES
from tether.simulator.outcome import measure
from tether.simulator.reward import reward_terms
from tether.simulator.route import log_places, route_of, walk
from tether.simulator.world import Action, Agents, EgoState, Outcome, State

AGENT_FIELDS = ("x", "y", "heading", "vel_x", "vel_y", "valid")
HISTORY_STEPS = SceneSpec.current + 1
OUTCOME_MASKED = (*(event.name for event in EVENTS), "uncomfortable")


def log_agents(scene: Scene, steps: Array) -> Agents:
    """Logged boxes at log steps [B, K], `Agents` with fields [B, A, K]; steps outside the log repeat its ends."""
    steps = jnp.clip(steps, 0, scene.x.shape[-1] - 1)[:, None, :]
    return Agents(**{name: jnp.take_along_axis(getattr(scene, name), steps, axis=-1) for name in AGENT_FIELDS})


def log_lights(scene: Scene, steps: Array) -> tuple[Array, Array]:
    """State int32[B, L, K] and validity of the lights at log steps [B, K]."""
    steps = jnp.clip(steps, 0, scene.x.shape[-1] - 1)[:, None, :]
    return (
        jnp.take_along_axis(scene.light_state, steps, axis=-1),
        jnp.take_along_axis(scene.light_valid, steps, axis=-1),
    )


def start_state(scene: Scene, start: Array, latent: Any) -> State:
    """The logged situation at log step `start` [B], which is at least `SceneSpec.current`."""
    ego = log_ego(scene, start)
    light_state, light_valid = log_lights(scene, start[:, None])
    return State(
        scene=scene,
        time=start.astype(jnp.int32),
        ego=ego,
        history=log_agents(scene, start[:, None] + jnp.arange(1 - HISTORY_STEPS, 1)),
        light_state=light_state[..., 0],
        light_valid=light_valid[..., 0],
        route_s=jnp.take_along_axis(log_places(scene), start[:, None], axis=1)[:, 0],
        alive=jnp.ones(start.shape, bool),
        latent=latent,
    )


def with_ego(state: State, ego: EgoState) -> State:
    """Puts another ego [B] into a state; its past moves along rigidly, so that it ends in the new pose.

    The new place on the route is walked to from the old one.
    """
    row = state.scene.ego[:, None, None]
    old, new = state.ego[:, None], ego[:, None]
    past = {name: jnp.take_along_axis(getattr(state.history, name), row, axis=1)[:, 0] for name in AGENT_FIELDS}
    turn = wrap_angle(new.heading - old.heading)
    x, y = to_frame(past["x"], past["y"], old.x, old.y, old.heading)
    x, y = from_frame(x, y, new.x, new.y, new.heading)
    vel_x, vel_y = rotate(past["vel_x"], past["vel_y"], turn)
    now_x, now_y = velocity(ego)
    moved = Agents(
        x=x,
        y=y,
        heading=wrap_angle(past["heading"] + turn),
        vel_x=vel_x.at[:, -1].set(now_x),
        vel_y=vel_y.at[:, -1].set(now_y),
        valid=past["valid"],
    )
    history = replace_row(state.history, state.scene.ego, moved)
    track = old.then(new)
    route_s, _ = jax.vmap(walk)(route_of(state.scene), state.route_s, track.x, track.y)
    return state.replace(ego=ego, history=history, route_s=route_s[:, -1])


def replace_row(agents: Agents, row: Array, track: Agents) -> Agents:
    """`agents` [B, A, K] with row `row` [B] replaced by `track` [B, K]."""
    is_row = (jnp.arange(agents.x.shape[1]) == row[:, None])[..., None]
    return jax.tree.map(lambda all_rows, one: jnp.where(is_row, one[:, None], all_rows), agents, track)


def ego_track_of(swept: EgoState) -> Agents:
    """The swept ego [B, S] as a track."""
    vel_x, vel_y = velocity(swept)
    return Agents(
        x=swept.x,
        y=swept.y,
        heading=swept.heading,
        vel_x=vel_x,
        vel_y=vel_y,
        valid=jnp.ones(swept.x.shape, bool),
    )


def sweep(state: State, action: Action, config: SimulatorConfig) -> EgoState:
    """The ego's motion over the sub-steps [B, S]; the ego stands still in rows whose rollout is over."""
    swept = advance(state.ego, action, config.limits, config.dt)
    return jax.tree.map(lambda new, old: jnp.where(state.alive[:, None], new, old[:, None]), swept, state.ego)


def speed_limit_at(scene: Scene, route_s: Array) -> Array:
    """Speed limit of the route point at or before `route_s` [B], [m/s]; 0 where unknown."""
    step = jnp.hypot(jnp.diff(scene.route_x), jnp.diff(scene.route_y)) * scene.route_valid[:, 1:]
    passed = jnp.sum((jnp.cumsum(step, axis=-1) <= route_s[:, None]) & scene.route_valid[:, 1:], axis=-1)
    return jnp.take_along_axis(scene.route_speed_limit, passed[:, None], axis=-1)[:, 0]


def measure_batch(
    state: State,
    swept: EgoState,
    agents: Agents,
    light_state: Array,
    light_valid: Array,
    config: SimulatorConfig,
    log_valid: Array | None,
) -> tuple[dict[str, Array], Array]:
    """Measures [B, S] and their validity: alive, inside the log, and no terminating event in an earlier sub-step."""
    measures = jax.vmap(lambda *row: measure(*row, config))(state, swept, agents, light_state, light_valid)
    failed = jnp.any(jnp.stack([measures[name] for name in FAILURES]), axis=0).astype(jnp.int32)
    valid = state.alive[:, None] & (jnp.cumsum(failed, axis=-1) - failed == 0)
    return measures, valid if log_valid is None else valid & log_valid


def advance_state(
    state: State,
    action: Action,
    agents: Agents,
    light_state: Array,
    light_valid: Array,
    latent: Any,
    config: SimulatorConfig,
    disagreement: Array | None = None,
    predicted: dict[str, Array] | None = None,
    log_valid: Array | None = None,
) -> tuple[State, Outcome]:
    """Moves a state on by one step: exact ego motion, outcome, bookkeeping.

    Args:
      state: before the step.  action: fields [B, S].
      agents: the others' next boxes, fields [B, A, S]; the ego's row is overwritten.
      light_state, light_valid: [B, L, S], the lights after each sub-step.
      latent: the World's next latent, kept as it is.
      disagreement: float32[B], 0 if None.  predicted: learned heads' dict of [B], {} if None.
      log_valid: bool[B, S] in Worlds that replay: the sub-step lies inside the log. The step that reaches the log's
        end is a truncation: the next one has nothing to replay.
    Returns: the next state; rows that were over before keep theirs, and `alive` ends with termination and truncation.
    """
    swept = sweep(state, action, config)
    agents = replace_row(agents, state.scene.ego, ego_track_of(swept))
    measures, valid = measure_batch(state, swept, agents, light_state, light_valid, config, log_valid)
    outcome = _outcome(state, measures, valid, config)
    swept, route_s = _held((swept, measures["route_s"]), valid)
    agents = replace_row(agents, state.scene.ego, ego_track_of(swept))
    over = state.time + swept.x.shape[-1] >= last_valid_step(state.scene)
    ended = jnp.zeros_like(state.alive) if log_valid is None else over
    outcome = outcome.replace(
        truncation=state.alive & ended & ~outcome.termination,
        disagreement=jnp.zeros_like(outcome.reward) if disagreement is None else disagreement,
        predicted={} if predicted is None else predicted,
    )
    moved = state.replace(
        time=state.time + swept.x.shape[-1],
        ego=swept[:, -1],
        history=state.history.then(agents)[..., -state.history.x.shape[-1] :],
        light_state=light_state[..., -1],
        light_valid=light_valid[..., -1],
        route_s=route_s[:, -1],
        alive=state.alive & ~outcome.termination & ~outcome.truncation,
    )
    return _where_alive(state, moved).replace(latent=latent), outcome


def _held(fields: Any, valid: Array) -> Any:
    """Fields [B, S] held from the last valid sub-step on: the ego rests where an event or the log's end left it."""
    last = jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True) - 1, 0)
    index = jnp.minimum(jnp.arange(valid.shape[-1]), last)
    return jax.tree.map(lambda field: jnp.take_along_axis(field, index, axis=-1), fields)


def _where_alive(state: State, moved: State) -> State:
    """`moved` where the row was alive before the step; the scene never changes."""

    def pick(new, old):
        return jnp.where(state.alive.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

    bare = {"scene": None, "latent": None}
    return jax.tree.map(pick, moved.replace(**bare), state.replace(**bare)).replace(scene=state.scene)


def _outcome(state: State, measures: dict[str, Array], valid: Array, config: SimulatorConfig) -> Outcome:
    terms = reward_terms(measures, valid, speed_limit_at(state.scene, state.route_s), config)
    failed = jnp.any(jnp.stack([jnp.any(measures[name] & valid, axis=-1) for name in FAILURES]), axis=0)
    return Outcome(
        valid=valid,
        **{name: measures[name] & valid for name in OUTCOME_MASKED},
        overlap_m=jnp.where(valid, measures["overlap_m"], 0.0),
        route_offset_m=measures["route_offset_m"],
        progress_m=jnp.where(valid, measures["progress_m"], 0.0),
        ttc_s=measures["ttc_s"],
        reward_terms=terms,
        reward=sum(terms.values()),
        termination=failed,
        truncation=jnp.zeros_like(failed),
        disagreement=jnp.zeros_like(valid[:, 0], jnp.float32),
        predicted={},
    )
