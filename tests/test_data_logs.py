"""Logs that are not as they should be: what one fault costs, what is put right by an option, and what is counted."""

import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest

from tests.raw_scenes import EAST_M, scenario, straight_road
from tether.data import build
from tether.data.egos import choose_egos
from tether.data.errors import DataError
from tether.data.padding import pad
from tether.data.raw import localize
from tether.data.records import Fractions
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
    SceneSpec,
)
from tether.data.sources import open_split
from tether.data.tfrecord import frame, read_records
from tether.data.validation import validate

pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")

from tether.data import womd_tracks as faults_of
from tether.data.sim_agents import read_sim_agents
from tether.data.womd import LogOptions, convert, parse_scenario, read_lanes, read_logs, read_road
from tether.data.womd_history import history_scene
from tether.data.womd_lights import read_lights
from tether.data.womd_tracks import Notes

NAN, INF = float("nan"), float("inf")
SPEC = SceneSpec()


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


FAULTS = {
    "no length": (lambda m, r: states(m, r, length=0.0), faults_of.NO_SIZE),
    "negative width": (lambda m, r: states(m, r, width=-1.3), faults_of.NO_SIZE),
    "NaN length": (lambda m, r: states(m, r, length=NAN), faults_of.NO_SIZE),
    "longer than any": (lambda m, r: states(m, r, length=1e6), faults_of.NO_SIZE),
    "NaN heading": (lambda m, r: one_state(m, r, heading=NAN), faults_of.NOT_FINITE),
    "infinite position": (lambda m, r: one_state(m, r, center_y=INF), faults_of.NOT_FINITE),
    "NaN velocity": (lambda m, r: one_state(m, r, velocity_x=NAN), faults_of.NOT_FINITE),
    "far away": (lambda m, r: one_state(m, r, center_x=1e30), faults_of.ABSURD),
    "no heading": (lambda m, r: one_state(m, r, heading=1e9), faults_of.ABSURD),
    "too fast": (lambda m, r: one_state(m, r, velocity_y=3e8), faults_of.ABSURD),
    "states missing": (lambda m, r: m.tracks[r].states.pop(), faults_of.NOT_WHOLE),
    "a state too many": (lambda m, r: m.tracks[r].states.add(), faults_of.NOT_WHOLE),
    "standing velocities": (lambda m, r: states(m, r, velocity_x=0.0), faults_of.VELOCITY),
    "velocities in km/h": (lambda m, r: states(m, r, velocity_x=36.0), faults_of.VELOCITY),
    "a jump": (lambda m, r: states(m, r, center_y=lambda step: 5.0 * (step > 50)), faults_of.JUMP),
    "headings in degrees": (lambda m, r: states(m, r, heading=90.0), faults_of.HEADING),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_one_track_costs_that_track(kind):
    damage, fault = FAULTS[kind]
    made, notes = scenario(vehicles=4), Notes()
    damage(made, 2)
    scenes = convert(made, "here", 8, notes=notes)
    assert noted(notes) == {f"tracks left out: {fault}": 1}
    expected = [-8.0 * row for row in (0, 1, 3)]
    assert [scenes[0].x[row, 0] for row in range(len(scenes[0].x))] == expected and len(scenes) == 3
    validate(pad(localize(scenes[0]), SPEC), SPEC)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_the_logs_own_vehicle_costs_the_record(kind):
    damage, fault = FAULTS[kind]
    made = scenario(vehicles=4)
    damage(made, 0)
    with pytest.raises(DataError, match="record made, field tracks: the log's own vehicle has " + fault[:20]):
        convert(made, "here")


def test_a_size_is_the_mean_of_those_that_were_logged():
    made, notes = scenario(), Notes()
    states(made, 1, length=lambda step: 0.0 if step < 30 else 4.0 + (step >= 60))
    (scene,) = convert(made, "here", notes=notes)
    np.testing.assert_allclose(scene.length[1], (30 * 4 + 31 * 5) / 61)
    assert noted(notes) == {"tracks whose size at some steps is missing or unlike the others": 1}
    one_state(made, 1, length=40.0, width=2.0)
    (scene,) = convert(made, "here")
    np.testing.assert_allclose(scene.length[1], (29 * 4 + 31 * 5) / 60)


def test_a_track_that_is_there_twice_counts_once():
    made, notes = scenario(), Notes()
    made.tracks.add().CopyFrom(made.tracks[0])
    made.sdc_track_index = 2
    (scene,) = convert(made, "here", notes=notes)
    assert scene.x[:, 0].tolist() == [-8.0, 0.0] and scene.ego == 1
    assert noted(notes) == {f"tracks left out: {faults_of.TWICE}": 1}
    made.tracks[2].states[0].center_x = 0.1  # the same id, but another track
    assert len(convert(made, "here")[0].x) == 3


def test_a_fault_of_half_of_the_moving_tracks_is_one_of_the_log():
    made = scenario(vehicles=4)
    for row in (2, 3):
        states(made, row, velocity_x=0.0)
    with pytest.raises(DataError, match=r"2 of 4 moving tracks have velocities that contradict.*--derive-velocities"):
        convert(made, "here")
    made = scenario(vehicles=4)
    for row in (0, 1):
        states(made, row, heading=np.pi)
    with pytest.raises(DataError, match="2 of 4 moving tracks have headings that are not along the motion"):
        convert(made, "here")
    for row in range(4):  # at 5 m/s one alone may reverse
        path(made, row, 0.5 * np.arange(91) - 8.0 * row, np.zeros(91), heading=np.pi if row < 2 else 0.0)
    with pytest.raises(DataError, match="2 of 4 moving tracks have headings against the motion"):
        convert(made, "here")


@pytest.mark.parametrize("vehicles, shift, reason", [(3, 1.0, "2.0"), (3, -1.0, "0.0"), (1, 2.0, "3.0")])
def test_frames_that_are_missing_or_doubled_are_named_whatever_the_times_say(vehicles, shift, reason):
    """From one step on everybody is a metre, what is driven in one frame, ahead of its velocity or behind."""
    made = scenario(vehicles=vehicles)
    for row in range(vehicles):
        states(made, row, center_x=lambda step, row=row: step - 8.0 * row + shift * (step > 40))
    with pytest.raises(DataError, match=f"after step 40 the moving tracks go {reason} times as far"):
        convert(made, "here")


def test_one_vehicle_may_reverse_and_a_pedestrian_may_walk_sideways():
    made, notes = scenario(vehicles=3), Notes()
    path(made, 1, 50 - 0.35 * np.arange(91), np.zeros(91), heading=0.0)
    path(made, 2, 50 + 0.35 * np.arange(91), np.full(91, 8.0), heading=1.57)
    made.tracks[2].object_type = 2
    assert len(convert(made, "here", notes=notes)[0].x) == 3 and not noted(notes)


def times(made, stamps):
    del made.timestamps_seconds[:]
    made.timestamps_seconds.extend(stamps)
    return made


EVEN = 0.1 * np.arange(91)
TIMES = {
    "not finite": (np.where(np.arange(91) == 30, NAN, EVEN), "expected finite times, found 1"),
    "reversed": (EVEN[::-1], "expected times that increase, found 9.0000 s at step 0, then 8.9000 s"),
    "doubled": (np.where(np.arange(91) == 40, EVEN[39], EVEN), "found 3.9000 s at step 39, then 3.9000 s"),
    "all zero": (0 * EVEN, "expected times that increase"),
    "5 Hz": (2 * EVEN, r"found 0.2000 s \(5 Hz\); `data.build --resample`"),
    "12.5 Hz": (0.8 * EVEN, r"found 0.0800 s \(12.5 Hz\)"),
    "a gap": (EVEN + 0.3 * (np.arange(91) > 30), "expected steps of 0.1 s, found 0.4000 s after step 30"),
    "a step 31 ms short": (EVEN - 0.031 * (np.arange(91) > 30), "found 0.0690 s after step 30"),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_are_refused_by_name(kind):
    stamps, reason = TIMES[kind]
    with pytest.raises(DataError, match=f"record made, field timestamps_seconds: .*{reason}"):
        convert(times(scenario(), stamps), "here")
    if kind in ("not finite", "reversed", "doubled", "all zero"):
        with pytest.raises(DataError, match=reason):
            convert(times(scenario(), stamps), "here", options=LogOptions(resample=True))


def test_too_few_steps_and_another_current_step_are_refused_by_name():
    short, late = long_log(90), scenario()
    late.current_time_index = 11
    for made, reason in (
        (short, "expected at least 91 steps, found 90"),
        (late, "expected the current step 10, found"),
    ):
        with pytest.raises(DataError, match=f"record made, field .*: {reason}"):
            convert(made, "here")


def test_steps_that_are_off_by_less_are_taken_as_they_are():
    off = np.random.default_rng(0).uniform(-0.012, 0.012, 91)
    for options in (LogOptions(), LogOptions(resample=True)):
        notes = Notes()
        (scene,) = convert(times(scenario(), EVEN + off * (options == LogOptions())), "here", 1, options, notes)
        np.testing.assert_array_equal(scene.x[0], np.arange(91.0))
        assert not noted(notes)


@pytest.mark.parametrize("dt, steps", [(0.2, 60), (0.05, 200), (0.5, 30)])
def test_another_rate_is_resampled_by_an_option(dt, steps):
    """Around a circle, so that straight lines between the logged states would be off."""
    made, notes = long_log(steps, dt), Notes()
    stamps, radius = dt * np.arange(steps), 20.0
    path(made, 0, radius * np.sin(stamps / 2), radius * (1 - np.cos(stamps / 2)), stamps / 2)
    states(made, 0, velocity_x=lambda step: 10 * np.cos(stamps[step] / 2))
    states(made, 0, velocity_y=lambda step: 10 * np.sin(stamps[step] / 2))
    made.dynamic_map_states[steps // 2].lane_states[0].state = LightState.GO
    made.tracks[1].states[0].valid = False
    (scene,) = convert(made, "here", 1, LogOptions(resample=True), notes)
    start = max(made.timestamps_seconds[made.current_time_index] - 1.0, 0.0)
    at = start + EVEN
    np.testing.assert_allclose(scene.x[0], radius * np.sin(at / 2), atol=1e-3)
    np.testing.assert_allclose(scene.heading[0], np.arctan2(np.sin(at / 2), np.cos(at / 2)), atol=1e-6)
    np.testing.assert_allclose(np.hypot(scene.vel_x, scene.vel_y)[0], 10.0, atol=0.1)
    assert scene.x.shape[1] == 91 and scene.current == 10
    # A state holds until the next one is logged.
    go = (stamps[steps // 2] <= at + 1e-6) & (at < stamps[steps // 2] + dt - 1e-6)
    np.testing.assert_array_equal(scene.light_state[0] == LightState.GO, go)
    unseen = int(np.sum(at < dt - 1e-6)) if start < dt else 0
    assert (~scene.valid[1]).sum() == unseen
    left = int(stamps[-1] / 0.1 + 1e-6) + 1 - 91
    assert noted(notes) == {"logs resampled to 10 Hz": 1, "steps of logs that are not used": left}
    validate(pad(localize(scene), SPEC), SPEC)


def test_a_gap_is_bridged_and_what_is_longer_refused():
    made, notes = scenario(), Notes()
    stamps = EVEN + 0.3 * (np.arange(91) > 30)
    for row in (0, 1):
        states(made, row, center_x=lambda step, row=row: 10 * stamps[step] - 8.0 * row)
    (scene,) = convert(times(made, stamps), "here", 1, LogOptions(resample=True), notes)
    np.testing.assert_allclose(scene.x[0], np.arange(91.0), atol=1e-6)
    assert notes["logs resampled to 10 Hz"] == 1
    with pytest.raises(DataError, match=r"expected steps of 0.01 to 0.55 s to resample, found 0.1000 to 0.7000 s"):
        convert(times(made, EVEN + 0.6 * (np.arange(91) > 30)), "here", 1, LogOptions(resample=True))


def test_velocities_of_another_frame_are_derived_by_an_option():
    made, notes = scenario(vehicles=3), Notes()
    for row in range(3):
        path(made, row, np.zeros(91), np.arange(91.0) - 8 * row, heading=np.pi / 2)
        states(made, row, velocity_x=10.0, velocity_y=0.0)
    with pytest.raises(DataError, match="3 of 3 moving tracks have velocities that contradict"):
        convert(made, "here")
    (scene,) = convert(made, "here", 1, LogOptions(derive_velocities=True), notes)
    np.testing.assert_allclose(scene.vel_x, 0.0, atol=1e-9)
    np.testing.assert_allclose(scene.vel_y, 10.0)
    assert noted(notes) == {"tracks whose velocities are derived from their positions": 3}


def test_velocities_that_are_right_stay():
    made, notes = scenario(vehicles=5), Notes()
    states(made, 3, velocity_x=0.0)
    one_state(made, 4, velocity_y=NAN)
    states(made, 1, velocity_x=10.5)
    (scene,) = convert(made, "here", 1, LogOptions(derive_velocities=True), notes)
    np.testing.assert_allclose(scene.vel_x[:, 40], [10.0, 10.5, 10.0, 10.0, 10.0])
    assert notes["tracks whose velocities are derived from their positions"] == 2
    made = scenario()  # a number that is none says nothing about the others
    states(made, 0, velocity_x=10.5)
    one_state(made, 1, velocity_y=NAN)
    (scene,) = convert(made, "here", 1, LogOptions(derive_velocities=True))
    np.testing.assert_allclose(scene.vel_x[:, 40], [10.5, 10.0])


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


def test_what_is_not_logged_for_longer_stays_unknown():
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


def test_a_log_is_cut_before_its_egos_are_chosen():
    made, notes = long_log(199, vehicles=4), Notes()
    path(made, 0, np.where(made.timestamps_seconds[:] > np.float64(12), 8.0, 0.0).cumsum() * 0.1, np.zeros(199), 0.0)
    for row in (1, 2, 3):
        for state in made.tracks[row].states[120:]:
            state.valid = False
    made.tracks[3].states[150].heading = NAN  # in the part that is not used
    made.timestamps_seconds[160] = NAN
    scenes = convert(made, "here", 8, LogOptions(derive_velocities=True), notes)
    assert sorted(scene.ego for scene in scenes) == [1, 2, 3] and scenes[0].x.shape == (4, 91)
    assert noted(notes) == {"steps of logs that are not used": 108}
    times(made, [*made.timestamps_seconds[:150], *(made.timestamps_seconds[150:] + np.array([99.0]))])
    assert len(convert(made, "here", 8)) == 3


def test_a_long_log_becomes_several_scenes_by_an_option():
    made, notes = long_log(199, vehicles=2), Notes()
    made.tracks[1].states[100].heading = NAN
    scenes = convert(made, "town", 8, LogOptions(windows=True), notes)
    assert [(s.scenario_id, s.group, s.current, int(s.x[s.ego, 0])) for s in scenes] == [
        ("made@0", "town", 10, 0),
        ("made@0", "town", 10, -8),
        ("made@91", "town", 10, 91),
    ]
    for scene in scenes:
        validate(pad(localize(scene), SPEC), SPEC)
    not_used = {"steps of logs that are not used": 17, f"tracks left out: {faults_of.NOT_FINITE}": 1}
    assert noted(notes) == not_used
    made.tracks[0].states[150].heading = NAN
    notes = Notes()
    assert {s.scenario_id for s in convert(made, "town", 8, LogOptions(windows=True), notes)} == {"made@0"}
    assert notes["windows of long logs left out"] == 1
    assert [s.scenario_id for s in convert(scenario(), "town", 1, LogOptions(windows=True))] == ["made"]


def test_padding_looks_at_the_steps_of_the_spec_alone():
    """An agent that comes near later, and a line that only the rest of the log passes, take no place from others."""
    raw = straight_road()
    x = raw.x.copy()
    x[3, 31:], x[3, :31] = EAST_M, EAST_M + 100.0
    raw = dataclasses.replace(raw, x=x)
    small = SceneSpec(agents=2, steps=31)
    record = pad(localize(raw), small)
    assert record.scene.x.shape == (2, 31)
    np.testing.assert_allclose(record.scene.y[:, 10], [0.0, 0.0], atol=1e-6)  # the one 30 m ahead, not row 3
    early = dataclasses.replace(raw, **{n: getattr(raw, n)[:, :31] for n in ("x", "y", "heading", "vel_x", "vel_y")})
    early = dataclasses.replace(early, valid=raw.valid[:, :31], light_state=raw.light_state[:, :31])
    early = dataclasses.replace(early, light_valid=raw.light_valid[:, :31])
    for name, values in dataclasses.asdict(pad(localize(early), small).scene).items():
        np.testing.assert_array_equal(values, getattr(record.scene, name), err_msg=name)


@pytest.mark.parametrize("kind, name", [(0, "UNSET"), (4, "OTHER")])
def test_another_ego_than_the_logs_own_vehicle_is_counted(kind, name):
    made, notes = scenario(), Notes()
    made.tracks[0].object_type = kind
    (scene,) = convert(made, "here", notes=notes)
    assert scene.ego == 1 and noted(notes) == {f"log's own vehicle is of type {name}, another one is the ego": 1}


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


@pytest.mark.parametrize("field", ["tracks", "dynamic_map_states", "map_features", "polyline", "scenario_id", "lanes"])
def test_sizes_beyond_reason_are_refused_before_memory_is_spent(field, monkeypatch):
    """A few bytes name the lengths of arrays; a limit below what the message holds stands for a message beyond it."""
    made = scenario("x" * 201 if field == "scenario_id" else "made")
    lowered = {"map_features": "womd.MOST_POINTS", "polyline": "womd.MOST_LINE_POINTS", "lanes": "route.MOST_LANES"}
    if field in lowered:
        monkeypatch.setattr(f"tether.data.{lowered[field]}", 0)
    if field == "tracks":
        made.tracks.extend([type(made.tracks[0])()] * 11_000)
    if field == "dynamic_map_states":
        for lane in range(11_000):
            made.dynamic_map_states[0].lane_states.add(lane=lane)
    with pytest.raises(DataError, match=f"field {'map' if field == 'lanes' else field}: expected at most [0-9]+ "):
        convert(parse_scenario(made.SerializeToString()), "here")


def test_the_options_of_a_build_are_counted_in_its_summary(tmp_path, capsys):
    """A log at 5 Hz, one of 19.9 s with a note, one whose velocities are 0, one with a track without size."""
    logs = [long_log(100, 0.2), long_log(199), scenario(), scenario(vehicles=3)]
    for made, name in zip(logs, ("rate", "long", "still", "flat"), strict=True):
        made.scenario_id = name
    for row in (0, 1):
        states(logs[2], row, velocity_x=0.0)
    states(logs[3], 2, width=0.0)
    file, notes = tmp_path / "logs.tfrecord", tmp_path / "notes.json"
    file.write_bytes(b"".join(frame(made.SerializeToString()) for made in logs))
    notes.write_text(json.dumps([{"scenario_id": "long", "note": "mind the tram"}]))
    shared = dict(womd=str(file), egos_per_scene=1, fractions=Fractions(1.0, 0.0, 0.0, 0.0), notes=notes)
    options = dict(resample=True, derive_velocities=True, windows=True)
    build.build(build.BuildConfig(**shared, **options, out=str(tmp_path / "all")))
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert {kind: (found["records"], found["count"]) for kind, found in summary["noted"].items()} == {
        "logs resampled to 10 Hz": (1, 1),
        "steps of logs that are not used": (2, 10 + 7 + 17),  # before and after the windows
        "tracks left out: " + faults_of.NO_SIZE: (1, 1),
        "tracks whose velocities are derived from their positions": (1, 2),
    }
    assert summary["noted"]["logs resampled to 10 Hz"]["example"] == f"{file}, record 0"
    assert "logs resampled to 10 Hz: 1 in 1 records, such as" in capsys.readouterr().out
    source = open_split(tmp_path / "all", "train")
    found = [(record.scenario_id, record.group) for record in source]
    windows = [(f"{name}{at}", name) for name in ("rate", "long") for at in ("@0", "@91")]
    assert found == [*windows, ("still", "still"), ("flat", "flat")]
    assert [record.instruction.endswith("mind the tram") for record in source] == [False] * 2 + [True] * 2 + [False] * 2
    build.build(build.BuildConfig(**shared, max_skipped=0.5, out=str(tmp_path / "none")))
    skipped = json.loads((tmp_path / "none" / "summary.json").read_text())["skipped"]
    assert [message.partition(", field")[0] for message in skipped["first"]] == [
        f"{file}, record 0 (rate)",
        f"{file}, record 2 (still)",
    ]


def history(made):
    notes = Notes()
    scene = history_scene(made, SPEC.steps, SPEC.dt, notes)
    validate(pad(localize(scene), SPEC), SPEC)
    return scene, read_sim_agents(made), noted(notes)


def test_everybody_at_the_current_step_is_continued():
    """Sizes, headings and states that are none: the usual box, and what was seen before."""
    made = scenario(vehicles=6)
    states(made, 1, length=0.0, width=0.0)
    states(made, 2, width=-2.0)
    made.tracks[2].object_type = 2
    one_state(made, 3, 10, heading=NAN, velocity_x=INF)
    one_state(made, 4, 5, center_x=NAN)
    del made.tracks[5].states[60:]
    scene, sim, counts = history(made)
    assert scene.valid[:, 10].all() and len(scene.x) == len(sim.agent_id) == 6
    boxes = [faults_of.USUAL_BOX[kind] for kind in (1, 2)]
    for row, box in zip((1, 2), boxes, strict=True):
        assert (scene.length[row], scene.width[row]) == (sim.length[row], sim.width[row]) == box
    assert (scene.heading[3, 10], sim.heading[3, 10], scene.vel_x[3, 10]) == (0.0, 0.0, 10.0)
    assert not scene.valid[4, 5] and not sim.valid[4, 5] and sim.x[4, 5] == 0.0
    assert sim.valid[5, 59] and not sim.valid[5, 60:].any()
    assert counts == {faults_of.BOXES: 2, "states that are not finite or beyond reason": 2}


def test_an_agent_that_is_nowhere_is_named():
    made = scenario()
    for state in made.tracks[1].states:
        state.center_x = NAN
    for read in (lambda: history_scene(made, 91, 0.1), lambda: read_sim_agents(made)):
        with pytest.raises(DataError, match="track 1 is valid at step 10, and no step says where it is"):
            read()


def test_a_submission_names_tracks_that_cannot_be():
    made = scenario()
    made.tracks[1].id = 0
    with pytest.raises(DataError, match="one track for each id"):
        read_sim_agents(made)
    made.tracks[1].CopyFrom(made.tracks[0])
    assert read_sim_agents(made).agent_id.tolist() == [0]
    made.tracks_to_predict.add(track_index=7)
    with pytest.raises(DataError, match=r"tracks_to_predict: expected indices of 2 tracks, found \[7\]"):
        read_sim_agents(made)


def test_a_history_without_a_map_or_with_wrong_times():
    made = scenario()
    del made.map_features[:]
    scene, sim, _ = history(made)
    assert scene.road_points == () and sim.road_edges == ()
    with pytest.raises(DataError, match="timestamps_seconds"):
        history(times(made, 2 * EVEN))


def test_egos_are_chosen_among_the_sound_tracks(real_data):
    """No record of the real logs is lost to any check, and hardly a track."""
    notes, egos = Notes(), collections.Counter()
    for file in ("womd-00000-of-00004", "av2-00000-of-00001", "nuscenes_mini-00000-of-00001"):
        for payload in read_records(str(real_data / "train" / f"{file}.tfrecord")):
            (log,) = read_logs(parse_scenario(payload), LogOptions(), notes)
            egos[file] += len(choose_egos(log.tracks.fields(), log.own, 8))
    assert sum(egos.values()) == 89 + 19 + 42, egos
    left_out = {kind: count for kind, count in noted(notes).items() if kind.startswith("tracks left out")}
    assert left_out == {f"tracks left out: {faults_of.NO_SIZE}": 23, f"tracks left out: {faults_of.VELOCITY}": 2}
