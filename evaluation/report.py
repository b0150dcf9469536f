"""The report of an evaluation, with scores, intervals and paired differences.

It consists of `report.json`, `report.md` and `scenes.json`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tether.data.errors import read_json
from tether.data.files import write_text
from tether.evaluation.statistics import Interval, bootstrap, excludes_zero, is_known

METRICS = (
    "score",
    "failure",
    "at_fault",
    "collision",
    "off_road",
    "red_light",
    "corridor",
    "wrong_way",
    "uncomfortable",
    "progress",
    "return",
)
TABLE = {
    "score": "driving score",
    "failure": "failed",
    "at_fault": "at-fault collision",
    "off_road": "off road",
    "red_light": "red light run",
    "corridor": "left corridor",
    "wrong_way": "wrong way",
    "uncomfortable": "uncomfortable",
    "progress": "progress",
}
ON_ROAD = "failure_on_road"  # of the scenes whose ego starts on the road; only where some do not
ON_ROAD_TITLE = "failed, begun on the road"
# Means over the steps driven, of policies with reasoning; all but the first only where the reasoning is forced.
REASONING = {
    "consistency": "acts as reasoned",
    "reasoning_changed": "reasoning differs",
    "action_changed": "action differs",
    "acceleration_change": "by [m/s^2]",
}
PAIR = ("post_trained", "imitation")
PAIR_NAME = " - ".join(PAIR)
FORCED = ", reasoning "  # in the name of a policy whose reasoning is forced

ABOUT_REASONING = (
    "`acts as reasoned` is the mean over the steps driven of two halves: the acceleration lies within the range of "
    "the longitudinal decision, and the curvature is on the side of the lateral decision. `reasoning shuffled` acts "
    "on the policy's reasoning in another scene, `reasoning blank` on none. `action differs` is the fraction of steps "
    "in which that changes the action by more than 0.1 m/s^2. Near 0 the reasoning has no effect on the action."
)
ABOUT_ROUNDS = "Return over the steps that were compared, imagined and grounded from the same starts."
ABOUT_MODELS = (
    "Average displacement error (ADE) of the others that move, against held-out logs: the mean over a few draws of "
    "each scene, the ego on its log (`docs/quality.md`). 95 % intervals over recordings."
)


@dataclasses.dataclass(frozen=True)
class Results:
    """Scores scene by scene.

    Attributes:
      scenario_ids: N names, in the order of the scores.
      groups: recording of each of the N scenes, see `statistics.recordings`; intervals resample recordings.
      starts_off_road: whether each of the N scenes does, see `data.scene.Record`.
      scores: judge to policy to metric to float[N].
    """

    scenario_ids: tuple[str, ...]
    groups: tuple[str, ...]
    starts_off_road: tuple[bool, ...]
    scores: dict[str, dict[str, dict[str, np.ndarray]]]


def groups_of(scenes: dict[str, Any], where: str) -> tuple[str, ...]:
    """The scenes' recordings in a `scenes.json` or a cell of a benchmark.

    Raises: ValueError for a file without them, of an earlier version: it cannot be resampled by recording.
    """
    groups, names = scenes.get("groups"), scenes["scenario_ids"]
    if not isinstance(groups, list) or len(groups) != len(names):
        present = "none" if groups is None else f"{str(groups)[:40]} for {len(names)} scenes"
        raise ValueError(
            f"{where}: expected the recording of each scene in `groups`, found {present}: evaluate it again"
        )
    return tuple(groups)


def keep_larger(path: pathlib.Path, now: dict[str, int], size_of: Callable[[Any], dict[str, int]]) -> None:
    """Refuses to replace a report by a smaller one.

    Args: path: of the earlier report.   now: sizes of the new report by name.   size_of: the same sizes, or more, of
      an earlier report's content.
    Raises: ValueError where any size of the earlier report is larger, or the file is no such report.
    """
    if not path.exists():
        return
    written = read_json(path)
    try:
        earlier = {name: int(count) for name, count in size_of(written).items()}
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        raise ValueError(f"{path}: expected a report of eval.py, found another file: name another --out") from None
    larger = [f"{earlier[name]} {name} (now {count})" for name, count in now.items() if earlier[name] > count]
    if larger:
        raise ValueError(f"{path} is a larger report, of {', '.join(larger)}: name another --out, or move it away")


def size_of(earlier: dict[str, Any]) -> dict[str, int]:
    """Numbers of scenes, judges and policies in `report.json`."""
    policies = next(iter(earlier["judges"].values()))["policies"]
    scenes = next(iter(policies.values()))["score"]["n"]
    return {"scenes": scenes, "judges": len(earlier["judges"]), "policies": len(policies)}


def summarise(results: Results) -> dict[str, Any]:
    """Metrics of every policy under every judge, and the paired differences, with intervals over recordings.

    Returns: judge to `{"policies": policy to metric to interval, "paired": name to metric to interval,
      "off_road_starts": number of scenes}`.
    """
    judges, off = {}, sum(results.starts_off_road)
    for judge, policies in results.scores.items():
        summary = {policy: intervals(scores, results) for policy, scores in policies.items()}
        paired = {" - ".join(pair): differences(*(policies[p] for p in pair), results) for pair in pairs(policies)}
        judges[judge] = {"policies": summary, "paired": paired, "off_road_starts": off}
    return judges


def intervals(scores: dict[str, np.ndarray], results: Results) -> dict[str, Interval]:
    """Metric to interval. Where some scenes begin off the road, the failure rate without them is added."""
    by_metric = {metric: bootstrap(scores[metric], results.groups) for metric in metrics_of(scores)}
    road = ~np.array(results.starts_off_road, bool)
    if road.any() and not road.all():
        by_metric[ON_ROAD] = bootstrap(scores["failure"][road], np.array(results.groups)[road])
    return by_metric


def metrics_of(scores: Iterable[str]) -> tuple[str, ...]:
    """`METRICS`, which every policy has, and those of `REASONING` that are among the scores."""
    return *METRICS, *(name for name in REASONING if name in scores)


def pairs(policies: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs to compare: post-trained with imitation, and each policy on forced reasoning with itself."""
    forced = [(name, name.partition(FORCED)[0]) for name in policies if FORCED in name]
    return [pair for pair in (PAIR, *forced) if all(name in policies for name in pair)]


def differences(after: dict[str, np.ndarray], before: dict[str, np.ndarray], results: Results) -> dict[str, Interval]:
    """`intervals` of the paired differences of the metrics that both have."""
    both = metrics_of(after.keys() & before.keys())
    return intervals({metric: np.subtract(after[metric], before[metric], dtype=float) for metric in both}, results)


def headline(judges: dict[str, Any], seed: int) -> str:
    """The report's first sentence: what improved and by how much, or that it did not, under the first judge."""
    judge, summary = next(iter(judges.items()))
    policies = summary["policies"]
    if PAIR_NAME not in summary["paired"]:
        best = max(policies, key=lambda name: policies[name]["score"]["mean"])
        scores = (f"{name} {with_interval(policies[name]['score'])}" for name in policies)
        return f"Driving score under {judge}: {', '.join(scores)} (best: {best})."
    change, after, before = summary["paired"][PAIR_NAME]["score"], *(policies[name]["score"] for name in PAIR)
    verb = "raised" if change["mean"] > 0 else "lowered"
    if not excludes_zero(change):
        verb = "did not measurably change"
    about = "95 % paired bootstrap interval" if is_known(change) else "no interval: a single recording has none"
    return (
        f"Post-training {verb} the driving score of the imitation policy: from {before['mean']:.3f} to "
        f"{after['mean']:.3f} on {sample(change).replace('scene', 'held-out scene')} under {judge} ({signed(change)}, "
        f"{about}, seed {seed})."
    )


def with_interval(interval: Interval, digits: int = 3, sign: str = "") -> str:
    """`0.512 [0.470, 0.554]`; `0.512 [-]` where there is no interval."""
    number = f"{sign}.{digits}f"
    ends = f"{interval['low']:{number}}, {interval['high']:{number}}" if is_known(interval) else "-"
    return f"{interval['mean']:{number}} [{ends}]"


def signed(interval: Interval) -> str:
    """`+0.042 [+0.011, +0.073]`."""
    return with_interval(interval, sign="+")


def sample(interval: Interval) -> str:
    """`192 scenes of 16 recordings`: the sample of a mean."""
    scenes, groups = interval["n"], interval["groups"]
    return f"{scenes} scene{'s' * (scenes != 1)} of {groups} recording{'s' * (groups != 1)}"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def policy_table(summary: dict[str, Any]) -> str:
    """Rows: policies, the best first, then the paired difference. Columns: metrics with intervals."""
    policies, columns = summary["policies"], columns_of(summary)
    order = sorted(policies, key=lambda name: -policies[name]["score"]["mean"])
    rows = [[name, *(with_interval(policies[name][metric]) for metric in columns)] for name in order]
    rows += [
        [f"**{name}**", *(signed(metrics[metric]) for metric in columns)] for name, metrics in summary["paired"].items()
    ]
    return table(["policy", *columns.values()], rows)


def columns_of(summary: dict[str, Any]) -> dict[str, str]:
    """Metrics and headings of a judge's table."""
    columns = {}
    for metric, title in TABLE.items():
        columns[metric] = title
        if metric == "failure" and ON_ROAD in next(iter(summary["policies"].values())):
            columns[ON_ROAD] = ON_ROAD_TITLE
    return columns


def off_road_starts(summary: dict[str, Any]) -> str:
    """A sentence about the scenes that begin off the road and their effect on the rates; empty where none does."""
    off, metrics = summary["off_road_starts"], next(iter(summary["policies"].values()))
    if not off:
        return ""
    without = f" `{ON_ROAD_TITLE}` is the rate without them." if ON_ROAD in metrics else ""
    return (
        f"{off} of {metrics['failure']['n']} scenes begin{'s' * (off == 1)} with the ego off the road, by its log: "
        f"every policy fails there at once.{without}"
    )


def has_reasoning(summary: dict[str, Any]) -> bool:
    """Whether any policy under a judge has reasoning to compare with its actions."""
    return any(metric in metrics for metrics in summary["policies"].values() for metric in REASONING)


def reasoning_table(summary: dict[str, Any]) -> str:
    """Rows: policies with reasoning, then their paired differences; a dash where a metric does not apply."""

    def rows(named: dict[str, dict], text: Callable[[Interval], str], mark: str = "") -> list[list[str]]:
        return [
            [f"{mark}{name}{mark}", *(text(metrics[m]) if m in metrics else "-" for m in REASONING)]
            for name, metrics in named.items()
            if any(m in metrics for m in REASONING)
        ]

    cells = rows(summary["policies"], with_interval) + rows(summary["paired"], signed, "**")
    return table(["policy", *REASONING.values()], cells)


def rounds_table(rounds: list[dict[str, Any]]) -> str:
    """Imagined against grounded return of every round, and the decision."""
    columns = ("imagined_return", "grounded_return", "bias", "gap", "failure")
    rows = [
        [
            str(one["round"]),
            *(f"{one[name]:.3f}" for name in columns),
            "" if one["validation_score"] is None else f"{one['validation_score']:.3f}",
            str(one["horizon"]),
            one["decision"].replace("_", " "),
            one["reason"],
            f"{one['simulator_steps']:,}",
            f"{one['wall_s']:.0f}",
        ]
        for one in rounds
    ]
    header = ["round", "imagined return", "grounded return", "bias", "gap", "failed"]
    return table([*header, "validation score", "horizon", "decision", "why", "simulator steps", "wall s"], rows)


def checks_table(checks: list[dict[str, Any]]) -> str:
    """Closed-loop scores and open-loop errors of every checkpoint that was evaluated on the validation split."""
    columns = ("score", "failure", "ade_1s_m", "ade_3s_m", "ade_6.4s_m")
    rows = [
        [one["stage"], str(one["round"]), str(one["step"]), *(f"{one[name]:.3f}" for name in columns)] for one in checks
    ]
    header = ["driving score", "failed", "ADE to 1 s [m]", "to 3 s", "to 6.4 s"]
    return table(["stage", "round", "step", *header], rows)


def model_table(errors: dict[str, dict[str, Interval]]) -> str:
    """Average displacement error of the others, by model."""
    columns = list(next(iter(errors.values())))
    header = ["world model", *(name.replace("_", " ").replace("ade", "ADE to") + " [m]" for name in columns)]
    return table(header, ([name, *(with_interval(row[c], 2) for c in columns)] for name, row in errors.items()))


def sentences_table(sentences: list[dict[str, Any]]) -> str:
    """The policy's sentences beside its motion in the next second."""
    header = ["scene", "policy", "time", "sentence", "motion in the next second"]
    return table(
        header, ([s["scenario_id"], s["policy"], f"{s['time_s']:.1f} s", s["sentence"], s["motion"]] for s in sentences)
    )


def provenance_table(origin: dict[str, Any]) -> str:
    """One row per fact about the origin of the numbers."""
    rows = [[name.replace("_", " "), text_of(value)] for name, value in origin.items()]
    return table(["", ""], rows)


def text_of(value: Any) -> str:
    """A value in one line; dicts are flattened, large integers get separators."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {text_of(item)}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def render(report: dict[str, Any]) -> str:
    """The report as Markdown, from what `report.json` holds."""
    parts = [report["headline"]]
    for judge, summary in report["judges"].items():
        score = next(iter(summary["policies"].values()))["score"]
        parts += [
            f"## Policies under {judge}",
            policy_table(summary),
            f"Means over {sample(score)} with 95 % bootstrap intervals that resample recordings (`[-]`: a single one "
            f"has none); seed {report['provenance']['seed']}. The score "
            "is 0 after an at-fault collision, leaving the road, a red light run or more than 4 m beside the route, "
            "else min(progress / 0.8, 1); it is 1 where the logged ego stands. Rates are fractions of scenes, "
            "`uncomfortable` of the time driven.",
            *filter(None, [off_road_starts(summary)]),
        ]
        if has_reasoning(summary):
            parts += [f"### Reasoning and actions under {judge}", reasoning_table(summary), ABOUT_REASONING]
    for name, title in {"coach_rounds": "Rounds of the coach", "rounds": "Rounds"}.items():
        if report[name]:
            parts += [f"## {title}", ABOUT_ROUNDS, rounds_table(report[name])]
    if report["checks"]:
        parts += [
            "## Closed and open loop",
            "On the validation split: the policy drives; its plan is compared with the log.",
        ]
        parts += [checks_table(report["checks"])]
    parts += [f"![{caption}]({path})\n\n*{caption}*" for path, caption in report["figures"].items()]
    if report["world_model"]:
        parts += ["## World model", ABOUT_MODELS]
        parts += [model_table(report["world_model"])]
    if report["sentences"]:
        parts += ["## Sentences and what the ego then did", sentences_table(report["sentences"])]
    if report["events"]:
        parts += ["## Scenes with an event", events_table(report["events"])]
    parts += ["## Provenance", provenance_table(report["provenance"])]
    return "\n\n".join(parts) + "\n"


def events_table(events: list[dict[str, Any]]) -> str:
    """Scenes with an event, with its time and cause."""
    columns = ("scenario_id", "record", "policy", "event", "time_s", "cause")
    rows = ([f"{event[name]} s" if name == "time_s" else str(event[name]) for name in columns] for event in events)
    return table(["scene", "record", "policy", "event", "at", "cause"], rows)


def write(directory: pathlib.Path, report: dict[str, Any], results: Results) -> None:
    """Writes `report.json`, `report.md` and `scenes.json`, each whole or not at all."""
    scenes = {
        "scenario_ids": list(results.scenario_ids),
        "groups": list(results.groups),
        "starts_off_road": list(results.starts_off_road),
        "scores": {
            judge: {
                policy: {name: np.round(np.asarray(v, float), 6).tolist() for name, v in scores.items()}
                for policy, scores in policies.items()
            }
            for judge, policies in results.scores.items()
        },
    }
    write_text(directory / "scenes.json", json.dumps(scenes) + "\n")
    write_text(directory / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_text(directory / "report.md", render(report))
