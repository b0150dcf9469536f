"""A transformer over agent tokens: discrete motions with exact likelihood, drawn for all agents at once.

For each coming step every agent draws one token of `motion_tokens.py` from

    p(token_t | states up to t) = mean over members e of softmax(head_e(hidden_t))
    hidden_t                    = transformer over the agent's own past and what is around it, `tokens_net.py`

Given the states up to t the agents' tokens are independent, so the log-likelihood of a traffic scene is the sum of
theirs. The step itself, the outcome heads, the lights and the disagreement are those of all learned Worlds
(`learned_world.py`). After SMART (arXiv 2405.15677); the loss is in `tokens_loss.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.data.settings import setting
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import State
from tether.worldmodel import tokens_net
from tether.worldmodel.features import Sensed
from tether.worldmodel.guidance import NONREACTIVE, Guide
from tether.worldmodel.heads import Terms
from tether.worldmodel.learned_world import Draw, LearnedWorld, Memory, Reading, Transitions
from tether.worldmodel.motion import estimate_motion, move, standing
from tether.worldmodel.motion_tokens import Vocabulary, mean_controls, token_controls, type_rows
from tether.worldmodel.noise import agent_noise
from tether.worldmodel.tokens_loss import LossConfig, motion_terms
from tether.worldmodel.window import Window


@dataclasses.dataclass(frozen=True)
class TokensConfig:
    """The model's settings.

    Attributes:
      sizes: sizes of the transformer.
      vocabulary: the motion tokens.
      loss: weights of the transformer's loss.
      context: world steps of history before the first transition of a fit; a reset uses the whole history.
      temperature: temperature at which motions are drawn; 1 is what was fitted, 0 the likeliest motion of each agent.
      min_p: motions less likely than this fraction of the likeliest one are never drawn (arXiv 2407.01082), since a
        short fit leaves a little probability on each of the V motions; 0 draws all.
      nonreactive: fraction of the transformer's imagined agents that drive as if the ego were not there, as replayed
        ones do.
    """

    sizes: tokens_net.Sizes = setting(tokens_net.Sizes())
    vocabulary: Vocabulary = setting(Vocabulary())
    loss: LossConfig = setting(LossConfig())
    context: int = 2
    temperature: float = 1.0
    min_p: float = setting(0.1, most=1)
    nonreactive: float = setting(NONREACTIVE, least=0, most=1)

    def build(self, simulator: SimulatorConfig) -> "Tokens":
        """The model for this simulator's step and dynamics."""
        return Tokens(self, simulator)


@dataclasses.dataclass(frozen=True)
class Tokens(LearnedWorld):
    """`WorldModel`. The past in its memory is a `tokens_net.Cache`."""

    config: TokensConfig

    def layers(self, window: Window) -> dict:
        """See `tokens_net.py`."""
        return tokens_net.layers(self.config.sizes, self.config.vocabulary, window)

    def read(self, params: dict, key: jax.Array, rank: Array, window: Window) -> Reading:
        """Runs the transformer over all frames."""
        sizes, seen = self.config.sizes, window.frames.now.valid
        rows, _, agents = seen.shape
        empty = tokens_net.empty_cache(sizes, rows, agents)
        return Reading(*tokens_net.run(params, sizes, window.sensed, seen, empty))

    def draw(self, params: dict, key: jax.Array, state: State, guide: Guide) -> Draw:
        """A token for each agent, from the mixture of the members' distributions."""
        config, simulator, now = self.config, self.simulator, state.now
        before, hidden = state.history[..., -1 - simulator.substeps], state.latent.memory.hidden
        motion, rows = estimate_motion(now, before, simulator.step_s), type_rows(state.scene.agent_type)
        members = tokens_net.motion_log_probs(params, config.vocabulary, hidden, rows)
        uniforms = agent_noise(key, state.latent.rank, (2,))
        mixed = tokens_net.mixture(members)
        tokens = tokens_net.draw_tokens(config.vocabulary, mixed, uniforms, config.temperature, config.min_p)
        acceleration, turn = token_controls(config.vocabulary, tokens, rows)
        acceleration = standing(motion.speed, jnp.minimum(guide.acceleration + acceleration, guide.bound))
        time = simulator.substeps, simulator.dt
        others = move(now, motion, acceleration, guide.turn_rate + turn, *time)
        acceleration, turn = mean_controls(config.vocabulary, members, rows[..., None])
        now, motion, guide = now[..., None], motion[..., None], guide[..., None]
        expected = move(now, motion, guide.acceleration + acceleration, guide.turn_rate + turn, *time)
        return Draw(others, expected, tokens_net.stay_logits(params, hidden))

    def remember(self, params: dict, memory: Memory, choice: tuple, sensed: Sensed, seen: Array) -> Memory:
        """One more step of the transformer."""
        one_frame = sensed[:, None], seen[:, None]
        hidden, cache = tokens_net.run(params, self.config.sizes, *one_frame, memory.past)
        return Memory(hidden[:, 0], cache)

    def motion_terms(self, params: dict, hidden: Array, choices: tuple, transitions: Transitions) -> Terms:
        """See `tokens_loss.py`."""
        config = self.config
        return motion_terms(params, config.vocabulary, config.loss, hidden, transitions, self.simulator.dt)
