"""Evaluates on held-out scenes: policies, or, with --world-model, world models.

python eval.py RUN_DIR                  the policies of a run beside the baselines
python eval.py --policy idm             a baseline
python eval.py --policy post_trained    the learned policy that ships, without a run
python eval.py --policy mine:MyPolicy   your own, by import path; judges likewise
python eval.py --world-model RUN_DIR    the world model of a run beside two floors and the logged oracle

A report goes into the run, or into out/eval; a partial evaluation goes into a folder of its own beside it.
"""

import argparse
import json
import pathlib
import shutil

from tether.data.command_line import Parser, status_of
from tether.data.progress import log_above_bars
from tether.evaluation.forced_reasoning import REASONING_MODES
from tether.evaluation.judges import BASELINES, JUDGES, LEARNED, SumoError
from tether.evaluation.policies import Request, evaluate_run, evaluate_without_run, folder_name
from tether.evaluation.terminal import show
from tether.evaluation.world_models.benchmark import MEASURES, markdown, run
from tether.evaluation.world_models.study import Study, open_study
from tether.training import stop
from tether.training.processes import devices

BASE = pathlib.Path("out")  # folder of reports that belong to no run
FOR_POLICIES = ("run", "policy", "judge", "temperature", "reasoning", "list_events")
FOR_LEARNED = ("reasoning", "temperature")
FOR_MODELS = ("policies_of", "measure", "draws")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line. An option that is not given is None."""
    parser = Parser(prog="eval.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="directory of a run; without it, policies that need none are evaluated")
    policies = (
        f"evaluate this one (repeatable): {', '.join((*BASELINES, *LEARNED))}, or the import path of your own, "
        "package.module:Config; by default all of a run, or all that need no training"
    )
    parser.add_argument("--policy", action="append", help=policies)
    parser.add_argument("--data", help="folder of a data set; the run's, or the starter set, by default")
    parser.add_argument("--split", default=Request.split, help="split of the data set (default: %(default)s)")
    parser.add_argument("--scenes", type=int, help="only the first so many scenes")
    named = ", ".join((*JUDGES, "kinematic", "lanes", "oracle"))
    judges = f"world to drive in (repeatable): {named}, or the import path of your own (default: log_replay)"
    parser.add_argument("--judge", action="append", help=judges)
    parser.add_argument("--temperature", type=float, help="of learned policies; 0, the default, is greedy")
    forced = "also evaluate learned policies on forced reasoning: another scene's, or none (repeatable)"
    parser.add_argument("--reasoning", action="append", choices=REASONING_MODES, help=forced)
    parser.add_argument(
        "--list-events", action="store_true", default=None, help="list every scene with an event and its cause"
    )
    models = parser.add_argument_group("world models")
    models.add_argument(
        "--world-model",
        action="append",
        metavar="[NAME=]RUN",
        help="evaluate the world model of a run, or one that needs no fitting by name or import path (repeatable)",
    )
    models.add_argument("--policies-of", action="append", metavar="RUN", help="also roll out its policies (repeatable)")
    models.add_argument("--measure", action="append", choices=MEASURES, help="only this one (repeatable)")
    models.add_argument("--draws", type=int, help=f"rollouts of each scene (default: {Study.draws})")
    trust = "module of a run's world model, where that is not a built-in one: it will be run (repeatable)"
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=trust)
    parser.add_argument("--out", type=pathlib.Path, help="where the report goes, in place of the folders named above")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Refuses options that would do nothing. Raises: ValueError naming them."""
    kind, idle = ("policies", FOR_POLICIES) if options.world_model else ("world models", FOR_MODELS)
    given = [
        "RUN" if name == "run" else f"--{name.replace('_', '-')}" for name in idle if getattr(options, name) is not None
    ]
    if given and options.world_model:
        raise ValueError(f"{', '.join(given)}: about {kind}, and --world-model is not: name policies by --policies-of")
    if given:
        raise ValueError(f"{', '.join(given)}: about {kind}: name one with --world-model")
    learned = set(options.policy or ()) & set(LEARNED) or (options.run and options.policy is None)
    idle = [f"--{name}" for name in FOR_LEARNED if getattr(options, name) is not None]
    if idle and not (options.world_model or learned):
        complaint = "only learned policies have reasoning and a temperature, and none is named: name one, or a run"
        raise ValueError(f"{', '.join(idle)}: {complaint}")


def request_of(options: argparse.Namespace) -> Request:
    """The request that the command line makes."""
    return Request(
        policies=once(options.policy) if options.policy else None,
        judges=once(options.judge) or Request.judges,
        split=options.split,
        data=options.data,
        scenes=options.scenes,
        temperature=options.temperature or 0.0,
        reasoning=once(options.reasoning),
        list_events=bool(options.list_events),
        trusted=tuple(options.trust),
    )


def once(words: list[str] | None) -> tuple[str, ...]:
    """The values of a repeatable option, without repetitions."""
    return tuple(dict.fromkeys(words or ()))


def compare_models(options: argparse.Namespace) -> pathlib.Path:
    """Runs the measures of world models that the command line names. Returns: the report's path."""
    names = ("world_model", "policies_of", "measure", "split", "data", "scenes", "draws")
    asked, usual = {name: getattr(options, name) for name in names}, dict.fromkeys(names) | {"split": Request.split}
    output = options.out or BASE / folder_name(asked, usual)
    study = open_study(
        options.world_model,
        options.policies_of or (),
        data=options.data,
        split=options.split,
        scenes=options.scenes,
        trusted=options.trust,
        draws=Study.draws if options.draws is None else options.draws,
    )
    print(markdown(run(study, output, once(options.measure) or tuple(MEASURES))))
    return output / "models.md"


def evaluate_policies(options: argparse.Namespace) -> pathlib.Path:
    """Evaluates the policies that the command line names, and prints the report. Returns: the report's path."""
    request = request_of(options)
    usual = pathlib.Path(options.run) / request.folder if options.run else BASE / (request.folder or "eval")
    output = options.out or usual
    try:
        if options.run:
            evaluate_run(options.run, request, output)
        else:
            evaluate_without_run(request, output)
    except stop.Interrupted as stopped:
        raise stop.Interrupted(f"{stopped}; no report was written to {output}") from None
    print(f"\n{show(json.loads((output / 'report.json').read_text('utf-8')), shutil.get_terminal_size().columns)}")
    return output / "report.md"


def evaluate(options: argparse.Namespace) -> None:
    """Evaluates what the command line names, and prints the report and its path."""
    check(options)
    devices()
    print(f"report: {compare_models(options) if options.world_model else evaluate_policies(options)}")


def main(arguments: list[str]) -> int:
    """Evaluates, and returns the exit status."""
    log_above_bars()
    options = parse(arguments)
    return status_of(lambda: evaluate(options), SumoError)
