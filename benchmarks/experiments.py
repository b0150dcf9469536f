"""Compares ways to post-train the same imitation policy over seeds and judges:

python -m benchmarks.experiments headline --out out/headline --cells benchmarks/cells/headline [--seeds 0 1 2]

Every finished cell (arm, seed, judge) is kept as JSON under --cells and never repeated: a killed command continues
where it stopped, and more seeds or judges only add cells. Cells of the default data are in the repository, so that a
table can grow over many days and machines. The arms of a seed start from one world model and one imitation policy.
After each seed the page of `results/` is written from the finished cells. Words after `--` go to every train.py, e.g.
`-- --data.directory DIR --spec.agents 64`.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import command
from benchmarks.comparison import BEFORE, METRICS, section
from benchmarks.pages import add_folder, write_page
from tether.data.command_line import Parser
from tether.data.files import write_text
from tether.evaluation.forced_reasoning import REASONING_MODES
from tether.evaluation.judges import BASELINES, JUDGES
from tether.evaluation.provenance import shortened
from tether.evaluation.report import FORCED, groups_of
from tether.training import settings
from tether.training.config import Config
from tether.training.stages import STAGES
from tether.training.state import some_accepted

ROOT = pathlib.Path(__file__).parents[1]
WHOLE_TEST = ("--data.test_scenes", "None")  # a preset evaluates on a part of the split
NO_REFIT = ("--fit.refit_steps", "0")
NO_ROLL_BACK = "--grounding.roll_back=false"
OF_A_ROUND = ("imagined_return", "grounded_return", "bias", "decision", "validation_score", "wall_s")  # kept in cells
OF_THE_RUN = ("date", "commit", "machine", "seed", "wall_s_by_stage")
DIRECT = ("--rounds.world", "simulator", *NO_REFIT)
UNGROUNDED = (*NO_REFIT, NO_ROLL_BACK, "--rounds.dynamic_horizon=false", "--rounds.penalty", "0")


@dataclasses.dataclass(frozen=True)
class Arm:
    """A policy that is compared.

    Attributes:
      name: of the run.
      words: for train.py, beyond those of the experiment; None where nothing is post-trained.
      policy: the one that eval.py evaluates.
      budgeted: whether it learns in the simulator alone, for as many steps as the experiment's first arm has spent.
      reasoning: mode of `REASONING_MODES` on which it is evaluated; None for its own reasoning.
    """

    name: str
    words: tuple[str, ...] | None
    policy: str = "post_trained"
    budgeted: bool = False
    reasoning: str | None = None

    @property
    def label(self) -> str:
        """The arm's name in tables."""
        return self.name + self.suffix

    @property
    def suffix(self) -> str:
        """The suffix by which eval.py marks a policy on forced reasoning; empty for its own."""
        return f"{FORCED}{self.reasoning}" if self.reasoning else ""

    @property
    def rounds(self) -> str:
        """The name of its rounds in a report."""
        return "coach_rounds" if self.policy == "coach" else "rounds"

    @property
    def uncounted(self) -> set[str]:
        """Purposes of the ledger that this arm neither learns from nor is gated by, such as `validate`.

        Every arm is checked alike on the validation split.
        """
        blind = {"ground"} if NO_ROLL_BACK in (self.words or ()) else set()
        return {"validate"} | blind | ({"fit_world_model", "refit"} if self.budgeted or self.words is None else set())


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Arms that are compared.

    Attributes:
      title: of the page.   arms: the first one sets the budget.
      words: for every train.py.   judges: the default ones.   last: the name of the last stage that is needed.
    """

    title: str
    arms: tuple[Arm, ...]
    words: tuple[str, ...]
    judges: tuple[str, ...]
    last: str = STAGES[-1].name

    def stages(self, shared: bool) -> list[str]:
        """Names of the stages that are needed, those that all arms share or the others."""
        names = [stage.name for stage in STAGES]
        return [stage.name for stage in STAGES[: names.index(self.last) + 1] if stage.shared == shared]


UNTRAINED = (
    Arm("imitation", None, "imitation"),
    *(Arm(name, None, name) for name in ("expert", "idm", "constant_speed", "go_straight")),
)
IMAGINED = Arm("grounded imagination", ())
EXPERIMENTS = {
    "headline": Experiment(
        title="Imagination against imitation",
        arms=(
            IMAGINED,
            Arm("ungrounded imagination", UNGROUNDED),
            Arm("direct practice in the simulator", DIRECT, budgeted=True),
            Arm("closed-loop SFT in the simulator", ("--rounds.objective", "cl_sft", *NO_REFIT), budgeted=True),
            *UNTRAINED,
        ),
        words=("cpu",),
        judges=tuple(JUDGES),
    ),
    "steps": Experiment(
        title="The same with few simulator steps: a world model of the logs alone",
        arms=(
            IMAGINED,
            Arm("grounded imagination by 8 scenes", ("--grounding.scenes", "8")),
            Arm("grounded imagination by 8 scenes without refit", ("--grounding.scenes", "8", *NO_REFIT)),
            Arm("direct practice in the simulator", DIRECT, budgeted=True),
            Arm("direct practice with 8 epochs", (*DIRECT, "--rounds.epochs", "8"), budgeted=True),
            *UNTRAINED,
        ),
        words=("cpu", "--fit.perturbed", "0", "--grounding.scenes", "32"),
        judges=("log_replay",),
    ),
    "reasoning": Experiment(
        title="Driving with other reasoning than the policy's own",
        arms=(
            IMAGINED,
            *(dataclasses.replace(IMAGINED, reasoning=mode) for mode in REASONING_MODES),
            *(dataclasses.replace(UNTRAINED[0], reasoning=mode) for mode in REASONING_MODES),
            *UNTRAINED,
        ),
        words=("cpu",),
        judges=("log_replay",),
    ),
    "objectives": Experiment(
        title="Objectives in imagination",
        arms=(
            Arm("dagger", ()),
            *(
                Arm(objective, ("--rounds.objective", objective, "--value.steps", "8", "--rounds.kl_weight", "0.1"))
                for objective in ("pmpo", "grpo", "actor_critic", "ppo")
            ),
            Arm("cl_sft", ("--rounds.objective", "cl_sft")),
            *UNTRAINED,
        ),
        words=("cpu", "--rounds.scenes", "16", "--rounds.group", "4"),
        judges=("log_replay",),
    ),
    "guards": Experiment(
        title="What each guard of the rounds contributes",
        arms=(
            Arm("all guards", ()),
            Arm("no refit", NO_REFIT),
            Arm("no dynamic horizon", ("--rounds.dynamic_horizon=false",)),
            Arm("no disagreement penalty", ("--rounds.penalty", "0")),
            Arm("no KL", ("--rounds.kl_weight", "0")),
            Arm("no pessimism", ("--returns.pessimistic=false",)),
            Arm("no roll-back", (NO_ROLL_BACK,)),
            *UNTRAINED,
        ),
        words=(
            *("cpu", "--rounds.objective", "pmpo", "--value.steps", "8", "--rounds.kl_weight", "0.1"),
            *("--rounds.scenes", "16", "--rounds.group", "4"),
        ),
        judges=("log_replay",),
    ),
    "coach": Experiment(
        title="A coach grounded and not, and what each guard contributes",
        arms=(
            Arm("grounded", (), "coach"),
            Arm("ungrounded", UNGROUNDED, "coach"),
            Arm("no refit", NO_REFIT, "coach"),
            Arm("no dynamic horizon", ("--rounds.dynamic_horizon=false",), "coach"),
            Arm("no disagreement penalty", ("--rounds.penalty", "0"), "coach"),
            Arm("no roll-back", (NO_ROLL_BACK,), "coach"),
            Arm("practice in the simulator", DIRECT, "coach"),
            Arm(BEFORE, ("--coaching.batches", "0", *NO_REFIT), "coach"),
            *UNTRAINED[1:],
        ),
        words=("cpu", "--coaching.rounds", "3", "--coaching.batches", "130"),
        judges=("log_replay",),
        last="coach",
    ),
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    own, _, passed = (list(part) for part in split(arguments))
    parser = Parser(
        prog="python -m benchmarks.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="where runs and reports are kept")
    parser.add_argument("--cells", type=pathlib.Path, help="where finished cells are kept; OUT/cells by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument("--judges", nargs="+", choices=JUDGES, help="the experiment's own by default")
    parser.add_argument("--section", help="name of the page; the experiment's by default")
    add_folder(parser)
    options = parser.parse_args(own)
    options.passed = tuple(passed)
    return options


def split(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The words before `--`, `--` itself, and the words after it."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at : at + 1], arguments[at + 1 :]


def call(program: str, words: list[str]) -> None:
    """Runs one of the repository's commands. Raises: CalledProcessError where it fails."""
    print("python", program, *words, flush=True)
    subprocess.run([sys.executable, str(ROOT / program), *words], check=True)


def slug(*parts: Any) -> str:
    """A file's name."""
    return "-".join(str(part).replace(",", "").replace(" ", "-") for part in parts)


def start(out: pathlib.Path, words: tuple[str, ...], stages: list[str], seed: int) -> pathlib.Path:
    """The run that all arms of a seed start from."""
    directory = out / "runs" / slug("shared", seed)
    for stage in stages:
        call("train.py", [*words, "--seed", str(seed), "--directory", str(directory), "--stage", stage])
    return directory


def practise(
    out: pathlib.Path,
    arm: Arm,
    words: tuple[str, ...],
    stages: list[str],
    seed: int,
    shared: pathlib.Path,
    budget: int,
) -> pathlib.Path:
    """Post-trains an arm. Returns: its run; of an arm that is not post-trained, the shared one.

    Args: budget: simulator steps that a budgeted arm practises for.
    """
    if arm.words is None:
        return shared
    directory = out / "runs" / slug(arm.name, seed)
    given = [*words, *arm.words, "--seed", str(seed), "--directory", str(directory), "--start_from", str(shared)]
    if arm.budgeted:
        given += ["--rounds.iterations", str(iterations(settings.read(shared / "config.json"), arm, budget))]
    for stage in stages:
        call("train.py", [*given, "--stage", stage])
    return directory


def iterations(config: Config, arm: Arm, budget: int) -> int:
    """Iterations per round that spend a budget of simulator steps, at least 1."""
    rounds, loop = config.rounds, config.closed_loop
    tuned = "cl_sft" in arm.words
    each = loop.scenes * config.rollout_steps if tuned else rounds.scenes * rounds.group * rounds.horizon
    return max(round(budget / rounds.rounds / each), 1)


def evaluated_cell(out: pathlib.Path, arm: Arm, run: pathlib.Path, seed: int, judge: str) -> dict[str, Any]:
    """Evaluates an arm's policy in a judge. Returns: the cell, with scores scene by scene and the run's spent steps."""
    folder, policy = out / "evaluated" / slug(arm.label, seed, judge), policy_of(arm, run)
    given = [str(run), "--policy", policy, "--judge", judge, "--out", str(folder)]
    call("eval.py", given + (["--reasoning", arm.reasoning] if arm.reasoning else []))
    report, scenes = (json.loads((folder / name).read_text("utf-8")) for name in ("report.json", "scenes.json"))
    scores, origin = scenes["scores"][judge][policy + arm.suffix], report["provenance"]
    return {
        "arm": arm.label,
        "seed": seed,
        "judge": judge,
        "scenario_ids": scenes["scenario_ids"],
        "groups": list(groups_of(scenes, str(folder / "scenes.json"))),
        "scores": {metric: scores[metric] for metric in METRICS if metric in scores},
        "rounds": [
            {**{name: one[name] for name in OF_A_ROUND}, "counted_steps": counted(arm, one["spent"])}
            for one in (report[arm.rounds] if arm.words is not None and not arm.reasoning else ())
        ],
        "simulator_steps": counted(arm, origin["simulator_steps"]),
        "provenance": {"data": origin["data"]["name"], **{name: origin[name] for name in OF_THE_RUN}},
    }


def policy_of(arm: Arm, run: pathlib.Path) -> str:
    """The policy of a run to evaluate. Where every round was rolled back, post-training ends with imitation."""
    rounds = run / "rounds.json"
    if arm.words is None or arm.policy == "coach" or some_accepted(json.loads(rounds.read_text("utf-8"))):
        return arm.policy
    return BEFORE


def counted(arm: Arm, spent: dict[str, int]) -> int:
    """Simulator steps that an arm has learned from or was gated by."""
    return sum(steps for purpose, steps in spent.items() if purpose not in arm.uncounted)


def cells(
    out: pathlib.Path,
    kept: pathlib.Path,
    experiment: Experiment,
    words: tuple[str, ...],
    seed: int,
    judges: tuple[str, ...],
) -> Iterator[dict[str, Any]]:
    """Every cell of a seed, computed now or read from `kept`; baselines have seed 0 alone."""
    shared, budget = None, 0
    for arm in experiment.arms:
        if arm.policy in BASELINES and seed > 0:
            continue
        for judge in judges:
            path = kept / f"{slug(arm.label, seed, judge)}.json"
            if not path.exists():
                shared = shared or start(out, words, experiment.stages(shared=True), seed)
                run = practise(out, arm, words, experiment.stages(shared=False), seed, shared, budget)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(evaluated_cell(out, arm, run, seed, judge)) + "\n")
            cell = json.loads(path.read_text("utf-8"))
            budget = budget or cell["simulator_steps"]
            yield cell


def main(arguments: list[str]) -> int:
    """Computes missing cells, writes the page after each seed, and returns the exit status."""
    options = parse(arguments)
    experiment = EXPERIMENTS[options.experiment]
    judges, kept = tuple(options.judges or experiment.judges), options.cells or options.out / "cells"
    command = " ".join(["python -m benchmarks.experiments", *map(shortened, arguments)])
    done: list[dict[str, Any]] = []
    for seed in options.seeds:
        words = (*experiment.words, *WHOLE_TEST, *options.passed)
        done += cells(options.out, kept, experiment, words, seed, judges)
        title = f"{experiment.title}: {done[0]['provenance']['data']}"
        write_page(options.results, options.section or options.experiment, section(title, done, command))
    return 0


if __name__ == "__main__":
    command.run(main)
