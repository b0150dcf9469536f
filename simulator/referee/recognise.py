"""Matches the rows of a logged scene to a recording by position; a match proves that the recording is the scene's."""

import numpy as np

from tether.data.scene import LightState
from tether.data.sumo.install import SumoError
from tether.data.sumo.road_network import RoadNetwork
from tether.data.sumo.scenes import light_states, stop_point
from tether.data.sumo.simulate import Recording
from tether.simulator.referee.messages import Cast, Signal, Window

SAME_PLACE_M = 0.01  # scenes hold float32; other traffic differs by metres


def cast_of(window: Window, record: Recording, network: RoadNetwork) -> Cast:
    """Recognises the agents and lights of a scene.

    Raises: SumoError naming the scene where the recording is not the one that it was cut from.
    """
    names = tuple(agent_name(window, record, row) for row in range(len(window.x)))
    signals = tuple(signal(window, record, network, row) for row in range(len(window.light_state)))
    return Cast(names, signals)


def agent_name(window: Window, record: Recording, row: int) -> str | None:
    """The SUMO id of one row, None for padding."""
    seen = ~np.isnan(window.x[row])
    if not seen.any():
        return None
    steps = window.first + np.flatnonzero(seen)
    apart = np.hypot(record.x[:, steps] - window.x[row, seen], record.y[:, steps] - window.y[row, seen]).max(1)
    apart = np.where(np.isnan(apart), np.inf, apart)  # absent at one of the steps
    nearest = int(apart.argmin())
    if apart[nearest] > SAME_PLACE_M:
        raise SumoError(
            f"{window.scenario_id}: expected the traffic that it was cut from, found no agent within {SAME_PLACE_M} m "
            f"of agent {row}'s log; the nearest agent is {apart[nearest]:.2f} m away from it"
        )
    return record.names[nearest]


def signal(window: Window, record: Recording, network: RoadNetwork, row: int) -> Signal | None:
    """A link whose light has the place and the states of one row, None for padding."""
    logged = window.light_state[row]
    if not logged.any():
        return None
    place, steps = (window.light_x[row], window.light_y[row]), slice(window.first, window.first + len(logged))
    for link in (link for links in network.links.values() for link in links if link.signal is not None):
        here = np.hypot(*(stop_point(network, link) - place)) < SAME_PLACE_M
        if here and network.lanes[link.source].use == "car" and (light_states(record, link, steps) == logged).all():
            return link.signal
    raise SumoError(f"{window.scenario_id}: expected the lights of its log, found none like light {row}")


def light_codes(letters: list[str | None], codes: dict[str, LightState]) -> np.ndarray:
    """SUMO's letters as `LightState`, int32[L]; 0 for None."""
    return np.array([LightState.UNKNOWN if letter is None else codes[letter] for letter in letters], np.int32)
