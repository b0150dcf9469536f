"""The page of `results/` that compares arms (`benchmarks/experiments.py`), from their cells.

A cell holds the scores of one arm, seed and judge, scene by scene. Each scene's mean over the seeds is taken first.
Intervals resample recordings, not seeds.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tether.evaluation.report import FORCED, REASONING, TABLE, groups_of, signed, table, with_interval
from tether.evaluation.statistics import bootstrap, bootstrap_of, is_known

BEFORE = "imitation"
COLUMNS = ("score", "failure", "at_fault", "off_road", "red_light", "corridor")
CONSISTENCY = "consistency"  # of policies with reasoning
METRICS = (*COLUMNS, *REASONING)
SCORE_TO_REACH = 0.8  # on the validation split
DIFFERENCES = {
    "score": "score - imitation's",
    "failure": "failures - imitation's",
    CONSISTENCY: f"{REASONING[CONSISTENCY]} - imitation's",
}
CHANGES = (*DIFFERENCES.values(), "score lifted by", "failures cut by")
ABOUT_FORCED = (
    "A policy with replaced reasoning is compared with itself on its own reasoning, not with imitation. `Shuffled`: at "
    "each step its reasoning for another scene of the batch; `blank`: none. `Action differs`: fraction of steps in "
    "which that changes the action by more than 0.1 m/s^2, in the same state; then the acceleration's change."
)
Cell = dict[str, Any]


def grouped(cells: Iterable[Cell], name: str) -> dict[Any, list[Cell]]:
    """The cells by one of their fields, in the order in which they come."""
    out: dict[Any, list[Cell]] = {}
    for cell in cells:
        out.setdefault(cell[name], []).append(cell)
    return out


def by_scene(cells: list[Cell], metric: str) -> np.ndarray:
    """Mean over the seeds, float64[scenes]. Raises: ValueError where the seeds were evaluated on different scenes."""
    if any(cell["scenario_ids"] != cells[0]["scenario_ids"] for cell in cells):
        raise ValueError(f"{cells[0]['arm']}: its seeds were evaluated on different scenes")
    return np.mean([cell["scores"][metric] for cell in cells], axis=0)


def judge_table(cells: list[Cell]) -> str:
    """A row for each arm under one judge, the best score first, with its change against imitation.

    An arm on forced reasoning is compared with itself on its own reasoning.
    """
    arms, groups = grouped(cells, "arm"), groups_of(cells[0], f"cell of {cells[0]['arm']!r}")
    means = {arm: {m: by_scene(of_arm, m) for m in METRICS if m in of_arm[0]["scores"]} for arm, of_arm in arms.items()}
    metrics = [m for m in METRICS if any(m in mean for mean in means.values())]
    rows = []
    for arm in sorted(arms, key=lambda arm: -means[arm]["score"].mean()):
        own = [with_interval(bootstrap(means[arm][m], groups)) if m in means[arm] else "" for m in metrics]
        before = arm.partition(FORCED)[0] if FORCED in arm else BEFORE
        changes = [""] * len(CHANGES) if arm == BEFORE else changed(means[arm], means[before], groups)
        rows.append([arm, str(len(arms[arm])), *own, *changes])
    return table(["policy", "seeds", *((TABLE | REASONING)[m] for m in metrics), *CHANGES], rows)


def changed(after: dict[str, np.ndarray], before: dict[str, np.ndarray], groups: Sequence[str]) -> list[str]:
    """Paired differences of score, failure rate and consistency, the first two also relative to the mean before."""
    both = after.keys() & before.keys()
    differences = [signed(bootstrap(after[m] - before[m], groups)) if m in both else "" for m in DIFFERENCES]
    signs = {"score": 1, "failure": -1}
    relative = [relative_change(after[name], before[name], groups, sign) for name, sign in signs.items()]
    return [*differences, *relative]


def relative_change(after: np.ndarray, before: np.ndarray, groups: Sequence[str], sign: int) -> str:
    """`+12 % [+8, +16]`: the change of the mean relative to the mean before; empty where that is 0."""
    interval = bootstrap_of(lambda rows: ratio(after[rows], before[rows]), groups)
    if np.isnan(interval["mean"]):
        return ""
    low, high = sorted((sign * interval["low"], sign * interval["high"]))
    ends = f"{100 * low:+.0f}, {100 * high:+.0f}" if is_known(interval) else "-"
    return f"{100 * sign * interval['mean']:+.0f} % [{ends}]"


def ratio(after: np.ndarray, before: np.ndarray) -> float:
    """Change of the mean relative to the mean before; NaN where that is 0."""
    return float(after.mean() / before.mean() - 1) if before.mean() > 0 else float("nan")


def cost_table(cells: list[Cell]) -> str:
    """Simulator steps of each arm, those until a fixed score, and wall time, seed by seed."""
    rows = []
    for arm, of_arm in grouped(cells, "arm").items():
        trained = [cell for cell in of_arm if cell["rounds"]]
        if trained:
            steps = ", ".join(f"{cell['simulator_steps']:,}" for cell in trained)
            reached = ", ".join(steps_to_reach(cell["rounds"]) for cell in trained)
            minutes = ", ".join(f"{cell['rounds'][-1]['wall_s'] / 60:.1f}" for cell in trained)
            rows.append([arm, steps, reached, minutes])
    return table(["policy", "simulator steps", f"until a score of {SCORE_TO_REACH}", "training min"], rows)


def stages_table(cells: list[Cell]) -> str:
    """Minutes of each stage of the trained arms, means over the seeds."""
    arms = {
        arm: [cell["provenance"]["wall_s_by_stage"] for cell in of_arm]
        for arm, of_arm in grouped(cells, "arm").items()
        if arm == BEFORE or of_arm[0]["rounds"]
    }
    stages = list(dict.fromkeys(stage for of_arm in arms.values() for spent in of_arm for stage in spent))
    rows = [
        [arm, *(f"{np.mean([spent.get(stage, 0.0) for spent in of_arm]) / 60:.1f}" for stage in stages)]
        for arm, of_arm in arms.items()
    ]
    return table(["policy", *(stage.replace("_", " ") for stage in stages)], rows)


def steps_to_reach(rounds: list[dict[str, Any]]) -> str:
    """Simulator steps spent when the validation score was first reached, `never` where it was not."""
    reached = [one for one in rounds if (one["validation_score"] or 0.0) >= SCORE_TO_REACH]
    return f"{reached[0]['counted_steps']:,}" if reached else "never"


def rounds_table(cells: list[Cell]) -> str:
    """Imagined against grounded return by round, means over the seeds."""
    rows = []
    for arm, of_arm in grouped(cells, "arm").items():
        for number, records in enumerate(zip(*(cell["rounds"] for cell in of_arm), strict=True)):
            means = [np.mean([one[name] for one in records]) for name in ("imagined_return", "grounded_return", "bias")]
            taken = sum(one["decision"] == "accept" for one in records)
            rows.append([arm, str(number), *(f"{mean:+.3f}" for mean in means), f"{taken} of {len(records)}"])
    return table(["policy", "round", "imagined return", "grounded return", "bias", "accepted"], rows)


def section(title: str, cells: list[Cell], command: str) -> str:
    """The section's text. Args: command: that wrote it."""
    facts = {
        name: "; ".join(dict.fromkeys(str(cell["provenance"][name]) for cell in cells))
        for name in ("commit", "machine", "seed")
    }
    facts["date"] = f"{min(c['provenance']['date'] for c in cells)} to {max(c['provenance']['date'] for c in cells)}"
    facts |= {"intervals": "95 %, over recordings", "command": command}
    parts = [f"# {title}", table(["", ""], ([name, value] for name, value in facts.items()))]
    parts += [ABOUT_FORCED] if any(FORCED in cell["arm"] for cell in cells) else []
    judges = grouped(cells, "judge")
    for judge, of_judge in judges.items():
        parts += [f"## Evaluated in {judge.replace('_', ' ')}", judge_table(of_judge)]
    first = next(iter(judges.values()))
    about = (
        "Simulator steps that the policy learned from or was gated by, in the order of the seeds; the world model's "
        "perturbed replays count where the model is used. The checks on the validation split, alike for all, do not."
    )
    parts += ["## Cost", about, cost_table(first), "Minutes of each stage:", stages_table(first)]
    parts += ["## Imagined against grounded return", rounds_table(first)]
    return "\n\n".join(parts)
