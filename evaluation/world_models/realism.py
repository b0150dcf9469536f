"""Realism: the likelihood of the log under a World's draws, in the style of the WOSAC meta-metric of 2025."""

import pathlib
from collections import Counter

import numpy as np

from tether.data.progress import Bar
from tether.data.scene import ROAD_EDGE_TYPES, AgentType, Record
from tether.evaluation.realism.of_record import scene_of, tracks_of
from tether.evaluation.realism.score import RATES, WEIGHTS, realism
from tether.evaluation.statistics import bootstrap, paired_difference
from tether.evaluation.world_models.figure import forest
from tether.evaluation.world_models.study import Finding, NotMeasurable, Study, against_floors

EVALUATED = 8  # others per scene: as many as a record of WOMD has tracks to predict
SEEN_STEPS = 10  # after the current one, without a gap: every feature needs some valid steps
KINDS = {
    "kinematic": ("linear_speed", "linear_acceleration", "angular_speed", "angular_acceleration"),
    "interactive": ("distance_to_nearest_object", "collision_indication", "time_to_collision"),
    "map": ("distance_to_road_edge", "offroad_indication", "traffic_light_violation"),
}
COLUMNS = {
    "metametric": "realism",
    **{kind: f"{kind} features" for kind in KINDS},
    "simulated_collision_rate": "collide",
    "simulated_offroad_rate": "leave the road",
}
ABOUT = """Realism meta-metric of WOSAC 2025 (ten features, its weights; docs/realism.md): how likely the logged 8 \
s are under {draws} draws. Evaluated are the up to {evaluated} nearest others that move; the ego is on its log and is \
not evaluated. The groups are weighted means of their features. The last two columns are fractions of evaluated agents \
and draws (in the log: collide {collide}, leave the road {leave}). An agent that is out of sight keeps its velocity, \
in the log as well: copying the log does not score 1. {left_out}"""
NOBODY = "without a vehicle that moves and is seen for a second"


def evaluated(study: Study, row: int) -> np.ndarray:
    """The agents to evaluate, bool[A]: the nearest moving others that are seen for `SEEN_STEPS`."""
    log = study.logged
    ego = log.ego[row]
    there = log.moving[row] & log.valid[row, :, : SEEN_STEPS + 1].all(-1)
    away = np.hypot(log.x[row, :, 0] - log.x[row, ego, 0], log.y[row, :, 0] - log.y[row, ego, 0])
    nearest = np.argsort(np.where(there, away, np.inf), kind="stable")[:EVALUATED]
    return there & np.isin(np.arange(len(there)), nearest)


def lacking(record: Record, chosen: np.ndarray) -> str:
    """What a scene lacks that one of the features needs, in words; empty where it lacks nothing."""
    edges = np.isin(record.scene.road_type, ROAD_EDGE_TYPES)
    seen = np.asarray(record.scene.road_valid).sum(1) > 1
    if not np.any(edges & seen):
        return "without road edges"
    return "" if np.any(np.asarray(record.scene.agent_type)[chosen] == AgentType.VEHICLE) else NOBODY


def measure(study: Study) -> Finding:
    """Scores every subject's draws, scene by scene."""
    chosen = [evaluated(study, row) for row in range(len(study.records))]
    lacks = [lacking(study.records[row], agents) for row, agents in enumerate(chosen)]
    rows = [row for row, lack in enumerate(lacks) if not lack]
    if not rows:
        raise NotMeasurable(f"no scene has all that its features need: {counted(lacks)}")
    scores = {name: scores_of(study, name, chosen, rows) for name in study.imagined}
    groups = study.groups[rows]
    return Finding(
        title="Realism",
        about=about(study, scores, lacks),
        columns=COLUMNS,
        rows={name: {key: bootstrap(one[key], groups) for key in COLUMNS} for name, one in scores.items()},
        paired={
            title: {key: paired_difference(scores[name][key], scores[floor][key], groups) for key in COLUMNS}
            for title, (name, floor) in against_floors(scores).items()
        },
        details={name: {key: bootstrap(one[key], groups) for key in WEIGHTS} for name, one in scores.items()},
    )


def scores_of(study: Study, name: str, chosen: list[np.ndarray], rows: list[int]) -> dict[str, np.ndarray]:
    """Score to float64[len(rows)]: the meta-metric, its features, their groups and the rates."""
    draws, spec = study.imagined[name], study.config.spec
    by_scene = []
    with Bar(f"{name}, realism", len(rows), unit="scenes") as bar:
        for row in bar.over(rows):
            record = study.records[row]
            tracks = tracks_of(record, draws.x[row], draws.y[row], draws.heading[row], spec)
            by_scene.append(realism(scene_of(record, chosen[row], spec), tracks))
    scores = {key: np.array([one[key] for one in by_scene]) for key in by_scene[0]}
    for kind, features in KINDS.items():
        weight = sum(WEIGHTS[feature] for feature in features)
        scores[kind] = sum(WEIGHTS[feature] * scores[feature] for feature in features) / weight
    return scores


def counted(lacks: list[str]) -> str:
    """How many scenes lack what, in words."""
    number = Counter(filter(None, lacks))
    return ", ".join(f"{count} of {len(lacks)} {lack}" for lack, count in number.items())


def about(study: Study, scores: dict[str, dict[str, np.ndarray]], lacks: list[str]) -> str:
    """The text about the measure. The log's rates in it are the oracle's."""
    left_out = (
        f"{sum(map(bool, lacks))} scenes are left out: {counted(lacks)}." if any(lacks) else "No scene is left out."
    )
    collide, leave = (f"{scores['oracle'][RATES[name]].mean():.3f}" for name in list(RATES)[:2])
    sizes = {"draws": study.draws, "evaluated": EVALUATED, "left_out": left_out}
    return ABOUT.format(collide=collide, leave=leave, **sizes)


def draw(finding: Finding, path: pathlib.Path) -> None:
    """Draws each feature of each subject."""
    names = {name: name.replace("_", " ") for name in WEIGHTS}
    forest(finding.details, names, "likelihood of the log", path)
