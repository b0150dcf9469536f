"""One recording in several records: each of its egos is kept once, each of its groups in one split."""

import dataclasses
import itertools

import numpy as np
import pytest

from tests.raw_scenes import straight_road, turned
from tether.data import womd
from tether.data.raw import localize
from tether.data.recordings import OTHER_SPLIT, SAME_EGO, Recordings, places
from tether.data.tfrecord import read_records


def window(raw, first, steps=60, ego=1):
    """Part of a log, cut out of it: its own time, its own ego, its own frame."""
    timed = ("x", "y", "heading", "vel_x", "vel_y", "valid", "light_state", "light_valid")
    cut = {name: getattr(raw, name)[:, first : first + steps] for name in timed}
    return localize(dataclasses.replace(raw, ego=ego, scenario_id=f"from {first}", **cut))


def left_out(*scenes, group="road"):
    recordings = Recordings()
    return [recordings.left_out("train", group, scene.scenario_id, places(scene)) for scene in scenes]


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_an_ego_of_two_records_is_kept_once(angle):
    raw = turned(straight_road(), angle)
    other_record = dataclasses.replace(raw, x=raw.x[1:], y=raw.y[1:], ego=0, scenario_id="other")
    rest = ("heading", "vel_x", "vel_y", "valid", "length", "width", "agent_type")
    other_record = dataclasses.replace(other_record, **{name: getattr(raw, name)[1:] for name in rest})
    assert left_out(localize(raw), localize(other_record)) == ["", SAME_EGO]


@pytest.mark.parametrize(("later", "reason"), [(1, SAME_EGO), (29, SAME_EGO), (31, "")])
def test_windows_of_one_log_are_one_where_more_than_half_of_each_is_in_both(later, reason):
    raw = turned(straight_road(), 0.3)
    assert left_out(window(raw, 0), window(raw, later)) == ["", reason]


def test_another_vehicle_or_another_passage_is_another_ego():
    raw = straight_road()
    neighbour = dataclasses.replace(raw, y=raw.y + 0.02, scenario_id="neighbour")
    faster = straight_road("faster", speed=10.7)
    follower = dataclasses.replace(raw, x=raw.x - 30.003, scenario_id="follower")
    assert left_out(*map(localize, (raw, neighbour, faster, follower))) == [""] * 4


def test_a_column_of_one_scenario_is_of_many_vehicles():
    """Row 2 drives where the ego was 3 s before, to the millimetre; the record read again is known."""
    raw = straight_road()
    raw = dataclasses.replace(raw, valid=np.ones_like(raw.valid), x=raw.x[[0, 1, 1, 3]] + [[0], [0], [30], [0]])
    column = [localize(dataclasses.replace(raw, ego=ego)) for ego in (1, 2)]
    assert left_out(*column, *column) == ["", "", SAME_EGO, SAME_EGO]


def test_standing_at_one_place_is_one_place():
    """It arrives and waits; in the next window it waits and drives off."""
    raw = straight_road()
    moved = np.minimum(np.arange(91) * 1.0, 40.0)
    arriving = dataclasses.replace(raw, x=np.where(np.arange(4)[:, None] == 1, 1000.0 + moved, raw.x))
    leaving = dataclasses.replace(raw, x=np.where(np.arange(4)[:, None] == 1, 1080.0 - moved[::-1], raw.x))
    leaving = dataclasses.replace(leaving, scenario_id="leaving")
    assert left_out(localize(arriving), localize(leaving)) == ["", ""]
    assert len(places(localize(arriving))) == 41


def test_a_group_stays_in_the_split_that_came_first():
    scene, other = (places(localize(straight_road(speed=speed))) for speed in (10.0, 7.0))
    recordings = Recordings()
    assert recordings.left_out("test", "a", "s", scene) == ""
    assert recordings.left_out("train", "a", "t", other) == OTHER_SPLIT
    assert recordings.left_out("train", "b", "u", scene) == "", "another group is another place"


def test_real_records_of_one_recording(real_data):
    """Four records of two recordings, each with the same vehicles and another of them as its own."""
    pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")
    records = read_records(str(real_data / "train" / "ngsim_commonroad-00000-of-00001.tfrecord"))
    egos = [womd.convert(womd.parse_scenario(record), "road", 8) for record in itertools.islice(records, 4)]
    reasons = iter(left_out(*(localize(raw) for raws in egos for raw in raws)))
    assert [{next(reasons) for _ in raws} for raws in egos] == [{""}, {SAME_EGO}, {""}, {SAME_EGO}]
