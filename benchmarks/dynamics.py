"""How well the ego's dynamics reproduce logged egos, as JSON: `python -m benchmarks.dynamics [--data DIR] [--split S]`.

Each ego that travels more than 5 m within the 8 s after the current step is moved open loop for these 8 s, from its
logged position and within the limits, by actions of the log's inverse. The error is the largest of the 80 distances
between its box centre and the log's. Actions come from

  log_actions        closed-loop tracking of the log, from its logged state
  raw                the exact inverse of each logged step
  smoothing          the smoothing inverse, from the logged heading and speed or others within their noise
  smoothing_fixed    the smoothing inverse, from the logged heading and speed exactly

All egos make one batch: 618 take 1 GB, half a minute of one core and a minute to load.
"""

import argparse
import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import command
from tether.data.command_line import Parser
from tether.data.geometry import wrap_angle
from tether.data.scene import Array, Record, Scene, SceneSpec
from tether.data.sources import STARTER, available_splits, open_split
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import advance, ego_track, last_valid_step, log_actions, log_ego
from tether.simulator.studies.config import KinematicBounds, SmoothingConfig
from tether.simulator.studies.exact_inverse import inverse
from tether.simulator.studies.inverse import smooth_log_actions
from tether.simulator.studies.log_metrics import kinematic_infeasibility, log_divergence
from tether.simulator.transition import ego_track_of
from tether.simulator.world import Action, Agents, EgoState

WITHIN_M = 0.1
MOVING_M = 5.0
QUANTILES = (0.5, 0.9, 0.95, 0.99)
# Records of other data sets in WOMD's format keep theirs in the scenario's name.
PREFIXES = {"av2": "argoverse 2", "nuscenes": "nuscenes", "cr_USA": "ngsim"}
START, STEPS = SceneSpec.current, SceneSpec().future_steps
CONFIG = SimulatorConfig()


def source_of(record: Record) -> str:
    """The data set that a record was made from."""
    return next((name for prefix, name in PREFIXES.items() if record.scenario_id.startswith(prefix)), record.source)


def read(directory: str, splits: list[str]) -> tuple[Scene, np.ndarray]:
    """The records of the splits with their ego alone, Scene[B], and the source of each."""
    spec = SceneSpec(agents=1, polylines=1, lights=1)
    records = [record for split in splits for record in open_split(directory, split, spec)]
    scenes = jax.tree.map(lambda *fields: np.stack(fields), *(record.scene for record in records))
    return scenes, np.array([source_of(record) for record in records])


def logged(scene: Scene) -> tuple[EgoState, Agents]:
    """The logged ego from the start on, states [B, N + 1], and its boxes after each step [B, N]."""
    steps = START + jnp.arange(STEPS + 1)
    states = jax.vmap(log_ego, (None, 0), 1)(scene, jnp.broadcast_to(steps[:, None], (STEPS + 1, len(scene.ego))))
    fields = {field.name: ego_track(scene, field.name)[:, START + 1 :] for field in dataclasses.fields(Agents)}
    in_log = steps[1:] <= last_valid_step(scene)[:, None]
    return states, Agents(**fields).replace(valid=fields["valid"] & in_log)


def travelled(scene: Scene) -> Array:
    """Metres [B] of the logged ego after the start."""
    x, y, valid = (ego_track(scene, name)[:, START:] for name in ("x", "y", "valid"))
    return np.sum(np.hypot(np.diff(x), np.diff(y)) * (valid[:, 1:] & valid[:, :-1]), axis=-1)


@jax.jit
def tracked(scene: Scene) -> EgoState:
    """The ego's states under `log_actions`."""
    start = jnp.full(scene.ego.shape, START)
    return advance(log_ego(scene, start), log_actions(scene, start, STEPS, CONFIG), CONFIG.limits, CONFIG.dt)


@jax.jit
def raw(scene: Scene) -> EgoState:
    """The ego's states under the exact inverse of each logged step."""
    states, _ = logged(scene)
    actions = Action(*inverse(states[:, :-1], states[:, 1:], CONFIG.dt))
    return advance(states[:, 0], actions, CONFIG.limits, CONFIG.dt)


def smoothed(scene: Scene, settings: SmoothingConfig) -> tuple[EgoState, EgoState]:
    """The start [B] that the smoothing inverse chose, and the ego's states from there [B, N]."""
    start = jnp.full(scene.ego.shape, START)
    ego, action = smooth_log_actions(scene, start, STEPS, CONFIG, settings)
    return ego, advance(ego, action, CONFIG.limits, CONFIG.dt)


def errors(swept: EgoState, log: Agents) -> np.ndarray:
    """Largest distance [m] of each ego from its log, [B]."""
    distance, _ = log_divergence(ego_track_of(swept), log)
    return np.max(distance, axis=-1)


def summary(values: np.ndarray) -> dict[str, float]:
    """Fraction within 0.1 m, and quantiles [m]."""
    quantiles = {f"q{round(100 * q)}": round(float(np.quantile(values, q)), 3) for q in QUANTILES}
    return {"within_0.1_m": round(float(np.mean(values <= WITHIN_M)), 4), **quantiles}


def start_change(ego: EgoState, scene: Scene) -> dict[str, np.ndarray]:
    """Absolute difference between the smoothing inverse's start and the log, [B]."""
    log = log_ego(scene, jnp.full(scene.ego.shape, START))
    return {
        "heading_rad": np.abs(wrap_angle(ego.heading - log.heading)),
        "speed_mps": np.abs(ego.speed - log.speed),
    }


def measure(scene: Scene) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Errors by source of the actions, and the differences of `smoothing`'s start from the log, each [B]."""
    _, log = logged(scene)
    smooth = jax.jit(smoothed, static_argnums=1)
    ego, swept = smooth(scene, SmoothingConfig())
    by_actions = {
        "log_actions": errors(tracked(scene), log),
        "raw": errors(raw(scene), log),
        "smoothing": errors(swept, log),
        "smoothing_fixed": errors(smooth(scene, SmoothingConfig(start_heading=0.0, start_speed=0.0))[1], log),
    }
    return by_actions, start_change(ego, scene)


def infeasible(scene: Scene) -> np.ndarray:
    """Whether the logged ego makes a kinematically infeasible step after the start [B]."""
    fields = {field.name: ego_track(scene, field.name)[:, START:] for field in dataclasses.fields(Agents)}
    flags, _ = kinematic_infeasibility(Agents(**fields), SceneSpec.dt, KinematicBounds())
    return np.any(flags, axis=-1)


def report(scene: Scene, sources: np.ndarray) -> dict[str, Any]:
    """The report over all moving egos, and for each source."""
    by_actions, beside = measure(scene)
    moving, odd = travelled(scene) > MOVING_M, infeasible(scene)
    groups = {"all": moving, **{name: moving & (sources == name) for name in np.unique(sources)}}
    return {
        name: {
            "moving_egos": int(group.sum()),
            "log_infeasible": round(float(np.mean(odd[group])), 4),
            **{way: summary(values[group]) for way, values in by_actions.items()},
            "start_beside_log_q95": {n: round(float(np.quantile(v[group], 0.95)), 4) for n, v in beside.items()},
        }
        for name, group in groups.items()
        if group.any()
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.dynamics", description=__doc__)
    parser.add_argument("--data", default=str(STARTER), help="a data set made by `python -m tether.data.build`")
    parser.add_argument("--split", action="append", help="may be repeated; all by default")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measures and prints."""
    options = parse(arguments)
    splits = options.split or list(available_splits(options.data))
    scene, sources = read(options.data, splits)
    settings = dataclasses.asdict(SmoothingConfig())
    print(json.dumps({"splits": splits, "smoothing": settings, "egos": report(scene, sources)}, indent=2))


if __name__ == "__main__":
    command.run(main)
