"""Drivers with other parameters than those of the logs, so that the referee does not repeat the logs' generator.

At take-over, each vehicle's parameters are multiplied by factors of its own. They are drawn from a stream named by the
vehicle and the scene's seed, so they depend neither on the order of vehicles nor on what happens.
Car-following models stay as they are, and so do walkers. SUMO's `imperfection` has no effect on these models.
"""

import random
from typing import Any

# Ranges of factors. Behind each: the ranges among the logs' own drivers (`data/sumo/drivers.py`).
FACTORS = {
    "Tau": (0.8, 1.3),  # time headway, 0.7 to 2.4 s
    "MinGap": (0.8, 1.3),  # 1.2 to 2.8 m
    "Accel": (0.75, 1.2),  # 0.7 to 4.2 m/s^2
    "Decel": (0.75, 1.2),  # 1.8 to 4.0 m/s^2, comfortable
    "SpeedFactor": (0.9, 1.1),  # desired speed as a fraction of the speed limit, 0.7 to 1.4
}


def factors(stream: str, name: str) -> dict[str, float]:
    """The factors of one vehicle, by the name of SUMO's parameter."""
    rng = random.Random(f"{stream} {name}")
    return {parameter: rng.uniform(*bounds) for parameter, bounds in FACTORS.items()}


def change_manners(vehicles: Any, name: str, stream: str) -> None:
    """Gives a vehicle its new parameters. vehicles: `libsumo.vehicle`."""
    for parameter, factor in factors(stream, name).items():
        getattr(vehicles, f"set{parameter}")(name, factor * getattr(vehicles, f"get{parameter}")(name))
