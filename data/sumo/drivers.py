"""Kinds of driver and vehicle, as SUMO vehicle types.

One latent aggressiveness per type drives many parameters together, so that types differ as people do. Car-following
is EIDM for three in four, IDM for the rest; Krauss, SUMO's default, brakes and starts in steps of the time step.
"""

import dataclasses
import random
import xml.etree.ElementTree as ET

DRIVER_TYPES = 48


@dataclasses.dataclass(frozen=True)
class VehicleClass:
    """A class of vehicle; pairs are ranges.

    Attributes:
      fraction: of the vehicle types.   name: of the types.   sumo_class: SUMO's vClass.
      length, width: [m].   acceleration, deceleration: [m/s^2], comfortable.   top_speed: [m/s].
    """

    fraction: float
    name: str
    sumo_class: str
    length: tuple[float, float]
    width: tuple[float, float]
    acceleration: tuple[float, float]
    deceleration: tuple[float, float]
    top_speed: tuple[float, float]


VEHICLE_CLASSES = (
    VehicleClass(0.70, "car", "passenger", (4.2, 5.2), (1.75, 1.99), (1.6, 2.8), (2.4, 3.6), (30, 40)),
    VehicleClass(0.13, "suv", "passenger", (5.0, 6.0), (1.94, 2.10), (1.5, 2.4), (2.2, 3.4), (30, 40)),
    VehicleClass(0.07, "van", "delivery", (5.6, 7.2), (2.0, 2.2), (1.2, 2.0), (2.0, 3.0), (24, 30)),
    VehicleClass(0.05, "truck", "truck", (7.5, 11.0), (2.35, 2.5), (0.8, 1.3), (1.8, 2.6), (24, 30)),
    VehicleClass(0.02, "bus", "bus", (10.5, 12.5), (2.5, 2.5), (0.8, 1.2), (1.8, 2.5), (24, 30)),
    VehicleClass(0.03, "motorcycle", "motorcycle", (2.2, 2.2), (0.85, 0.85), (2.0, 3.5), (3.0, 4.0), (30, 40)),
)
PASSENGER = ("car", "suv")


def driver_types(rng: random.Random) -> list[ET.Element]:
    """`<vType>` elements of the motor vehicles, named `<class><number>`."""
    fractions = [vehicle.fraction for vehicle in VEHICLE_CLASSES]
    return [driver_type(rng, rng.choices(VEHICLE_CLASSES, fractions)[0], number) for number in range(DRIVER_TYPES)]


def driver_type(rng: random.Random, vehicle: VehicleClass, number: int) -> ET.Element:
    """One kind of driver in one kind of vehicle."""
    aggressive = rng.random()
    acceleration = rng.uniform(*vehicle.acceleration) * (0.85 + 0.35 * aggressive)
    attributes: dict[str, object] = {
        "id": f"{vehicle.name}{number}",
        "vClass": vehicle.sumo_class,
        "length": round(rng.uniform(*vehicle.length), 2),
        "width": round(rng.uniform(*vehicle.width), 2),
        "accel": round(acceleration, 2),
        "decel": round(rng.uniform(*vehicle.deceleration), 2),
        "emergencyDecel": 7.5,
        "maxSpeed": round(rng.uniform(*vehicle.top_speed), 1),
    }
    attributes |= following(rng, aggressive) | yielding(rng, aggressive) | lane_changing(rng, aggressive)
    return ET.Element("vType", {key: str(value) for key, value in attributes.items()})


def following(rng: random.Random, aggressive: float) -> dict[str, object]:
    """Gaps, desired speed and the car-following model's own parameters."""
    headway = min(max(0.9 + 1.1 * (1 - aggressive) + rng.gauss(0, 0.12), 0.7), 2.4)
    speed_factor = 0.90 + 0.28 * aggressive + rng.gauss(0, 0.04)
    common = {
        "tau": round(headway, 2),
        "minGap": round(1.2 + 1.6 * (1 - aggressive), 2),
        "speedFactor": f"normc({speed_factor:.3f},0.05,0.7,1.4)",
    }
    if rng.random() < 0.25:
        return common | {"carFollowModel": "IDM", "delta": 4, "stepping": 0.1}
    return common | {
        "carFollowModel": "EIDM",
        "sigmagap": round(rng.uniform(0.03, 0.1), 3),
        "sigmaerror": round(rng.uniform(0.01, 0.03), 3),
        "sigmaleader": round(rng.uniform(0.0, 0.02), 3),
        "jerkmax": round(rng.uniform(2.5, 5.0), 1),
        "epsilonacc": 1.0,
        "treaction": round(rng.uniform(0.3, 0.7), 2),
        "tpersdrive": round(rng.uniform(2, 5), 1),
        "tpersestimate": round(rng.uniform(6, 12), 1),
    }


def yielding(rng: random.Random, aggressive: float) -> dict[str, object]:
    """Behaviour at junctions: gap acceptance, yellow lights, rarely ignoring a slow foe."""
    time_gap = rng.uniform(0.6, 1.8) * (1.3 - 0.6 * aggressive)
    behaviour: dict[str, object] = {
        "impatience": round(max(0.0, aggressive - 0.5), 2),
        "jmSigmaMinor": round(rng.uniform(0.0, 0.3), 2),
        "jmTimegapMinor": round(time_gap, 2),
        "jmDriveAfterYellowTime": round(0.5 + 1.5 * aggressive, 2),
    }
    if aggressive > 0.85:
        behaviour |= {"jmIgnoreFoeProb": 0.03, "jmIgnoreFoeSpeed": 4}
    return behaviour


def lane_changing(rng: random.Random, aggressive: float) -> dict[str, object]:
    """Sublane model. No sideways motion at standstill, and little per metre driven: cars must not crab."""
    return {
        "latAlignment": "center" if rng.random() < 0.25 else round(rng.gauss(0, 0.18), 2),
        "maxSpeedLat": round(rng.uniform(0.7, 1.5), 2),
        "minGapLat": round(rng.uniform(0.35, 0.8), 2),
        "lcMaxSpeedLatStanding": 0.0,
        "lcMaxSpeedLatFactor": round(0.12 * rng.uniform(0.8, 1.3), 3),
        "lcAccelLat": round(rng.uniform(0.5, 1.1), 2),
        "lcSigma": round(rng.uniform(0.0, 0.12), 3),
        "lcPushy": round(max(0.0, aggressive - 0.8) * 0.5, 2),
        "lcImpatience": round(aggressive * 0.4, 2),
        "lcSpeedGain": round(rng.uniform(0.5, 1.2) + 1.5 * aggressive, 2),
        "lcCooperative": round(1 - 0.6 * aggressive, 2),
        "lcAssertive": round(1 + 0.8 * aggressive, 2),
        "lcKeepRight": round(rng.uniform(0.0, 0.4), 2),
        "lcStrategic": round(rng.uniform(1, 3), 2),
    }


def bicycle_type() -> ET.Element:
    """Cyclists keep to the right."""
    attributes = dict(
        id="bicycle", vClass="bicycle", length="1.75", width="0.65", maxSpeed="6.2", accel="1.0", decel="2.5"
    )
    manners = dict(minGapLat="0.4", maxSpeedLat="0.5", lcMaxSpeedLatStanding="0", lcMaxSpeedLatFactor="0.15")
    speed = dict(speedFactor="normc(1,0.15,0.6,1.4)", latAlignment="right", carFollowModel="IDM")
    return ET.Element("vType", attributes | manners | speed)


def pedestrian_type() -> ET.Element:
    """Walkers of varied pace."""
    attributes = dict(id="pedestrian", vClass="pedestrian", width="0.6", length="0.5")
    return ET.Element("vType", attributes | {"speedFactor": "normc(1,0.2,0.5,1.6)"})
