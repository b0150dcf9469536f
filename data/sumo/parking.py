"""Parked vehicles: parking lanes beside the roadway of slow streets, and vehicles that stand on them throughout.

SUMO simulates them like all others, so that logs, traffic and the referee agree. The lanes admit only a vehicle class
of their own: nobody else drives there.
"""

import random
import xml.etree.ElementTree as ET

from tether.data.sumo.drivers import VEHICLE_CLASSES
from tether.data.sumo.layout import Street
from tether.data.sumo.plain import PARKED, PARKED_CLASS
from tether.data.sumo.road_network import Lane, RoadNetwork

PARKING_RATE = 0.75  # of urban networks
SIDE_RATE = 0.6  # of the sides of their slow streets
SLOW_MPS = 14.0
WIDTH_M = 2.2
PARKED_TYPES = 16
PARKED_CLASSES = tuple(vehicle for vehicle in VEHICLE_CLASSES if vehicle.name in ("car", "suv", "van"))
TAKEN_FRACTION = (0.25, 0.95)  # of the places of a lane
EMPTY_PLACE_M = 5.5
GAP_M = (0.7, 1.8)
FREE_ENDS_M = (8.0, 14.0)  # at the beginning of a lane, and before the junction at its end


def has_parking(rng: random.Random, street: Street) -> bool:
    """Whether one side of a street gets a parking lane."""
    return street.lanes == 1 and street.speed < SLOW_MPS and rng.random() < SIDE_RATE


def add_parking_lane(road: ET.Element) -> None:
    """Adds a parking lane on the right of an `<edge>`."""
    road.set("numLanes", str(int(road.get("numLanes")) + 1))
    road.set("disallow", PARKED_CLASS)
    ET.SubElement(road, "lane", index="0", allow=PARKED_CLASS, width=str(WIDTH_M))


def parked_vehicles(rng: random.Random, network: RoadNetwork) -> list[ET.Element]:
    """`<vType>` and `<vehicle>` elements of all parked vehicles."""
    lanes = [lane for lane in network.lanes.values() if lane.use == "parking" and not lane.internal]
    types = [parked_type(rng, number) for number in range(PARKED_TYPES)]
    vehicles: list[ET.Element] = []
    for lane in lanes:
        for kind, front in taken_places(rng, lane, types):
            vehicles.append(parked_vehicle(rng, f"k{len(vehicles)}", lane, kind, front))
    return [*types, *vehicles]


def taken_places(rng: random.Random, lane: Lane, types: list[ET.Element]) -> list[tuple[ET.Element, float]]:
    """The type and the front [m] along the lane of each vehicle on it: rows with gaps."""
    fraction, begin, places = rng.uniform(*TAKEN_FRACTION), FREE_ENDS_M[0], []
    while True:
        kind, taken = rng.choice(types), rng.random() < fraction
        end = begin + (float(kind.get("length")) if taken else EMPTY_PLACE_M)
        if end > lane.length - FREE_ENDS_M[1]:
            return places
        places += [(kind, end)] if taken else []
        begin = end + rng.uniform(*GAP_M)


def parked_type(rng: random.Random, number: int) -> ET.Element:
    """A size of vehicle that fits on the lane."""
    vehicle = rng.choices(PARKED_CLASSES, [vehicle.fraction for vehicle in PARKED_CLASSES])[0]
    length, width = rng.uniform(*vehicle.length), min(rng.uniform(*vehicle.width), WIDTH_M - 0.1)
    sizes = {"length": f"{length:.2f}", "width": f"{width:.2f}", "minGap": "0"}
    return ET.Element("vType", {"id": f"{PARKED}{number}", "vClass": PARKED_CLASS} | sizes)


def parked_vehicle(rng: random.Random, name: str, lane: Lane, kind: ET.Element, front: float) -> ET.Element:
    """A vehicle that stands on the lane from the beginning to the end, not quite in its middle."""
    aside = rng.uniform(-0.5, 0.5) * (WIDTH_M - float(kind.get("width")))
    place = {"departLane": str(lane.index), "departPos": f"{front:.2f}", "departPosLat": f"{aside:.2f}"}
    timing = {"depart": "0", "departSpeed": "0", "insertionChecks": "none"}
    vehicle = ET.Element("vehicle", {"id": name, "type": kind.get("id")} | timing | place)
    ET.SubElement(vehicle, "route", edges=lane.edge)
    ET.SubElement(vehicle, "stop", lane=lane.name, endPos=f"{front:.2f}", duration="100000")
    return vehicle
