"""The flow-matching action head: noise flows into knots along a learned velocity.

Time t runs from 1 (noise e) to 0 (action a): x_t = t e + (1 - t) a, and the network learns the velocity e - a. A
deployed policy follows it by Euler steps. Reinforcement learning draws the same marginals by a stochastic equation,

  dx = (v + sigma^2 / 2t (x + (1 - t) v)) dt + sigma dw,   sigma_t = eta sqrt(t / (1 - t)),

whose few steps are Gaussian: a drawn chain has an exact log-probability, and KLs are exact per step. Both are summed
over the steps and the two numbers of the committed knot, in nats like those of the reasoning's tokens. Flow-GRPO
averages over dimensions because an image has 10^5 of them; a probability ratio needs the sum.

Sources: pi0, arXiv 2410.24164 (the flow and its times); Flow-GRPO, 2505.05470 (the stochastic equation).
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.data.settings import setting
from tether.policy.action_head import Decision, Memory
from tether.policy.action_space import ActionSpace, Waypoints, knot_towards
from tether.policy.expert import ExpertShape
from tether.policy.transformer import Network
from tether.simulator.config import VehicleLimits
from tether.simulator.world import EgoState

UNITS = (2.0, 0.02)  # acceleration [m/s^2] that counts as 1; fraction of kappa_max up to which its scale is linear
Velocity = Callable[[Array, Array], Array]  # from chunks float32[B, M, N, 2] and times float32[B, M]


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """The expert and how it is drawn from.

    Attributes:
      width: width of the flow head's expert, the transformer that gives the velocity.
      layers: layers of the flow head's expert; it reads as many of the backbone's last layers.
      expansion: factor by which the hidden layers of the flow head's expert are wider than the expert.
      steps: Euler steps from noise to action when the policy is deployed.
      drawn_steps: steps of the stochastic differential equation from noise to action when the policy explores.
      noise: amount of noise when the policy explores, eta in sigma_t = eta * sqrt(t / (1 - t)).
      repeats: noisy copies of each demonstrated action in an update.
    """

    width: int = 64
    layers: int = 2
    expansion: int = 2
    steps: int = 10
    drawn_steps: int = 5
    noise: float = setting(0.7, above=0)
    repeats: int = 4


@flax.struct.dataclass
class Chain:
    """The chain that drew the committed knot: float32[B, steps + 1, 2], from noise to the normalised action."""

    x: Array


@flax.struct.dataclass
class NoisyCopies:
    """Noisy copies of a demonstrated chunk; M copies of N knots.

    Attributes:
      x: float32[B, M, N, 2], at `time`: float32[B, M].
      velocity: float32[B, M, N, 2], the label.
    """

    x: Array
    time: Array
    velocity: Array


def transition(x: Array, time: Array, velocity: Array, steps: int, noise: float) -> tuple[Array, Array]:
    """Mean and standard deviation of a step of length 1 / steps of the stochastic equation (see above).

    At t = 1, where sigma is infinite, it is taken as one step later (1 - t = 1 / steps).

    Args: x, velocity: float32[..., 2]; time: float32[...]; noise: eta.
    Returns: float32[..., 2] and float32[..., 1].
    """
    time, length = time[..., None], 1 / steps
    sigma = noise * jnp.sqrt(time / (1 - jnp.minimum(time, 1 - length)))
    drift = velocity + sigma**2 / (2 * time) * (x + (1 - time) * velocity)
    return x - length * drift, sigma * length**0.5


def log_density(x: Array, mean: Array, deviation: Array) -> Array:
    """Log-density of independent normals, summed over the last axis."""
    return jnp.sum(-0.5 * ((x - mean) / deviation) ** 2 - jnp.log(deviation) - 0.5 * jnp.log(2 * jnp.pi), axis=-1)


def times(steps: int) -> Array:
    """float32[steps], where each step begins."""
    return 1 - jnp.arange(steps) / steps


def normalise(knots: Array) -> Array:
    """Knots float32[..., 2] in units of order 1; near straight ahead the scale is as fine as the bins are."""
    return jnp.stack([knots[..., 0] / UNITS[0], jnp.arcsinh(knots[..., 1] / UNITS[1])], axis=-1)


@dataclasses.dataclass(frozen=True)
class FlowHead:
    """See `policy.action_head.ActionHead`."""

    space: ActionSpace
    plan_knots: int
    config: FlowConfig

    bins = ()
    regressed = 0

    def expert(self, heads: int, head_width: int) -> ExpertShape:
        """The network that gives the velocity."""
        config = self.config
        return ExpertShape(config.width, config.layers, config.expansion, 1 + self.plan_knots, heads, head_width)

    def draw(self, network: Network, key: jax.Array, tokens: Array, memory: Memory, temperature: float) -> tuple:
        """Draws the committed knot alone.

        At temperature 0 the velocity is followed from the noise's mean, which needs no key. In one dimension a flow
        keeps order, so the median of the noise ends in the median of the actions. At any other temperature the
        stochastic equation is used, its noise scaled by the temperature.
        """
        steps = self.config.drawn_steps if temperature > 0 else self.config.steps
        velocity = conditioned(network, self._completed(network, tokens, memory))
        keys = jax.vmap(lambda k: jax.random.split(k, steps + 1))(key).T
        normal = jax.vmap(lambda k: jax.random.normal(k, (2,)))
        start = temperature * normal(keys[0])

        def step(x, inputs):
            time, key = inputs
            time = jnp.broadcast_to(time, x.shape[:1])
            v = velocity(x[:, None, None], time[:, None])[:, 0, 0]
            mean, deviation = transition(x, time, v, steps, self.config.noise)
            after = mean + temperature * deviation * normal(key) if temperature > 0 else x - v / steps
            return after, (after, log_density(after, mean, deviation))

        last, (path, log_prob) = jax.lax.scan(step, start, (times(steps), keys[1:]))
        chain = Chain(jnp.concatenate([start[:, None], jnp.swapaxes(path, 0, 1)], axis=1))
        return self._knots(last), chain, log_prob.sum(0)

    def score(self, network: Network, motion: Chain | NoisyCopies, hidden: Array, memory: Memory) -> dict[str, Array]:
        """The log-probability of a chain, all steps in one pass. For noisy copies of a label, minus the squared error
        of the velocity takes its place.

        Returns: `motion_log_prob` [B]; `mean` and `deviation` of the committed knot's steps, [B, M, 2] and [B, M, 1];
          for noisy copies `knot_error` [B, N] as well.
        """
        velocity = conditioned(network, memory)
        if isinstance(motion, Chain):
            return self._score_chain(velocity, motion.x)
        predicted = velocity(motion.x, motion.time)
        error = jnp.sum((predicted - motion.velocity) ** 2, axis=-1).mean(1)
        steps = self.config.drawn_steps
        # No step begins below 1 / steps: sigma would vanish there.
        time = jnp.maximum(motion.time, 1 / steps)
        mean, deviation = transition(motion.x[:, :, 0], time, predicted[:, :, 0], steps, self.config.noise)
        return {"motion_log_prob": -error[:, 0], "knot_error": error, "mean": mean, "deviation": deviation}

    def _score_chain(self, velocity: Velocity, x: Array) -> dict[str, Array]:
        before, after, steps = x[:, :-1], x[:, 1:], x.shape[1] - 1
        time = jnp.broadcast_to(times(steps), before.shape[:2])
        predicted = velocity(before[:, :, None], time)[:, :, 0]
        mean, deviation = transition(before, time, predicted, steps, self.config.noise)
        return {"motion_log_prob": log_density(after, mean, deviation).sum(1), "mean": mean, "deviation": deviation}

    def kl(self, now: dict[str, Array], before: dict[str, Array]) -> Array:
        """The KL of each step of the chain given its start, summed over the steps that are drawn."""
        moved = (now["mean"] - jax.lax.stop_gradient(before["mean"])) / now["deviation"]
        return self.config.drawn_steps * jnp.sum(0.5 * moved**2, axis=-1).mean(1)

    def plan(self, network: Network, hidden: Array, memory: Memory) -> Array:
        """The rest of the chunk, drawn as at temperature 0."""
        steps, velocity = self.config.steps, conditioned(network, memory)

        def step(x, time):
            return x - velocity(x, jnp.broadcast_to(time, x.shape[:2])) / steps, None

        start = jnp.zeros((hidden.shape[0], 1, 1 + self.plan_knots, 2))
        chunk, _ = jax.lax.scan(step, start, times(steps))
        return self._knots(chunk[:, 0, 1:])

    def towards(self, ego: EgoState, waypoints: Waypoints, limits: VehicleLimits) -> Array:
        """The nearest knot: this head can decide for any."""
        return knot_towards(self.space, ego, waypoints, limits)

    def demonstrate(self, key: jax.Array, knots: Array) -> tuple[Array, Decision]:
        """Noisy copies at times drawn from Beta(1.5, 1) * 0.999 + 0.001."""
        clean = normalise(knots)[:, None]

        def draw(key: jax.Array) -> tuple[Array, Array]:
            k_time, k_noise = jax.random.split(key)
            uniform = jax.random.uniform(k_time, (self.config.repeats,))
            return 0.001 + 0.999 * uniform ** (1 / 1.5), jax.random.normal(k_noise, (len(uniform), *knots.shape[1:]))

        time, noise = jax.vmap(draw)(key)
        level = time[..., None, None]
        copies = NoisyCopies(level * noise + (1 - level) * clean, time, noise - clean)
        return knots[:, 0], Decision(jnp.zeros((len(knots), 0), jnp.int32), copies)

    def errors(self, scores: dict[str, Array], plan: Array, valid: Array) -> dict[str, Array]:
        """Squared errors of the velocity: of the committed knot, and the mean over the later ones."""
        later = jnp.where(valid, scores["knot_error"][:, 1:], 0.0)
        return {
            "action_error": scores["knot_error"][:, 0],
            "plan_error": later.sum(-1) / jnp.maximum(valid.sum(-1), 1),
        }

    def _completed(self, network: Network, tokens: Array, memory: Memory) -> Memory:
        """The memory, completed by the last token."""
        _, cache = network.suffix(tokens[:, -1:], tokens.shape[1], memory.cache, memory.visible)
        return memory.replace(cache=cache)

    def _knots(self, x: Array) -> Array:
        """The inverse of `normalise`, clipped to the action space."""
        acceleration = jnp.clip(x[..., 0] * UNITS[0], self.space.accelerations[0], self.space.accelerations[-1])
        return jnp.stack([acceleration, jnp.clip(UNITS[1] * jnp.sinh(x[..., 1]), -1.0, 1.0)], axis=-1)


def conditioned(network: Network, memory: Memory) -> Velocity:
    """The velocity field, conditioned on a memory."""
    suffix = jnp.ones((memory.visible.shape[0], network.shape.slots), bool)
    seen = jnp.concatenate([memory.visible, suffix], axis=-1)
    return lambda x, time: network.expert(x, time, memory.cache, seen)
