"""The World: what a policy drives in. Read this file first.

The learned model and the simulator are both Worlds, so imagining and grounding are the same loop (`rollout.py`).
Letters: B batch, H imagined or replayed steps, S sub-steps of 0.1 s in one step, A agents, T log steps, L lights.
Functions of a World take exactly one batch axis B and one key per batch row, so that a row's result never depends
on its neighbours.
"""

from typing import Any, Protocol, Self

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Indexed, Observation, Scene

Params = Any


class Track(Indexed):
    """Arrays whose last axis is time."""

    def then(self, later: Self) -> Self:
        """This track, then a later one. Fields [..., K] and [..., S] -> [..., K + S]."""
        return jax.tree.map(lambda field, following: jnp.concatenate([field, following], -1), self, later)


@flax.struct.dataclass
class Action(Indexed):
    """Actions for one step, of the middle of the ego's rear axle (`simulator/dynamics.py`).

    Attributes:
      acceleration: float32[B, S], [m/s^2].
      curvature: float32[B, S], [1/m], left positive.
    """

    acceleration: Array
    curvature: Array


@flax.struct.dataclass
class EgoState(Track):
    """The ego's motion; fields float32[...]. Its place is the box's, its motion the rear axle's (`dynamics.py`).

    Attributes:
      x, y: box centre [m].  heading: [rad].  speed: [m/s], along the heading, never negative.
      acceleration: [m/s^2] and curvature: [1/m], those of the action that led here.
      length, width: [m].
    """

    x: Array
    y: Array
    heading: Array
    speed: Array
    acceleration: Array
    curvature: Array
    length: Array
    width: Array


@flax.struct.dataclass
class Agents(Track):
    """Boxes of all agents over K steps, in the scene's frame; the ego's row holds the ego as driven.

    Attributes:
      x, y, heading, vel_x, vel_y: float32[B, A, K].
      valid: bool[B, A, K].
    """

    x: Array
    y: Array
    heading: Array
    vel_x: Array
    vel_y: Array
    valid: Array

    @property
    def speed(self) -> Array:
        """[m/s], of the shape of the fields."""
        return jnp.hypot(self.vel_x, self.vel_y)

    @property
    def T(self) -> Self:
        """The transpose. Fields [A, K] -> [K, A]."""
        return jax.tree.map(lambda field: field.T, self)


@flax.struct.dataclass
class State:
    """The state of a rollout. All Worlds use this type; only `latent` is a World's own.

    Attributes:
      scene: the `Scene` that the rollout started from (a World reads of it only what its kind may know).
      time: int32[B], log step.
      ego: `EgoState`, fields [B].
      history: `Agents` over the last K = current + 1 steps, the newest last.
      light_state: int32[B, L] and light_valid: bool[B, L], now.
      route_s: float32[B], arc length of the ego along the route [m].
      alive: bool[B], no terminating event so far.
      latent: the World's private state (a pytree; () where there is none). Policies never see it.
    """

    scene: Scene
    time: Array
    ego: EgoState
    history: Agents
    light_state: Array
    light_valid: Array
    route_s: Array
    alive: Array
    latent: Any

    @property
    def now(self) -> Agents:
        """The boxes as they stand, fields [B, A]."""
        return self.history[..., -1]

    def held_lights(self, substeps: int) -> tuple[Array, Array]:
        """State and validity [B, L, S] of lights that stay as they are."""
        return tuple(jnp.repeat(field[..., None], substeps, -1) for field in (self.light_state, self.light_valid))


@flax.struct.dataclass
class Outcome:
    """The outcome of a transition s_t --a_t--> s_{t+1}. Arrays [B, S] are at 10 Hz, arrays [B] cover the whole step.

    Values count only where `valid`: a sub-step is valid while the rollout is alive, up to and including the sub-step
    of the terminating event, and (in Worlds that replay) while the log lasts.

    Attributes:
      valid: bool[B, S].
      collision: bool[B, S], the ego's box overlaps another agent's.
      at_fault: bool[B, S], that collision is the ego's fault.
      off_road: bool[B, S], a corner of the ego's box is beyond a road edge.
      wrong_way: bool[B, S].
      red_light: bool[B, S], the ego's front crossed the stop point of a red light on its route.
      corridor: bool[B, S], more than 4 m of lateral departure from the route.
      uncomfortable: bool[B, S], a comfort bound is exceeded.
      overlap_m: float32[B, S], deepest penetration into another box [m], 0 without collision.
      route_offset_m: float32[B, S], signed lateral offset from the route, left positive.
      progress_m: float32[B, S], metres gained along the route in this sub-step.
      ttc_s: float32[B, S], time to collision at constant velocities, capped.
      reward_terms: dict of float32[B], the weighted terms whose sum is `reward`.
      reward: float32[B].
      termination: bool[B], a terminating event happened in this step: no value follows.
      truncation: bool[B], the log (or the horizon that the World can vouch for) ended: bootstrap.
      disagreement: float32[B], the World's own uncertainty about this step; 0 in simulators.
      predicted: dict of float32[B], what learned heads predict for the step (`reward`, `cont`, probability of
        `at_fault`, `off_road`, `red_light`); empty in Worlds without learned heads.
    """

    valid: Array
    collision: Array
    at_fault: Array
    off_road: Array
    wrong_way: Array
    red_light: Array
    corridor: Array
    uncomfortable: Array
    overlap_m: Array
    route_offset_m: Array
    progress_m: Array
    ttc_s: Array
    reward_terms: dict[str, Array]
    reward: Array
    termination: Array
    truncation: Array
    disagreement: Array
    predicted: dict[str, Array]

    def happened(self, event: str) -> Array:
        """Whether an event of `simulator.events.EVENTS` happened in the step: bool[...] of fields [..., S]."""
        return jnp.any(getattr(self, event) & self.valid, axis=-1)


class World(Protocol):
    """An environment that a policy drives in. Pure; safe under jit, vmap, scan and sharding."""

    def reset(self, params: Params, key: jax.Array, scene: Scene, start: Array) -> State:
        """Starts from the logged history. key: key[B]; start: int32[B], the log step to start from (>= current)."""
        ...

    def observe(self, params: Params, state: State) -> Observation:
        """The input of the policy. Every World returns `simulator.observe.observe(state, ...)`."""
        ...

    def step(self, params: Params, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """Drives one step of S sub-steps. key: key[B]."""
        ...


class Policy(Protocol):
    """A driving policy, learned or scripted."""

    def reset(self, params: Params, scene: Scene) -> Any:
        """The carry at the start of a rollout ([B]-leading pytree). Only the expert may look at the log here."""
        ...

    def act(
        self, params: Params, key: jax.Array, observation: Observation, carry: Any
    ) -> tuple[Action, Any, dict[str, Array]]:
        """Returns the action, the next carry and extras ([B]-leading: `log_prob`, `tokens`, `value`, ...)."""
        ...


@flax.struct.dataclass
class Rollout:
    """A rollout, time-major; step t holds (s_t, a_t, outcome of a_t).

    Attributes:
      observation: `Observation` [H, B, ...], what the policy saw before acting.
      action: `Action` [H, B, S].
      extras: dict of [H, B, ...], the policy's extras.
      outcome: `Outcome` [H, B, ...].
      alive: bool[H, B], alive before the step: the transition counts.
      ego: `EgoState` [H, B, S], the swept ego after each sub-step.
      agents: `Agents` [H, B, A, S], all boxes after each sub-step.
      light_state: int32[H, B, L], at the start of the step.
      final: `Observation` [B, ...], after the last step (for the bootstrap).
      final_extras: dict of [B, ...], the policy's extras at `final`.
    """

    observation: Observation
    action: Action
    extras: dict[str, Array]
    outcome: Outcome
    alive: Array
    ego: EgoState
    agents: Agents
    light_state: Array
    final: Observation
    final_extras: dict[str, Array]
