"""The coach learns from consequences: PPO on the reward of rollouts in any World, one compiled program per batch.

A batch is driven, its advantages are estimated, and the coach is updated on it for a few epochs (Schulman et al. 2017,
arXiv 1707.06347). Decisions whose advantage is small beside the largest ones teach little and are left out (GIGAFLOW,
arXiv 2502.03349). Letters: H steps, R rows, N = H * R decisions.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array, Indexed, Record, Scene, SceneSpec
from tether.data.settings import setting
from tether.policy.action_space import encode_towards, logged_waypoints
from tether.policy.coach import VALUE_SCALE, Coach, entropy, log_prob
from tether.policy.coach_sight import Sight
from tether.policy.imitation import ImitationConfig, perturb
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import observe
from tether.simulator.rollout import rollout
from tether.simulator.transition import start_state, with_ego
from tether.simulator.world import Params, Rollout, World
from tether.training.imagination import Trust
from tether.training.returns import counted, masked_mean
from tether.worldmodel.replayed import Replayed

NEWEST = 0.25  # weight of the newest batch in the running largest advantage
LAST_RATE = 0.05  # fraction of the learning rate that is left at the end
SHARP_AT = 0.9  # fraction of the practice at which the weight of the entropy is 0
AT_CURRENT = 3  # one in so many rollouts starts at the current step, as evaluations do


@dataclasses.dataclass(frozen=True)
class CoachingConfig:
    """How the coach is trained.

    Attributes:
      rounds: number of rounds in which the coach practises and is grounded; 0 for no coach.
      imitation_steps: steps of imitation of the logs before the coach practises; 0 to start from nothing.
      imitation_rate: learning rate of the coach's imitation at first; a cosine leads it to 0.
      batches: number of batches that the coach practises in each round; 0 for imitation alone.
      rows: number of rollouts in a batch of the coach's practice.
      steps: most world steps of a rollout of the coach's practice.
      replayed: fraction of the imagined agents that follow the log while the coach practises.
      epochs: number of times that each decision of the coach is used.
      minibatch: decisions per update of the coach.
      learning_rate: learning rate of the coach at first; it falls linearly to a twentieth over all rounds.
      entropy: weight of the entropy of the coach's decisions at first; it falls linearly to 0 at nine tenths of all
        rounds.
      discount: factor by which the coach discounts rewards, per world step.
      lam: lambda of the coach's advantages.
      clip: largest change of the probability of a decision, as a fraction, that an update of the coach is rewarded for.
      value_weight: weight of the critic's squared error.
      least_advantage: fraction of the largest advantages below which a decision of the coach is left out.
    """

    rounds: int = setting(0, least=0)
    imitation_steps: int = setting(300, least=0)
    imitation_rate: float = 2e-3
    batches: int = setting(400, least=0)
    rows: int = 128
    steps: int = 16
    replayed: float = setting(0.5, least=0, most=1)
    epochs: int = 3
    minibatch: int = 512
    learning_rate: float = 6e-4
    entropy: float = 0.01
    discount: float = setting(0.97, most=1)
    lam: float = setting(0.9, most=1)
    clip: float = 0.2
    value_weight: float = 0.25
    least_advantage: float = 0.01


@flax.struct.dataclass
class Weights:
    """What a batch weighs, float32 scalars: traced, so that other values share one compiled program.

    Attributes:
      rate: learning rate now.   entropy: weight of the entropy now.
      discount, lam, clip, value, least_advantage: see `CoachingConfig`.
    """

    rate: Array
    entropy: Array
    discount: Array
    lam: Array
    clip: Array
    value: Array
    least_advantage: Array


def weights(config: CoachingConfig, done: float) -> Weights:
    """Args: done: fraction of all practice that is done."""
    rate = config.learning_rate * max(1 - done, LAST_RATE)
    entropy = config.entropy * max(1 - done / SHARP_AT, 0.0)
    fixed = config.discount, config.lam, config.clip, config.value_weight, config.least_advantage
    return Weights(*map(jnp.float32, (rate, entropy, *fixed)))


@flax.struct.dataclass
class Decisions(Indexed):
    """Decisions to learn from; fields [N].

    Attributes:
      sight: `Sight`.   tokens: int32[N, 2].   log_prob: float32[N], when they were drawn.
      advantage, returns: float32[N].   valid: bool[N].
    """

    sight: Sight
    tokens: Array
    log_prob: Array
    advantage: Array
    returns: Array
    valid: Array


@flax.struct.dataclass
class Coached:
    """The coach's arrays.

    Attributes:
      params: see `Coach`.   optimizer: its state.
      largest: float32, running mean of the batches' largest absolute advantage.
    """

    params: Params
    optimizer: Any
    largest: Array


def begin(coach: Coach, key: jax.Array) -> Coached:
    """A coach that has learned nothing."""
    params = coach.init(key)
    return Coached(params, optimizer().init(params), jnp.float32(0))


def optimizer() -> optax.GradientTransformation:
    """Adam directions; the learning rate is an argument of the step."""
    return optax.chain(optax.clip_by_global_norm(0.5), optax.scale_by_adam(eps=1e-5))


@functools.partial(jax.jit, static_argnames=("world", "coach", "steps", "epochs", "minibatch"))
def coaching_step(
    world: World,
    coach: Coach,
    steps: int,
    epochs: int,
    minibatch: int,
    world_params: Params,
    state: Coached,
    scene: Scene,
    start: Array,
    key: jax.Array,
    trust: Trust,
    weights: Weights,
) -> tuple[Coached, dict[str, Array]]:
    """Practises one batch.

    Args:
      steps, epochs, minibatch: see `CoachingConfig`.
      scene: `Scene` [R, ...].   start: int32[R], log step to start from.   trust: how far the World is believed.
    Returns: the next state, and scalar metrics.
    """
    k_policy, k_world, k_learn = jax.random.split(key, 3)
    keys = jax.random.split(k_policy, start.size), jax.random.split(k_world, start.size)
    driven = rollout(world, world_params, coach, state.params, scene, steps, *keys, start)
    decisions = decisions_of(driven, trust, weights)
    chosen, largest = informative(decisions.advantage, decisions.valid, state.largest, weights.least_advantage)
    params, moments, learned = learn(coach, epochs, minibatch, state, decisions, chosen, k_learn, weights)
    return Coached(params, moments, largest), learned | metrics_of(driven, decisions.valid, chosen)


@functools.partial(jax.jit, static_argnames=("coach", "config"))
def imitation_step(
    coach: Coach, config: ImitationConfig, state: Coached, scene: Scene, start: Array, key: jax.Array, rate: Array
) -> tuple[Coached, dict[str, Array]]:
    """One step towards the decisions that end nearest the log, from the log's states and from beside them.

    Args: config: how far beside.   scene, start: as in `coaching_step`.   rate: the learning rate.
    Returns: the next state, and the mean cross-entropy as `imitation`.
    """
    logged = start_state(scene, start, ())
    ego = perturb(logged.ego, jax.random.split(key, start.size), config)
    space, simulator = coach.space, coach.simulator
    sight = coach.look(observe(with_ego(logged, ego), simulator))
    waypoints = logged_waypoints(scene, start, space.horizon)
    tokens, known = encode_towards(space, ego, waypoints, simulator.limits), waypoints.valid.all(-1)

    def cross_entropy(params: Params) -> Array:
        return -masked_mean(log_prob(coach.evaluate(params, sight), tokens), known)

    value, gradients = jax.value_and_grad(cross_entropy)(state.params)
    params, moments = descend(state.params, state.optimizer, gradients, rate)
    return state.replace(params=params, optimizer=moments), {"imitation": value}


def practised_in(world: World, simulator: SimulatorConfig, replayed: float) -> World:
    """The World that the coach practises in, given one that imagines the others. replayed: see `CoachingConfig`."""
    return Replayed(world, simulator, replayed) if replayed > 0 else world


def latest_start(records: Sequence[Record], steps: int) -> int:
    """The latest log step from which `steps` log steps follow."""
    return records[0].scene.valid.shape[-1] - 1 - steps


def starts(key: jax.Array, count: int, latest: int) -> Array:
    """Log steps int32[count] to start from, up to `latest`; one in `AT_CURRENT` is where evaluations start."""
    drawn = jax.random.randint(key, (count,), SceneSpec.current, latest + 1)
    return jnp.where(jnp.arange(count) % AT_CURRENT == 0, SceneSpec.current, drawn)


def descend(params: Params, moments: Any, gradients: Params, rate: Array) -> tuple[Params, Any]:
    """One step of Adam."""
    directions, moments = optimizer().update(gradients, moments, params)
    return jax.tree.map(lambda p, d: p - rate * d, params, directions), moments


def decisions_of(driven: Rollout, trust: Trust, weights: Weights) -> Decisions:
    """The decisions of a rollout, [H * R]; those that the World is not believed in are not valid."""
    outcome, extras = driven.outcome, driven.extras
    value, last = extras["value"], driven.final_extras["value"]
    valid = counted(driven.alive, outcome.truncation, outcome.disagreement, trust.horizon, trust.disagreement)
    reward = outcome.reward - trust.penalty * outcome.disagreement
    advantage = advantages(reward, outcome.termination, valid, value, last, weights.discount, weights.lam)
    decisions = Decisions(extras["sight"], extras["tokens"], extras["log_prob"], advantage, advantage + value, valid)
    return jax.tree.map(lambda field: field.reshape(-1, *field.shape[2:]), decisions)


def advantages(
    reward: Array, termination: Array, valid: Array, value: Array, last: Array, discount: Array, lam: Array
) -> Array:
    """Generalised advantages float32[H, R] (Schulman et al. 2016, arXiv 1506.02438); 0 where not valid.

    After a termination comes nothing; where a rollout ends otherwise, the value of where it stopped.

    Args: [H, R] each; valid: the transition counts; last: float32[R], the value after the last step.
    """
    following = jnp.concatenate([value[1:], last[None]])
    onwards = jnp.where(termination, 0.0, discount)
    error = reward + onwards * following - value

    def back(later: Array, step: tuple) -> tuple[Array, Array]:
        error, onwards, valid = step
        advantage = jnp.where(valid, error + onwards * lam * later, 0.0)
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(last), (error, onwards, valid), reverse=True)[1]


def informative(advantage: Array, valid: Array, largest: Array, least: Array) -> tuple[Array, Array]:
    """Which decisions [N] are learned from, and the running largest advantage, this batch's included.

    Args:
      largest: float32, of the batches before; 0 before the first.
      least: fraction of it below which a decision is left out.
    """
    size = jnp.where(valid, jnp.abs(advantage), 0.0)
    now = jnp.max(size)
    largest = jnp.where(largest > 0, (1 - NEWEST) * largest + NEWEST * now, now)
    return valid & (size >= least * largest), largest


def learn(
    coach: Coach,
    epochs: int,
    minibatch: int,
    state: Coached,
    decisions: Decisions,
    chosen: Array,
    key: jax.Array,
    weights: Weights,
) -> tuple[Params, Any, dict[str, Array]]:
    """Updates on the chosen decisions, in a new order in each epoch; the first ones fill up the last minibatch.

    Returns: parameters, the optimiser's state, and the last minibatch's metrics.
    """
    count = chosen.sum()

    def epoch(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        order = jnp.argsort(jax.random.uniform(key, chosen.shape) + ~chosen)  # the chosen ones first

        def update(index: Array, carry: tuple) -> tuple:
            params, moments, _ = carry
            some = decisions[order[(index * minibatch + jnp.arange(minibatch)) % count]]
            gradients, metrics = jax.grad(lambda p: loss(coach, p, some, weights), has_aux=True)(params)
            return *descend(params, moments, gradients, weights.rate), metrics

        return jax.lax.fori_loop(0, -(-count // minibatch), update, carry), None

    nothing = dict.fromkeys(("policy", "value", "entropy", "kl"), jnp.float32(0))
    carry = state.params, state.optimizer, nothing
    return jax.lax.scan(epoch, carry, jax.random.split(key, epochs))[0]


def loss(coach: Coach, params: Params, some: Decisions, weights: Weights) -> tuple[Array, dict[str, Array]]:
    """PPO's clipped surrogate, the critic's error and the entropy on a minibatch of valid decisions."""
    scores = coach.evaluate(params, some.sight)
    now = log_prob(scores, some.tokens)
    advantage = (some.advantage - some.advantage.mean()) / (some.advantage.std() + 1e-6)
    ratio = jnp.exp(now - some.log_prob)
    clipped = jnp.clip(ratio, 1 - weights.clip, 1 + weights.clip)
    terms = {
        "policy": -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage)),
        "value": jnp.mean(jnp.square((scores["value"] - some.returns) / VALUE_SCALE)),
        "entropy": jnp.mean(entropy(scores)),
        "kl": jnp.mean(some.log_prob - now),
    }
    return terms["policy"] + weights.value * terms["value"] - weights.entropy * terms["entropy"], terms


def metrics_of(driven: Rollout, valid: Array, chosen: Array) -> dict[str, Array]:
    """Scalars about a batch. Args: valid, chosen: bool[H * R]."""
    outcome, valid = driven.outcome, valid.reshape(driven.alive.shape)
    substeps = outcome.valid & valid[..., None]
    return {
        "return": jnp.sum(jnp.where(valid, outcome.reward, 0.0), 0).mean(),
        "failure": jnp.any(outcome.termination & valid, axis=0).mean(),
        "decisions": driven.alive.sum(),
        "informative": chosen.sum() / jnp.maximum(valid.sum(), 1),
        "disagreement": masked_mean(outcome.disagreement, valid),
        "progress_m": jnp.sum(jnp.where(substeps, outcome.progress_m, 0.0), (0, 2)).mean(),
        "uncomfortable": masked_mean(outcome.uncomfortable, substeps),
    }
