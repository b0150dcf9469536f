"""The vision-language-action policy: sees a BEV image, reads an instruction, says why, then acts.

Per step it emits K = 6 tokens, each conditioned on those before: longitudinal decision, lateral decision, cause,
distance (ids of `data.text.VOCABULARY`), then the acceleration bin and the curvature bin (`action_space.py`). All
six share one softmax over words and bins, masked to the closed set of the slot, so log-probabilities are exact.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data import tokenizer
from data.scene import Array, Observation, Scene, SceneSpec
from data.text import TOKEN_ID, VOCABULARY
from policy.action_space import ActionSpace, decode, extend
from policy.language import SLOTS, slot_masks
from policy.transformer import MASKED, Network, NetworkShape, initial, structure
from simulator.config import SimulatorConfig
from simulator.render import CHANNELS
from simulator.world import Action, Params

REASONING = len(SLOTS)
TOKENS = REASONING + 2
SPEED_FREQUENCIES = (0.1, 0.2, 0.4, 0.8, 1.6)  # [rad s/m]: tell 0.2 m/s from standing, and 12 from 14
EGO_FEATURES = 8 + 2 * len(SPEED_FREQUENCIES)


@dataclasses.dataclass(frozen=True)
class VLAConfig:
    """Size and behaviour of the policy.

    Attributes:
      width, layers, heads, expansion: of the transformer.
      stem: channels of the vision stem's stride-2 convolutions; the image shrinks by 2 for each.
      value_heads, value_width: ensemble of value heads on stop-gradient features.
      plan_knots: knots of 0.5 s after the committed one; with 12 the plan is 6.4 s long.
      see_motion: whether the ego's current acceleration and curvature are inputs. Off by default: in logs they all but
        determine the next action, and a policy that copies them fails in closed loop (causal confusion).
      actions: the bins.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    expansion: int = 4
    stem: tuple[int, ...] = (16, 32, 64, 128)
    value_heads: int = 3
    value_width: int = 128
    plan_knots: int = 12
    see_motion: bool = False
    actions: ActionSpace = dataclasses.field(default_factory=ActionSpace)

    def build(self, simulator: SimulatorConfig, spec: SceneSpec) -> "VLA":
        """The policy for the images and sub-steps of `simulator` and the instructions of `spec`."""
        render = simulator.render
        shape = NetworkShape(
            bev=(render.height, render.width, len(CHANNELS)),
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            expansion=self.expansion,
            stem=self.stem,
            ego_features=EGO_FEATURES,
            text=spec.text,
            vocabulary=len(VOCABULARY) + sum(self.actions.shape),
            words=tokenizer.size() - len(VOCABULARY),
            slots=TOKENS + 1,
            plan=2 * self.plan_knots,
            value_heads=self.value_heads,
            value_width=self.value_width,
        )
        return VLA(self, shape, simulator.substeps, structure(shape)[0])


def tiny() -> VLAConfig:
    """For tests: compiles in seconds."""
    return VLAConfig(
        width=16,
        layers=2,
        heads=2,
        expansion=2,
        stem=(8, 8, 16, 16),
        value_heads=2,
        value_width=8,
        actions=ActionSpace(accelerations=(-4.0, -2.0, -0.5, 0.0, 0.5, 1.5), curvatures=9),
    )


@dataclasses.dataclass(frozen=True)
class VLA:
    """A `simulator.world.Policy` with parameters; pure and safe under jit. Made by `VLAConfig.build`.

    Attributes:
      config: see there.
      shape: static sizes of the network.
      substeps: S of the actions.
      graph: the network's structure (`nnx` graph definition).
      temperature: of the draw; 0 is greedy. Log-probabilities are always those of temperature 1.
    """

    config: VLAConfig
    shape: NetworkShape
    substeps: int
    graph: Any
    temperature: float = 1.0

    def with_temperature(self, temperature: float) -> "VLA":
        """The same policy drawing at another temperature; 0 is greedy."""
        return dataclasses.replace(self, temperature=temperature)

    def init(self, key: jax.Array) -> Params:
        """Random parameters: a plain tree of float32 arrays."""
        return initial(self.shape, key)

    def reset(self, params: Params, scene: Scene) -> tuple[()]:
        """No carry: everything that the policy knows is in the observation."""
        return ()

    def act(
        self, params: Params, key: jax.Array, observation: Observation, carry: tuple, reasoning: Array | None = None
    ) -> tuple:
        """Samples reasoning and action. key: key[B]; reasoning: int32[B, REASONING], said instead of its own.

        Returns: `Action` [B, S], (), and extras: tokens int32[B, K], log_prob float32[B] of the two action tokens
          given the reasoning, reasoning_log_prob float32[B], value float32[B, heads].
        """
        network = self._network(params)
        features, cache, visible = network.prefix(*self._inputs(observation))
        keys = jax.vmap(lambda k: jax.random.split(k, TOKENS))(key).T

        def step(state, inputs):
            previous, cache = state
            slot, key, given = inputs
            hidden, cache = network.suffix(previous[:, None], slot, cache, visible)
            log_probs = self._log_probs(network, hidden, slot)[:, 0]
            token = jnp.where(given < 0, self._draw(key, log_probs), given)
            return (token, cache), (token, jnp.take_along_axis(log_probs, token[:, None], 1)[:, 0])

        given = jnp.full((TOKENS, *key.shape), -1)
        if reasoning is not None:
            given = given.at[:REASONING].set(reasoning.T)
        start = jnp.full(key.shape, TOKEN_ID["<start>"])
        _, (ids, log_prob) = jax.lax.scan(step, (start, cache), (jnp.arange(TOKENS), keys, given))
        tokens = ids.T - self.offsets()
        action = decode(self.config.actions, tokens[:, REASONING:], observation.ego, self.substeps)
        return action, (), self._extras(network, features, tokens, log_prob.T)

    def evaluate(self, params: Params, observation: Observation, tokens: Array) -> dict[str, Array]:
        """Scores given tokens in one teacher-forced pass; `act`'s log-probabilities are reproduced to rounding.

        Args: observation: [N, ...]; tokens: int32[N, K] as in `act`'s extras.
        Returns: log_prob, reasoning_log_prob, value as `act`; token_log_prob float32[N, K]; logits float32[N, K, V],
          the normalised log-probabilities over the joint vocabulary (about -1e9 outside of a slot's set);
          entropy float32[N] of the action slots and reasoning_entropy float32[N]; plan float32[N, knots, 2]: later
          targets, acceleration [m/s^2] and fraction of kappa_max.
        """
        network = self._network(params)
        features, cache, visible = network.prefix(*self._inputs(observation))
        ids = tokens + self.offsets()
        start = jnp.full((tokens.shape[0], 1), TOKEN_ID["<start>"])
        hidden, _ = network.suffix(jnp.concatenate([start, ids], axis=1), 0, cache, visible)
        logits = self._log_probs(network, hidden[:, :TOKENS], jnp.arange(TOKENS))
        token_log_prob = jnp.take_along_axis(logits, ids[..., None], -1)[..., 0]
        entropy = -jnp.sum(jnp.exp(logits) * logits, -1)
        return {
            **self._extras(network, features, tokens, token_log_prob),
            "token_log_prob": token_log_prob,
            "logits": logits,
            "entropy": entropy[:, REASONING:].sum(-1),
            "reasoning_entropy": entropy[:, :REASONING].sum(-1),
            "plan": network.plan(hidden[:, TOKENS]).reshape(tokens.shape[0], -1, 2),
        }

    def value(self, params: Params, observation: Observation) -> Array:
        """Value heads alone, float32[N, heads]."""
        network = self._network(params)
        features, _, _ = network.prefix(*self._inputs(observation))
        return network.value(jax.lax.stop_gradient(features))

    def plan(self, params: Params, observation: Observation) -> Action:
        """The greedy plan, 64 sub-steps at 10 Hz, of which the first S are what greedy `act` commits. For figures."""
        keys = jax.random.split(jax.random.key(0), observation.time.shape[0])  # greedy: no randomness
        action, _, extras = self.with_temperature(0.0).act(params, keys, observation, ())
        later = self.evaluate(params, observation, extras["tokens"])["plan"]
        return extend(self.config.actions, action, observation.ego, later)

    def _network(self, params: Params) -> Network:
        return nnx.merge(self.graph, nnx.State(params))

    def _inputs(self, o: Observation) -> tuple[Array, Array, Array]:
        # Text comes after the action bins: the words that are read but not said stay out of the softmax.
        text = o.instruction >= len(VOCABULARY)
        words = o.instruction + jnp.where(text, sum(self.config.actions.shape), 0)
        return o.bev, ego_features(o.ego, self.config.see_motion), words

    def offsets(self) -> Array:
        """Where each slot's tokens start in the joint vocabulary of words, accelerations, curvatures."""
        words, accelerations = len(VOCABULARY), self.config.actions.shape[0]
        return jnp.array([0] * REASONING + [words, words + accelerations])

    def _allowed(self) -> np.ndarray:
        """bool[K, V], the closed set of each slot."""
        accelerations, curvatures = self.config.actions.shape
        kind = np.repeat([0, 1, 2], [len(VOCABULARY), accelerations, curvatures])
        words = np.pad(slot_masks(), ((0, 0), (0, accelerations + curvatures)))
        return np.concatenate([words, [kind == 1, kind == 2]])

    def _log_probs(self, network: Network, hidden: Array, slot: Array) -> Array:
        """Normalised log-probabilities [B, N, V] of the slots [N] (or of one slot)."""
        allowed = jnp.asarray(self._allowed())[slot]
        return jax.nn.log_softmax(jnp.where(allowed, network.logits(hidden), MASKED))

    def _draw(self, key: jax.Array, log_probs: Array) -> Array:
        if self.temperature == 0:
            return jnp.argmax(log_probs, axis=-1)
        return jax.vmap(jax.random.categorical)(key, log_probs / self.temperature)

    def _extras(self, network: Network, features: Array, tokens: Array, log_prob: Array) -> dict[str, Array]:
        return {
            "tokens": tokens,
            "log_prob": log_prob[:, REASONING:].sum(-1),
            "reasoning_log_prob": log_prob[:, :REASONING].sum(-1),
            "value": network.value(jax.lax.stop_gradient(features)),
        }


def ego_features(ego: Array, see_motion: bool) -> Array:
    """What the policy feels of its own motion. float32[B, 4] of `Observation.ego` -> float32[B, EGO_FEATURES]."""
    speed, acceleration, curvature, limit = jnp.moveaxis(ego, -1, 0)
    phase = speed[:, None] * jnp.array(SPEED_FREQUENCIES)
    known = limit > 0
    motion = jnp.stack([acceleration / 3, curvature * speed**2 / 3, curvature * 10], -1) * see_motion
    pace = jnp.stack([speed / 10, limit / 10, known, known * (limit - speed) / 10, speed < 0.3], -1)
    return jnp.concatenate([pace, motion, jnp.sin(phase), jnp.cos(phase)], axis=-1)
