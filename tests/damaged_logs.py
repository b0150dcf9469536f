"""Ways to damage the WOMD protos of `raw_scenes.py`: fields of states, times, rate and length of a log."""

import numpy as np

from tests.raw_scenes import scenario

NAN, INF = float("nan"), float("inf")
EVEN = 0.1 * np.arange(91)


def noted(notes):
    """What was counted at all."""
    return {kind: count for kind, count in notes.items() if count}


def states(made, row, **values):
    """Sets fields of all states of a track, to a value or to a function of the step."""
    for step, state in enumerate(made.tracks[row].states):
        for name, value in values.items():
            setattr(state, name, value(step) if callable(value) else value)


def one_state(made, row, step=40, **values):
    for name, value in values.items():
        setattr(made.tracks[row].states[step], name, value)


def path(made, row, x, y, heading=None, times=None):
    """Gives a track a path, and the velocity and heading that belong to it."""
    times = np.array(made.timestamps_seconds) if times is None else times
    vel_x, vel_y = np.gradient(x, times), np.gradient(y, times)
    heading = np.arctan2(vel_y, vel_x) if heading is None else heading
    named = dict(center_x=x, center_y=y, heading=heading + 0 * x, velocity_x=vel_x, velocity_y=vel_y)
    for step, state in enumerate(made.tracks[row].states):
        for name, values in named.items():
            setattr(state, name, values[step])


def times(made, stamps):
    del made.timestamps_seconds[:]
    made.timestamps_seconds.extend(stamps)
    return made


def long_log(steps, dt=0.1, vehicles=2):
    """A log of another length or rate, with the vehicles of `scenario` on their way."""
    made = scenario(vehicles=vehicles)
    del made.timestamps_seconds[:]
    made.timestamps_seconds.extend(dt * step for step in range(steps))
    for row, track in enumerate(made.tracks):
        first = track.states[0]
        del track.states[1:]
        track.states.extend([first] * (steps - 1))
        states(made, row, center_x=lambda step, row=row: 10 * dt * step - 8.0 * row)
    frame = made.dynamic_map_states[0]
    del made.dynamic_map_states[:]
    made.dynamic_map_states.extend([frame] * steps)
    return made
