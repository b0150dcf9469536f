"""Stage `coach`: a privileged policy imitates the logs, then practises in imagination, grounded in every round."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tether.simulator.log_replay import LogReplay
from tether.training import coaching
from tether.training.coaching import Coached, coaching_step, imitation_step, latest_start, starts
from tether.training.config import Config
from tether.training.drives import Judge, NamedPolicy, drive, row_keys, steps_of
from tether.training.imagination import Trust
from tether.training.learning import cosine
from tether.training.loop import Metrics, Run, Unit, steps
from tether.training.models import with_coach
from tether.training.rounds import Learner, ground_and_decide
from tether.training.scenes import WithoutTiles, seen_by
from tether.training.stage import Stage
from tether.training.stages.world_model import refit_on
from tether.training.state import RunState, Standing


def imitate_coach(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Trains the coach on the logs."""
    config, coach, train = run.config.coaching, run.models.coach, run.splits.train
    latest = latest_start(train, coach.space.horizon)

    def body(state: RunState, step: int, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
        k_start, k_step = jax.random.split(key)
        rate = jnp.float32(cosine(config.imitation_rate, step, config.imitation_steps))
        scene, placed = run.layout.assemble(batch[0]), run.layout.place(starts(k_start, config.rows, latest))
        arrays = coached(state), scene, placed, k_step, rate
        after, metrics = imitation_step(coach, run.config.imitation.loss, *arrays)
        return state.learn(**with_coach(after)), metrics

    scenes = run.batches(WithoutTiles(train), config.rows, unit)
    state = steps(run, state, unit, config.imitation_steps, scenes, body)
    learned = state.learned.coach
    # Practice begins with an optimiser that has seen nothing.
    fresh = coaching.begin(coach, jax.random.key(0)).replace(params=learned)
    state = state.learn(**with_coach(fresh, coach_accepted=learned, coach_best=learned))
    return state.note(coach=Standing(horizon=config.steps, penalty=run.config.rounds.penalty)), {}


def trust_coach(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Measures how much the model disagrees with itself while the coach drives held-out scenes, a quantile of it."""
    if not run.config.rounds.dynamic_horizon:
        return state.note(trust=float("inf")), {}
    records, coach = run.splits.validation, run.models.coach.deployed
    driven = drive(
        *(NamedPolicy("coach, trust", coach, state.learned.coach), records),
        *(Judge(run.models.world_model, lambda rows: state.learned.model), steps_of),
        steps=run.config.coaching.steps,
        batch=min(run.config.coaching.rows, len(records)),
        keys=functools.partial(row_keys, run.config.seed),
        layout=run.layout,
    )
    trust = float(np.quantile(driven.disagreement[driven.alive], run.config.fit.trust_quantile))
    return state.note(trust=trust), {"trust": trust}


def refit_coach(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fits the world model again, also on what the coach did."""
    return refit_on(run, state, unit, run.models.coach, state.learned.coach)


def practise_coach(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """The coach practises in the world model as far as it is believed, or, for the baseline, in the simulator."""
    config, imagines = run.config.coaching, run.config.rounds.world == "model"
    train = seen_by(run.models.world_model, run.splits.train) if imagines else WithoutTiles(run.splits.train)
    simulator, model = run.config.simulator, run.models.world_model
    world = coaching.practised_in(model, simulator, config.replayed) if imagines else LogReplay(simulator)
    latest, now = latest_start(train, run.config.simulator.substeps), state.progress
    believed = (now.coach.horizon, now.trust, now.coach.penalty) if imagines else (config.steps, jnp.inf, 0.0)
    trust = Trust(jnp.int32(believed[0]), *map(jnp.float32, believed[1:]))

    def body(state: RunState, step: int, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
        k_start, k_step = jax.random.split(key)
        done = ((unit.round - 1) * config.batches + step) / (config.rounds * config.batches)
        scene, placed = run.layout.assemble(batch[0]), run.layout.place(starts(k_start, config.rows, latest))
        params = state.learned.model if imagines else ()
        arrays = params, coached(state), scene, placed, k_step, trust, coaching.weights(config, done)
        sizes = config.steps, config.epochs, config.minibatch
        after, metrics = coaching_step(world, run.models.coach, *sizes, *arrays)
        if not imagines:
            state = state.add_steps("practise", metrics["decisions"][None])
        return state.learn(**with_coach(after)), metrics

    scenes = run.batches(train, config.rows, unit)
    return steps(run, state, unit, config.batches, scenes, body), {}


def ground_coach(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Grounds the coach and decides about it."""
    fields = "coach", "coach_accepted", "coach_best"
    coach = Learner("coach", run.models.coach.deployed, run.config.coaching.steps, *fields, before="coach")
    return ground_and_decide(run, state, unit, coach)


def coached(state: RunState) -> Coached:
    """The coach's arrays."""
    return Coached(state.learned.coach, *state.learned.coach_moments)


def order(config: Config) -> Sequence[tuple[str, int]]:
    """Imitation is grounded first, then each round; nothing without rounds."""
    parts, rounds = ("refit_coach", "practise_coach", "ground_coach"), range(1, config.coaching.rounds + 1)
    first = [(part, 0) for part in ("imitate_coach", "trust_coach", "ground_coach")] if rounds else []
    return [*first, *((part, index) for index in rounds for part in parts)]


STAGE = Stage(
    "coach",
    {part.__name__: part for part in (imitate_coach, trust_coach, refit_coach, practise_coach, ground_coach)},
    order,
)
