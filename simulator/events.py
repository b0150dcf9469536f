"""The events that a step of driving may have: one table for outcome, reward, score, learned heads and reports."""

from typing import NamedTuple


class Event(NamedTuple):
    """A kind of event.

    Attributes:
      name: of the field of `simulator.world.Outcome`.
      label: for people.
      terminal: ends the rollout, sets the driving score to 0.
      predicted: learned world models have a head for it.
    """

    name: str
    label: str
    terminal: bool
    predicted: bool


EVENTS = (
    Event("at_fault", "at-fault collision", terminal=True, predicted=True),
    Event("off_road", "off the road", terminal=True, predicted=True),
    Event("red_light", "red light run", terminal=True, predicted=True),
    Event("corridor", "left the corridor", terminal=True, predicted=False),
    Event("collision", "hit by another agent", terminal=False, predicted=False),  # or its fault, see `at_fault`
    Event("wrong_way", "wrong way", terminal=False, predicted=False),
)
LABELS = {event.name: event.label for event in EVENTS}
FAILURES = tuple(event.name for event in EVENTS if event.terminal)
PREDICTED = tuple(event.name for event in EVENTS if event.predicted)
