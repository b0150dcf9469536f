"""The realism meta-metric of the Waymo Open Sim Agents Challenge 2025 (WOSAC), of one scene.

It is the likelihood of the log under a model's rollouts. Definition: waymo-open-dataset 1.6.7,
`challenge_2025_sim_agents_config`; reimplemented in NumPy. K rollouts, A agents, E evaluated agents, H steps.
"""

import dataclasses

import numpy as np

from tether.data.sim_agents import SimAgentsScene
from tether.evaluation.realism.features import FeatureMap, Tracks, features, is_vehicle, logged_tracks
from tether.evaluation.realism.kinematics import difference_valid
from tether.evaluation.realism.likelihood import Histogram, indication_likelihood, likelihood

HISTOGRAMS = {
    "linear_speed": Histogram(0.0, 25.0, 10),  # m/s
    "linear_acceleration": Histogram(-12.0, 12.0, 11),  # m/s^2
    "angular_speed": Histogram(-0.628, 0.628, 11),  # rad/s
    "angular_acceleration": Histogram(-3.14, 3.14, 11),  # rad/s^2
    "distance_to_nearest_object": Histogram(-5.0, 40.0, 10),  # m
    "time_to_collision": Histogram(0.0, 5.0, 10),  # s
    "distance_to_road_edge": Histogram(-20.0, 40.0, 10),  # m
}
INDICATIONS = ("collision_indication", "offroad_indication", "traffic_light_violation")
WEIGHTS = {
    "linear_speed": 0.05,
    "linear_acceleration": 0.05,
    "angular_speed": 0.05,
    "angular_acceleration": 0.05,
    "distance_to_nearest_object": 0.1,
    "collision_indication": 0.25,
    "time_to_collision": 0.1,
    "distance_to_road_edge": 0.05,
    "offroad_indication": 0.25,
    "traffic_light_violation": 0.05,
}
RATES = {
    "collision_indication": "simulated_collision_rate",
    "offroad_indication": "simulated_offroad_rate",
    "traffic_light_violation": "simulated_traffic_light_violation_rate",
}


def realism(scene: SimAgentsScene, rollouts: Tracks) -> dict[str, float]:
    """The score of a model's rollouts of a scene.

    Args: rollouts: all agents of the scene, [K, A, H], in world coordinates; H steps after the current one.
    Returns: the likelihood of each feature, their weighted sum `metametric`, the fraction of agents and rollouts with
      each of `RATES`, `average_displacement_error` [m] and `min_average_displacement_error` [m], of the best rollout.
    Raises: ValueError for rollouts of another shape or with values that are not finite, a scene without road edges,
      or one whose log has no valid step of the evaluated agents for some feature.
    """
    check(scene, rollouts)
    road = FeatureMap(scene)
    log = logged_tracks(scene)
    seen = scene.valid[:, scene.current + 1 :]
    logged = {name: values[0] for name, values in features(scene, log, seen, road).items()}
    simulated = features(scene, rollouts, np.ones_like(seen), road)
    valid = {name: counted(scene, name) for name in WEIGHTS}
    scores = {name: likelihood(h, logged[name], simulated[name], valid[name]) for name, h in HISTOGRAMS.items()}
    scores |= {name: indication_likelihood(logged[name], simulated[name], valid[name]) for name in INDICATIONS}
    unknown = sorted(name for name, score in scores.items() if np.isnan(score))
    if unknown:
        raise ValueError(f"scenario {scene.scenario_id}: the log of the evaluated agents shows no {', '.join(unknown)}")
    rates = {rate: float((simulated[name] & seen[scene.evaluated]).any(-1).mean()) for name, rate in RATES.items()}
    metametric = sum(weight * scores[name] for name, weight in WEIGHTS.items())
    return {"metametric": metametric} | scores | rates | displacement(scene, rollouts)


def check(scene: SimAgentsScene, rollouts: Tracks) -> None:
    """Raises: ValueError, see `realism`."""
    agents, steps = scene.x.shape
    for field in dataclasses.fields(Tracks):
        values = getattr(rollouts, field.name)
        if values.ndim != 3 or values.shape[1:] != (agents, steps - 1 - scene.current):
            expected = f"[K, {agents}, {steps - 1 - scene.current}]"
            raise ValueError(f"{field.name}: expected shape {expected}, found {list(values.shape)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{field.name}: expected finite values, found others")


def counted(scene: SimAgentsScene, name: str) -> np.ndarray:
    """Steps of the evaluated agents' log that count for a feature: bool[E, H]."""
    valid = scene.valid[scene.evaluated, scene.current + 1 :]
    if name in ("time_to_collision", "traffic_light_violation"):
        return valid & is_vehicle(scene)[:, None]
    differences = {"speed": 1, "acceleration": 2}.get(name.rpartition("_")[2], 0)
    for _ in range(differences):  # of the future only: the steps beside the history do not count
        valid = difference_valid(valid)
    return valid


def displacement(scene: SimAgentsScene, rollouts: Tracks) -> dict[str, float]:
    """Mean distance to the log [m] over evaluated agents, each over its valid steps.

    The steps of the history count too, with distance 0.
    """
    evaluated, after = scene.evaluated, scene.current + 1
    off = (getattr(rollouts, axis)[:, evaluated] - getattr(scene, axis)[evaluated, after:] for axis in "xyz")
    apart = np.sqrt(sum(component**2 for component in off))
    summed = np.where(scene.valid[evaluated, after:], apart, 0).sum(-1)
    error = summed / scene.valid[evaluated].sum(-1)
    best = float(error.mean(axis=1).min())
    return {"average_displacement_error": float(error.mean()), "min_average_displacement_error": best}
