"""The coach learns from consequences: PPO on the reward of rollouts in any World, one compiled program per batch.

A batch is driven, its advantages are estimated, and the coach is updated on it for a few epochs (Schulman et al. 2017,
arXiv 1707.06347). Decisions whose advantage is small beside the largest ones teach little and are left out (GIGAFLOW,
arXiv 2502.03349). Letters: H steps, R rows, N = H * R decisions.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array, Indexed, Scene
from tether.data.settings import setting
from tether.policy.action_space import encode_towards, logged_waypoints
from tether.policy.coach import VALUE_SCALE, Coach, entropy, log_prob
from tether.policy.coach_sight import Sight
from tether.policy.imitation import ImitationConfig, perturb
from tether.simulator.observe import observe
from tether.simulator.rollout import rollout
from tether.simulator.transition import start_state, with_ego
from tether.simulator.world import Params, Rollout, World
from tether.training.returns import masked_mean

NEWEST = 0.25  # weight of the newest batch in the running largest advantage
LAST_RATE = 0.05  # fraction of the learning rate that is left at the end
SHARP_AT = 0.9  # fraction of the practice at which the weight of the entropy is 0


@dataclasses.dataclass(frozen=True)
class CoachingConfig:
    """How the coach is trained.

    Attributes:
      imitation_steps: steps of imitation of the logs before the practice; 0 to start from nothing.
      imitation_rate: learning rate of the imitation at first; a cosine leads it to 0.
      imitation: augmentation of the imitation.
      batches: number of batches that the coach practises.
      rows: R, rollouts in a batch.
      steps: H, steps of a rollout.
      epochs: number of times that each decision is used.
      minibatch: decisions per update of the coach.
      learning_rate: learning rate of the coach at first; it falls linearly to a twentieth.
      entropy: weight of the entropy of the coach's decisions at first; it falls linearly to 0 at nine tenths.
      discount: of rewards, per step.
      lam: lambda of the advantages.
      clip: of the ratio of probabilities.
      value_weight: weight of the critic's squared error.
      least_advantage: decisions whose advantage is below this fraction of the largest ones are left out.
    """

    imitation_steps: int = setting(300, least=0)
    imitation_rate: float = 2e-3
    imitation: ImitationConfig = setting(ImitationConfig())
    batches: int = 400
    rows: int = 128
    steps: int = 16
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


@functools.partial(jax.jit, static_argnames=("world", "coach", "config"))
def coaching_step(
    world: World,
    coach: Coach,
    config: CoachingConfig,
    world_params: Params,
    state: Coached,
    scene: Scene,
    start: Array,
    key: jax.Array,
    done: Array,
) -> tuple[Coached, dict[str, Array]]:
    """Practises one batch.

    Args:
      scene: `Scene` [R, ...].   start: int32[R], log step to start from.
      done: float32, the fraction of the practice that is done.
    Returns: the next state, and scalar metrics.
    """
    k_policy, k_world, k_learn = jax.random.split(key, 3)
    keys = jax.random.split(k_policy, start.size), jax.random.split(k_world, start.size)
    driven = rollout(world, world_params, coach, state.params, scene, config.steps, *keys, start)
    decisions = decisions_of(driven, config)
    chosen, largest = informative(decisions.advantage, decisions.valid, state.largest, config)
    rate = config.learning_rate * jnp.maximum(1 - done, LAST_RATE)
    weight = config.entropy * jnp.maximum(1 - done / SHARP_AT, 0.0)
    params, moments, learned = learn(coach, config, state, decisions, chosen, k_learn, rate, weight)
    return Coached(params, moments, largest), learned | metrics_of(driven, chosen)


@functools.partial(jax.jit, static_argnames=("coach", "config"))
def imitation_step(
    coach: Coach, config: CoachingConfig, state: Coached, scene: Scene, start: Array, key: jax.Array, done: Array
) -> tuple[Coached, dict[str, Array]]:
    """One step towards the decisions that end nearest the log, from the log's states and from beside them.

    Args: as `coaching_step`. Returns: the next state, and the mean cross-entropy as `imitation`.
    """
    logged = start_state(scene, start, ())
    ego = perturb(logged.ego, jax.random.split(key, start.size), config.imitation)
    space, simulator = coach.config.actions, coach.simulator
    sight = coach.look(observe(with_ego(logged, ego), simulator))
    waypoints = logged_waypoints(scene, start, space.horizon)
    tokens, known = encode_towards(space, ego, waypoints, simulator.limits), waypoints.valid.all(-1)

    def cross_entropy(params: Params) -> Array:
        return -masked_mean(log_prob(coach.evaluate(params, sight), tokens), known)

    value, gradients = jax.value_and_grad(cross_entropy)(state.params)
    rate = config.imitation_rate * 0.5 * (1 + jnp.cos(jnp.pi * done))
    params, moments = descend(state.params, state.optimizer, gradients, rate)
    return state.replace(params=params, optimizer=moments), {"imitation": value}


def descend(params: Params, moments: Any, gradients: Params, rate: Array) -> tuple[Params, Any]:
    """One step of Adam."""
    directions, moments = optimizer().update(gradients, moments, params)
    return jax.tree.map(lambda p, d: p - rate * d, params, directions), moments


def decisions_of(driven: Rollout, config: CoachingConfig) -> Decisions:
    """The decisions of a rollout, [H * R]."""
    outcome, extras, alive = driven.outcome, driven.extras, driven.alive
    value, last = extras["value"], driven.final_extras["value"]
    advantage = advantages(outcome.reward, outcome.termination, alive, value, last, config)
    targets = advantage, advantage + value
    decisions = Decisions(extras["sight"], extras["tokens"], extras["log_prob"], *targets, alive)
    return jax.tree.map(lambda field: field.reshape(-1, *field.shape[2:]), decisions)


def advantages(
    reward: Array, termination: Array, alive: Array, value: Array, last: Array, config: CoachingConfig
) -> Array:
    """Generalised advantages float32[H, R] (Schulman et al. 2016, arXiv 1506.02438); 0 after the end.

    After a termination comes nothing; where a rollout ends otherwise, the value of where it stopped.

    Args: [H, R] each; alive: before the step; last: float32[R], the value after the last step.
    """
    following = jnp.concatenate([value[1:], last[None]])
    onwards = jnp.where(termination, 0.0, config.discount)
    error = reward + onwards * following - value

    def back(later: Array, step: tuple) -> tuple[Array, Array]:
        error, onwards, alive = step
        advantage = jnp.where(alive, error + onwards * config.lam * later, 0.0)
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(last), (error, onwards, alive), reverse=True)[1]


def informative(advantage: Array, valid: Array, largest: Array, config: CoachingConfig) -> tuple[Array, Array]:
    """Which decisions [N] are learned from, and the running largest advantage, this batch's included.

    Args: largest: float32, of the batches before; 0 before the first.
    """
    size = jnp.where(valid, jnp.abs(advantage), 0.0)
    now = jnp.max(size)
    largest = jnp.where(largest > 0, (1 - NEWEST) * largest + NEWEST * now, now)
    return valid & (size >= config.least_advantage * largest), largest


def learn(
    coach: Coach,
    config: CoachingConfig,
    state: Coached,
    decisions: Decisions,
    chosen: Array,
    key: jax.Array,
    rate: Array,
    entropy_weight: Array,
) -> tuple[Params, Any, dict[str, Array]]:
    """Updates on the chosen decisions, in a new order in each epoch; the first ones fill up the last minibatch.

    Returns: parameters, the optimiser's state, and the last minibatch's metrics.
    """
    count, size = chosen.sum(), config.minibatch

    def epoch(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        order = jnp.argsort(jax.random.uniform(key, chosen.shape) + ~chosen)  # the chosen ones first

        def update(index: Array, carry: tuple) -> tuple:
            params, moments, _ = carry
            some = decisions[order[(index * size + jnp.arange(size)) % count]]
            gradients, metrics = jax.grad(lambda p: loss(coach, config, p, some, entropy_weight), has_aux=True)(params)
            return *descend(params, moments, gradients, rate), metrics

        return jax.lax.fori_loop(0, -(-count // size), update, carry), None

    nothing = dict.fromkeys(("policy", "value", "entropy", "kl"), jnp.float32(0))
    carry = state.params, state.optimizer, nothing
    return jax.lax.scan(epoch, carry, jax.random.split(key, config.epochs))[0]


def loss(
    coach: Coach, config: CoachingConfig, params: Params, some: Decisions, entropy_weight: Array
) -> tuple[Array, dict[str, Array]]:
    """PPO's clipped surrogate, the critic's error and the entropy on a minibatch of valid decisions."""
    scores = coach.evaluate(params, some.sight)
    now = log_prob(scores, some.tokens)
    advantage = (some.advantage - some.advantage.mean()) / (some.advantage.std() + 1e-6)
    ratio = jnp.exp(now - some.log_prob)
    clipped = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    terms = {
        "policy": -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage)),
        "value": jnp.mean(jnp.square((scores["value"] - some.returns) / VALUE_SCALE)),
        "entropy": jnp.mean(entropy(scores)),
        "kl": jnp.mean(some.log_prob - now),
    }
    total = terms["policy"] + config.value_weight * terms["value"] - entropy_weight * terms["entropy"]
    return total, terms


def metrics_of(driven: Rollout, informative: Array) -> dict[str, Array]:
    """Scalars about a batch."""
    alive, outcome = driven.alive, driven.outcome
    return {
        "return": jnp.sum(jnp.where(alive, outcome.reward, 0.0), 0).mean(),
        "failure": jnp.any(outcome.termination & alive, axis=0).mean(),
        "decisions": alive.sum(),
        "informative": informative.sum() / jnp.maximum(alive.sum(), 1),
        "progress_m": jnp.sum(jnp.where(outcome.valid & alive[..., None], outcome.progress_m, 0.0), (0, 2)).mean(),
        "uncomfortable": masked_mean(outcome.uncomfortable, outcome.valid & alive[..., None]),
    }
