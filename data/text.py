"""The text that goes in and out of the policy: one closed vocabulary of words and short phrases.

A navigation instruction reads `turn left in 30 m`, `follow the road`; a chain of causation reads
`slow down , keep lane : lead vehicle 12 m ahead`. Both are composed from the lists below, so encoding is exact.
"""

import numpy as np

SPECIAL = ("<pad>", "<start>")
MANEUVERS = ("follow the road", "turn left", "turn right", "turn around")
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
)
DISTANCES_M = (0, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100)

VOCABULARY = (*SPECIAL, *MANEUVERS, *LONGITUDINAL, *LATERAL, *CAUSES, *(f"{d} m" for d in DISTANCES_M))
TOKEN_ID = {phrase: index for index, phrase in enumerate(VOCABULARY)}


def distance_phrase(distance_m: float) -> str:
    """The phrase of the nearest bucket of `DISTANCES_M`; distances beyond the last one share it."""
    nearest = int(np.argmin(np.abs(np.asarray(DISTANCES_M) - distance_m)))
    return f"{DISTANCES_M[nearest]} m"


def encode(phrases: tuple[str, ...], length: int) -> np.ndarray:
    """Token ids of the phrases, padded to `length`.

    Returns: int32[length].
    Raises: ValueError for a phrase outside the vocabulary or for more phrases than `length`.
    """
    if len(phrases) > length:
        raise ValueError(f"{len(phrases)} phrases do not fit into {length} tokens: {phrases}")
    unknown = [p for p in phrases if p not in TOKEN_ID]
    if unknown:
        raise ValueError(f"not in the vocabulary: {unknown}; known phrases are {list(VOCABULARY)}")
    ids = np.zeros(length, np.int32)
    ids[: len(phrases)] = [TOKEN_ID[p] for p in phrases]
    return ids


def decode(ids: np.ndarray) -> tuple[str, ...]:
    """The phrases of token ids, padding left out."""
    return tuple(VOCABULARY[int(i)] for i in np.asarray(ids).ravel() if int(i) != 0)
