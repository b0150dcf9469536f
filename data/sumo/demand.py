"""Traffic on a network: motor vehicles, cyclists and pedestrians on random walks, as a SUMO routes file."""

import random
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from tether.data.sumo.drivers import PASSENGER, bicycle_type, driver_types, pedestrian_type
from tether.data.sumo.parking import parked_vehicles
from tether.data.sumo.plain import write_elements
from tether.data.sumo.road_network import RoadNetwork

TURN_WEIGHT = {"s": 1.0, "l": 0.75, "L": 0.75, "r": 0.65, "R": 0.65, "t": 0.02}
LONGEST_WALK = 40  # roads
RING_ROAD = re.compile(r".*k\d+$")


def write_demand(rng: random.Random, network: RoadNetwork, kind: str, path: Path, duration: float) -> None:
    """Writes types and departures over `duration` [s], sorted by time as SUMO demands."""
    types = driver_types(rng)
    traffic = Traffic(rng, network, [element.get("id") for element in types])
    departures = traffic.present_vehicles(kind) + traffic.arriving_vehicles(kind, duration)
    if kind != "highway":
        departures += traffic.cyclists(duration) + traffic.pedestrians(duration)
    departures.sort(key=lambda element: float(element.get("depart")))
    parked = parked_vehicles(rng, network)
    write_elements(path, "routes", [*types, bicycle_type(), pedestrian_type(), *parked, *departures])


class Traffic:
    """Draws departures on one network; each method returns `<vehicle>` or `<person>` elements."""

    def __init__(self, rng: random.Random, network: RoadNetwork, types: list[str]):
        self.rng = rng
        self.network = network
        self.types = types
        self.type_weights = [3 if name.rstrip("0123456789") in PASSENGER else 1 for name in types]
        self.next_roads = network.next_roads()
        self.roads = network.driving_roads()
        self.lanes = {road: len(network.car_lanes(road)) for road in self.roads}
        self.length = {road: network.lanes[network.roads[road].lanes[-1]].length for road in self.roads}
        self.lane_km = sum(self.length[road] * self.lanes[road] for road in self.roads) / 1000

    def present_vehicles(self, kind: str) -> list[ET.Element]:
        """Vehicles spread over the network in the first seconds."""
        per_lane_km = self.rng.uniform(8, 22) if kind == "highway" else self.rng.uniform(6, 18)
        weights = [self.length[road] * self.lanes[road] * self.suits_start(road) for road in self.roads]
        starts = self.rng.choices(self.roads, weights, k=int(self.lane_km * per_lane_km))
        place = {"departPos": "random_free", "departSpeed": "avg"}
        drawn = [self.vehicle(f"v{i}", self.rng.uniform(0, 12), road, place) for i, road in enumerate(starts)]
        return [vehicle for vehicle in drawn if vehicle is not None]

    def suits_start(self, road: str) -> bool:
        """Whether vehicles may appear in the middle of the road: neither short nor part of a roundabout."""
        return self.length[road] > 25 and not RING_ROAD.match(road)

    def arriving_vehicles(self, kind: str, duration: float) -> list[ET.Element]:
        """Vehicles that enter at the border, a Poisson stream per road."""
        reached = {road for targets in self.next_roads.values() for road in targets}
        sources = [road for road in self.roads if road not in reached and road in self.next_roads]
        place = {"departPos": "base", "departSpeed": "max"}
        drawn = []
        for road in sources:
            rate = self.arrival_rate(kind, road)
            time = self.rng.expovariate(rate)
            while time < duration:
                drawn.append(self.vehicle(f"a{len(drawn)}", time, road, place))
                time += self.rng.expovariate(rate)
        return [vehicle for vehicle in drawn if vehicle is not None]

    def arrival_rate(self, kind: str, road: str) -> float:
        """Vehicles per second onto a border road."""
        if kind != "highway":
            return self.rng.uniform(0.04, 0.16) * self.lanes[road]
        return self.rng.uniform(0.15, 0.4) * self.lanes[road] if self.lanes[road] > 1 else self.rng.uniform(0.08, 0.25)

    def vehicle(self, name: str, depart: float, start: str, place: dict[str, str]) -> ET.Element | None:
        """A motor vehicle on a random walk from the road, None where the road leads nowhere."""
        route = self.walk(start)
        if len(route) < 2:
            return None
        chosen = self.rng.choices(self.types, self.type_weights)[0]
        return vehicle_element(name, chosen, depart, route, place)

    def walk(self, start: str) -> list[str]:
        """A random walk over roads that avoids turning back to where it was."""
        route = [start]
        while len(route) < LONGEST_WALK and route[-1] in self.next_roads:
            options = self.next_roads[route[-1]]
            passed = {self.network.roads[road].start for road in route[-6:]}
            weights = [
                max(TURN_WEIGHT[link.direction] for link in links)
                * self.lanes[road] ** 0.5
                * (0.25 if len(route) > 1 and self.network.roads[road].end in passed else 1.0)
                for road, links in options.items()
            ]
            route.append(self.rng.choices(list(options), weights)[0])
        return route

    def cyclists(self, duration: float) -> list[ET.Element]:
        """Cyclists on bicycle lanes and slow roads, in most networks."""
        suited = [road for road in self.roads if self.suits_bicycles(road)]
        if not suited or self.rng.random() > 0.8:
            return []
        drawn = []
        for number in range(int(self.lane_km * self.rng.uniform(0.8, 3.0))):
            route = self.walk(self.rng.choice(suited))
            depart = self.rng.choice([0.0, self.rng.uniform(0, duration * 0.6)])
            drawn.append(vehicle_element(f"b{number}", "bicycle", depart, route, {"departPos": "random_free"}))
        return drawn

    def suits_bicycles(self, road: str) -> bool:
        """A bicycle lane, or a speed limit that cyclists can live with."""
        lanes = [self.network.lanes[name] for name in self.network.roads[road].lanes]
        return any(lane.use == "bike" for lane in lanes) or lanes[-1].speed < 14

    def pedestrians(self, duration: float) -> list[ET.Element]:
        """Walkers between pavements a few roads apart; none without crossings."""
        lanes = self.network.lanes
        paved = [road for road in self.roads if any(lanes[n].use == "sidewalk" for n in self.network.roads[road].lanes)]
        if not self.network.crossings or not paved:
            return []
        count = int(len(paved) * self.rng.uniform(0.4, 1.6))
        return [self.pedestrian(f"p{number}", paved, duration) for number in range(count)]

    def pedestrian(self, name: str, paved: list[str], duration: float) -> ET.Element:
        """One walk along paved roads; SUMO finds the way in between."""
        roads = self.network.roads
        first = last = self.rng.choice(paved)
        place = roads[first].end
        for _ in range(self.rng.randint(2, 6)):
            options = [road for road in paved if road != last and place in (roads[road].start, roads[road].end)]
            last = self.rng.choice(options) if options else last
            place = roads[last].end if roads[last].start == place else roads[last].start
        depart = self.rng.choice([self.rng.uniform(0, 5), self.rng.uniform(0, duration * 0.8)])
        position = f"{self.rng.uniform(0, 0.95) * self.length[first]:.1f}"
        person = ET.Element("person", id=name, type="pedestrian", depart=f"{depart:.1f}", departPos=position)
        arrival = f"{self.rng.uniform(0.1, 0.9) * self.length[last]:.1f}"
        ET.SubElement(person, "walk", {"from": first, "to": last, "arrivalPos": arrival})
        return person


def vehicle_element(name: str, kind: str, depart: float, route: list[str], place: dict[str, str]) -> ET.Element:
    """A `<vehicle>` with its own route."""
    timing = {"id": name, "type": kind, "depart": f"{depart:.1f}", "departLane": "best"}
    vehicle = ET.Element("vehicle", timing | place)
    ET.SubElement(vehicle, "route", edges=" ".join(route))
    return vehicle
