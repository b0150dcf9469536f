"""Car following: the intelligent driver model, for scripted drivers and for reactive traffic alike."""

import dataclasses

import jax.numpy as jnp

from tether.data.scene import Array


@dataclasses.dataclass(frozen=True)
class CarFollowing:
    """The intelligent driver model's parameters; the defaults are the field's reference simulator's.

    Attributes:
      headway_s, gap_m, acceleration, deceleration, exponent: IDM's T, s0, a, b and delta.
      strongest_braking: bound of what anything asks for [m/s^2].
    """

    headway_s: float = 2.0
    gap_m: float = 2.0
    acceleration: float = 2.0
    deceleration: float = 4.0
    exponent: float = 4.0
    strongest_braking: float = 8.0


def idm(driver: CarFollowing, speed: Array, desired: Array, gap: Array, lead_speed: Array) -> Array:
    """IDM acceleration [m/s^2] behind something `gap` metres ahead that moves at `lead_speed`.

    Source: Treiber, Hennecke & Helbing 2000.
    """
    dynamic = speed * driver.headway_s + speed * (speed - lead_speed) / (
        2 * (driver.acceleration * driver.deceleration) ** 0.5
    )
    wanted_gap = driver.gap_m + jnp.maximum(dynamic, 0.0)
    free = 1 - (speed / desired) ** driver.exponent
    allowed = driver.acceleration * (free - (wanted_gap / jnp.maximum(gap, 0.1)) ** 2)
    return jnp.maximum(allowed, -driver.strongest_braking)
