"""Bytes that each chip sends in a step, by preset, stage and mesh, from the shapes of the programs alone:

python -m benchmarks.communication [--presets cpu h200] [--chips 8 64 512]

Prints a table. Each chip has the preset's batch, so batches grow with the chips. A ring of n chips sends
(n - 1) / n of an array's bytes per chip to gather or to scatter it, and twice that to reduce it to all. Counted are

- gradients: reduced over `data`; where `fsdp` cuts a parameter, only its own part, after scattering over `fsdp`;
- parameters that `fsdp` cuts: gathered once in an update and once in a rollout;
- activations of products with parameters that `tensor` cuts: outputs gathered forward, gradients of inputs reduced
  backward. This is an upper bound: XLA does not send what it can keep apart;
- minibatches of imagined transitions, drawn at random from those of all chips: XLA reduces all of them to every chip.
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import command
from tether.data.command_line import Parser
from tether.evaluation.policies import open_records
from tether.evaluation.report import table
from tether.policy.imitation import imitation_loss, imitation_targets
from tether.simulator.log_replay import LogReplay
from tether.training import models, presets
from tether.training.config import Config
from tether.training.drives import roll_out, steps_of
from tether.training.imagination import Trust, track
from tether.training.learning import Rates, loss, transitions
from tether.training.mesh import ALONE, parameter_spec
from tether.training.scenes import take

MESHES = {"data": (1, 1), "fsdp 8": (8, 1), "tensor 8": (1, 8)}  # the rest of the chips is along `data`
# Operations whose result of a parameter counts as a parameter.
SHAPED = ("convert_element_type", "reshape", "transpose", "slice", "squeeze", "broadcast_in_dim", "dynamic_slice")


@dataclasses.dataclass(frozen=True)
class Stage:
    """The computation of a step, as shapes.

    Attributes:
      function: of `parameters` and `arguments`.   parameters, arguments: trees of shapes.
      learns: whether gradients of the first tree are taken.
      exchanged: bytes of the minibatch of one chip that is drawn from all chips' transitions.
    """

    function: Callable[..., Any]
    parameters: tuple[Any, ...]
    arguments: tuple[Any, ...]
    learns: bool
    exchanged: int = 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.communication",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--presets", nargs="+", choices=presets.PRESETS, default=["cpu", "h200"])
    parser.add_argument("--chips", type=int, nargs="+", default=[8, 64, 512], help="multiples of 8")
    return parser.parse_args(arguments)


def stages_of(config: Config) -> dict[str, Stage]:
    """The programs that update or roll out parameters."""
    built, rounds, imitation = models.build(config), config.rounds, config.imitation
    records = open_records(config, "train")
    shape = jax.eval_shape
    key = shape(lambda: jax.random.key(0))

    def scenes(count: int) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), take(records, [0]))

    def keys(count: int) -> Any:
        return shape(lambda: jax.random.split(jax.random.key(0), count))

    rows, samples = rounds.scenes * rounds.group, imitation.scenes * imitation.starts
    policy = shape(built.vla.init, key)
    simulator, whole = LogReplay(config.simulator), config.rollout_steps
    practice, vla = models.practice(config, built), built.vla

    def track_of(policy: Any, scene: Any, key: Any) -> Any:
        return roll_out(simulator, vla, track, whole, ALONE, (), policy, scene, (key, key))

    def ground(policy: Any, scene: Any, key: Any) -> Any:
        return roll_out(simulator, built.deployed, steps_of, whole, ALONE, (), policy, scene, (key, key))

    def imagine(model: Any, policy: Any, scene: Any, start: Any, keys: Any, trust: Any) -> Any:
        program = built.world_model, vla, practice, rounds.horizon, ALONE
        return roll_out(*program, model, policy, scene, keys, start, keys[0], trust, ())  # rules teach

    tracks = shape(track_of, policy, scenes(config.fit.scenes), keys(config.fit.scenes))
    model = shape(built.world_model.init, key, tracks)
    start = jax.ShapeDtypeStruct((samples,), jnp.int32)
    targets = shape(
        lambda scene, start, key: imitation_targets(
            scene, start, key, built.vla, config.simulator, imitation.loss, imitation.labels
        ),
        *(scenes(samples), start, keys(samples)),
    )
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    imagined = (scenes(rows), jax.ShapeDtypeStruct((rows,), jnp.int32), (keys(rows), keys(rows)))
    trust = Trust(jax.ShapeDtypeStruct((), jnp.int32), scalar, scalar)
    experience = shape(imagine, model, policy, *imagined, trust).experience
    minibatch = shape(
        functools.partial(transitions, ALONE), experience, jax.ShapeDtypeStruct((rounds.minibatch,), jnp.int32)
    )
    rates = Rates(*[scalar] * 5)
    return {
        "fit the world model": Stage(built.world_model.loss, (model,), (key, tracks), True),
        "imitate": Stage(lambda p, b: imitation_loss(built.vla, p, b, imitation.loss), (policy,), (targets,), True),
        "improve": Stage(
            lambda p, reference, b, r: loss(built.vla, p, reference, b, r),
            (policy, policy),
            (minibatch, rates),
            True,
            sum(map(size, jax.tree.leaves(minibatch))),
        ),
        "imagine": Stage(imagine, (model, policy), (*imagined, trust), False),
        "ground": Stage(ground, (policy,), (scenes(rows), keys(rows)), False),
    }


def size(leaf: Any) -> int:
    """Bytes."""
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def products(jaxpr: Any, cut: Iterable[bool], times: int = 1) -> tuple[int, int, list[bool]]:
    """Bytes of the inputs and outputs of all products with cut parameters, and which results are cut parameters.

    Args: cut: which inputs of the jaxpr are cut parameters.   times: how often it runs.
    """
    weights = {var for var, is_cut in zip(jaxpr.invars, cut, strict=True) if is_cut}

    def known(var: Any) -> bool:
        return not isinstance(var, jax.extend.core.Literal) and var in weights

    taken = given = 0
    for equation in jaxpr.eqns:
        flags, name = [known(var) for var in equation.invars], equation.primitive.name
        if name in ("dot_general", "conv_general_dilated") and sum(flags[:2]) == 1:
            taken += times * size(equation.invars[flags.index(False)].aval)
            given += times * size(equation.outvars[0].aval)
        elif name in SHAPED and flags[0]:
            weights.add(equation.outvars[0])
        for inner in inner_jaxprs(equation):
            if len(inner.invars) == len(flags):
                more = products(inner, flags, times * equation.params.get("length", 1))
                taken, given = taken + more[0], given + more[1]
                weights |= {var for var, is_cut in zip(equation.outvars, more[2], strict=False) if is_cut}
    return taken, given, [known(var) for var in jaxpr.outvars]


def inner_jaxprs(equation: Any) -> list[Any]:
    """The jaxprs that an equation calls."""
    inner = [equation.params.get(name) for name in ("jaxpr", "call_jaxpr")]
    return [getattr(one, "jaxpr", one) for one in inner if one is not None]


def activations(stage: Stage, sizes: dict[str, int], whole_below: int) -> float:
    """Bytes of activations that each chip sends."""
    leaves = jax.tree.leaves(stage.parameters)
    cut = ["tensor" in parameter_spec(leaf.shape, sizes, whole_below) for leaf in leaves]
    if not any(cut):
        return 0.0
    jaxpr = jax.make_jaxpr(stage.function)(*stage.parameters, *stage.arguments).jaxpr
    taken, given, _ = products(jaxpr, [*cut, *[False] * (len(jaxpr.invars) - len(cut))])
    part = (sizes["tensor"] - 1) / sizes["tensor"]
    return part * (given + (2 * taken if stage.learns else 0))


def parameters(stage: Stage, sizes: dict[str, int], whole_below: int) -> tuple[float, float]:
    """Bytes that each chip sends: parameters gathered, and gradients reduced."""
    gathered = reduced = 0.0
    for number, tree in enumerate(stage.parameters):
        learned = stage.learns and number == 0
        for leaf in jax.tree.leaves(tree):
            spec = parameter_spec(leaf.shape, sizes, whole_below)
            own = size(leaf) / (sizes["tensor"] if "tensor" in spec else 1)
            parts = sizes["fsdp"] if "fsdp" in spec else 1
            copies = sizes["data"] * sizes["fsdp"] // parts
            once = (parts - 1) / parts * own
            gathered += once
            if learned:
                reduced += once + 2 * (copies - 1) / copies * own / parts
    return gathered, reduced


def rows_of(name: str, chips: list[int]) -> list[list[str]]:
    """The table's rows of a preset."""
    config, rows = presets.PRESETS[name](), []
    whole_below = config.mesh.whole_below
    for label, stage in stages_of(config).items():
        for mesh, (fsdp, tensor) in MESHES.items():
            sent = activations(stage, {"data": 1, "fsdp": fsdp, "tensor": tensor}, whole_below)
            cells = []
            for count in chips:
                sizes = {"data": count // (fsdp * tensor), "fsdp": fsdp, "tensor": tensor}
                gathered, reduced = parameters(stage, sizes, whole_below)
                parts = sizes["data"] * fsdp
                exchanged = 2 * stage.exchanged * (parts - 1)  # 2 (n - 1) / n of n chips' minibatches
                parts_sent = zip("gpam", (reduced, gathered, sent, exchanged), strict=True)
                cells.append(" + ".join(f"{part / 1e6:.3g} {kind}" for kind, part in parts_sent if part) or "0")
            rows.append([name, label, mesh, *cells])
    return rows


def main(arguments: list[str]) -> None:
    """Prints the table."""
    options = parse(arguments)
    header = ["preset", "stage", "mesh", *(f"{count} chips" for count in options.chips)]
    print("MB per chip and step: g gradients, p parameters, a activations, m minibatches\n")
    print(table(header, [row for name in options.presets for row in rows_of(name, options.chips)]))


if __name__ == "__main__":
    command.run(main)
