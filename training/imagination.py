"""Driving for experience: in the learned World to improve, in the simulator near the log to fine-tune.

Both give `Experience`: what was seen, what to decide there, and a weight for each decision's log-probability. An
objective is nothing but a choice of these, so one update (`improvement.py`) serves them all.
Letters: R rows (starts x G), H steps.
"""

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Observation, Scene
from tether.policy.action_head import Decision
from tether.policy.vla import VLA
from tether.simulator.config import SimulatorConfig
from tether.simulator.events import EVENTS
from tether.simulator.log_replay import LogReplay
from tether.simulator.reward import own_reward
from tether.simulator.rollout import fold_in, rollout
from tether.simulator.score import driving_score
from tether.simulator.world import Params, Rollout, World
from tether.training.config import RoundsConfig
from tether.training.credit import WEIGHTS, share
from tether.training.drivers import ClosestToLog, Disturbance, DisturbedExpert, Teacher
from tether.training.objectives import Targets, counted, masked_mean, targets
from tether.worldmodel.batch import ModelBatch, from_rollout


@flax.struct.dataclass
class Experience:
    """Transitions to learn from; arrays [H, R, ...] as they were driven, or [N, ...] for some of them.

    Attributes:
      observation: `Observation`.
      decision: `Decision` [...], what was decided, or should have been.
      log_prob, reasoning_log_prob: float32[...], of the action and of the reasoning when they were drawn.
      weight: float32[...], of the action's log-probability; 0 where nothing is to be learned.
      reasoning_weight: float32[...], of the reasoning's.
      returns: float32[...], target of the value heads.
      valid: bool[...].
    """

    observation: Observation
    decision: Decision
    log_prob: Array
    reasoning_log_prob: Array
    weight: Array
    reasoning_weight: Array
    returns: Array
    valid: Array


@flax.struct.dataclass
class Imagined:
    """What is kept of imagined rollouts besides the experience.

    Attributes:
      valid: bool[H, R], the transition is believed.
      reward: float32[H, R], without the penalty.
      disagreement: float32[H, R].
      events: dict of bool[H, R], by geometry on the imagined boxes.
      predicted: dict of float32[H, R], what the learned heads said of the same steps.
    """

    valid: Array
    reward: Array
    disagreement: Array
    events: dict[str, Array]
    predicted: dict[str, Array]


@flax.struct.dataclass
class Trust:
    """How far imagination is believed; scalars.

    Attributes:
      horizon: int32, steps at most.
      disagreement: float32, the largest believed.
      penalty: float32, weight of the disagreement in the reward.
    """

    horizon: Array
    disagreement: Array
    penalty: Array


def row_keys(key: jax.Array, starts: int, group: int) -> tuple[jax.Array, jax.Array]:
    """Policy keys, all different, and World keys, equal within a group: common random numbers. key[R] each."""
    k_policy, k_world = jax.random.split(key)
    return jax.random.split(k_policy, starts * group), jnp.repeat(jax.random.split(k_world, starts), group)


def imagine(
    world: World,
    vla: VLA,
    teacher: Teacher,
    config: RoundsConfig,
    model_params: Params,
    policy_params: Params,
    scene: Scene,
    start: Array,
    keys: tuple[jax.Array, jax.Array],
    trust: Trust,
) -> tuple[Experience, Imagined, dict[str, Array]]:
    """Drives the policy in the learned World and says what each decision was worth, or what it should have been.

    Args:
      scene: `Scene` [R, ...], rows of a group next to each other.   start: int32[R], log step.
      keys: see `row_keys`.
    """
    driven = rollout(world, model_params, vla, policy_params, scene, config.horizon, *keys, start)
    valid = counted(driven.alive, driven.outcome, trust.horizon, trust.disagreement)
    worth = targets(
        driven.outcome,
        valid,
        driven.extras["value"],
        driven.final_extras["value"],
        discount=config.discount,
        lam=config.lam,
        penalty=trust.penalty,
        pessimistic=config.pessimistic,
    )
    if config.objective == "dagger":
        shown = corrected(driven, worth, teacher, fold_in(keys[0], config.horizon + 1))  # beyond the rollout's steps
    else:
        shown = experience(driven, worth, WEIGHTS[config.objective](worth, config), config.reasoning_weight)
    return shown, kept_of(driven, valid), imagination_metrics(driven, worth)


def foresee(
    world: World,
    vla: VLA,
    horizon: int,
    model_params: Params,
    policy_params: Params,
    scene: Scene,
    start: Array,
    keys: tuple[jax.Array, jax.Array],
    trust: Trust,
) -> Imagined:
    """Drives the policy in the learned World without learning from it; arguments as `imagine`."""
    driven = rollout(world, model_params, vla, policy_params, scene, horizon, *keys, start)
    return kept_of(driven, counted(driven.alive, driven.outcome, trust.horizon, trust.disagreement))


def kept_of(driven: Rollout, valid: Array) -> Imagined:
    """What is kept of a rollout of which `valid` [H, R] is believed."""
    outcome = driven.outcome
    return Imagined(valid, outcome.reward, outcome.disagreement, events_of(driven), outcome.predicted)


def events_of(driven: Rollout) -> dict[str, Array]:
    """bool[H, R], whether each event happened in a step."""
    return {event.name: driven.outcome.happened(event.name) for event in EVENTS}


def experience(driven: Rollout, worth: Targets, weight: Array, reasoning: float) -> Experience:
    """Imagined decisions with their weights; what was said shares the weight of what was done, times `reasoning`."""
    extras = driven.extras
    return Experience(
        observation=driven.observation,
        decision=extras["decision"],
        log_prob=extras["log_prob"],
        reasoning_log_prob=extras["reasoning_log_prob"],
        weight=weight,
        reasoning_weight=reasoning * weight,
        returns=worth.returns,
        valid=worth.valid,
    )


def corrected(driven: Rollout, worth: Targets, teacher: Teacher, key: jax.Array) -> Experience:
    """The states that the policy got itself into, with what the teacher says and does there. key: key[R]."""
    keys = jax.vmap(lambda k: jax.random.split(k, driven.alive.shape[0]), out_axes=1)(key)
    weight = share(worth.valid)
    return Experience(
        observation=driven.observation,
        decision=jax.vmap(teacher.label)(keys, driven.observation),
        log_prob=jnp.zeros_like(weight),
        reasoning_log_prob=jnp.zeros_like(weight),
        weight=weight,
        reasoning_weight=weight,
        returns=worth.returns,
        valid=worth.valid,
    )


def imagination_metrics(driven: Rollout, worth: Targets) -> dict[str, Array]:
    """Scalars about imagined rollouts."""
    value = driven.extras["value"].mean(-1)
    error = masked_mean((worth.returns - value) ** 2, worth.valid)
    centred = worth.returns - masked_mean(worth.returns, worth.valid)
    return {
        "return": worth.undiscounted.mean(),
        "failure": jnp.any(driven.outcome.termination & worth.valid, axis=0).mean(),
        "steps": worth.valid.sum(0).mean(),
        "disagreement": masked_mean(driven.outcome.disagreement, worth.valid),
        "value_explained": 1 - error / jnp.maximum(masked_mean(centred**2, worth.valid), 1e-6),
        "informative": jnp.mean(worth.advantage != 0),
        **{
            f"reward_{name}": jnp.sum(jnp.where(worth.valid, term, 0.0), axis=0).mean()
            for name, term in driven.outcome.reward_terms.items()
        },
    }


def drive(
    simulator: SimulatorConfig, vla: VLA, steps: int, policy_params: Params, scene: Scene, key: jax.Array
) -> tuple[ModelBatch, dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Drives the policy in the log-replay simulator from the current step.

    Args: scene: `Scene` [R, ...]; key: key[R], the policy's.
    Returns: the tracks, `driving_score` [R], and `per_step`.
    """
    driven = rollout(LogReplay(simulator), (), vla, policy_params, scene, steps, key, key)
    batch = track(driven, scene, uniform=False)
    return batch, driving_score(driven, scene, simulator), per_step(driven)


def per_step(driven: Rollout) -> dict[str, Array]:
    """Reward, own reward, alive and the events, [H, R] each."""
    rewards = {"reward": driven.outcome.reward, "own_reward": own_reward(driven.outcome)}
    earned = {name: jnp.where(driven.alive, values, 0.0) for name, values in rewards.items()}
    return {**earned, "alive": driven.alive, **events_of(driven)}


def track(driven: Rollout, scene: Scene, uniform: Array | bool) -> ModelBatch:
    """A replayed rollout as training data of the world model."""
    start = driven.observation.time[0]
    return from_rollout(scene, start, driven, jnp.broadcast_to(jnp.asarray(uniform), start.shape))


def drive_expert(
    simulator: SimulatorConfig, steps: int, scene: Scene, disturbance: Disturbance, key: jax.Array
) -> ModelBatch:
    """Drives the logged ego, more or less disturbed, in the simulator. Undisturbed rows are uniform log data."""
    driven = rollout(LogReplay(simulator), (), DisturbedExpert(simulator), disturbance, scene, steps, key, key)
    return track(driven, scene, uniform=disturbance.none)


def demonstrate(
    driver: ClosestToLog, steps: int, policy_params: Params, scene: Scene, key: jax.Array
) -> tuple[Experience, ModelBatch, dict[str, Array]]:
    """Drives the candidates nearest the log in the simulator: rollouts as demonstrations (`cl_sft`).

    Args: scene: `Scene` [R, ...]; key: key[R].
    """
    driven = rollout(LogReplay(driver.simulator), (), driver, policy_params, scene, steps, key, key)
    failed, extras = jnp.any(driven.outcome.termination, axis=0), driven.extras
    # A rollout that failed shows nothing worth copying.
    valid = driven.alive & ~failed
    weight = share(valid)
    shown = Experience(
        observation=driven.observation,
        decision=extras["decision"],
        log_prob=jnp.zeros_like(weight),
        reasoning_log_prob=jnp.zeros_like(weight),
        weight=weight,
        reasoning_weight=weight,
        returns=jnp.zeros_like(weight),
        valid=valid,
    )
    metrics = {
        "failure": failed.mean(),
        "recovered": masked_mean(extras["recovered"], driven.alive),
        "deviation": masked_mean(extras["deviation"], driven.alive),
        "return": jnp.sum(jnp.where(driven.alive, driven.outcome.reward, 0.0), axis=0).mean(),
    }
    return shown, track(driven, scene, uniform=False), metrics
