"""Logs of another rate or length, and those that are refused as a whole; what is put right by an option."""

import dataclasses
import json

import numpy as np
import pytest

from tests.damaged_logs import EVEN, NAN, long_log, noted, path, states, times
from tests.raw_scenes import EAST_M, scenario, straight_road
from tether.data import build
from tether.data.errors import DataError
from tether.data.padding import pad
from tether.data.records import Fractions
from tether.data.scene import (
    LightState,
    SceneSpec,
)
from tether.data.sources import open_split
from tether.data.tfrecord import frame
from tether.data.validation import validate

pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")

from tether.data import womd_tracks as faults_of
from tether.data.womd import LogOptions, convert, parse_scenario
from tether.data.womd_tracks import Notes

SPEC = SceneSpec()


@pytest.mark.parametrize("vehicles, shift, reason", [(3, 1.0, "2.0"), (3, -1.0, "0.0"), (1, 2.0, "3.0")])
def test_missing_or_doubled_frames_are_named_whatever_the_logged_times(vehicles, shift, reason):
    """From one step on all agents are ahead of their velocity or behind it by a metre, the distance of one frame."""
    made = scenario(vehicles=vehicles)
    for row in range(vehicles):
        states(made, row, center_x=lambda step, row=row: step - 8.0 * row + shift * (step > 40))
    with pytest.raises(DataError, match=f"after step 40 the moving tracks go {reason} times as far"):
        convert(made, "here")


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
    validate(pad(scene, SPEC), SPEC)


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
        validate(pad(scene, SPEC), SPEC)
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
    record = pad(raw, small)
    assert record.scene.x.shape == (2, 31)
    np.testing.assert_allclose(record.scene.y[:, 10], [0.0, 0.0], atol=1e-6)  # the one 30 m ahead, not row 3
    early = dataclasses.replace(raw, **{n: getattr(raw, n)[:, :31] for n in ("x", "y", "heading", "vel_x", "vel_y")})
    early = dataclasses.replace(early, valid=raw.valid[:, :31], light_state=raw.light_state[:, :31])
    early = dataclasses.replace(early, light_valid=raw.light_valid[:, :31])
    for name, values in dataclasses.asdict(pad(early, small).scene).items():
        np.testing.assert_array_equal(values, getattr(record.scene, name), err_msg=name)


@pytest.mark.parametrize("kind, name", [(0, "UNSET"), (4, "OTHER")])
def test_another_ego_than_the_logs_own_vehicle_is_counted(kind, name):
    made, notes = scenario(), Notes()
    made.tracks[0].object_type = kind
    (scene,) = convert(made, "here", notes=notes)
    assert scene.ego == 1 and noted(notes) == {f"log's own vehicle is of type {name}, another one is the ego": 1}


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
    assert {kind: (note["records"], note["count"]) for kind, note in summary["noted"].items()} == {
        "logs resampled to 10 Hz": (1, 1),
        "steps of logs that are not used": (2, 10 + 7 + 17),  # before and after the windows
        "tracks left out: " + faults_of.NO_SIZE: (1, 1),
        "tracks whose velocities are derived from their positions": (1, 2),
    }
    assert summary["noted"]["logs resampled to 10 Hz"]["example"] == f"{file}, record 0"
    assert "logs resampled to 10 Hz: 1 in 1 records, such as" in capsys.readouterr().out
    source = open_split(tmp_path / "all", "train")
    names = [(record.scenario_id, record.group) for record in source]
    windows = [(f"{name}{at}", name) for name in ("rate", "long") for at in ("@0", "@91")]
    assert names == [*windows, ("still", "still"), ("flat", "flat")]
    assert [record.instruction.endswith("mind the tram") for record in source] == [False] * 2 + [True] * 2 + [False] * 2
    build.build(build.BuildConfig(**shared, max_skipped=0.5, out=str(tmp_path / "none")))
    skipped = json.loads((tmp_path / "none" / "summary.json").read_text())["skipped"]
    assert [message.partition(", field")[0] for message in skipped["first"]] == [
        f"{file}, record 0 (rate)",
        f"{file}, record 2 (still)",
    ]
