"""A recurrent state-space model of traffic with discrete stochastic latents, one per agent.

Each agent carries a memory h and draws an intention z, a set of categoricals, for each coming step:

    prior      p(z_t | h_t)                  imagination draws from it
    posterior  q(z_t | h_t, motion t..t+1)   fitting, and the history at reset, draw from it
    decoder    motion t..t+1 from (h_t, z_t) acceleration and turn rate on top of lane following
    memory     h_{t+1} = GRU(h_t, z_t, what the agent senses at t + 1)

The step itself, the outcome heads, the lights and the disagreement are those of all learned Worlds
(`learned_world.py`). After DreamerV3 (arXiv 2301.04104); the networks are in `rssm_net.py`, the loss in `rssm_loss.py`.
"""

import dataclasses

import jax

from tether.data.scene import Array
from tether.data.settings import setting
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import State
from tether.worldmodel import rssm_net
from tether.worldmodel.features import Sensed
from tether.worldmodel.guidance import NONREACTIVE, Guide
from tether.worldmodel.heads import Terms
from tether.worldmodel.learned_world import Draw, LearnedWorld, Memory, Reading, Transitions
from tether.worldmodel.noise import agent_noise
from tether.worldmodel.rssm_loss import LossConfig, kl_terms, motion_terms
from tether.worldmodel.window import Window


@dataclasses.dataclass(frozen=True)
class RSSMConfig:
    """The model's settings.

    Attributes:
      sizes: sizes of the RSSM's networks.
      loss: weights of the RSSM's loss.
      context: world steps of history that warm up the RSSM's memory in a fit; a reset uses the whole history.
      nonreactive: fraction of the RSSM's imagined agents that drive as if the ego were not there, as replayed ones do.
    """

    sizes: rssm_net.Sizes = setting(rssm_net.Sizes())
    loss: LossConfig = setting(LossConfig())
    context: int = 2
    nonreactive: float = setting(NONREACTIVE, least=0, most=1)

    def build(self, simulator: SimulatorConfig) -> "RSSM":
        """The model for this simulator's step and dynamics."""
        return RSSM(self, simulator)


@dataclasses.dataclass(frozen=True)
class RSSM(LearnedWorld):
    """`WorldModel`. A choice is an intention, float32[..., A, G * C]; fitting also keeps the posterior's chances."""

    config: RSSMConfig

    @property
    def scales(self) -> dict[str, float]:
        """Factors of the KL terms."""
        return self.config.loss.scales

    def layers(self, window: Window) -> dict:
        """See `rssm_net.py`."""
        return rssm_net.layers(self.config.sizes, window)

    def read(self, params: dict, key: jax.Array, rank: Array, window: Window) -> Reading:
        """Warms the memory up, with intentions from the posterior."""
        sizes, seen = self.config.sizes, window.frames.now.valid
        uniforms = agent_noise(key, rank, (window.evidence.shape[1], sizes.groups))
        embedded = rssm_net.embed(params, sizes, window.sensed)
        hidden, *choices = rssm_net.filter_frames(params, sizes, embedded, seen, window.evidence, uniforms)
        return Reading(hidden, choices=choices)

    def draw(self, params: dict, key: jax.Array, state: State, guide: Guide) -> Draw:
        """Intentions from the prior, decoded."""
        sizes, simulator, hidden = self.config.sizes, self.simulator, state.latent.memory.hidden
        uniforms = agent_noise(key, state.latent.rank, (sizes.groups,))
        stoch = rssm_net.sample(rssm_net.log_probabilities(params["prior"], hidden, sizes), uniforms)
        before = state.history[..., -1 - simulator.substeps]
        motion = rssm_net.decode(params, hidden, stoch, state.now, before, guide, simulator.substeps, simulator.dt)
        return Draw(motion.mean, motion.members, motion.stay, stoch)

    def remember(self, params: dict, memory: Memory, choice: Array, sensed: Sensed, seen: Array) -> Memory:
        """One step of the GRU."""
        embedded = rssm_net.embed(params, self.config.sizes, sensed)
        return Memory(rssm_net.remember(params, memory.hidden, choice, embedded, seen))

    def motion_terms(
        self, params: dict, hidden: Array, choices: tuple[Array, Array], transitions: Transitions
    ) -> Terms:
        """Likelihood of the motion given the posterior's intentions, and the KL between posterior and prior."""
        sizes, config, start = self.config.sizes, self.config.loss, transitions.start
        stoch, posterior = choices
        prior = rssm_net.log_probabilities(params["prior"], hidden, sizes)
        simulator = self.simulator
        boxes, time = (start.now, start.before), (simulator.substeps, simulator.dt)
        motion = rssm_net.decode(params, hidden, stoch, *boxes, transitions.guide, *time)
        return {
            **motion_terms(motion, transitions, config.still_weight),
            **kl_terms(prior, posterior, transitions.others, config.free_nats),
        }
