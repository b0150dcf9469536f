"""A recurrent state-space model of traffic with discrete stochastic latents, one per agent.

Each agent carries a memory h and draws an intention z, a set of categoricals, for each coming step:

    prior      p(z_t | h_t)                  imagination draws from it
    posterior  q(z_t | h_t, motion t..t+1)   fitting, and the history at reset, draw from it
    decoder    motion t..t+1 from (h_t, z_t) acceleration and turn rate on top of constant turn rate and speed
    memory     h_{t+1} = GRU(h_t, z_t, what the agent senses at t + 1)

Nothing here reads the ego's action at t: the ego moves by exact dynamics, and the others sense at t + 1 what it did.
The reward head reads the ego's memory at t + 1 and its senses at t and t + 1; costs and cont are those of `costs.py`.
The ensemble of motion heads gives the disagreement.
After DreamerV3 (arXiv 2301.04104); the networks are in `rssm_net.py`, the loss in `rssm_loss.py`.
"""

import dataclasses

import flax.struct
import jax

from tether.data.scene import Array, Observation, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import observe
from tether.simulator.transition import advance_state, ego_track_of, replace_row, start_state, sweep
from tether.simulator.world import Action, Agents, Outcome, State
from tether.worldmodel import rssm_net
from tether.worldmodel.batch import ModelBatch, driven_window
from tether.worldmodel.costs import cost_terms, margins
from tether.worldmodel.features import Frame
from tether.worldmodel.heads import Drift, drift_on, judge, next_lights, no_drift, reduce_terms, spread
from tether.worldmodel.motion import at_step, estimate_motion
from tether.worldmodel.noise import agent_noise, agent_rank
from tether.worldmodel.reflex import reflex
from tether.worldmodel.rssm_loss import LossConfig, losses
from tether.worldmodel.view import step_view, view_width, window_view
from tether.worldmodel.window import Window, batch_window, history_boxes, history_window, sense_frame


@dataclasses.dataclass(frozen=True)
class RSSMConfig:
    """The model's settings.

    Attributes:
      sizes: of the networks.
      loss: weights of the loss.
      context: world steps of history that warm the memory up when fitting; a reset uses all there is.
      reflex: imagined agents brake for what is in their way (`reflex.py`), whatever the model says.
      view_cell: the ego also sees its BEV image, as means over cells of so many pixels (`view.py`); 0 for no image.
    """

    sizes: rssm_net.Sizes = dataclasses.field(default_factory=rssm_net.Sizes)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    context: int = 2
    reflex: bool = True
    view_cell: int = 0

    def build(self, simulator: SimulatorConfig) -> "RSSM":
        """The model for this simulator's step and dynamics."""
        return RSSM(self, simulator)


@flax.struct.dataclass
class Latent:
    """What the model remembers.

    Attributes:
      memory: float[B, A, D], in the networks' type.
      ego_senses: float32[B, F], what the ego senses now, for the outcome heads.
      light_age: float32[B, L], seconds since each light changed.
      rank: int32[B, A], which noise an agent draws.
      drift: `Drift` [B, A, E], how far the ensemble's members have come apart.
    """

    memory: Array
    ego_senses: Array
    light_age: Array
    rank: Array
    drift: Drift


@dataclasses.dataclass(frozen=True)
class RSSM:
    """`WorldModel`."""

    config: RSSMConfig
    simulator: SimulatorConfig

    @property
    def sees_images(self) -> bool:
        """Whether the ego's BEV image is an input."""
        return self.config.view_cell > 0

    @property
    def span_s(self) -> float:
        """Length of a world step [s]."""
        return self.simulator.substeps * self.simulator.dt

    def init(self, key: jax.Array, batch: ModelBatch) -> dict:
        """Fresh parameters."""
        view = view_width(self.simulator, self.config.view_cell) if self.config.view_cell else 0
        return rssm_net.init_net(key, self.config.sizes, jax.eval_shape(self._batch_window, batch), view)

    def loss(self, params: dict, key: jax.Array, batch: ModelBatch) -> tuple[Array, dict[str, Array]]:
        """Teacher-forced on the logged others and the driven ego."""
        window = self._batch_window(batch)
        now = jax.tree.map(lambda a: a[:, self.config.context], window.frames.now)
        shape = (window.evidence.shape[1], self.config.sizes.groups)
        keys = jax.random.split(key, batch.start.shape[0])
        uniforms = agent_noise(keys, agent_rank(now, batch.scene.ego), shape)
        before = self.config.context * self.simulator.substeps
        view = self._view(driven_window(batch, before, self.simulator), batch.scene, batch.start - before)
        terms = losses(params, self.config.sizes, self.config.loss, batch, window, uniforms, self.simulator.dt, view)
        terms |= cost_terms(self, params, key, batch, self.simulator)
        return reduce_terms(terms, self.config.loss.scales)

    def _batch_window(self, batch: ModelBatch) -> Window:
        return batch_window(batch, self.config.context, self.simulator)

    def _view(self, boxes: Agents, scene: Scene, first: Array) -> Array | None:
        """What the ego sees at each frame of a window [B, F, V], if the model has an image."""
        if not self.config.view_cell:
            return None
        return window_view(boxes, scene, first, self.simulator, self.config.view_cell)

    def reset(self, params: dict, key: jax.Array, scene: Scene, start: Array) -> State:
        """Warms the memory up on the history, with intentions from the posterior."""
        state = start_state(scene, start, latent=())
        window = history_window(state, self.simulator)
        rank = agent_rank(at_step(state.history, -1), scene.ego)
        uniforms = agent_noise(key, rank, (window.evidence.shape[1], self.config.sizes.groups))
        boxes, first = history_boxes(state, self.simulator)
        view = self._view(boxes, scene, first)
        embedded = rssm_net.embed(params, self.config.sizes, window.sensed, view, scene.ego[:, None])
        seen = window.frames.now.valid
        memory, _, _ = rssm_net.filter_frames(params, self.config.sizes, embedded, seen, window.evidence, uniforms)
        senses, age = window.ego_senses[:, -1], window.frames.light_age[:, -1]
        drift = no_drift(*rank.shape, self.config.sizes.ensemble)
        return state.replace(latent=Latent(memory[:, -1], senses, age, rank, drift))

    def observe(self, params: dict, state: State) -> Observation:
        """The simulator's view of the imagined state."""
        return observe(state, self.simulator)

    def step(self, params: dict, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """Draws intentions, moves the others, then the ego, then senses what has become of it."""
        latent, now = state.latent, at_step(state.history, -1)
        uniforms = agent_noise(key, latent.rank, (self.config.sizes.groups,))
        stoch = rssm_net.sample(rssm_net.log_probabilities(params["prior"], latent.memory, self.config.sizes), uniforms)
        before = at_step(state.history, -1 - self.simulator.substeps)
        bound = None
        if self.config.reflex:
            bound = jax.vmap(reflex)(now, state.scene, estimate_motion(now, before, self.span_s))
        predicted = rssm_net.decode(
            params, latent.memory, stoch, now, before, self.simulator.substeps, self.simulator.dt, bound
        )
        stays = (predicted.stay > 0)[..., None]  # not drawn: an agent must not vanish by chance before the ego
        others = predicted.mean.replace(valid=predicted.mean.valid & stays)
        lights, light_age = next_lights(params, key, state, latent.light_age, self.simulator.substeps, self.span_s)
        drift = drift_on(latent.drift, predicted.members, now, self.span_s)
        apart = spread(drift, now, state.scene.ego)
        following, outcome = advance_state(state, action, others, *lights, latent, self.simulator, apart)
        # The heads must not see that the simulator stops the ego where it fails: they read the whole swept step.
        swept = sweep(state, action, self.simulator)
        boxes = replace_row(others, state.scene.ego, ego_track_of(swept))
        after = at_step(boxes, -1)
        sensed, ego_senses = sense_frame(
            Frame(after, now, lights[0][..., -1], lights[1][..., -1], light_age), state.scene, self.span_s
        )
        view = None
        if self.config.view_cell:
            view = step_view(state, swept, boxes, lights, self.simulator, self.config.view_cell)
        embedded = rssm_net.embed(params, self.config.sizes, sensed, view, state.scene.ego)
        memory = rssm_net.remember(params, latent.memory, stoch, embedded, after.valid)
        near = margins(state, swept, boxes, outcome, self.simulator)
        judged = judge(params, state.scene.ego, memory, (now, after), (latent.ego_senses, ego_senses), near)
        latent = Latent(memory, ego_senses, light_age, latent.rank, drift)
        return following.replace(latent=latent), outcome.replace(predicted=judged)
