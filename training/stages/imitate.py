"""Stage `imitate`: the policy is trained on the logs; the result is the reference of everything after."""

import jax
import jax.numpy as jnp

from tether.training.checks import check
from tether.training.learning import cosine, imitation_step
from tether.training.loop import Metrics, Run, Unit, steps
from tether.training.stage import Stage
from tether.training.state import RunState


def imitate(run: Run, state: RunState, unit: Unit) -> tuple[RunState, Metrics]:
    """Trains the policy on the logs, and checks it on the validation split now and then."""
    config = run.config.imitation

    def body(state: RunState, step: int, key: jax.Array, batch: tuple) -> tuple[RunState, Metrics]:
        now = state.learned
        rate = jnp.float32(cosine(config.learning_rate, step, config.steps))
        arrays = now.policy, now.policy_optimizer, run.layout.assemble(batch[0])
        policy, optimizer, metrics = imitation_step(
            run.models.vla, run.config.simulator, config, run.layout, *arrays, key, rate
        )
        state = state.learn(policy=policy, policy_optimizer=optimizer)
        if step + 1 in milestones(config.steps, config.checks):
            state, scores = check(run, state.note(step=step + 1), unit, policy)
            metrics = {**metrics, **scores}
        return state, metrics

    scenes = run.batches(run.splits.train, config.scenes, unit)
    state = steps(run, state, unit, config.steps, scenes, body)
    policy, score = state.learned.policy, state.progress.checks[-1]["score"]
    state = state.note(best_score=score, best_checkpoint=state.progress.closing)
    return state.learn(imitation=policy, accepted=policy, best=policy), {}


def milestones(steps: int, count: int) -> set[int]:
    """So many steps, evenly spread, the last included."""
    return {steps * (index + 1) // count for index in range(count)}


STAGE = Stage("imitate", {"imitate": imitate}, shared=True)
