"""Chooses scenes from a recording: candidates, gates, then the eventful ones first."""

import dataclasses
import itertools
import random

import numpy as np

from tether.data.polyline import project, walk
from tether.data.raw import RawScene
from tether.data.scene import AgentType
from tether.data.sumo.drivers import PASSENGER
from tether.data.sumo.gates import bicycle_heading, is_drivable, pair_gap, stays_on_road
from tether.data.sumo.routes import AFTER_STEPS, BEFORE_STEPS
from tether.data.sumo.scenes import CURRENT, STEPS, Town, raw_scene
from tether.data.sumo.simulate import STEP_S, Recording
from tether.data.sumo.traits import NEAR_M, red_lights_run, traits

APART_M = 40.0
PER_SLOT = 9
LEAST_AHEAD_M = 50.0
EDGE_MARGIN_M = 0.1
ROUTE_OFFSET_M = 1.2
CROWD_M = 30.0
PARKED_FRACTION = 0.1
EVENT_WEIGHT = {
    "constant_speed_event": 1.7,
    "turns": 5.0,
    "lane_change": 2.0,
    "stops": 1.0,
    "vru_near": 1.0,
    "vehicle_near": 0.5,
    "parked_near": 0.5,
    "brakes": 0.5,
    "signal": 1.0,
    "stands": -4.0,
}
TRIVIAL_FRACTION = 0.15


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A scene that passed the gates, with its traits."""

    scene: RawScene
    traits: dict[str, bool]

    @property
    def weight(self) -> float:
        """The weight of the scene in the draw: higher if more happens in it."""
        return sum(EVENT_WEIGHT[name] for name, present in self.traits.items() if present)

    @property
    def is_trivial(self) -> bool:
        """Whether keeping the speed along the road is enough to drive the scene."""
        eventful = ("constant_speed_event", "turns", "lane_change", "stops", "brakes")
        return not any(self.traits[name] for name in eventful)


def choose_scenes(rng: random.Random, place: Town, record: Recording, count: int) -> list[Candidate]:
    """Up to `count` scenes of a recording, the eventful ones more often."""
    candidates = [candidate for start in slots(record) for candidate in slot_candidates(rng, place, record, start)]
    return sorted(preferred(rng, candidates, count), key=lambda candidate: candidate.scene.scenario_id)


def preferred(rng: random.Random, candidates: list[Candidate], count: int) -> list[Candidate]:
    """Up to `count` candidates drawn by weight without replacement; trivial ones are at most 15 % of `count`.

    Source: Efraimidis & Spirakis 2006 (the largest random keys to the power of 1 / weight).
    """
    drawn = sorted(candidates, key=lambda c: rng.random() ** (1 / max(c.weight, 0.1)), reverse=True)
    trivial = [c for c in drawn if c.is_trivial][: round(TRIVIAL_FRACTION * count)]
    return [c for c in drawn if not c.is_trivial][: count - len(trivial)] + trivial


def slots(record: Recording) -> range:
    """First steps of the windows: one after the other, so that an ego has each second of the recording once."""
    return range(BEFORE_STEPS, record.steps - STEPS - AFTER_STEPS + 1, STEPS)


def slot_candidates(rng: random.Random, place: Town, record: Recording, start: int) -> list[Candidate]:
    """The scenes of one slot, their egos at least 40 m apart."""
    chosen: list[int] = []
    candidates: list[Candidate] = []
    for ego in shuffled_egos(rng, record, start):
        here = record.x[ego, start], record.y[ego, start]
        if any(np.hypot(here[0] - record.x[o, start], here[1] - record.y[o, start]) < APART_M for o in chosen):
            continue
        scene = gated_scene(place, record, ego, start)
        if scene is not None:
            chosen.append(ego)
            candidates.append(scene)
        if len(chosen) == PER_SLOT:
            break
    return candidates


def shuffled_egos(rng: random.Random, record: Recording, start: int) -> list[int]:
    """Passenger cars that are present throughout and drivable, in random order; few of those that hardly move."""
    window = slice(start, start + STEPS)
    egos = []
    for agent in np.flatnonzero(record.present[:, window].all(1)):
        track = record.x[agent, window], record.y[agent, window], record.heading[agent, window]
        is_car = record.types[agent].rstrip("0123456789") in PASSENGER
        if not is_car or not is_drivable(*track, STEP_S):
            continue
        moved = np.hypot(track[0][-1] - track[0][0], track[1][-1] - track[1][0])
        if moved > 5.0 or rng.random() < PARKED_FRACTION:
            egos.append(int(agent))
    rng.shuffle(egos)
    return egos


def gated_scene(place: Town, record: Recording, ego: int, start: int) -> Candidate | None:
    """The scene of an ego, None where a gate rejects it."""
    window = slice(start, start + STEPS)
    track = record.x[ego, window], record.y[ego, window], record.heading[ego, window]
    size = record.length[ego], record.width[ego]
    surface, driven = place.surface.buffer(-EDGE_MARGIN_M), [field[CURRENT:] for field in track]
    swung = *driven[:2], bicycle_heading(*driven, size[0])
    if not stays_on_road(*track, size, surface) or not stays_on_road(*swung, size, surface):
        return None
    scene, route = raw_scene(place, record, ego, start)
    front = np.stack(track[:2], 1) + size[0] / 2 * np.stack([np.cos(track[2]), np.sin(track[2])], 1)
    along = walk(front, route.points)
    _, offset = project(np.stack(track[:2], 1), route.points)
    if route.ahead < LEAST_AHEAD_M or np.abs(offset).max() > ROUTE_OFFSET_M:
        return None
    if red_lights_run(scene, along, slice(0, STEPS)) or has_overlaps(scene):
        return None
    known = {
        "lane_change": changes_lane(record, ego, window, place),
        "parked_near": passes_parked(record, ego, window),
    }
    return Candidate(scene, traits(scene) | known)


def has_overlaps(scene: RawScene) -> bool:
    """Whether the ego touches anyone, or others within 30 m of it overlap (walkers among themselves may)."""
    x, y, heading = (np.where(scene.valid, field, np.nan) for field in (scene.x, scene.y, scene.heading))
    sizes = scene.length, scene.width
    if (pair_gap(x, y, heading, *sizes, scene.ego) < 0).any():
        return True
    apart = np.hypot(x - x[scene.ego], y - y[scene.ego])
    near = np.flatnonzero((np.where(scene.valid, apart, np.inf) < CROWD_M).any(1))
    x, y, heading = (field[near][:, ::3] for field in (x, y, heading))
    sizes, walks = (scene.length[near], scene.width[near]), scene.agent_type[near] == AgentType.PEDESTRIAN
    return any((pair_gap(x, y, heading, *sizes, one) < 0).any() for one in np.flatnonzero(~walks))


def changes_lane(record: Recording, ego: int, window: slice, place: Town) -> bool:
    """Whether the ego changes between lanes of one road within the window."""
    lanes = [place.network.lanes[record.lane_names[lane]] for lane in record.lane[ego, window]]
    return any(a.edge == b.edge and a.index != b.index for a, b in itertools.pairwise(lanes))


def passes_parked(record: Recording, ego: int, window: slice) -> bool:
    """Whether the ego comes within 15 m of a parked vehicle."""
    x, y = record.x[:, window], record.y[:, window]
    return bool((np.hypot(x[record.parked] - x[ego], y[record.parked] - y[ego]) < NEAR_M).any())
