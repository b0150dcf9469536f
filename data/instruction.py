"""A scene's route at the spacing of a `SceneSpec`, and its instruction as text.

Token ids are `padding`'s to make, so that the tokenizer can be built from the text of a data set.
"""

import dataclasses

import numpy as np

from tether.data.errors import DataError
from tether.data.polyline import arc_length, drop_repeats, interpolate, walk
from tether.data.raw import LocalScene
from tether.data.route import navigation
from tether.data.scene import SceneSpec
from tether.data.text import instruct


@dataclasses.dataclass(frozen=True)
class SampledRoute:
    """The part of a route that a `Scene` can hold.

    Attributes:
      points: float64[<=R, 2], `route_spacing_m` apart [m].
      speed_limit: float64[<=R], [m/s], 0 where unknown.
      instruction: the next maneuver, the speed limit at the ego's current place, the scene's free text.
    """

    points: np.ndarray
    speed_limit: np.ndarray
    instruction: str


def sampled_route(scene: LocalScene, spec: SceneSpec) -> SampledRoute:
    """Raises: DataError for a route shorter than `spec.route_spacing_m`."""
    line = drop_repeats(scene.route)
    limit_at = arc_length(scene.route)
    count = min(int(arc_length(line)[-1] / spec.route_spacing_m + 1e-6) + 1, spec.route_points)
    if count < 2:
        reason = f"expected a route of at least {spec.route_spacing_m} m, found {arc_length(line)[-1]:.2f} m"
        raise DataError(reason, "route", scene.record_name)
    s = np.arange(count) * spec.route_spacing_m
    points = interpolate(line, s)
    limit = scene.route_speed_limit[np.minimum(np.searchsorted(limit_at, s), len(limit_at) - 1)]
    past = np.stack([scene.x, scene.y], axis=-1)[scene.ego, : scene.current + 1]
    at_current = walk(past[scene.valid[scene.ego, : scene.current + 1]], points)[-1]
    passed = max(np.searchsorted(s, at_current, side="right") - 1, 0)
    maneuver = navigation(_ahead(line, at_current))
    return SampledRoute(points, limit, instruct(maneuver, float(limit[passed]), scene.note))


def _ahead(line: np.ndarray, s: float) -> np.ndarray:
    """The line from arc length `s` on, from the ego's place at the current step."""
    along = arc_length(line)
    return interpolate(line, np.concatenate([[s], along[along > s + 1e-3], along[-1:] + 1e-3]))
