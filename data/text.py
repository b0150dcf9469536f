"""The texts of the policy: the closed sets of phrases for its decisions, and the sentences made of them.

An instruction reads `turn left in 30 m, speed limit 50 km/h`, then whatever free text a record has; it is ordinary
text (`data/tokenizer.py`). A chain of causation is one phrase of each closed set, one token each; it reads
`slow down and keep the lane: a vehicle is 15 m ahead`.
"""

import math

import numpy as np

SPECIAL = ("<pad>", "<start>")
LONGITUDINAL = ("stop", "wait", "yield", "slow down", "keep distance", "keep speed", "speed up")
LATERAL = (
    "keep lane",
    "steer left",
    "steer right",
    "change lane left",
    "change lane right",
    "nudge left",
    "nudge right",
    "follow the curve",
)
CAUSES = (
    "free road",
    "lead vehicle",
    "crossing vehicle",
    "pedestrian",
    "cyclist",
    "red light",
    "yellow light",
    "curve",
    "speed limit",
    "route",
    "unseen cause",
)
DISTANCES_M = (0, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100)
DISTANCES = tuple(f"{d} m" for d in DISTANCES_M)

# All phrases of the reasoning. A phrase's index is its id, and the tokenizer's first ids are the same.
VOCABULARY = (*SPECIAL, *LONGITUDINAL, *LATERAL, *CAUSES, *DISTANCES)
TOKEN_ID = {phrase: index for index, phrase in enumerate(VOCABULARY)}

MANEUVERS = ("follow the road", "turn left", "turn right", "turn around")
KMH_STEP = 5  # speed limits in the text are rounded to it
BECAUSE = {
    "free road": "the road is free",
    "lead vehicle": "a vehicle is {place}",
    "crossing vehicle": "a vehicle crosses {place}",
    "pedestrian": "a pedestrian is {place}",
    "cyclist": "a cyclist is {place}",
    "red light": "the light {place} is red",
    "yellow light": "the light {place} is yellow",
    "curve": "the road bends {place}",
    "speed limit": "the speed limit is reached",
    "route": "the route leads there",
    "unseen cause": "the cause is not in sight",
}
MOVES_ON = "the vehicle {place} moves on"  # the cause of a follower's acceleration
PLACELESS = tuple(cause for cause, words in BECAUSE.items() if "{place}" not in words)


def nearest_distance(distance_m: float) -> int:
    """The nearest of `DISTANCES_M`; distances beyond the last one share it."""
    return DISTANCES_M[int(np.argmin(np.abs(np.asarray(DISTANCES_M) - distance_m)))]


def compose(longitudinal: str, lateral: str, cause: str, distance: str) -> str:
    """A chain of causation as a sentence, e.g. `stop and keep the lane: the light 30 m ahead is red`."""
    place = "just ahead" if distance == DISTANCES[0] else f"{distance} ahead"
    across = "keep the lane" if lateral == "keep lane" else lateral
    because = MOVES_ON if (longitudinal, cause) == ("speed up", "lead vehicle") else BECAUSE[cause]
    return f"{longitudinal} and {across}: {because.format(place=place)}"


def navigate(maneuver: str, distance_m: float | None = None) -> str:
    """A maneuver, and where it begins: `turn left in 30 m`, `turn left now`, `follow the road`."""
    if distance_m is None:
        return maneuver
    near = nearest_distance(distance_m)
    return f"{maneuver} in {near} m" if near else f"{maneuver} now"


def instruct(maneuver: str, limit_mps: float, note: str) -> str:
    """The whole instruction: maneuver, speed limit where it is known (0 is not), free text where there is any."""
    limit = f"speed limit {KMH_STEP * round(3.6 * limit_mps / KMH_STEP)} km/h" if 0 < limit_mps < math.inf else ""
    return ", ".join(part for part in (maneuver, limit, " ".join(note.split())) if part)
