"""A transformer over agent tokens: discrete motions with exact likelihood, drawn for all agents at once.

For each coming step every agent draws one token of `motion_tokens.py` from

    p(token_t | states up to t) = mean over members e of softmax(head_e(hidden_t))
    hidden_t                    = transformer over the agent's own past and what is around it, `tokens_net.py`

Nothing here reads the ego's action at t: the ego moves by exact dynamics, and the others sense at t + 1 what it did.
Given the states up to t the agents' tokens are independent, so the log-likelihood of a traffic scene is the sum of
theirs. The outcome heads, the lights and the disagreement are those of all learned models (`heads.py`).
After SMART (arXiv 2405.15677); the loss is in `tokens_loss.py`.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Observation, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import observe
from tether.simulator.transition import advance_state, ego_track_of, replace_row, start_state, sweep
from tether.simulator.world import Action, Agents, Outcome, State
from tether.worldmodel import tokens_net
from tether.worldmodel.batch import ModelBatch, driven_window
from tether.worldmodel.costs import cost_terms, margins
from tether.worldmodel.features import Frame
from tether.worldmodel.heads import Drift, Terms, drift_on, judge, next_lights, no_drift, reduce_terms, spread
from tether.worldmodel.motion import at_step, estimate_motion, move, standing
from tether.worldmodel.motion_tokens import Vocabulary, mean_controls, token_controls, type_rows
from tether.worldmodel.noise import agent_noise, agent_rank
from tether.worldmodel.reflex import reflex
from tether.worldmodel.tokens_closest import closest_boxes
from tether.worldmodel.tokens_loss import MOTION_TERMS, LossConfig, losses
from tether.worldmodel.window import Window, batch_window, history_window, observe_window, sense_frame


@dataclasses.dataclass(frozen=True)
class TokensConfig:
    """The model's settings.

    Attributes:
      sizes: of the networks.
      vocabulary: the motion tokens.
      loss: weights of the loss.
      context: world steps of history before the first transition when fitting; a reset uses all there is.
      temperature: of the draws; 1 is what was fitted, 0 the likeliest motion of each agent.
      reflex: imagined agents brake for what is in their way (`reflex.py`), whatever they drew.
      least_share: motions less likely than this share of the likeliest are never drawn (min-p, arXiv 2407.01082): a
        short fit leaves every one of the V motions a little probability, and all of it together is much.
    """

    sizes: tokens_net.Sizes = dataclasses.field(default_factory=tokens_net.Sizes)
    vocabulary: Vocabulary = dataclasses.field(default_factory=Vocabulary)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    context: int = 2
    temperature: float = 1.0
    reflex: bool = True
    least_share: float = 0.1

    def build(self, simulator: SimulatorConfig) -> "Tokens":
        """The model for this simulator's step and dynamics."""
        return Tokens(self, simulator)


@flax.struct.dataclass
class Latent:
    """What the model remembers.

    Attributes:
      hidden: float32[B, A, D], what the transformer makes of now.
      cache: `tokens_net.Cache`, the steps up to now.
      ego_senses: float32[B, F], what the ego senses now, for the outcome heads.
      light_age: float32[B, L], seconds since each light changed.
      rank: int32[B, A], which noise an agent draws.
      drift: `Drift` [B, A, E], how far the ensemble's members have come apart.
    """

    hidden: Array
    cache: tokens_net.Cache
    ego_senses: Array
    light_age: Array
    rank: Array
    drift: Drift


@dataclasses.dataclass(frozen=True)
class Tokens:
    """`WorldModel`."""

    config: TokensConfig
    simulator: SimulatorConfig

    sees_images = False

    @property
    def span_s(self) -> float:
        """Length of a world step [s]."""
        return self.simulator.substeps * self.simulator.dt

    def init(self, key: jax.Array, batch: ModelBatch) -> dict:
        """Fresh parameters."""
        window = jax.eval_shape(self._batch_window, batch)
        return tokens_net.init_net(key, self.config.sizes, self.config.vocabulary, window)

    def loss(self, params: dict, key: jax.Array, batch: ModelBatch) -> tuple[Array, dict[str, Array]]:
        """Teacher-forced on the logged others and the driven ego, or near them (`LossConfig.closest_of`)."""
        window = self._batch_window(batch)
        truth = jax.tree.map(lambda a: a[:, self.config.context :], window.after)
        terms = self._terms(params, batch, window, truth)
        if self.config.loss.closest_of:
            near = self._terms(params, batch, self._closest_window(params, batch, window, truth), truth)
            # Only the others' motion: the outcomes are those of the logged boxes.
            terms |= {name: near[name] for name in MOTION_TERMS}
        return reduce_terms(terms | cost_terms(self, params, key, batch, self.simulator), {})

    def _terms(self, params: dict, batch: ModelBatch, window: Window, truth: Agents) -> Terms:
        config = self.config
        return losses(params, config.sizes, config.vocabulary, config.loss, batch, window, truth, self.simulator.dt)

    def _closest_window(self, params: dict, batch: ModelBatch, window: Window, truth: Agents) -> Window:
        """The window as the model's others would have driven it, near the log."""
        config, dt = self.config, self.simulator.dt
        boxes = closest_boxes(
            params, config.sizes, config.vocabulary, config.loss.closest_of, batch.scene, window, truth, dt
        )
        before = config.context * self.simulator.substeps
        history = jax.tree.map(lambda a: a[..., : before + 1], driven_window(batch, before, self.simulator))
        joined = jax.tree.map(
            lambda past, new: jnp.concatenate([past, jnp.moveaxis(new, 1, 2).reshape(*past.shape[:2], -1)], -1),
            history,
            boxes,
        )
        return observe_window(joined, batch.scene, batch.start - before, self.simulator.substeps, dt)

    def _batch_window(self, batch: ModelBatch) -> Window:
        return batch_window(batch, self.config.context, self.simulator)

    def reset(self, params: dict, key: jax.Array, scene: Scene, start: Array) -> State:
        """Reads the history."""
        state = start_state(scene, start, latent=())
        window = history_window(state, self.simulator)
        seen, empty = window.frames.now.valid, tokens_net.empty_cache(self.config.sizes, *scene.x.shape[:2])
        hidden, cache = tokens_net.run(params, self.config.sizes, window.sensed, seen, empty)
        rank = agent_rank(at_step(state.history, -1), scene.ego)
        senses, age = window.ego_senses[:, -1], window.frames.light_age[:, -1]
        drift = no_drift(*rank.shape, self.config.sizes.ensemble)
        return state.replace(latent=Latent(hidden[:, -1], cache, senses, age, rank, drift))

    def observe(self, params: dict, state: State) -> Observation:
        """The simulator's view of the imagined state."""
        return observe(state, self.simulator)

    def step(self, params: dict, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """Draws motions for the others, moves the ego, then reads what has become of all."""
        latent, now = state.latent, at_step(state.history, -1)
        others, members = self._others(params, key, state)
        lights, light_age = next_lights(params, key, state, latent.light_age, self.simulator.substeps, self.span_s)
        drift = drift_on(latent.drift, members, now, self.span_s)
        apart = spread(drift, now, state.scene.ego)
        following, outcome = advance_state(state, action, others, *lights, latent, self.simulator, apart)
        # The heads must not see that the simulator stops the ego where it fails: they read the whole swept step.
        swept = sweep(state, action, self.simulator)
        boxes = replace_row(others, state.scene.ego, ego_track_of(swept))
        after = at_step(boxes, -1)
        frame = Frame(after, now, lights[0][..., -1], lights[1][..., -1], light_age)
        sensed, ego_senses = sense_frame(frame, state.scene, self.span_s)
        sensed, seen = jax.tree.map(lambda a: a[:, None], (sensed, after.valid))
        hidden, cache = tokens_net.run(params, self.config.sizes, sensed, seen, latent.cache)
        hidden = hidden[:, 0]
        near = margins(state, swept, boxes, outcome, self.simulator)
        judged = judge(params, state.scene.ego, hidden, (now, after), (latent.ego_senses, ego_senses), near)
        latent = Latent(hidden, cache, ego_senses, light_age, latent.rank, drift)
        return following.replace(latent=latent), outcome.replace(predicted=judged)

    def _others(self, params: dict, key: jax.Array, state: State) -> tuple[Agents, Agents]:
        """What all agents do next, drawn [B, A, S], and what each member expects of them [B, A, E, S]."""
        config, substeps, dt = self.config, self.simulator.substeps, self.simulator.dt
        now, before = at_step(state.history, -1), at_step(state.history, -1 - substeps)
        motion, rows = estimate_motion(now, before, self.span_s), type_rows(state.scene.agent_type)
        members = tokens_net.motion_log_probs(params, config.vocabulary, state.latent.hidden, rows)
        uniforms = agent_noise(key, state.latent.rank, (2,))
        mixed = tokens_net.mixture(members)
        drawn = tokens_net.draw_tokens(config.vocabulary, mixed, uniforms, config.temperature, config.least_share)
        acceleration, turn = token_controls(config.vocabulary, drawn, rows)
        if config.reflex:
            acceleration = jnp.minimum(acceleration, jax.vmap(reflex)(now, state.scene, motion))
        acceleration = standing(motion.speed, acceleration)
        moved = move(now, motion, acceleration, motion.turn_rate + turn, substeps, dt)
        stays = tokens_net.stay_logits(params, state.latent.hidden) > 0
        # Not drawn: an agent must not vanish by chance before the ego.
        moved = moved.replace(valid=moved.valid & stays[..., None])
        acceleration, turn = mean_controls(config.vocabulary, members, rows[..., None])
        now, motion = jax.tree.map(lambda a: a[..., None], (now, motion))
        return moved, move(now, motion, acceleration, motion.turn_rate + turn, substeps, dt)
