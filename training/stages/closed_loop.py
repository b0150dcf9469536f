"""Stage `cl_sft`: closed-loop supervised fine-tuning. Rollouts near the log become demonstrations."""

import jax
import jax.numpy as jnp

from tether.simulator.log_replay import LogReplay
from tether.training import tracks
from tether.training.closest_to_log import ClosestToLog
from tether.training.config import Config
from tether.training.drives import roll_out
from tether.training.imagination import demonstrate
from tether.training.learning import Rates
from tether.training.loop import Metrics, Run, Unit, steps
from tether.training.models import Models
from tether.training.practice import fresh_moments, learn
from tether.training.stage import Stage
from tether.training.state import RunState


def cl_sft(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Fine-tunes the imitation policy on demonstrations."""
    config = run.config.closed_loop
    state = fresh_moments(run, state)
    scenes = run.batches(run.splits.train, config.scenes, unit)
    return steps(run, state, unit, config.steps, scenes, lambda s, _, key, batch: tune(run, s, key, batch)), {}


def tune(run: Run, state: RunState, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
    """One batch of demonstrations: driven, kept for refits, learned from."""
    config, (scene, indices) = run.config.closed_loop, batch
    k_drive, k_learn = jax.random.split(key)
    keys = run.layout.place(jax.random.split(k_drive, len(indices)))
    program = LogReplay(run.config.simulator), closest_to_log(run.config, run.models), demonstrate
    arrays = (), state.learned.policy, run.layout.assemble(scene), (keys, keys)
    experience, track, metrics = roll_out(*program, run.config.rollout_steps, run.layout, *arrays)
    state = state.add_steps("cl_sft", track.alive).learn(tracks=tracks.add(state.learned.tracks, indices, track))
    rates = Rates(*map(jnp.float32, (config.learning_rate, 0.0, 0.0, 0.0, 0.0)))
    state, learned = learn(run, state, k_learn, experience, config.minibatch, 1, rates)
    return state, {**metrics, **{name: learned[name] for name in ("policy", "kl", "entropy")}}


def closest_to_log(config: Config, models: Models) -> ClosestToLog:
    """What drives the demonstrations."""
    settings = config.closed_loop.candidates, config.closed_loop.recover_above
    return ClosestToLog(models.vla, config.simulator, models.labels, *settings)


STAGE = Stage("cl_sft", {"cl_sft": cl_sft})
