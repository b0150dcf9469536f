"""The coach: a small privileged policy that learns from consequences alone, and that others may learn from.

It sees lists of objects (`coach_sight.py`) instead of an image, so that millions of decisions cost minutes of a CPU
core. In the field's words it is a privileged expert. Two distributions, of the acceleration and of the curvature, over
the bins of the action space: a discretised normal distribution, so that neighbouring bins learn from each other, plus
logits of their own. Actor and critic share nothing; the critic sees all agents, whatever the actor sees.
Letters: B batch, K agents, E and F numbers (`Sight`), NA and NK bins, D width.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from tether.data.scene import Array, Observation, Scene
from tether.policy.action_space import ActionSpace, drive_to, knot_of
from tether.policy.coach_sight import AGENT_NUMBERS, EGO_NUMBERS, Sight, sight_of
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Params

WIDE = 2.5  # bins; standard deviation of both distributions at first
VALUE_SCALE = 10.0  # of returns: networks like numbers around 1
NARROW = 0.3  # bins; no distribution is narrower


@dataclasses.dataclass(frozen=True)
class CoachConfig:
    """Size and eyes of the coach.

    Attributes:
      width: width of the coach's layers.
      agent_width: width of the layers that read each agent.
      agents: number of agents that the coach reads, the nearest first.
      sees: agents that the coach's actor sees, `all` or those within the range of the `image` that the VLA sees.
      decides: decision without chance, the `mean` of the distributions or their `likeliest` bins.
    """

    width: int = 128
    agent_width: int = 64
    agents: int = 12
    sees: Literal["all", "image"] = "all"
    decides: Literal["mean", "likeliest"] = "mean"

    def build(self, simulator: SimulatorConfig, space: ActionSpace | None = None) -> "Coach":
        """The policy for this simulator's sub-steps. Args: space: of its actions; the default one if None."""
        return Coach(self, simulator, space or ActionSpace())


class Reader(nnx.Module):
    """Reads a `Sight`, whatever the order of its agents: a maximum and a sum over them, beside the ego's numbers."""

    def __init__(self, config: CoachConfig, rngs: nnx.Rngs):
        width, narrow = config.width, config.agent_width
        self.agent = nnx.Linear(AGENT_NUMBERS, narrow, rngs=rngs)
        self.agent_again = nnx.Linear(narrow, narrow, rngs=rngs)
        self.ego = nnx.Linear(EGO_NUMBERS, width, rngs=rngs)
        self.joined = nnx.Linear(2 * narrow + width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, ego: Array, agents: Array, mask: Array) -> Array:
        """float32[B, E], float32[B, K, F], bool[B, K] -> float32[B, D]."""
        each = jnp.tanh(self.agent_again(jax.nn.relu(self.agent(agents))))
        mask = mask[..., None]
        pooled = [jnp.where(mask, each, -1.0).max(-2), jnp.where(mask, each, 0.0).sum(-2) / 4]
        joined = jnp.concatenate([*pooled, jax.nn.relu(self.ego(ego))], -1)
        return jax.nn.relu(self.out(jax.nn.relu(self.joined(joined))))


class CoachNetwork(nnx.Module):
    """Actor and critic."""

    def __init__(self, config: CoachConfig, bins: int, rngs: nnx.Rngs):
        self.actor = Reader(config, rngs)
        self.critic = Reader(config, rngs)
        small = nnx.initializers.normal(0.01)
        self.decide = nnx.Linear(config.width, bins + 4, kernel_init=small, rngs=rngs)
        self.value = nnx.Linear(config.width, 1, kernel_init=small, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Coach:
    """A `simulator.world.Policy`; pure. Made by `CoachConfig.build`.

    Attributes:
      config: see there.   simulator: what it drives in.   space: of its actions.
      draws: whether it draws its decisions; otherwise it drives as `CoachConfig.decides` says.
    """

    config: CoachConfig
    simulator: SimulatorConfig
    space: ActionSpace
    draws: bool = True

    @property
    def deployed(self) -> "Coach":
        """The same policy, without chance."""
        return dataclasses.replace(self, draws=False)

    def init(self, key: jax.Array) -> Params:
        """Random parameters: a plain tree of float32 arrays."""
        network = CoachNetwork(self.config, sum(self.space.shape), nnx.Rngs(params=key))
        return nnx.to_pure_dict(nnx.state(network))

    def reset(self, params: Params, scene: Scene) -> tuple[()]:
        """No carry."""
        return ()

    def act(self, params: Params, key: jax.Array, observation: Observation, carry: tuple) -> tuple:
        """Decides. key: key[B].

        Returns: `Action` [B, S], (), and extras: sight: `Sight` [B], tokens: int32[B, 2], the bins of acceleration and
          curvature, log_prob: float32[B] of them, value: float32[B]; knot: float32[B, 2] (`action_space.py`).
        """
        sight = self.look(observation)
        scores = self.evaluate(params, sight)
        space, bins = self.space, (scores["acceleration"], scores["curvature"])
        if self.draws:
            keys = jax.vmap(lambda k: jax.random.split(k))(key).T
            drawn = [jax.vmap(jax.random.categorical)(k, logits) for k, logits in zip(keys, bins, strict=True)]
        else:
            drawn = [jnp.argmax(logits, -1) for logits in bins]
        tokens = jnp.stack(drawn, -1)
        mean = not self.draws and self.config.decides == "mean"
        knot = self.mean(scores) if mean else knot_of(space, tokens)
        extras = {"sight": sight, "tokens": tokens, "log_prob": log_prob(scores, tokens), "knot": knot}
        action = drive_to(space, knot, observation.ego, self.simulator.substeps)
        return action, (), extras | {"value": scores["value"]}

    def look(self, observation: Observation) -> Sight:
        """What the coach sees of `Observation` [B, ...]."""
        render = self.simulator.render if self.config.sees == "image" else None
        return jax.vmap(lambda one: sight_of(one, self.space, self.config.agents, render))(observation)

    def evaluate(self, params: Params, sight: Sight) -> dict[str, Array]:
        """Log-probabilities of all bins and the value.

        Args: sight: fields [B, ...].
        Returns: acceleration float32[B, NA] and curvature float32[B, NK], normalised; value float32[B].
        """
        network = nnx.merge(_graph(self), nnx.State(params))
        out = network.decide(network.actor(sight.ego, sight.agents, sight.seen))
        bins = self.space.shape
        parts = jnp.split(out, [bins[0], sum(bins), sum(bins) + 2], axis=-1)
        centre, spread = parts[2], NARROW + jax.nn.softplus(parts[3] + WIDE)
        straight = self.space.accelerations.index(0.0), bins[1] // 2
        logits = [
            own - 0.5 * jnp.square((jnp.arange(n) - zero - n / 2 * centre[:, i : i + 1]) / spread[:, i : i + 1])
            for i, (own, n, zero) in enumerate(zip(parts[:2], bins, straight, strict=True))
        ]
        value = network.value(network.critic(sight.ego, sight.agents, sight.exists))[..., 0] * VALUE_SCALE
        acceleration, curvature = map(jax.nn.log_softmax, logits)
        return {"acceleration": acceleration, "curvature": curvature, "value": value}

    def mean(self, scores: dict[str, Array]) -> Array:
        """The knot float32[B, 2] that the distributions of `evaluate` mean."""
        space = self.space
        means = jnp.exp(scores["acceleration"]) @ space.acceleration_bins()
        return jnp.stack([means, jnp.exp(scores["curvature"]) @ space.curvature_fractions()], -1)


def log_prob(scores: dict[str, Array], tokens: Array) -> Array:
    """Log-probability float32[B] of tokens int32[B, 2]. Args: scores: of `Coach.evaluate`."""
    parts = scores["acceleration"], scores["curvature"]
    return sum(jnp.take_along_axis(part, tokens[:, i : i + 1], -1)[:, 0] for i, part in enumerate(parts))


def entropy(scores: dict[str, Array]) -> Array:
    """Entropy float32[B] of both distributions together [nats]. Args: scores: of `Coach.evaluate`."""
    return sum(-jnp.sum(jnp.exp(part) * part, -1) for part in (scores["acceleration"], scores["curvature"]))


@functools.cache
def _graph(coach: Coach) -> Any:
    return nnx.split(nnx.eval_shape(lambda: CoachNetwork(coach.config, sum(coach.space.shape), nnx.Rngs(0))))[0]
