"""Speed of world models on this machine, as JSON:

python -m benchmarks.world_models [--preset cpu] [--model rssm tokens package.module:Config] [--batch B] [--data DIR]

For each model at the preset's sizes: scenes per second of the training step, each a rollout of 16 world steps, and
imagined world steps of 0.5 s per second, of all scenes of the batch. `log_replay` is the simulator, run by the same
loop on the same batch; its rate divided by a model's is `simulator_over_model`. Each world step is 5 environment steps
of 0.1 s. On a CPU one core is used, and seconds are CPU-seconds of the process.

`model_tflop` of a training step is three times the forward pass's matrix products, counted in the traced program.
Recomputation, elementwise work and geometry do not count. Divided by the time and the device's peak it is the
model-FLOP utilisation. Peak memory is the compiler's: arguments, results and temporaries of the step.
"""

import argparse
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import command, timing
from tether.data.command_line import Parser
from tether.evaluation.policies import open_records
from tether.simulator.replay import replay_actions
from tether.training import presets
from tether.training.config import Config
from tether.training.disturbed_expert import disturbance, drive_expert, undisturbed
from tether.training.scenes import DataConfig, WithoutTiles, batches
from tether.worldmodel import registry
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.fitting import fit_step, start_fit
from tether.worldmodel.interface import WorldModel

MODELS = ("kinematic", "lanes", "rssm", "tokens")
SIMULATOR = "oracle"  # the log-replay simulator behind the interface of a world model
SHORTEST_CONTRACTION = 9  # shorter ones are running sums over sub-steps and classes, not the networks'


def expert_rollouts(config: Config, count: int) -> ModelBatch:
    """The batch of one step of the fit: the expert's rollouts in training scenes, half of them disturbed."""
    scene, _ = next(batches(WithoutTiles(open_records(config, "train")), count, 0))
    k_disturb, k_drive = jax.random.split(jax.random.key(0))
    rough = jnp.arange(count) >= count // 2
    rows = disturbance(k_disturb, count), undisturbed(count)
    disturbed = jax.tree.map(lambda one, other: jnp.where(rough, one, other), *rows)
    drive = jax.jit(functools.partial(drive_expert, config.simulator, config.rollout_steps))
    return drive(jax.tree.map(jnp.asarray, scene), disturbed, jax.random.split(k_drive, count))


def product_flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products and convolutions of a traced program."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            length = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            if length >= SHORTEST_CONTRACTION:
                total += 2.0 * length * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "conv_general_dilated":
            kernel, features = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec[0]
            total += 2.0 * math.prod(kernel) / kernel[features] * math.prod(equation.outvars[0].aval.shape)
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += repeats * sum(product_flops(inner) for inner in _inner(equation.params.values()))
    return total


def _inner(values: Any) -> Iterator[Any]:
    """The programs within an equation's parameters."""
    for value in values:
        if hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif isinstance(value, tuple):
            yield from _inner(value)


def training(model: WorldModel, params: Any, config: Config, batch: ModelBatch) -> dict[str, Any]:
    """Speed, FLOPs and memory of the training step; empty for a model without parameters."""
    if not jax.tree.leaves(params):
        return {}
    optimizer, count = config.fit.optimizer.build(config.fit.steps), len(batch.start)
    args = start_fit(params, optimizer), jax.random.key(1), batch
    compiled = jax.jit(fit_step(model, optimizer)).lower(*args).compile()
    best, memory = timing.seconds(compiled, *args), compiled.memory_analysis()
    flops = 3 * product_flops(jax.make_jaxpr(model.loss)(params, *args[1:]).jaxpr)
    speed = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        f"training_scenes_{timing.unit()}": round(count / best, 2),
        "training_step_s": round(best, 4),
        "model_tflop": round(flops / 1e12, 4),
        "peak_memory_mb": round(
            (memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes) / 1e6
        ),
    }
    peak = timing.PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return speed | ({"model_flop_utilisation": round(flops / best / peak, 4)} if peak else {})


def imagination(model: WorldModel, params: Any, batch: ModelBatch) -> float:
    """Imagined world steps per second."""
    keys = jax.random.split(jax.random.key(2), len(batch.start))

    def imagine(params: Any, keys: jax.Array, batch: ModelBatch) -> tuple[Any, Any]:
        result = replay_actions(model, params, keys, batch.scene, batch.start, batch.action)
        return result.agents, result.outcome

    compiled = jax.jit(imagine).lower(params, keys, batch).compile()
    return batch.alive.size / timing.seconds(compiled, params, keys, batch)


def measure(name: str, config: Config, batch: ModelBatch, simulator: float) -> dict[str, Any]:
    """The report on one model. Args: simulator: world steps per second of the simulator."""
    print(name, file=sys.stderr)
    model = registry.build(name, config.model_settings(name), config.simulator)
    params = jax.jit(model.init)(jax.random.key(0), batch)
    rate = imagination(model, params, batch)
    return {
        **training(model, params, config, batch),
        f"imagined_world_steps_{timing.unit()}": round(rate),
        f"imagined_environment_steps_{timing.unit()}": round(rate * config.simulator.substeps),
        "simulator_over_model": round(simulator / rate, 2),
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.world_models", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", choices=presets.PRESETS, default="cpu")
    parser.add_argument("--model", nargs="+", default=MODELS, help="names or import paths; default: %(default)s")
    parser.add_argument("--batch", type=int, help="scenes; the preset's if left out")
    parser.add_argument("--data", help="a data set's folder; the starter set if left out")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measures and prints."""
    options = parse(arguments)
    timing.use_one_core()
    config = dataclasses.replace(presets.PRESETS[options.preset](), data=DataConfig(directory=options.data))
    count = options.batch or config.fit.scenes
    batch = expert_rollouts(config, count)
    simulator = imagination(registry.build(SIMULATOR, None, config.simulator), (), batch)
    report = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "preset": config.name,
        "scenes": count,
        "agents": config.spec.agents,
        "world_step_s": config.simulator.step_s,
        "log_replay": {
            f"world_steps_{timing.unit()}": round(simulator),
            f"environment_steps_{timing.unit()}": round(simulator * config.simulator.substeps),
        },
        "models": {name: measure(name, config, batch, simulator) for name in options.model},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    command.run(main)
