"""A learned World's reset, step and loss, written once. A model adds its networks.

The networks' memory of each agent gives the others' motion; everything else is the same for every such model:

    reset   the logged history is read
    step    lights change, the others are drawn, the ego moves by exact dynamics, the simulator measures the outcome;
            then the networks read the new boxes, and the heads predict the outcome of the step
    loss    teacher-forced on the logged others and the driven ego, with the losses of the heads

A model inherits `LearnedWorld` and supplies `layers`, `read`, `draw`, `remember` and `motion_terms`. None of these is
given the ego's action: the others at t + 1 follow from states up to t, and sense at t + 1 what the ego did.
Letters: B batch, F frames (one per world step), H transitions, A agents, S sub-steps, D memory, E ensemble members,
L lights.
"""

import abc
import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import Observed
from tether.simulator.transition import advance_state, ego_track_of, replace_row, start_state, sweep
from tether.simulator.world import Action, Agents, Outcome, State
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.costs import cost_terms, margins
from tether.worldmodel.features import Frame, Sensed
from tether.worldmodel.guidance import Guide, Habits, draw_habits, guide_frames
from tether.worldmodel.heads import (
    Drift,
    Terms,
    advance_drift,
    counted_steps,
    disagreement,
    light_terms,
    next_lights,
    no_drift,
    predict_outcome,
    reduce_terms,
    reward_terms,
)
from tether.worldmodel.nets import draw
from tether.worldmodel.noise import agent_rank
from tether.worldmodel.window import Window, batch_window, history_window, sense_frame, with_guide


@flax.struct.dataclass
class Memory:
    """The networks' memory of the steps so far.

    Attributes:
      hidden: float[B, A, D], of each agent, in the networks' type; the reward head reads the ego's.
      past: what else the networks need of earlier steps, a pytree; () for nothing.
    """

    hidden: Array
    past: Any = ()


@flax.struct.dataclass
class Latent:
    """A learned World's private state.

    Attributes:
      memory: `Memory`.
      ego_senses: float32[B, features], what the ego senses now, for the outcome heads.
      light_age: float32[B, L], seconds since each light changed.
      rank: int32[B, A], index of an agent's noise, see `noise.agent_noise`.
      drift: `Drift` [B, A, E], how far the ensemble's members have diverged.
      habits: `Habits` [B, A]; guide: `Guide` [B, A], what the ways ahead ask now.
    """

    memory: Memory
    ego_senses: Array
    light_age: Array
    rank: Array
    drift: Drift
    habits: Habits
    guide: Guide


@flax.struct.dataclass
class Reading:
    """The networks' output for a window of observed frames.

    Attributes:
      hidden: float[B, F, A, D], as in `Memory`.
      past: as in `Memory`, after the last frame.
      choices: the draws for the step after each frame but the last, a pytree of [B, F - 1, ...]; () for nothing.
    """

    hidden: Array
    past: Any = ()
    choices: Any = ()


@flax.struct.dataclass
class Draw:
    """The others' motion in a step.

    Attributes:
      others: `Agents` [B, A, S], as drawn.
      members: `Agents` [B, A, E, S], as each member of the ensemble predicts them.
      stay: float32[B, A], logit of still being seen after the step.
      choice: what `remember` reads of the draw, a pytree of [B, A, ...]; () for nothing.
    """

    others: Agents
    members: Agents
    stay: Array
    choice: Any = ()


@flax.struct.dataclass
class Transitions:
    """The transitions that a model is fitted on.

    Attributes:
      start: `Frame` [B, H], before each step.
      guide: `Guide` [B, H, A], what the ways ahead ask.
      after: `Agents` [B, H, A, S], what followed.
      agent_type: int32[B, A], `AgentType`.
      others: bool[B, H, A], the agents whose motion counts.
    """

    start: Frame
    guide: Guide
    after: Agents
    agent_type: Array
    others: Array


@dataclasses.dataclass(frozen=True)
class LearnedWorld(Observed, abc.ABC):
    """`WorldModel` of networks that remember each agent.

    Attributes:
      config: the model's settings; `context`, `nonreactive` and `sizes.ensemble` are among them.
      simulator: step, dynamics and outcome.
    """

    config: Any
    simulator: SimulatorConfig

    sees_images = False

    @property
    def scales(self) -> dict[str, float]:
        """Factors of those terms of the loss whose factor is not 1."""
        return {}

    @abc.abstractmethod
    def layers(self, window: Window) -> dict:
        """The weights of the networks and heads for `nets.draw`; the window gives the widths of the inputs."""

    @abc.abstractmethod
    def read(self, params: dict, key: jax.Array, rank: Array, window: Window) -> Reading:
        """Reads observed frames. key: key[B]; rank: int32[B, A], for `noise.agent_noise`."""

    @abc.abstractmethod
    def draw(self, params: dict, key: jax.Array, state: State, guide: Guide) -> Draw:
        """Draws the others' motion. key: key[B]; guide: `Guide` [B, A], what their ways ask."""

    @abc.abstractmethod
    def remember(self, params: dict, memory: Memory, choice: Any, sensed: Sensed, seen: Array) -> Memory:
        """The memory after a step. choice: of the `Draw`; sensed: `Sensed` [B, A], after it; seen: bool[B, A]."""

    @abc.abstractmethod
    def motion_terms(self, params: dict, hidden: Array, choices: Any, transitions: Transitions) -> Terms:
        """The loss of the others' motion. hidden: float[B, H, A, D], before each step; choices: see `Reading`."""

    def init(self, key: jax.Array, batch: ModelBatch) -> dict:
        """Fresh parameters."""
        return draw(key, self.layers(jax.eval_shape(self._window, batch)))

    def loss(self, params: dict, key: jax.Array, batch: ModelBatch) -> tuple[Array, dict[str, Array]]:
        """See `WorldModel.loss`."""
        context, scene, window = self.config.context, batch.scene, self._window(batch)
        keys = jax.random.split(key, len(batch.start))
        reading = self.read(params, keys, agent_rank(window.frames.now[:, context], scene.ego), window)
        inputs = (window.frames, reading.hidden, window.ego_senses, reading.choices, window.after, window.guide)
        frames, hidden, senses, choices, after, guide = jax.tree.map(lambda a: a[:, context:], inputs)
        start, end, counted = frames[:, :-1], frames[:, 1:], counted_steps(batch, self.simulator.substeps)
        is_other = jnp.arange(scene.x.shape[1]) != scene.ego[:, None, None]
        others = start.now.valid & counted[..., None] & is_other
        transitions = Transitions(start, guide[:, :-1], after, scene.agent_type, others)
        terms = {
            **self.motion_terms(params, hidden[:, :-1], choices, transitions),
            **light_terms(params, start, end, counted),
            **reward_terms(params, hidden, senses, frames, batch),
            **cost_terms(self, params, key, batch, self.simulator),
        }
        return reduce_terms(terms, self.scales)

    def reset(self, params: dict, key: jax.Array, scene: Scene, start: Array) -> State:
        """Reads the logged history."""
        state = start_state(scene, start, latent=())
        rank = agent_rank(state.now, scene.ego)
        habits = draw_habits(key, rank, state, self.simulator, self.config.nonreactive)
        window = history_window(state, self.simulator, habits)
        reading = self.read(params, key, rank, window)
        memory = Memory(reading.hidden[:, -1], reading.past)
        drift = no_drift(*rank.shape, self.config.sizes.ensemble)
        senses, light_age = window.ego_senses[:, -1], window.frames.light_age[:, -1]
        latent = Latent(memory, senses, light_age, rank, drift, habits, window.guide[:, -1])
        return state.replace(latent=latent)

    def step(self, params: dict, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """Draws the others, moves the ego, then reads the new boxes."""
        latent, now, scene, simulator = state.latent, state.now, state.scene, self.simulator
        drawn = self.draw(params, key, state, latent.guide)
        stays = (drawn.stay > 0)[..., None]  # not drawn: an agent must not vanish by chance in front of the ego
        others = drawn.others.replace(valid=drawn.others.valid & stays)
        lights, light_age = next_lights(params, key, state, latent.light_age, simulator)
        drift = advance_drift(latent.drift, drawn.members, now, simulator.step_s)
        spread = disagreement(drift, now, scene.ego)
        following, outcome = advance_state(state, action, others, *lights, latent, simulator, spread)
        # The heads must not see that the simulator stops the ego where it fails: they read the whole swept step.
        swept = sweep(state, action, simulator)
        boxes = replace_row(others, scene.ego, ego_track_of(swept))
        after = boxes[..., -1]
        frame = Frame(after, now, *(field[..., -1] for field in lights), light_age)
        sensed, ego_senses = sense_frame(frame, scene, simulator.step_s)
        guide = guide_frames(frame[:, None], scene, latent.habits[:, None], simulator)[:, 0]
        sensed = with_guide(sensed, guide, after.valid)
        memory = self.remember(params, latent.memory, drawn.choice, sensed, after.valid)
        near = margins(state, swept, boxes, outcome, simulator)
        senses = (latent.ego_senses, ego_senses)
        predicted = predict_outcome(params, scene.ego, memory.hidden, (now, after), senses, near)
        latent = Latent(memory, ego_senses, light_age, latent.rank, drift, latent.habits, guide)
        return following.replace(latent=latent), outcome.replace(predicted=predicted)

    def _window(self, batch: ModelBatch) -> Window:
        return batch_window(batch, self.config.context, self.simulator)
