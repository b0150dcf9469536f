"""The SUMO generator's pure functions on inputs small enough to check by hand; SUMO is not needed."""

import dataclasses
import os
import random
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import raw_scenes

from tether.data.scene import LightState, RoadType
from tether.data.sumo import __main__ as command
from tether.data.sumo import gates, parking, road_map, routes, scenes, simulate, smoothing, traits, windows
from tether.data.sumo.__main__ import main
from tether.data.sumo.generate import SPLIT_PATTERN, NetworkJob, interleaved
from tether.data.sumo.install import SumoError
from tether.data.sumo.network import parking_links
from tether.data.sumo.plain import KINDS, parse_shape, shape_text
from tether.data.sumo.road_network import Lane, Link, Road, RoadNetwork, lane_use, read_network
from tether.data.sumo.workers import run_jobs
from tether.simulator.dynamics import rear_axle


def straight_lane(name: str, y: float, index: int = 0, length: float = 100.0) -> Lane:
    """A lane eastwards at height y."""
    shape = np.array([[0.0, y], [length, y]])
    return Lane(name, name.rsplit("_", 1)[0], index, shape, 3.0, length, 13.0, "car", internal=False)


def two_lanes() -> RoadNetwork:
    """A road with two lanes, at heights 0 and 3."""
    lanes = {"e_0": straight_lane("e_0", 0.0, 0), "e_1": straight_lane("e_1", 3.0, 1)}
    return RoadNetwork(lanes, {"e": Road(("e_0", "e_1"), "a", "b")}, {}, {}, frozenset(), [], [])


def signed_area(ring: np.ndarray) -> float:
    """Positive where the ring runs counter-clockwise."""
    x, y = ring[:-1].T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def sharpest_turn(line: np.ndarray, within: float = 1.0) -> float:
    """The largest change of direction [rad] of a polyline within so many metres, its ends left out."""
    steps = np.diff(line, axis=0)
    length = np.hypot(*steps.T)
    turns = np.diff(np.unwrap(np.arctan2(steps[length > 0, 1], steps[length > 0, 0])))
    at = np.cumsum(length[length > 0])[:-1]
    ranges = ((first, int(np.searchsorted(at, at[first] + within, "right"))) for first in range(len(at)))
    return max((np.abs(np.cumsum(turns[first:last])).max() for first, last in ranges), default=0.0)


def test_road_edges_keep_the_road_on_their_left():
    shapely = pytest.importorskip("shapely.geometry")
    square = shapely.box(0, 0, 20, 20).difference(shapely.box(5, 5, 15, 15))
    outer, hole = road_map.edge_rings(square)
    assert signed_area(outer) == pytest.approx(400.0)
    assert signed_area(hole) == pytest.approx(-100.0)


def test_surface_holds_both_lanes_and_a_margin():
    shapely = pytest.importorskip("shapely")
    surface = road_map.road_surface(two_lanes())
    low, high = -1.5 - road_map.KERB_MARGIN_M, 4.5 + road_map.KERB_MARGIN_M
    rounded = (4 - np.pi) * road_map.OUTER_RADIUS_M**2
    assert surface.area == pytest.approx(100.0 * (high - low) - rounded, abs=0.2)
    assert shapely.contains_xy(surface, 50.0, low + 0.02) and not shapely.contains_xy(surface, 50.0, low - 0.02)


def test_kerbs_run_smoothly_where_outlines_of_junction_and_pavement_do_not_quite_meet():
    """A road with pavements crosses a junction whose outline reaches round the pavements' corners."""
    shapely = pytest.importorskip("shapely")
    lanes = {name: straight_lane(name, y) for name, y in (("e_0", 0.0), ("f_0", 3.0), (":j_0", 0.0))}
    outline = np.array([[40.0, -4.0], [60.0, -4.0], [60.0, 7.0], [40.0, 7.0]])
    corner = np.array([[40.4, -1.5], [59.6, -1.5], [59.6, -3.7], [40.4, -3.7]])  # leaves slivers of 0.4 and 0.3 m
    network = RoadNetwork(lanes, {}, {}, {"j": outline}, frozenset(), [], [corner])
    surface = road_map.road_surface(network)
    assert surface.is_valid and len(surface.geoms) == 1
    assert not shapely.contains_xy(surface, [40.2, 50.0, 59.8], [-3.0, -3.8, -3.0]).any(), "slivers"
    assert shapely.contains_xy(surface, 50.0, 7.2) and not shapely.contains_xy(surface, 50.0, -2.0)
    [ring] = road_map.edge_rings(surface)
    assert sharpest_turn(ring) < np.deg2rad(90.0)
    assert sharpest_turn(np.array([[0.0, 0.0], [5.0, 0.0], [5.1, 1.0], [5.2, 0.0], [9.0, 0.0]])) > np.deg2rad(160.0)


def test_divider_lies_between_the_lanes():
    [(kind, line)] = road_map.dividers(two_lanes())
    assert kind == RoadType.LINE_BROKEN_SINGLE_WHITE
    np.testing.assert_allclose(line, [[0.0, 1.5], [100.0, 1.5]])


def test_features_are_cropped_to_what_is_near():
    line = road_map.densified(np.array([[0.0, 0.0], [100.0, 0.0]]))
    assert np.diff(line[:, 0]).max() <= road_map.SPACING_M
    [(_, part)] = road_map.cropped([(RoadType.LANE_SURFACE, line)], np.array([[50.0, 0.0]]), 20.0)
    assert part[:, 0].min() > 30.0 and part[:, 0].max() < 70.0
    assert road_map.cropped([(RoadType.LANE_SURFACE, line)], np.array([[50.0, 30.0]]), 20.0) == []


@pytest.mark.parametrize(
    ("allow", "disallow", "use"),
    [
        ("", "", "car"),
        ("", "pedestrian tram", "car"),
        ("", "all", "other"),
        ("pedestrian", "", "sidewalk"),
        ("bicycle", "", "bike"),
        ("custom1", "", "parking"),
        ("rail", "", "other"),
        ("passenger bus", "", "car"),
    ],
)
def test_lane_use(allow, disallow, use):
    assert lane_use(allow.split(), disallow.split()) == use


def test_network_is_parsed_with_links_through_the_junction(tmp_path):
    text = """<net>
      <edge id=":j_0" function="internal"><lane id=":j_0_0" index="0" speed="9" length="4" shape="10,0 14,0"/></edge>
      <edge id=":j_1" function="internal"><lane id=":j_1_0" index="0" speed="9" length="4" shape="14,0 18,0"/></edge>
      <edge id="a" from="n" to="j"><lane id="a_0" index="0" speed="9" length="10" shape="0,0 10,0"/></edge>
      <edge id="b" from="j" to="m"><lane id="b_0" index="0" speed="9" length="10" shape="18,0 28,0"/></edge>
      <junction id="n" type="dead_end" x="0" y="0" shape=""/>
      <junction id="j" type="traffic_light" x="14" y="0" shape="10,-2 18,-2 18,2 10,2"/>
      <connection from="a" to="b" fromLane="0" toLane="0" via=":j_0_0" tl="j" linkIndex="3" dir="s" state="o"/>
      <connection from=":j_0" to="b" fromLane="0" toLane="0" via=":j_1_0" dir="s" state="M"/>
      <connection from=":j_1" to="b" fromLane="0" toLane="0" dir="s" state="M"/>
    </net>"""
    path = tmp_path / "net.xml"
    path.write_text(text)
    network = read_network(path)
    [link] = network.links["a_0"]
    assert (link.target, link.via, link.signal) == ("b_0", (":j_0_0", ":j_1_0"), ("j", 3))
    assert network.dead_ends == {"n"} and list(network.junctions) == ["j"]
    assert network.driving_roads() == ["a", "b"] and list(network.next_roads()) == ["a"]


def test_shapes_survive_being_written():
    np.testing.assert_allclose(
        parse_shape(shape_text(np.array([[1.25, -2.0], [3.0, 4.5]]))), [[1.25, -2.0], [3.0, 4.5]]
    )


def test_box_centre_is_half_a_length_behind_the_front():
    x, y = simulate.box_centre(np.array(10.0), np.array(5.0), np.array(np.pi / 2), np.array(4.0))
    assert (float(x), float(y)) == (pytest.approx(10.0), pytest.approx(3.0))


def test_rows_become_tracks_with_the_speed_of_their_displacement():
    log = simulate.Log(lanes={"e_0": 0}, lights={"j": ["r"] * 30})
    log.agents = {
        "v": (0, 1, 4.0, 2.0, "car0", ("e",)),
        "p": (1, 2, 0.6, 0.6, "pedestrian", ()),
    }
    log.rows = [(0, step, 100.0 + 0.5 * step, 7.0, 90.0, 0) for step in range(30)]  # 90 degrees: eastwards
    log.rows += [(1, step, 3.0, -0.1 * step, 180.0, -1) for step in range(20)]  # southwards
    record = simulate.recording(log, 30)
    np.testing.assert_allclose(record.x[0], 98.0 + 0.5 * np.arange(30))
    np.testing.assert_allclose(record.vel_x[0], 5.0)
    np.testing.assert_allclose(record.vel_y[1, :20], -1.0)
    np.testing.assert_allclose(record.y[1, :20], -0.1 * np.arange(20), atol=1e-12)
    assert record.present.sum(1).tolist() == [30, 20]


def test_smoothing_keeps_a_parabola_and_takes_the_least_squares_one_elsewhere(rng):
    t = np.arange(12.0)
    values, rates = smoothing.smoothed(2.0 - 3.0 * t + 0.5 * t * t, spacing=0.1)
    np.testing.assert_allclose(values, 2.0 - 3.0 * t + 0.5 * t * t, atol=1e-12)
    np.testing.assert_allclose(rates, (-3.0 + t) / 0.1, atol=1e-11)
    noise = rng.normal(size=(2, 12))
    values, rates = smoothing.smoothed(noise)
    for row, value, rate in zip(noise, values, rates, strict=True):
        for at, first in ((1, 0), (5, 1), (11, 3)):  # at the beginning, in the middle, at the end
            fit = np.polyfit(t[first : first + 9], row[first : first + 9], 2)
            assert value[at] == pytest.approx(np.polyval(fit, at), abs=1e-9)
            assert rate[at] == pytest.approx(np.polyval(np.polyder(fit), at), abs=1e-9)


def test_parked_vehicles_stand_in_rows_on_the_parking_lane():
    lane = dataclasses.replace(straight_lane("e_1", 0.0, length=400.0), index=1, use="parking", width=parking.WIDTH_M)
    network = RoadNetwork({"e_1": lane, "e_2": straight_lane("e_2", 3.0)}, {}, {}, {}, frozenset(), [], [])
    elements = parking.parked_vehicles(random.Random(0), network)
    types = {element.get("id"): element for element in elements if element.tag == "vType"}
    vehicles = [element for element in elements if element.tag == "vehicle"]
    fronts = np.array([float(vehicle.get("departPos")) for vehicle in vehicles])
    lengths, widths = (
        np.array([float(types[vehicle.get("type")].get(name)) for vehicle in vehicles]) for name in ("length", "width")
    )
    low, high = parking.FREE_ENDS_M
    assert len(vehicles) > 5 and (fronts - lengths).min() >= low - 0.01 and fronts.max() <= lane.length - high + 0.01
    assert (fronts[1:] - lengths[1:] - fronts[:-1]).min() >= parking.GAP_M[0] - 0.02
    aside = np.array([abs(float(vehicle.get("departPosLat"))) for vehicle in vehicles])
    assert (aside + widths / 2 <= lane.width / 2 + 0.01).all()
    assert {vehicle.find("stop").get("lane") for vehicle in vehicles} == {"e_1"}
    assert {element.get("vClass") for element in types.values()} == {parking.PARKED_CLASS}


def test_a_parking_lane_is_for_parked_vehicles_alone():
    road = ET.Element("edge", numLanes="1")
    parking.add_parking_lane(road)
    [lane] = road
    assert road.get("numLanes") == "2" and road.get("disallow") == lane.get("allow") == parking.PARKED_CLASS
    lanes = {name: straight_lane(name, y) for name, y in (("a_1", 0.0), ("a_0", -3.0), ("b_1", 0.0), ("b_0", -3.0))}
    lanes |= {name: dataclasses.replace(lanes[name], use="parking") for name in ("a_0", "b_0")}
    ways = [Link("a_1", "b_1", (), "s", None), Link("a_1", "b_0", (), "s", None), Link("a_0", "b_0", (), "s", None)]
    network = RoadNetwork(lanes, {}, {"a": ways}, {}, frozenset(), [], [])
    assert parking_links(network) == ways[1:]


def test_a_parked_vehicle_takes_a_row_only_if_it_is_twice_as_near():
    count, steps = scenes.MOST_AGENTS + 2, scenes.STEPS
    x = np.repeat(np.arange(count, dtype=float)[:, None], steps, 1)
    types = ["car0", "parked1", *(f"car{n}" for n in range(2, count - 1)), "parked0"]
    x[1], x[-1] = 17.0, 16.0  # in the rank of 34 and 32 m, where 33 is the last car
    empty = dict.fromkeys(field.name for field in dataclasses.fields(simulate.Recording))
    record = simulate.Recording(**empty | {"x": x, "y": np.zeros_like(x), "types": types})
    rows, _ = scenes.near_agents(record, 0, slice(0, steps))
    assert rows.tolist() == [0, *range(2, count - 1)][: scenes.MOST_AGENTS]
    x[1] = 0.4
    assert 1 in scenes.near_agents(record, 0, slice(0, steps))[0]


def test_lights_are_translated():
    for letter, state in (
        ("r", LightState.STOP),
        ("y", LightState.CAUTION),
        ("g", LightState.GO),
        ("G", LightState.GO),
    ):
        assert scenes.LIGHT_STATES[letter] == state


def test_kinematic_gate():
    step = np.arange(91)
    still = np.zeros(91)
    assert gates.is_drivable(step * 1.0, still, still, 0.1)
    assert gates.is_drivable(still, still, still, 0.1)
    assert not gates.is_drivable(step * 1.0, still, still + 0.3, 0.1), "slides sideways"
    jump = np.where(step > 40, 3.0, 0.0)
    assert not gates.is_drivable(step * 1.0 + jump, still, still, 0.1), "jumps ahead"
    turn = 0.1 * step
    assert not gates.is_drivable(np.cumsum(np.cos(turn)), np.cumsum(np.sin(turn)), turn, 0.1), "turns too fast"


def test_a_bicycle_in_a_turn_points_out_of_it():
    """By as much as the rear axle lies behind the centre; on a straight road not at all. The simulator's axle."""
    turn, length = np.linspace(0.0, np.pi, 400), 4.8
    round_and_round = 8.0 * np.sin(turn), -8.0 * np.cos(turn), turn
    axle = rear_axle(length)
    end = gates.bicycle_heading(*round_and_round, length)[-1]
    assert end == pytest.approx(np.pi - np.arcsin(axle / 8.0), abs=5e-3)
    step = np.arange(20.0)
    np.testing.assert_allclose(gates.bicycle_heading(step, 0 * step, 0 * step, length), 0.0)


def test_gap_between_boxes():
    size = (4.0, 2.0)
    assert gates.box_gap(5.0, 0.0, 0.0, size, size) == pytest.approx(1.0)
    assert gates.box_gap(0.0, 1.5, 0.0, size, size) == pytest.approx(-0.5)
    assert gates.box_gap(0.0, 3.5, np.pi / 2, size, size) == pytest.approx(0.5)
    corner = gates.box_gap(2.0 + np.sqrt(5.0) - 0.1, 1.0 + np.sqrt(5.0) - 0.1, np.pi / 4, size, size)
    assert corner > 0, "the far box's own axes part them"


def test_red_light_gate():
    front = np.array([8.0, 9.0, 10.5, 12.0])
    red, green = np.full(4, LightState.STOP), np.full(4, LightState.GO)
    assert gates.runs_red(front, 10.0, red)
    assert not gates.runs_red(front, 10.0, green)
    assert not gates.runs_red(front, 13.0, red), "stops before it"
    assert not gates.runs_red(front, 7.0, red), "was past it already"
    assert gates.runs_red(front, 10.0, np.array([6, 6, 6, 4])) is False, "turned red behind the car"


def test_lane_change_is_blended():
    travelled = np.linspace(20.0, 60.0, 41)
    aside = np.clip((travelled - 30.0) / 20.0, 0.0, 1.0) * 3.0
    front = np.stack([travelled, aside], 1)
    names = ["e_0" if y < 1.5 else "e_1" for y in aside]
    centre = routes.driven_centre(two_lanes(), names, front)
    assert np.abs(np.diff(centre[:, 1])).max() < 0.3, "no jump"
    assert np.abs(centre - front).max() <= routes.CENTRED_M + 1e-6, "never far from the log"
    assert centre[0, 1] == 0.0 and centre[-1, 1] == pytest.approx(3.0)


def test_route_goes_on_along_the_next_road_and_behind_the_first_pose():
    network = two_lanes()
    lane = network.lanes["e_0"]
    back = routes.behind(lane, np.array([[10.0, 0.0]]))
    np.testing.assert_allclose(back[:, 1], 0.0)
    assert back[0, 0] == pytest.approx(-15.0) and np.all(np.diff(back[:, 0]) > 0)
    pieces, lanes = routes.onwards(network, "e_0", np.array([60.0, 0.2]), ("e",))
    assert lanes == ["e_0"] and pieces[0][0, 0] == pytest.approx(60.0) and pieces[0][-1, 0] == pytest.approx(100.0)
    moved = routes.shifted(lane, network.lanes["e_1"], 20.0)
    assert moved[0, 1] == 0.0 and moved[-1, 1] == pytest.approx(3.0)


def test_keeping_the_speed_runs_a_red_light_or_hits_a_standing_vehicle():
    red = raw_scenes.straight_road()
    assert traits.constant_speed_event(red), "the light 20 m ahead is red"
    free = dataclasses.replace(red, light_on_route=np.array([False, False]))
    assert not traits.constant_speed_event(free), "the car ahead is as fast"
    ahead = np.arange(4)[:, None] == 2
    stands = dataclasses.replace(free, x=np.where(ahead, raw_scenes.EAST_M + 60.0, free.x))
    assert traits.constant_speed_event(stands)


def test_traits_of_a_straight_log():
    present = traits.traits(raw_scenes.straight_road())
    assert [name for name, holds in present.items() if holds] == ["vehicle_near", "signal", "constant_speed_event"]


def test_eventful_scenes_are_preferred_and_trivial_ones_few():
    facts = traits.traits(raw_scenes.straight_road()) | {"lane_change": False}
    dull, turns = facts | {"constant_speed_event": False}, facts | {"turns": True}

    def candidate(number: int, present: dict[str, bool]) -> windows.Candidate:
        return windows.Candidate(raw_scenes.straight_road(scenario_id=str(number)), present)

    offered = [candidate(n, dull) for n in range(20)] + [candidate(n, turns) for n in range(20, 25)]
    chosen = windows.preferred(random.Random(0), offered, 10)
    names = [one.scene.scenario_id for one in chosen]
    assert len(set(names)) == len(names) == 7
    assert [one.is_trivial for one in chosen] == [False] * 5 + [True] * 2


def test_a_network_belongs_to_one_split_and_each_split_has_every_kind():
    jobs = [NetworkJob(0, index, 12) for index in range(4 * len(SPLIT_PATTERN))]
    assert len({job.name for job in jobs}) == len(jobs)
    for split in ("train", "grounding", "validation", "test"):
        assert {job.kind for job in jobs if job.split == split} == set(KINDS)
    assert jobs[0].stream("a").random() == NetworkJob(0, 0, 5).stream("a").random() != jobs[1].stream("a").random()


def test_the_networks_of_a_split_take_turns():
    assert interleaved([["a0", "a1", "a2"], ["b0"], ["c0", "c1"]]) == ["a0", "b0", "c0", "a1", "c1", "a2"]


def answer(job: int) -> int:
    """Work for `run_jobs`: 1 is refused, 2 dies."""
    if job == 1:
        raise SumoError("refused")
    if job == 2:
        os._exit(3)
    return 10 * job


def test_jobs_run_in_processes_and_a_dead_one_is_named():
    assert list(run_jobs(answer, [4], 1)) == [(4, 40)]
    with pytest.raises(SumoError, match="1: refused"):
        list(run_jobs(answer, [1], 1))
    with pytest.raises(SumoError, match="2: its process died 3 times, last with exit status 3"):
        list(run_jobs(answer, [2], 1))


def test_elements_are_written_as_xml(tmp_path):
    from tether.data.sumo.plain import write_elements

    write_elements(tmp_path / "x.xml", "nodes", [ET.Element("node", id="a")])
    assert [e.get("id") for e in ET.parse(tmp_path / "x.xml").getroot()] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--networks", "0"], "field networks: expected at least 1, found 0"),
        (["--processes", "-1"], "field processes: expected at least 1, found -1"),
        (["--networks", "1", "--out", "FILE/set"], "FILE"),
    ],
)
def test_impossible_settings_end_with_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("disk full"), 2), (KeyboardInterrupt(), 130)])
def test_an_error_or_a_stop_while_making_scenes_is_one_line(monkeypatch, capsys, error, status):
    def end(*_):
        raise error

    monkeypatch.setattr(command, "write_scenes", end)
    assert main(["--networks", "1"]) == status
    assert capsys.readouterr().err.count("\n") == 1
