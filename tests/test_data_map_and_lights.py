"""Maps and traffic lights that are not as they should be: what a fault costs, and what is counted."""

import itertools

import numpy as np
import pytest

from tests.damaged_logs import NAN, noted
from tests.raw_scenes import scenario
from tether.data.errors import DataError
from tether.data.scene import (
    DRIVING_LANE_TYPES,
    LANE_TYPES,
    LINE_TYPES,
    RING_TYPES,
    ROAD_EDGE_TYPES,
    VEHICLE_TYPES,
    VULNERABLE_TYPES,
    AgentType,
    LightState,
    RoadType,
)

pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")

from tether.data.sim_agents import read_sim_agents
from tether.data.womd import convert, read_lanes, read_road
from tether.data.womd_lights import read_lights
from tether.data.womd_tracks import Notes


def lights(made):
    notes = Notes()
    return read_lights(made, len(made.timestamps_seconds), np.zeros(2), notes), noted(notes)


def message(made, step):
    return made.dynamic_map_states[step].lane_states[0]


@pytest.mark.parametrize("step", [0, 40, 90])
@pytest.mark.parametrize("bad", [dict(x=NAN, y=0.0), dict(x=0.0, y=0.0), dict(x=1e300, y=-1e300), None])
def test_one_bad_stop_point_moves_no_light(step, bad):
    made = scenario()
    message(made, step).ClearField("stop_point")
    if bad:
        message(made, step).stop_point.x, message(made, step).stop_point.y = bad["x"], bad["y"]
    light, counts = lights(made)
    assert (light.x.tolist(), light.y.tolist()) == ([50.0], [0.5])
    assert (light.state == LightState.STOP).all() and light.valid.all()
    assert counts == ({"traffic lights whose stop point moves": 1} if bad == dict(x=0.0, y=0.0) else {})


@pytest.mark.parametrize("bad", ["missing", "unknown"])
def test_one_bad_message_erases_no_red(bad):
    made = scenario()
    if bad == "missing":
        del made.dynamic_map_states[40].lane_states[:]
    else:
        message(made, 40).state = LightState.UNKNOWN
    light, counts = lights(made)
    assert (light.state == LightState.STOP).all() and light.valid.all()
    assert counts == {"states of traffic lights taken from the steps beside": 1}


def test_a_light_that_is_not_logged_for_longer_stays_unknown():
    made = scenario()
    for step in (40, 41):
        del made.dynamic_map_states[step].lane_states[:]
    message(made, 60).state = LightState.UNKNOWN
    for step in range(61, 91):
        message(made, step).state = LightState.GO
    light, counts = lights(made)
    assert np.flatnonzero(~light.valid[0]).tolist() == [40, 41] and light.state[0, 60] == LightState.UNKNOWN
    assert not counts


RED, GREEN, UNKNOWN, YELLOW = LightState.STOP, LightState.GO, LightState.UNKNOWN, LightState.CAUTION


@pytest.mark.parametrize("first, second, counts", [(RED, GREEN, RED), (UNKNOWN, GREEN, GREEN), (GREEN, YELLOW, YELLOW)])
@pytest.mark.parametrize("order", [1, -1])
def test_of_two_messages_the_known_then_the_more_restrictive_counts(first, second, counts, order):
    made = scenario()
    del made.dynamic_map_states[40].lane_states[:]
    for state in (first, second)[::order]:
        made.dynamic_map_states[40].lane_states.add(lane=7, state=state)
    light, noted_ = lights(made)
    assert light.state[0, 40] == counts and light.x.tolist() == [50.0]
    assert noted_ == {"messages of traffic lights of which a step has several": 1}
    assert read_sim_agents(made).light_state[0, 40] == counts


def test_lights_without_a_place_are_left_out_and_counted():
    made = scenario()
    for messages in made.dynamic_map_states:
        messages.lane_states.add(lane=9, state=LightState.STOP)
    light, counts = lights(made)
    assert light.lane.tolist() == [7] and counts == {"traffic lights left out: no stop point in the scene": 1}


def test_every_type_of_map_feature_is_of_one_kind():
    """The types that the protos have for "unknown" among them."""
    kinds = (LANE_TYPES, LINE_TYPES, ROAD_EDGE_TYPES, RING_TYPES, (RoadType.PADDING, RoadType.STOP_SIGN))
    assert sorted(itertools.chain(*kinds)) == sorted(RoadType) and set(DRIVING_LANE_TYPES) < set(LANE_TYPES)
    assert sorted(VEHICLE_TYPES + VULNERABLE_TYPES) == sorted(AgentType)
    made = scenario()
    for feature in made.map_features[:3]:
        getattr(feature, feature.WhichOneof("feature_data")).ClearField("type")
    unknown = [RoadType.LANE_SURFACE, RoadType.LINE_UNKNOWN, RoadType.EDGE_UNKNOWN]
    assert read_road(made)[0].tolist()[:3] == unknown


def test_a_log_without_edges_or_lanes_is_used_and_counted():
    made, notes = scenario(), Notes()
    del made.map_features[:]
    assert len(convert(made, "here", notes=notes)) == 1
    assert noted(notes) == {
        "logs without a road edge: nothing is off the road": 1,
        "logs without a driving lane: routes follow the log": 1,
    }


def test_features_that_hold_nothing_are_left_out_and_counted():
    made, notes = scenario(), Notes()
    whole = read_road(made)[0].tolist()
    made.map_features.add(id=98)
    made.map_features.add(id=99).lane.type = 2
    made.map_features.add(id=97).stop_sign.lane.append(7)  # a stop sign without a place
    made.map_features.add().CopyFrom(made.map_features[1])
    assert read_road(made, notes)[0].tolist() == whole
    assert noted(notes) == {
        "map features left out: of an unknown kind": 1,
        "map features left out: no points": 2,
        "map features left out: there twice": 1,
    }


@pytest.mark.parametrize("place", [NAN, float("inf"), 1e9])
def test_a_fault_of_one_map_feature_costs_that_feature(place):
    made, notes = scenario(), Notes()
    whole = read_road(made)[0].tolist()
    broken = made.map_features.add(id=99)
    broken.CopyFrom(made.map_features[0])
    broken.id, broken.lane.polyline[1].x = 99, place
    assert read_road(made, notes)[0].tolist() == whole
    assert 99 not in read_lanes(made)
    assert noted(notes) == {"map features left out: points that are not finite, or far from the scene": 1}


def test_a_map_that_is_wrong_as_a_whole_costs_the_record():
    made = scenario()
    for feature in made.map_features:
        data = getattr(feature, feature.WhichOneof("feature_data"))
        points = getattr(data, "polyline", None) or getattr(data, "polygon", None) or [data.position]
        points[0].x = NAN
    with pytest.raises(DataError, match=r"field map: expected finite points of one scene, found others in [0-9]+ of"):
        convert(made, "here")


@pytest.mark.parametrize("limit", [NAN, -5.0, 1e9])
def test_a_speed_limit_that_is_none_is_unknown(limit):
    made, notes = scenario(), Notes()
    made.map_features[0].lane.speed_limit_mph = limit
    (scene,) = convert(made, "here", notes=notes)
    assert not scene.route_speed_limit.any() and noted(notes) == {"lanes whose speed limit is none": 1}
