"""Tracks that are not as they should be: what a fault costs, and what is counted."""

import collections

import numpy as np
import pytest

from tests.damaged_logs import INF, NAN, noted, one_state, path, states
from tests.raw_scenes import scenario
from tether.data.egos import choose_egos
from tether.data.errors import DataError
from tether.data.padding import pad
from tether.data.scene import (
    SceneSpec,
)
from tether.data.tfrecord import read_records
from tether.data.validation import validate

pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")

from tether.data import womd_tracks as faults_of
from tether.data.womd import LogOptions, convert, parse_scenario, read_logs
from tether.data.womd_tracks import Notes

SPEC = SceneSpec()


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
    validate(pad(scenes[0], SPEC), SPEC)


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


def test_one_vehicle_may_reverse_and_a_pedestrian_may_walk_sideways():
    made, notes = scenario(vehicles=3), Notes()
    path(made, 1, 50 - 0.35 * np.arange(91), np.zeros(91), heading=0.0)
    path(made, 2, 50 + 0.35 * np.arange(91), np.full(91, 8.0), heading=1.57)
    made.tracks[2].object_type = 2
    assert len(convert(made, "here", notes=notes)[0].x) == 3 and not noted(notes)


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
    made = scenario()  # a NaN does not change the mean of the others
    states(made, 0, velocity_x=10.5)
    one_state(made, 1, velocity_y=NAN)
    (scene,) = convert(made, "here", 1, LogOptions(derive_velocities=True))
    np.testing.assert_allclose(scene.vel_x[:, 40], [10.5, 10.0])


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
