"""Stage `post_train`: rounds of refitting, improvement in imagination, grounding in the simulator, and the decision."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from tether.training import models
from tether.training.config import Config
from tether.training.learning import Rates, cosine
from tether.training.loop import Metrics, Run, Unit, steps
from tether.training.practice import fresh_moments, learn, practise
from tether.training.rounds import Learner, ground_and_decide
from tether.training.stage import Stage
from tether.training.stages.closed_loop import tune
from tether.training.stages.world_model import refit
from tether.training.state import RunState


def improve(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Improves the policy: by imagined rollouts, or by more demonstrations."""
    config, objective = run.config.rounds, models.practice(run.config, run.models).objective
    state = fresh_moments(run, state)
    if not objective.imagines:
        scenes = run.batches(run.splits.train, run.config.closed_loop.scenes, unit)
        return steps(run, state, unit, config.iterations, scenes, lambda s, _, key, batch: tune(run, s, key, batch)), {}

    def body(state: RunState, step: int, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
        k_imagine, k_learn = jax.random.split(key)
        state, experience, practised = practise(run, state, k_imagine, batch[0])
        done = (unit.round - 1) * config.iterations + step
        rate = cosine(config.learning_rate, done, config.rounds * config.iterations)
        weights = (rate, run.config.value.learning_rate, config.kl_weight, config.entropy_weight, objective.clip)
        rates = Rates(*map(jnp.float32, weights))
        state, learned = learn(run, state, k_learn, experience, config.minibatch, config.epochs, rates)
        if not objective.learns_drawn:
            del learned["parity"]  # there is no log-probability to replay
        return state, {**practised, **learned}

    scenes = run.batches(run.splits.train, config.scenes, unit)
    return steps(run, state, unit, config.iterations, scenes, body), {}


def ground(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Grounds the policy and decides about it; round 0 compares what fine-tuning has made of imitation with that."""
    tuned = "imitation" if run.config.closed_loop.steps else "policy"
    student = Learner("", run.models.deployed, run.config.rounds.horizon, "policy", "accepted", "best", before=tuned)
    return ground_and_decide(run, state, unit, student)


def order(config: Config) -> Sequence[tuple[str, int]]:
    """The imitation policy is grounded first, then the policy of each round."""
    rounds = range(1, config.rounds.rounds + 1)
    return [("ground", 0), *((part, index) for index in rounds for part in ("refit", "improve", "ground"))]


STAGE = Stage("post_train", {"refit": refit, "improve": improve, "ground": ground}, order)
