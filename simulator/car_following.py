"""Car following: the intelligent driver model, for scripted drivers and for reactive traffic alike."""

import dataclasses

import jax.numpy as jnp

from tether.data.scene import Array
from tether.data.settings import setting


@dataclasses.dataclass(frozen=True)
class CarFollowing:
    """The intelligent driver model's parameters; the defaults are the field's reference simulator's.

    Attributes:
      headway_s: time headway to the vehicle ahead [s], T of the intelligent driver model (IDM).
      gap_m: distance kept at standstill [m], s0 of IDM.
      acceleration: acceleration on a free road from standstill [m/s^2], a of IDM.
      deceleration: comfortable braking, as a positive number [m/s^2], b of IDM.
      exponent: exponent of speed over desired speed, delta of IDM; the larger, the later the acceleration fades.
      strongest_braking: hardest braking that the model asks for, as a positive number [m/s^2].
    """

    headway_s: float = 2.0
    gap_m: float = 2.0
    acceleration: float = setting(2.0, above=0)
    deceleration: float = setting(4.0, above=0)
    exponent: float = 4.0
    strongest_braking: float = 8.0


def idm(parameters: CarFollowing, speed: Array, desired: Array, gap: Array, lead_speed: Array) -> Array:
    """IDM acceleration [m/s^2] behind something `gap` metres ahead that moves at `lead_speed`.

    Source: Treiber, Hennecke & Helbing 2000.
    """
    dynamic = speed * parameters.headway_s + speed * (speed - lead_speed) / (
        2 * (parameters.acceleration * parameters.deceleration) ** 0.5
    )
    wanted_gap = parameters.gap_m + jnp.maximum(dynamic, 0.0)
    free = 1 - (speed / desired) ** parameters.exponent
    allowed = parameters.acceleration * (free - (wanted_gap / jnp.maximum(gap, 0.1)) ** 2)
    return jnp.maximum(allowed, -parameters.strongest_braking)
