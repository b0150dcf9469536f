"""Cost of the action heads at the sizes of the preset `cpu`: CPU-milliseconds of one core, for a batch of 128 states.

    python -m benchmarks.heads

Prints JSON, for each head: its number of parameters; the times of acting with exploration and as deployed, of an update
from the policy's own decisions and from a teacher's, and of the gradient of imitation without making the labels.
"""

import argparse
import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import command, timing
from tether.data.command_line import Parser
from tether.evaluation.policies import open_records
from tether.policy.action_head import Decision
from tether.policy.baselines import IDM
from tether.policy.imitation import imitation_loss, imitation_targets
from tether.policy.sizes import parameters
from tether.policy.vla import VLA
from tether.training import presets
from tether.training.config import Config
from tether.training.experience import Experience
from tether.training.learning import Rates, optimiser, policy_step
from tether.training.mesh import ALONE
from tether.training.scenes import take
from tether.training.teacher import Teacher

ROWS = 128


def programs(vla: VLA, config: Config, keys: jax.Array, params: Any, scene: Any) -> dict[str, tuple]:
    """Name to a jitted function and its arguments, which are timed."""
    loss, labels, start = config.imitation.loss, config.imitation.labels, jnp.full(ROWS, config.spec.current)
    batch = jax.jit(lambda s: imitation_targets(s, start, keys, vla, config.simulator, loss, labels))(scene)
    seen, state = batch.observation, optimiser().init(params)
    rates = Rates(*map(jnp.float32, (1e-4, 1e-3, 0.1, 0.0, 0.2)))
    explore = jax.jit(lambda params, seen: vla.act(params, keys, seen, ()))
    deploy = jax.jit(lambda params, seen: vla.with_temperature(0.0).act(params, keys, seen, ()))
    update = jax.jit(
        lambda params, state, experience: policy_step(vla, ALONE, params, state, params, experience, rates)
    )
    gradient = jax.jit(jax.grad(lambda params, batch: imitation_loss(vla, params, batch, loss)[0]))

    def experience(decision: Decision) -> Experience:
        ones = jnp.ones(ROWS)
        return Experience(seen, decision, 0 * ones, ones, ones, 0 * ones, ones > 0)

    teacher = Teacher(IDM(config.simulator, labels.follower), vla.head, labels)
    taught = jax.jit(functools.partial(teacher.label, ()))(keys, seen)
    return {
        "act_exploring": (explore, params, seen),
        "act_deployed": (deploy, params, seen),
        "update_drawn": (update, params, state, experience(explore(params, seen)[2]["decision"])),
        "update_shown": (update, params, state, experience(taught)),
        "imitation_gradient": (gradient, params, batch),
    }


def cost(config: Config, head: str, scene: Any) -> dict[str, float]:
    """One head's row."""
    policy = dataclasses.replace(config.policy, head=head)
    vla, keys = policy.build(config.simulator, config.spec), jax.random.split(jax.random.key(0), ROWS)
    timed = programs(vla, config, keys, vla.init(jax.random.key(1)), scene)
    times = {f"{name}_ms": round(1e3 * timing.seconds(*call), 1) for name, call in timed.items()}
    return {"parameters": parameters(vla), **times}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, which has no options."""
    return Parser(prog="python -m benchmarks.heads", description=__doc__).parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parse(arguments)
    timing.use_one_core()
    config = presets.cpu()
    scene = take(open_records(config, "train"), range(ROWS))
    print(json.dumps({head: cost(config, head, scene) for head in ("discrete", "flow")}, indent=2))


if __name__ == "__main__":
    command.run(main)
