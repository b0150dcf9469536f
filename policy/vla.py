"""The vision-language-action policy: from a BEV image and an instruction to a chain of causation, then an action.

Per step it emits K tokens, each conditioned on those before: longitudinal decision, lateral decision, cause, distance
(ids of `data.text.VOCABULARY`), then the tokens of the action head, if it has any. All share one softmax over phrases
and the head's bins, masked to the closed set of the slot, so log-probabilities are exact. The head does the rest of the
action (`action_head.py`, `discrete_head.py`, `flow_head.py`).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tether.data import tokenizer
from tether.data.scene import Array, Observation, Scene, SceneSpec
from tether.data.settings import setting
from tether.data.text import TOKEN_ID, VOCABULARY
from tether.policy.action_head import ActionHead, Decision, Memory
from tether.policy.action_space import ActionSpace, drive_to, extend
from tether.policy.discrete_head import DiscreteHead
from tether.policy.flow_head import FlowConfig, FlowHead
from tether.policy.language import SLOTS, slot_masks
from tether.policy.transformer import MASKED, Network, NetworkShape, initial, structure
from tether.simulator.config import SimulatorConfig
from tether.simulator.render import CHANNELS
from tether.simulator.world import Action, Params

REASONING = len(SLOTS)
SPEED_FREQUENCIES = (0.1, 0.2, 0.4, 0.8, 1.6)  # [rad s/m]: resolve 0.2 m/s from standstill, and 12 from 14 m/s
EGO_FEATURES = 8 + 2 * len(SPEED_FREQUENCIES)


@dataclasses.dataclass(frozen=True)
class VLAConfig:
    """Size and behaviour of the policy.

    Attributes:
      width: width of the policy's transformer.
      layers: layers of the policy's transformer.
      heads: attention heads of the policy's transformer; they divide its width.
      expansion: factor by which the hidden layers of the policy's transformer are wider than the transformer.
      stem: channels of each stride-2 convolution of the vision stem; the image shrinks by 2 for each.
      value_heads: number of value heads; they read features without passing gradients back.
      value_width: width of the hidden layers of the value heads.
      plan_knots: knots of 0.5 s in the plan after the committed one; with 12 the plan is 6.4 s long.
      see_motion: whether the ego's current acceleration and curvature are inputs. In logs they all but determine the
        next action, and a policy that copies them fails in closed loop (causal confusion).
      cameras: number, height and width of the camera images that the policy sees beside the BEV; number 0 is none, the
        only value that `train.py` takes, since no World or data set gives images.
      head: action head; `discrete` draws one of a table of actions, `flow` draws an action by flow matching.
      actions: what a decision is, and the bins of the discrete head.
      flow: the action head `flow`, whose settings act where it is chosen.
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
    cameras: tuple[int, int, int] = setting((0, 0, 0), least=0)
    head: Literal["discrete", "flow"] = "discrete"
    actions: ActionSpace = setting(ActionSpace())
    flow: FlowConfig = setting(FlowConfig(), acts_with=("head", "flow"))

    def action_head(self) -> ActionHead:
        """The head of that name."""
        if self.head == "flow":
            return FlowHead(self.actions, self.plan_knots, self.flow)
        return DiscreteHead(self.actions, self.plan_knots)

    def build(self, simulator: SimulatorConfig, spec: SceneSpec) -> "VLA":
        """The policy for the images and sub-steps of `simulator` and the instructions of `spec`."""
        render, head = simulator.render, self.action_head()
        shape = NetworkShape(
            bev=(render.height, render.width, len(CHANNELS)),
            cameras=self.cameras,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            expansion=self.expansion,
            stem=self.stem,
            ego_features=EGO_FEATURES,
            text=spec.text,
            vocabulary=len(VOCABULARY) + sum(head.bins),
            words=tokenizer.size() - len(VOCABULARY),
            slots=REASONING + len(head.bins) + 1,
            plan=head.regressed,
            expert=head.expert(self.heads, self.width // self.heads),
            value_heads=self.value_heads,
            value_width=self.value_width,
        )
        return VLA(self, head, shape, simulator.substeps, structure(shape)[0])


def tiny(head: Literal["discrete", "flow"] = "discrete") -> VLAConfig:
    """A policy for tests, which compiles in seconds."""
    return VLAConfig(
        head=head,
        width=16,
        layers=2,
        heads=2,
        expansion=2,
        stem=(8, 8, 16, 16),
        value_heads=2,
        value_width=8,
        actions=ActionSpace(accelerations=(-4.0, -2.0, -0.5, 0.0, 0.5, 1.5), curvatures=9),
        flow=FlowConfig(width=8, layers=2, drawn_steps=3, repeats=2),
    )


@dataclasses.dataclass(frozen=True)
class VLA:
    """A `simulator.world.Policy` with parameters; pure and safe under jit. Made by `VLAConfig.build`.

    Attributes:
      config: see there.
      head: the action head.
      shape: static sizes of the network.
      substeps: S of the actions.
      graph: the network's structure (`nnx` graph definition).
      temperature: of the draw; 0 is without chance. Log-probabilities are always those of temperature 1.
    """

    config: VLAConfig
    head: ActionHead
    shape: NetworkShape
    substeps: int
    graph: Any
    temperature: float = 1.0

    def with_temperature(self, temperature: float) -> "VLA":
        """The same policy drawing at another temperature; 0 is without chance."""
        return dataclasses.replace(self, temperature=temperature)

    @property
    def tokens(self) -> int:
        """K, tokens of a decision."""
        return REASONING + len(self.head.bins)

    def init(self, key: jax.Array) -> Params:
        """Random parameters: a plain tree of float32 arrays."""
        return initial(self.shape, key)

    def reset(self, params: Params, scene: Scene) -> tuple[()]:
        """No carry: everything that the policy knows is in the observation."""
        return ()

    def act(
        self, params: Params, key: jax.Array, observation: Observation, carry: tuple, reasoning: Array | None = None
    ) -> tuple:
        """Samples reasoning and action. key: key[B]; reasoning: int32[B, REASONING], used in place of the policy's own.

        Returns: `Action` [B, S], (), and extras: decision: `Decision`, knot: float32[B, 2] (`action_space.py`),
          log_prob: float32[B] of the action given the reasoning, reasoning_log_prob: float32[B],
          value: float32[B, heads].
        """
        network = self._network(params)
        features, cache, visible = network.prefix(*self._inputs(observation))
        keys = jax.vmap(lambda k: jax.random.split(k, self.tokens + 1))(key).T

        def step(state, inputs):
            previous, cache = state
            slot, key, given = inputs
            hidden, cache = network.suffix(previous[:, None], slot, cache, visible)
            log_probs = self._log_probs(network, hidden, slot)[:, 0]
            token = jnp.where(given < 0, self._draw(key, log_probs), given)
            return (token, cache), (token, jnp.take_along_axis(log_probs, token[:, None], 1)[:, 0])

        given = jnp.full((self.tokens, *key.shape), -1)
        if reasoning is not None:
            given = given.at[:REASONING].set(reasoning.T)
        start = jnp.full(key.shape, TOKEN_ID["<start>"])
        (_, cache), (ids, log_prob) = jax.lax.scan(step, (start, cache), (jnp.arange(self.tokens), keys[:-1], given))
        tokens = ids.T - self.offsets()
        memory = Memory(cache, visible)
        knot, motion, motion_log_prob = self.head.draw(network, keys[-1], tokens, memory, self.temperature)
        action = drive_to(self.config.actions, knot, observation.ego, self.substeps)
        extras = {"decision": Decision(tokens, motion), "knot": knot}
        return action, (), extras | self._scores(network, features, log_prob.T, motion_log_prob)

    def evaluate(self, params: Params, observation: Observation, decision: Decision) -> dict[str, Array]:
        """Scores given decisions in one teacher-forced pass; `act`'s log-probabilities are reproduced to rounding.

        Args: observation: [N, ...]; decision: as in `act`'s extras, or a label (`ActionHead.demonstrate`).
        Returns: log_prob, reasoning_log_prob, value as `act`; token_log_prob float32[N, K]; logits float32[N, K, V],
          the normalised log-probabilities over the joint vocabulary (about -1e9 outside of a slot's set);
          entropy float32[N] of the action's tokens and reasoning_entropy float32[N]; what `ActionHead.score` adds.
        """
        network = self._network(params)
        features, hidden, memory = self._replay(network, observation, decision.tokens)
        logits = self._log_probs(network, hidden[:, : self.tokens], jnp.arange(self.tokens))
        ids = decision.tokens + self.offsets()
        token_log_prob = jnp.take_along_axis(logits, ids[..., None], -1)[..., 0]
        entropy = -jnp.sum(jnp.exp(logits) * logits, -1)
        scores = self.head.score(network, decision.motion, hidden[:, self.tokens], memory)
        return {
            **scores,
            **self._scores(network, features, token_log_prob, scores["motion_log_prob"]),
            "token_log_prob": token_log_prob,
            "logits": logits,
            # A flow's noise is fixed, so its entropy is constant; only the reasoning's entropy can collapse.
            "entropy": (entropy[:, REASONING:] if self.head.bins else entropy).sum(-1),
            "reasoning_entropy": entropy[:, :REASONING].sum(-1),
        }

    def kl(self, now: dict[str, Array], before: dict[str, Array]) -> Array:
        """KL(now || before) of reasoning and action, float32[N] [nats], from two results of `evaluate`.

        The tokens' KL is exact at each token given those before; the reference's gradient is stopped.
        """
        return categorical_kl(now["logits"], before["logits"]) + self.head.kl(now, before)

    def value(self, params: Params, observation: Observation) -> Array:
        """Value heads alone, float32[N, heads]."""
        network = self._network(params)
        features, _, _ = network.prefix(*self._inputs(observation))
        return network.value(jax.lax.stop_gradient(features))

    def plan(self, params: Params, observation: Observation) -> Action:
        """The plan, 64 sub-steps at 10 Hz; the first S are what `act` commits at temperature 0. For figures."""
        keys = jax.random.split(jax.random.key(0), observation.time.shape[0])  # has no effect at temperature 0
        action, _, extras = self.with_temperature(0.0).act(params, keys, observation, ())
        network = self._network(params)
        _, hidden, memory = self._replay(network, observation, extras["decision"].tokens)
        later = self.head.plan(network, hidden[:, self.tokens], memory)
        return extend(self.config.actions, action, observation.ego, later)

    def _network(self, params: Params) -> Network:
        return nnx.merge(self.graph, nnx.State(params))

    def _inputs(self, o: Observation) -> tuple[tuple[Array, ...], Array, Array]:
        # Text ids come after the action bins, so tokens that are only read stay out of the softmax.
        text = o.instruction >= len(VOCABULARY)
        words = o.instruction + jnp.where(text, sum(self.head.bins), 0)
        return self._images(o), ego_features(o.ego, self.config.see_motion), words

    def _images(self, o: Observation) -> tuple[Array, ...]:
        number, height, width = self.config.cameras
        if number == 0:
            return (o.bev,)
        expected, shape = (*o.ego.shape[:-1], number, height, width, 3), getattr(o.camera, "shape", "no camera")
        if shape != expected:
            raise ValueError(f"Observation.camera: expected uint8{list(expected)}, found {shape}")
        return o.bev, o.camera

    def _replay(self, network: Network, observation: Observation, tokens: Array) -> tuple[Array, Array, Memory]:
        """State features, hidden states float32[N, K + 1, D] of the given tokens, and the memory."""
        features, cache, visible = network.prefix(*self._inputs(observation))
        start = jnp.full((tokens.shape[0], 1), TOKEN_ID["<start>"])
        previous = jnp.concatenate([start, tokens + self.offsets()], axis=1)
        hidden, cache = network.suffix(previous, 0, cache, visible)
        return features, hidden, Memory(cache, visible)

    def offsets(self) -> Array:
        """The first token of each slot in the joint vocabulary of phrases and bins."""
        starts = len(VOCABULARY) + np.cumsum((0, *self.head.bins))[:-1]
        return jnp.array([0] * REASONING + starts.tolist())

    def _allowed(self) -> np.ndarray:
        """bool[K, V], the closed set of each slot."""
        bins = self.head.bins
        kind = np.repeat(np.arange(len(bins) + 1), (len(VOCABULARY), *bins))
        words = np.pad(slot_masks(), ((0, 0), (0, sum(bins))))
        return np.concatenate([words, kind == np.arange(1, len(bins) + 1)[:, None]])

    def _log_probs(self, network: Network, hidden: Array, slot: Array) -> Array:
        """Normalised log-probabilities [B, N, V] of the slots [N] (or of one slot)."""
        allowed = jnp.asarray(self._allowed())[slot]
        return jax.nn.log_softmax(jnp.where(allowed, network.logits(hidden), MASKED))

    def _draw(self, key: jax.Array, log_probs: Array) -> Array:
        if self.temperature == 0:
            return jnp.argmax(log_probs, axis=-1)
        return jax.vmap(jax.random.categorical)(key, log_probs / self.temperature)

    def _scores(self, network: Network, features: Array, log_prob: Array, motion: Array | float) -> dict[str, Array]:
        return {
            "log_prob": log_prob[:, REASONING:].sum(-1) + motion,
            "reasoning_log_prob": log_prob[:, :REASONING].sum(-1),
            "value": network.value(jax.lax.stop_gradient(features)),
        }


def categorical_kl(logits: Array, reference_logits: Array) -> Array:
    """Exact KL(policy || reference), summed over tokens.

    Args:
      logits, reference_logits: float32[..., K, V], unnormalised; the reference's gradient is stopped.
    Returns: float32[...].
    """
    log_p = jax.nn.log_softmax(logits)
    log_q = jax.nn.log_softmax(jax.lax.stop_gradient(reference_logits))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=(-2, -1))


def ego_features(ego: Array, see_motion: bool) -> Array:
    """The policy's input of its own motion. float32[B, 4] of `Observation.ego` -> float32[B, EGO_FEATURES]."""
    speed, acceleration, curvature, limit = jnp.moveaxis(ego, -1, 0)
    phase = speed[:, None] * jnp.array(SPEED_FREQUENCIES)
    known = limit > 0
    motion = jnp.stack([acceleration / 3, curvature * speed**2 / 3, curvature * 10], -1) * see_motion
    pace = jnp.stack([speed / 10, limit / 10, known, known * (limit - speed) / 10, speed < 0.3], -1)
    return jnp.concatenate([pace, motion, jnp.sin(phase), jnp.cos(phase)], axis=-1)
