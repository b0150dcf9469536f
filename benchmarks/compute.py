"""Matrix products of a run, by preset and stage, from the shapes of the programs alone:

python -m benchmarks.compute [--presets h200] [--peak 494e12] [--fraction 0.3]

Prints a table: TFLOP of a step, number of steps of the stage in a run, and the minutes that they take at a fraction of
a device's peak (`--fraction`). Where gradients are taken, a step counts three times the forward pass's products, those
of a frozen reference included, which is too much. Compilation, elementwise work, geometry, the checks on the validation
split and the final evaluation are not included. The default peak is that of float32 on an H200, where XLA rounds
products to TF32 (the vendor's data sheet, dense). The default fraction is an assumption, not a measurement.
"""

import argparse
from typing import Any

import jax

from benchmarks import command
from benchmarks.communication import Stage, stages_of
from benchmarks.world_models import product_flops
from tether.data.command_line import Parser
from tether.evaluation.report import table
from tether.training import presets
from tether.training.config import Config


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.compute", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=presets.PRESETS, default=["h200"])
    parser.add_argument("--peak", type=float, default=494e12, help="of the device [FLOP/s] (default: %(default)g)")
    parser.add_argument("--fraction", type=float, default=0.3, help="of the peak, reached (default: %(default)s)")
    return parser.parse_args(arguments)


def flops(stage: Stage) -> float:
    """FLOP of one step of a stage."""
    traced: Any = jax.make_jaxpr(stage.function)(*stage.parameters, *stage.arguments)
    return (3 if stage.learns else 1) * product_flops(traced.jaxpr)


def steps(config: Config) -> dict[str, float]:
    """Stage to its number of steps in a run; stages that the preset does not have are left out."""
    rounds, rows = config.rounds, config.rounds.scenes * config.rounds.group
    batches = rounds.rounds * rounds.iterations
    return {
        "fit the world model": config.fit.steps + rounds.rounds * config.fit.refit_steps,
        "imitate": config.imitation.steps,
        "imagine": batches + config.value.steps,
        "improve": batches * rounds.epochs * rows * rounds.horizon / rounds.minibatch,
        "ground": (rounds.rounds + 1) * config.grounding.scenes / rows,
    }


def main(arguments: list[str]) -> None:
    """Prints the table."""
    options, rows = parse(arguments), []
    for name in options.presets:
        config = presets.PRESETS[name]()
        taken, total = steps(config), 0.0
        for label, stage in stages_of(config).items():
            each = flops(stage)
            minutes = taken[label] * each / options.peak / options.fraction / 60
            total += minutes
            rows.append([name, label, f"{each / 1e12:.3g}", f"{taken[label]:,.0f}", f"{minutes:.1f}"])
        rows.append([name, "together", "", "", f"{total:.1f}"])
    print(table(["preset", "stage", "TFLOP of a step", "steps", "minutes"], rows))


if __name__ == "__main__":
    command.run(main)
