"""Keeps an ego once that several records of one recording hold, and a location group in one split.

A recording is often cut into several records: one for each of the vehicles that a data set is about, or windows that
overlap. The same vehicle in the same stretch of time is one observation: counted twice, it makes intervals too narrow
and has twice the weight. Its places in the world identify it, within a group: nothing else in a record names the
recording.
"""

from collections.abc import Sequence

import numpy as np

from tether.data.raw import LocalScene

PLACE_M = 1e-3  # another vehicle on the same lane is farther away; a copy is equal
OFFSET_M = 3.17e-4  # shifts the grid of places, so that coordinates rounded by a data set do not lie on its lines
SAME = 0.5  # two egos of different records that have more than this fraction of their places in common are one
SPLIT_ORDER = ("test", "validation", "grounding", "train")  # splits for evaluation keep an ego first
SAME_EGO, OTHER_SPLIT = "same_ego", "group_in_another_split"


def places(scene: LocalScene) -> np.ndarray:
    """The distinct places of a scene's ego in the world, to 1 mm: uint32[K], hashes in ascending order.

    A vehicle that stands is at one place however long: that two logs show it standing there does not make them one.
    """
    x, y, heading = scene.origin
    along, across = scene.ego_path.T
    cos, sin = np.cos(heading), np.sin(heading)
    world = np.stack([x + cos * along - sin * across, y + sin * along + cos * across])
    east, north = np.floor((world + OFFSET_M) / PLACE_M).astype(np.int64)
    return np.unique((east * 73856093 ^ north * 19349663).astype(np.uint32))


class Recordings:
    """Remembers what is kept. Scenes have to come split by split in `SPLIT_ORDER`, then in the order of the files."""

    def __init__(self) -> None:
        self._split: dict[str, str] = {}
        self._kept: dict[str, list[tuple[str, np.ndarray]]] = {}

    def left_out(self, split: str, group: str, scenario_id: str, ego: np.ndarray) -> str:
        """Why a scene is to be left out; empty where it is to be kept, and then it is remembered.

        Args: ego: its `places`.
        """
        if self._split.setdefault(group, split) != split:
            return OTHER_SPLIT
        kept = self._kept.setdefault(group, [])
        if kept and _is_among(scenario_id, ego, kept):
            return SAME_EGO
        kept.append((scenario_id, ego))
        return ""


def _is_among(scenario_id: str, ego: np.ndarray, kept: Sequence[tuple[str, np.ndarray]]) -> bool:
    """Whether an ego is one of those kept.

    In one scenario two egos are two vehicles, unless all their places are equal: then it is read a second time. One
    that follows another may come through most of its places, in traffic that was made up.
    """
    sizes = np.array([len(other) for _, other in kept])
    owner = np.repeat(np.arange(len(kept)), sizes)
    common = np.bincount(owner[np.isin(np.concatenate([other for _, other in kept]), ego)], minlength=len(kept))
    same_scenario = np.array([name == scenario_id for name, _ in kept])
    all_of_both = (common == sizes) & (common == len(ego))
    most_of_one = common > SAME * np.minimum(sizes, len(ego))
    return bool(np.where(same_scenario, all_of_both, most_of_one).any())
