"""Judges on held-out scenes: policies, or, with --world-model, world models.

python eval.py RUN_DIR                  the policies of a run beside the baselines
python eval.py --policy idm             a baseline
python eval.py --world-model RUN_DIR    the world model of a run beside the kinematic floor and the logged oracle
"""

import argparse
import json
import pathlib
import sys

from data.progress import log_above_bars
from training.drivers import REASONING_MODES
from training.evaluation import Request, evaluate_baselines, evaluate_run
from training.judge import JUDGES, SumoError
from training.quality.benchmark import MEASURES, markdown, run
from training.quality.study import Study, open_study
from training.report import TABLE, signed, speaks, with_interval, words_table


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="eval.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", help="directory of a run; without it, baselines are judged")
    parser.add_argument("--policy", action="append", help="judge this one (repeatable); all that there are by default")
    parser.add_argument("--data", help="folder of a data set; the run's, or the starter set, by default")
    parser.add_argument("--split", default="test", help="split of the data set (default: %(default)s)")
    parser.add_argument("--scenes", type=int, help="only the first so many scenes")
    judges = f"world to drive in: {', '.join(JUDGES)} (repeatable; default: log_replay)"
    parser.add_argument("--judge", action="append", help=judges)
    parser.add_argument("--temperature", type=float, default=0.0, help="of learned policies; 0, the default, is greedy")
    forced = "learned policies also drive on words not their own: another scene's, or none (repeatable)"
    parser.add_argument("--reasoning", action="append", choices=REASONING_MODES, help=forced)
    parser.add_argument("--list-events", action="store_true", help="list every scene with an event and its cause")
    models = parser.add_argument_group("world models")
    models.add_argument(
        "--world-model",
        action="append",
        metavar="[NAME=]RUN",
        help="judge the world model of a run, or one that needs no fitting by name or import path (repeatable)",
    )
    models.add_argument("--policies-of", action="append", metavar="RUN", help="its policies drive too (repeatable)")
    models.add_argument("--measure", action="append", choices=MEASURES, help="only this one (repeatable)")
    models.add_argument("--draws", type=int, default=Study.draws, help="rollouts of each scene (default: %(default)s)")
    trust = "module of a run's world model, where that is not a built-in one: it will be run (repeatable)"
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=trust)
    parser.add_argument("--out", help="where the report goes; the run's directory, or out/eval, by default")
    return parser.parse_args(arguments)


def request_of(options: argparse.Namespace) -> Request:
    """What the command line asks for."""
    return Request(
        policies=tuple(options.policy) if options.policy else None,
        judges=tuple(options.judge or Request.judges),
        split=options.split,
        data=options.data,
        scenes=options.scenes,
        temperature=options.temperature,
        reasoning=tuple(options.reasoning or ()),
        list_events=options.list_events,
        trusted=tuple(options.trust),
    )


def study_of(options: argparse.Namespace) -> Study:
    """What the command line asks of world models. Raises: ValueError for options that are about policies."""
    if options.run or options.policy or options.judge:
        raise ValueError("--world-model compares world models: name runs whose policies drive with --policies-of")
    return open_study(
        options.world_model,
        options.policies_of or (),
        data=options.data,
        split=options.split,
        scenes=options.scenes,
        trusted=options.trust,
        draws=options.draws,
    )


def show(report: dict) -> None:
    """Prints one table for each judge, the listed events, and the headline."""
    for judge, summary in report["judges"].items():
        rows = {name: [with_interval(scores[c]) for c in TABLE] for name, scores in summary["policies"].items()}
        rows |= {name: [signed(scores[c]) for c in TABLE] for name, scores in summary["paired"].items()}
        count = next(iter(summary["policies"].values()))["score"]["n"]
        print(f"\n{judge}: {count} scenes, seed {report['provenance']['seed']}, mean [95 % bootstrap interval]")
        width = max(map(len, rows)) + 2
        print(f"{'policy':<{width}}" + "".join(f"{column:<25}" for column in TABLE))
        for name, cells in rows.items():
            print(f"{name:<{width}}" + "".join(f"{cell:<25}" for cell in cells))
        print(f"\n{words_table(summary)}" if speaks(summary) else "")
    for event in report["events"]:
        where = f"{event['scenario_id']}, record {event['record']}"
        print(f"{event['policy']}: {where}: {event['event']} at {event['time_s']} s: {event['cause']}")
    print(f"\n{report['headline']}")


def main(arguments: list[str]) -> int:
    """Judges, prints, and returns the exit status."""
    log_above_bars()
    options = parse(arguments)
    output = pathlib.Path(options.out or options.run or "out/eval")
    try:
        if options.world_model:
            print(markdown(run(study_of(options), output, options.measure or tuple(MEASURES))))
            return 0
        if options.run:
            evaluate_run(options.run, request_of(options), output)
        else:
            evaluate_baselines(request_of(options), output)
    except (ValueError, SumoError) as error:
        print(error, file=sys.stderr)
        return 2
    show(json.loads((output / "report.json").read_text(encoding="utf-8")))
    print(f"report: {output / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
