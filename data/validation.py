"""Checks at the boundary that a `Scene` has the sizes of a `SceneSpec`; the jitted core checks nothing."""

import numpy as np

from tether.data import tokenizer
from tether.data.errors import DataError
from tether.data.scene import AgentType, LightState, Record, RoadType, Scene, SceneSpec


def scene_shapes(spec: SceneSpec) -> dict[str, tuple[type, tuple[int, ...]]]:
    """dtype and shape of each field of a `Scene` but `map_tile`, whose size is the renderer's."""
    a, t, m, p = spec.agents, spec.steps, spec.polylines, spec.points
    tracks = {name: (np.float32, (a, t)) for name in ("x", "y", "heading", "vel_x", "vel_y")}
    road = {name: (np.float32, (m, p)) for name in ("road_x", "road_y")}
    lights = {name: (np.float32, (spec.lights,)) for name in ("light_x", "light_y", "light_route_s")}
    route = {name: (np.float32, (spec.route_points,)) for name in ("route_x", "route_y", "route_speed_limit")}
    other = dict(
        valid=(np.bool_, (a, t)),
        length=(np.float32, (a,)),
        width=(np.float32, (a,)),
        agent_type=(np.int32, (a,)),
        ego=(np.int32, ()),
        road_valid=(np.bool_, (m, p)),
        road_type=(np.int32, (m,)),
        light_state=(np.int32, (spec.lights, t)),
        light_valid=(np.bool_, (spec.lights, t)),
        route_valid=(np.bool_, (spec.route_points,)),
        instruction=(np.int32, (spec.text,)),
    )
    return {**tracks, **road, **lights, **route, **other}


def validate(record: Record, spec: SceneSpec) -> None:
    """Checks sizes, types, ranges and masks of a record.

    Raises: DataError naming the record and the field, with what was expected and found.
    """
    name = f"{record.scenario_id} (ego {int(record.scene.ego)})"
    scene = record.scene
    _check_arrays(scene, scene_shapes(spec), name)
    for check in (_check_ego, _check_agents, _check_codes, _check_road, _check_route):
        check(scene, spec, name)
    if np.shape(record.origin) != (3,) or not np.isfinite(record.origin).all():
        raise DataError(f"expected three finite numbers, found {record.origin}", "origin", name)


def _check_arrays(scene: Scene, shapes: dict, name: str) -> None:
    for field, (dtype, shape) in shapes.items():
        value = np.asarray(getattr(scene, field))
        if value.dtype != dtype or value.shape != shape:
            expected = f"{np.dtype(dtype).name}{list(shape)}"
            raise DataError(f"expected {expected}, found {value.dtype.name}{list(value.shape)}", field, name)
        bad = ~np.isfinite(value)
        if bad.any():
            raise DataError(f"expected finite values, found {int(bad.sum())} of {value.size} that are not", field, name)


def _check_ego(scene: Scene, spec: SceneSpec, name: str) -> None:
    if not 0 <= scene.ego < spec.agents:
        raise DataError(f"expected an index in [0, {spec.agents}), found {int(scene.ego)}", "ego", name)
    seen = scene.valid[scene.ego]
    last = int(np.flatnonzero(seen)[-1]) if seen.any() else -1
    if last <= spec.current or not seen[: last + 1].all():
        reason = f"expected the ego valid from step 0 on and beyond step {spec.current}, "
        raise DataError(reason + f"found {int(seen.sum())} valid steps, the last one {last}", "valid", name)
    start = [float(field[scene.ego, spec.current]) for field in (scene.x, scene.y, scene.heading)]
    if max(map(abs, start)) > 1e-2:
        raise DataError(f"expected the ego at the origin at step {spec.current}, found {start}", "x, y, heading", name)


def _check_agents(scene: Scene, spec: SceneSpec, name: str) -> None:
    there = scene.valid.any(1)
    for field in ("length", "width"):
        size = getattr(scene, field)[there]
        if (size <= 0).any():
            raise DataError(f"expected sizes > 0 m, found {size.min():.2f}", field, name)
    if (np.abs(scene.heading) > np.float32(np.pi)).any():
        raise DataError(f"expected angles in [-pi, pi), found {np.abs(scene.heading).max():.3f}", "heading", name)


def _check_codes(scene: Scene, spec: SceneSpec, name: str) -> None:
    codes = {"agent_type": AgentType, "road_type": RoadType, "light_state": LightState}
    known = {field: {int(code) for code in kind} for field, kind in codes.items()}
    known["instruction"] = set(range(tokenizer.size()))
    for field, allowed in known.items():
        strange = set(np.unique(getattr(scene, field)).tolist()) - allowed
        if strange:
            raise DataError(f"expected known codes, found {sorted(strange)}", field, name)


def _check_road(scene: Scene, spec: SceneSpec, name: str) -> None:
    if (np.diff(scene.road_valid.astype(np.int8), axis=1) > 0).any():
        raise DataError("expected the valid points of each polyline first", "road_valid", name)
    if (scene.road_valid.any(1) != (scene.road_type != RoadType.PADDING)).any():
        raise DataError("expected points exactly where the type is not 0", "road_type", name)


def _check_route(scene: Scene, spec: SceneSpec, name: str) -> None:
    count = int(scene.route_valid.sum())
    if count < 2 or not scene.route_valid[:count].all():
        raise DataError(f"expected two or more valid points, first in the array, found {count}", "route_valid", name)
    step_x, step_y = np.diff(scene.route_x[:count]), np.diff(scene.route_y[:count])
    length = np.hypot(step_x, step_y)
    if (length > 1.01 * spec.route_spacing_m).any() or (length < 0.3 * spec.route_spacing_m).any():
        reason = f"expected points {spec.route_spacing_m} m apart, found {length.min():.2f} to {length.max():.2f} m"
        raise DataError(reason, "route_x, route_y", name)
    if (step_x[1:] * step_x[:-1] + step_y[1:] * step_y[:-1] < 0).any():
        raise DataError("expected a route that goes forward, found one that folds back", "route_x, route_y", name)
