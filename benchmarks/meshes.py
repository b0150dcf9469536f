"""Compares the numbers of many devices, or several processes, with those of one, and measures their cost:

python -m benchmarks.meshes equality --out out/meshes     # 8 forced host devices against 1, stage by stage
python -m benchmarks.meshes processes --out out/meshes    # two processes against one, the main job of preset tiny
python -m benchmarks.meshes weak --out out/meshes         # rows grow with the devices, 1 to 8

Prints JSON and writes a page of `results/`. `equality` starts each stage on each mesh from the state in which one
device began it, restored from that device's checkpoint; `improve` runs with the objective of every preset. A
difference is |loss - loss of one device|, absolute and relative to the largest |loss| of the stage. `weak` measures the
CPU-seconds of a step per row, because all devices share the same cores and wall-clock time would only measure the
number of cores. A value of 1 means that the work grows with the rows alone.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from benchmarks import command
from benchmarks.pages import add_folder, write_page
from tether.data.command_line import Parser
from tether.evaluation.provenance import made_here, shortened
from tether.evaluation.report import table
from tether.training import mesh, models, presets, stages
from tether.training.checkpoint import Checkpoints
from tether.training.config import Config
from tether.training.log import read_lines, scalars
from tether.training.loop import Run, Unit
from tether.training.mesh import MeshConfig
from tether.training.resume import resume
from tether.training.scenes import open_splits
from tether.training.state import Progress, RunState
from tether.training.stop import Stop
from tether.training.validation import check_rows
from tether.training.watch import LOSSES

ROOT = pathlib.Path(__file__).parents[1]
MESHES = {"data=8": (8, 1, 1), "data=2,fsdp=4": (2, 4, 1), "data=2,tensor=4": (2, 1, 4), "2 x 2 x 2": (2, 2, 2)}
ROWS = 8  # of a batch in `equality`
PARTS = tuple(dict.fromkeys(unit.part for unit in stages.schedule(presets.tiny())))  # of the main job
OBJECTIVES = ("pmpo", "dagger")  # of the presets
GROUNDED_AGAIN = 3  # times, by `weak`: the first grounding compiles
INTERRUPTED = 130  # exit status of train.py when it was asked to stop
CLOCKS = ("cpu_s", "wall_s")
LIMIT_S = 3600.0
TITLES = {
    "equality": "Many devices against one",
    "processes": "Two processes against one",
    "weak": "Weak scaling",
}
ABOUT = {
    "equality": "Preset `tiny`, forced host devices. Largest difference of a loss (grounding: of any number of its "
    "record) from one device's over all steps of a unit; in brackets as a fraction of the largest |loss|. `improve` "
    "runs with the objective of every preset; `loss` is the total, `policy` and `value` are terms of it.",
    "processes": "The main job of preset `tiny` by two processes with a device each, stopped once and resumed. Largest "
    "difference of the other runs from it in a loss (grounding: in any number of its record), for each unit; in "
    "brackets as a fraction of the largest |loss|.",
    "weak": "Preset `tiny`, forced host devices on the same cores. CPU-seconds per row of a step relative to one "
    "device: 1 means that the work grows with the rows alone. The time of a step on real devices is not measured. A "
    "step of grounding is all of grounding, with the check on the validation split, whose scenes do not grow.",
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.meshes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("equality", "processes", "weak", "stages"))
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the runs are made")
    parser.add_argument("--steps", type=int, default=20, help="of each stage (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=ROWS, help="of `stages`, which the others call")
    parser.add_argument("--mesh", type=int, nargs=3, default=(1, 1, 1), help="of `stages`: data, fsdp, tensor")
    parser.add_argument("--begin", type=pathlib.Path, help="of `stages`: the states to begin with, by stage")
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES[:1], help="of `stages`: each for `improve`")
    parser.add_argument("--again", type=int, default=0, help="of `stages`: times that grounding is repeated")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="of the main job")
    parser.add_argument("--section", help="name of the page; `meshes-` and what is measured by default")
    add_folder(parser)
    return parser.parse_args(arguments)


def settings(rows: int, steps: int, axes: tuple[int, int, int]) -> Config:
    """Preset tiny with one round, `rows` in each batch, and nearly all parameters cut."""
    tiny = presets.tiny()
    return dataclasses.replace(
        tiny,
        checkpoint_every_s=1e9,
        mesh=MeshConfig(*axes, whole_below=64),
        fit=dataclasses.replace(tiny.fit, steps=steps, refit_steps=steps, scenes=2 * rows),
        imitation=dataclasses.replace(tiny.imitation, steps=steps, scenes=rows, starts=2),
        closed_loop=dataclasses.replace(tiny.closed_loop, steps=steps, scenes=rows, minibatch=8 * rows),
        value=dataclasses.replace(tiny.value, steps=steps),
        rounds=dataclasses.replace(tiny.rounds, rounds=1, iterations=steps, scenes=rows, minibatch=8 * rows),
    )


@dataclasses.dataclass
class Recorder:
    """Stands in for `training.log.Logger` and keeps the lines.

    Attributes:
      lines: of one unit: its metrics, and the CPU time of this process so far [s].
    """

    lines: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def write(self, *, metrics: dict[str, Any], **_: Any) -> None:
        """Keeps a line; waits for the device."""
        self.lines.append({**scalars(metrics), "cpu_s": time.process_time()})


def run_stages(
    config: Config,
    parts: list[str],
    out: pathlib.Path,
    begin: pathlib.Path | None,
    objectives: Sequence[str],
    again: int,
) -> dict[str, list[dict[str, Any]]]:
    """Runs every unit of work of these parts in this process. Returns: its log lines by unit.

    Args:
      begin: folder of the states that units begin with; None to run one unit after another and write them to `out`.
      objectives: `improve` runs with each from the same state; the next unit continues from the last one.
      again: times that grounding is repeated, a line each: it has no steps whose times could be measured.
    """
    layout = mesh.make(config.mesh)
    check_rows(config, layout.row_parts)
    splits = open_splits(config.data, config.spec, config.simulator)
    by_unit: dict[str, list[dict[str, Any]]] = {}
    units = [unit for unit in stages.schedule(config) if unit.part in parts]
    bare = Run(config, out, splits, models.build(config), Checkpoints(out, 1), None, Stop(), layout, time.monotonic())
    fresh = models.begin(config, bare.models, splits.train, layout)
    state = RunState(fresh, Progress(horizon=config.rounds.horizon, penalty=config.rounds.penalty))
    for unit in units:
        checkpoints = Checkpoints((begin or out) / place(unit), 1)
        run = dataclasses.replace(bare, checkpoints=checkpoints)
        if begin is None:
            run.save(state)
        else:
            state = resume(run, fresh)
        checkpoints.close()
        before = state
        for objective in objectives if unit.part == "improve" else objectives[:1]:
            name = f"{unit.name}, {objective}" if unit.part == "improve" else unit.name
            recorder = Recorder()
            run = aimed(dataclasses.replace(run, logger=recorder), objective)
            state, metrics = stages.part(unit)(run, before, unit)
            if metrics:  # of grounding
                run.record(state, unit, metrics)
                for _ in range(again):
                    run.record(state, unit, stages.part(unit)(run, before, unit)[1])
            by_unit[name] = recorder.lines
        state = state.note(step=0, iterator=None, total=state.progress.closing)
    return by_unit


def aimed(run: Run, objective: str) -> Run:
    """The run with another objective of its rounds."""
    config = dataclasses.replace(run.config, rounds=dataclasses.replace(run.config.rounds, objective=objective))
    return dataclasses.replace(run, config=config)


def place(unit: Unit) -> str:
    """The folder of the state that a unit begins with."""
    return unit.name.replace("/", "-")


def environment(devices: int) -> dict[str, str]:
    """The environment of a process with so many forced devices on the CPU."""
    flags = f"--xla_force_host_platform_device_count={devices} {os.environ.get('XLA_FLAGS', '')}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"}


def stages_on(
    options: argparse.Namespace,
    axes: tuple[int, int, int],
    rows: int,
    name: str,
    begin: str | None = None,
    objectives: Sequence[str] = OBJECTIVES[:1],
    again: int = 0,
) -> Any:
    """`run_stages` in a process with as many devices as the mesh has."""
    out = options.out / name
    shutil.rmtree(out, ignore_errors=True)
    words = ["stages", "--out", str(out), "--steps", str(options.steps), "--rows", str(rows)]
    words += ["--again", str(again), "--parts", *options.parts, "--mesh", *map(str, axes)]
    words += ["--objectives", *objectives, *(["--begin", str(options.out / begin)] if begin else [])]
    command = [sys.executable, "-m", "benchmarks.meshes", *words]
    devices = axes[0] * axes[1] * axes[2]
    print(f"{name}: {devices} device(s)", file=sys.stderr, flush=True)
    done = subprocess.run(
        command, cwd=ROOT, env=environment(devices), stdout=subprocess.PIPE, timeout=LIMIT_S, check=True
    )
    return json.loads(done.stdout)


def difference(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Metric to the largest difference over the steps, absolute and relative to the largest value of the first."""
    names = [name for name in one[0] if name in LOSSES] or [name for name in one[0] if name not in CLOCKS]
    worst = {}
    for name in names:
        pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True)]
        if any((a is None) != (b is None) for a, b in pairs):
            raise ValueError(f"{name} is a number in one of the runs alone")
        pairs = [pair for pair in pairs if pair[0] is not None]
        scale = max((abs(a) for a, _ in pairs), default=0.0)
        apart = max((abs(a - b) for a, b in pairs), default=0.0)
        worst[name] = (apart, apart / (scale or 1.0))
    return worst


def equality(options: argparse.Namespace) -> dict[str, Any]:
    """Compares every mesh with one device."""
    alone = stages_on(options, (1, 1, 1), ROWS, "alone", objectives=OBJECTIVES)
    by_mesh = {}
    for name, axes in MESHES.items():
        lines = stages_on(options, axes, ROWS, name, "alone", OBJECTIVES)
        by_mesh[name] = {unit: difference(alone[unit], lines[unit]) for unit in alone}
        print(json.dumps({name: by_mesh[name]}), file=sys.stderr, flush=True)
    return {"rows": ROWS, "steps": options.steps, "largest_difference": by_mesh}


def weak(options: argparse.Namespace) -> dict[str, Any]:
    """Measures CPU-seconds per row while the devices grow at constant rows per device."""
    cost: dict[str, dict[str, float]] = {}
    for devices in (1, 2, 4, 8):
        lines = stages_on(options, (devices, 1, 1), 2 * devices, f"weak-{devices}", again=GROUNDED_AGAIN)
        for unit, steps in lines.items():
            times = [b["cpu_s"] - a["cpu_s"] for a, b in itertools.pairwise(steps[1:])]
            if times:
                cost.setdefault(unit, {})[str(devices)] = statistics.median(times) / (2 * devices)
    relative = {unit: {n: round(one / row["1"], 2) for n, one in row.items()} for unit, row in cost.items()}
    return {"rows_per_device": 2, "cpu_seconds_per_row": cost, "relative_to_one_device": relative}


def free_port() -> int:
    """A free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main_job(directory: pathlib.Path, count: int, devices: int, stopped: bool = False) -> float:
    """Runs preset tiny by `count` processes. Returns: seconds.

    Args: stopped: whether the last process, and no other, is asked to stop after its first steps, and all are started
      again.
    Raises: ValueError where a process ends with an unexpected status.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if stopped:
        running = start(directory, count, devices)
        log = directory / "metrics.jsonl"
        while all(process.poll() is None for process in running) and (not log.exists() or not log.read_text()):
            time.sleep(0.5)
        running[-1].send_signal(signal.SIGTERM)
        expect(running, INTERRUPTED, directory)
    expect(start(directory, count, devices), 0, directory)
    return time.monotonic() - began


def expect(running: list[subprocess.Popen], code: int, directory: pathlib.Path) -> None:
    """Waits for all processes. Raises: ValueError where one ends with another exit status."""
    codes = [process.wait(LIMIT_S) for process in running]
    if set(codes) != {code}:
        raise ValueError(f"expected processes to end with {code}, they ended with {codes}, see {directory}-*.log")


def start(directory: pathlib.Path, count: int, devices: int) -> list[subprocess.Popen]:
    """Starts the main job's processes."""
    words = [str(ROOT / "train.py"), "tiny", "--directory", str(directory), "--mesh.whole_below", "64"]
    if count > 1:
        words += ["--distributed.coordinator", f"127.0.0.1:{free_port()}", "--distributed.processes", str(count)]
    running = []
    for index in range(count):
        log = directory.with_name(f"{directory.name}-{index}.log").open("ab")
        own = [*words, "--distributed.index", str(index)] if count > 1 else words
        running.append(
            subprocess.Popen([sys.executable, *own], env=environment(devices), cwd=ROOT, stdout=log, stderr=log)
        )
    return running


def processes(options: argparse.Namespace) -> dict[str, Any]:
    """Compares two processes of one device each, stopped and resumed, with one process of two devices and of one."""
    runs = {"two processes": (2, 1), "one process, two devices": (1, 2), "one device": (1, 1)}
    seconds, lines, rounds = {}, {}, {}
    for name, (count, devices) in runs.items():
        directory = options.out / name.replace(",", "").replace(" ", "-")
        seconds[name] = round(main_job(directory, count, devices, stopped=count > 1), 1)
        lines[name] = by_unit(directory)
        rounds[name] = json.loads((directory / "rounds.json").read_text("utf-8"))
    first, *others = runs
    compared = {other: {u: difference(lines[other][u], lines[first][u]) for u in lines[first]} for other in others}
    decisions = {name: [one["decision"] for one in rounds[name]] for name in runs}
    return {"seconds": seconds, "largest_difference": compared, "decisions": decisions}


def by_unit(directory: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Unit to the metrics of its lines in a run's log."""
    records: dict[str, list[dict[str, Any]]] = {}
    for line in read_lines(directory / "metrics.jsonl"):
        name = f"{line.pop('round')}/{line.pop('stage')}"
        records.setdefault(name, []).append({name: line[name] for name in line if name != "step"})
    return records


def columns(result: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Cells of the table of a result: by mesh, other run or number of devices, and then by unit of work."""
    if "relative_to_one_device" in result:
        relative = result["relative_to_one_device"]
        counts = next(iter(relative.values()))
        return {count: {unit: f"{row[count]:.2g}" for unit, row in relative.items()} for count in counts}
    worst = result["largest_difference"]
    return {name: dict(tabulated(units)) for name, units in worst.items()}


def tabulated(units: dict[str, dict[str, tuple[float, float]]]) -> Iterator[tuple[str, str]]:
    """Name and cell of each loss of a unit; for a record, the largest absolute and the largest relative difference."""
    for unit, differences in units.items():
        for name in [name for name in differences if name in LOSSES]:
            yield f"{unit}: {name}", "{:.2g} ({:.2g})".format(*differences[name])
        if not differences.keys() & set(LOSSES):
            yield unit, "{:.2g} ({:.2g})".format(*map(max, zip(*differences.values(), strict=True)))


def section(what: str, result: dict[str, Any]) -> str:
    """The page."""
    facts = made_here()
    facts["command"] = shlex.join(["python", "-m", "benchmarks.meshes", *map(shortened, sys.argv[1:])])
    facts |= {name: str(result[name]) for name in ("rows", "steps", "rows_per_device", "decisions") if name in result}
    named = columns(result)
    units = list(next(iter(named.values())))
    rows = [[unit, *(named[name][unit] for name in named)] for unit in units]
    grounding = " of grounding" if all(unit.endswith("/ground") for unit in units) else ""
    parts = [f"# {TITLES[what]}{grounding}", ABOUT[what], table(["", ""], facts.items()), table(["unit", *named], rows)]
    return "\n\n".join(parts)


def main(arguments: list[str]) -> None:
    """Measures, prints and writes."""
    options = parse(arguments)
    if options.what == "stages":
        config = settings(options.rows, options.steps, tuple(options.mesh))
        among = options.parts, options.out, options.begin, options.objectives, options.again
        print(json.dumps(run_stages(config, *among)))
        return
    result = {"equality": equality, "processes": processes, "weak": weak}[options.what](options)
    print(json.dumps(result, indent=2))
    write_page(options.results, options.section or f"meshes-{options.what}", section(options.what, result))


if __name__ == "__main__":
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    command.run(main)
