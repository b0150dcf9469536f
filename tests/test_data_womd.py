"""TFRecord framing, WOMD protos, the build command, and the real records."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from tests.raw_scenes import scenario
from tether.data import build, egos, records, tfrecord
from tether.data.errors import DataError, SkipLedger
from tether.data.padding import pad
from tether.data.polyline import project
from tether.data.scene import LightState, RoadType, SceneSpec
from tether.data.validation import validate

REAL = pathlib.Path(__file__).parents[2] / "shared" / "data"
protos = pytest.mark.skipif(
    importlib.util.find_spec("waymo_open_dataset") is None,
    reason="needs the WOMD protos: pip install --no-deps waymo-open-dataset-tf-2-12-0==1.6.7",
)
real = pytest.mark.skipif(not REAL.is_dir(), reason="needs the real records in ../shared/data")


def test_crc32c_of_known_messages():
    # RFC 3720 B.4, and the check value of the CRC catalogue.
    assert tfrecord.crc32c(b"123456789") == 0xE3069283
    assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA
    assert tfrecord.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert tfrecord.crc32c(bytes(range(32))) == 0x46DD794E


def test_crc32c_agrees_with_the_bytewise_definition():
    rng = np.random.default_rng(0)
    for size in (0, 1, 3, 4, 5, 31, 1000, 4097):
        message = rng.bytes(size)
        crc = 0xFFFFFFFF
        for byte in message:
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        assert tfrecord.crc32c(message) == crc ^ 0xFFFFFFFF


@pytest.fixture
def three(tmp_path):
    path = tmp_path / "three.tfrecord"
    path.write_bytes(b"".join(tfrecord.frame(bytes([i]) * 100) for i in range(3)))
    return path


def read(path):
    return [r if isinstance(r, bytes) else r.reason for r in tfrecord.read_records(str(path))]


def test_records_read_back(three):
    assert read(three) == [bytes([i]) * 100 for i in range(3)]


def test_a_flipped_byte_loses_one_record(three):
    data = bytearray(three.read_bytes())
    data[116 + 50] ^= 1
    three.write_bytes(data)
    assert [r[:7] for r in read(three)] == [bytes(7), "corrupt", bytes([2]) * 7]


def test_a_damaged_length_loses_the_rest(three):
    data = bytearray(three.read_bytes())
    data[116] ^= 1
    three.write_bytes(data)
    assert len(read(three)) == 2 and "rest of the file is lost" in read(three)[1]


@pytest.mark.parametrize("size", [345, 340, 240, 233])
def test_a_truncated_file_is_named(three, size):
    three.write_bytes(three.read_bytes()[:size])
    *_, last = tfrecord.read_records(str(three))
    assert isinstance(last, DataError) and last.file == str(three) and "truncated" in str(last)


def write(path, *payloads):
    path.write_bytes(b"".join(tfrecord.frame(payload) for payload in payloads))
    return str(path)


@protos
def test_a_scenario_becomes_a_scene():
    from tether.data.womd import convert

    made = scenario()
    made.tracks[1].states[30].valid = False
    raw = convert(made, "here")[0]
    record = pad(raw, SceneSpec())
    validate(record, SceneSpec())
    scene = record.scene
    assert (raw.scenario_id, raw.group, raw.source, raw.ego) == ("made", "here", "womd", 0)
    assert scene.valid[0].all() and not scene.valid[1, 30] and scene.valid[1].sum() == 90
    np.testing.assert_allclose(scene.x[1, 10], -8.0)
    np.testing.assert_allclose(scene.route_y[scene.route_valid], 0.5, atol=0.02)
    np.testing.assert_allclose(scene.route_speed_limit[scene.route_valid], 25 * 0.44704, atol=1e-4)
    # The route starts 15 m behind the first pose; the stop point is 50 m ahead of that.
    np.testing.assert_allclose(scene.light_route_s[0], 65.0, atol=0.1)
    assert (scene.light_state[0] == LightState.STOP).all() and scene.light_valid[0].all()
    kinds = {int(code) for code in scene.road_type} - {RoadType.PADDING}
    assert kinds == {2, 8, 16, 17, 18, 19, 20}  # lane, solid double white, median, stop, crosswalk, bump, driveway


@protos
def test_messages_without_z_or_with_gaps_parse_alike():
    from tether.data.womd_proto import read_points
    from tether.data.womd_tracks import read_tracks

    full, bare = scenario(), scenario()
    for state in bare.tracks[0].states:
        state.ClearField("center_z")
    bare.tracks[1].states[5].ClearField("height")  # an unusual layout is read field by field
    for made in (full, bare):
        made.tracks[1].states[7].Clear()
    for name, values in read_tracks(full).fields().items():
        np.testing.assert_array_equal(read_tracks(bare).fields()[name], values, err_msg=name)
    line = full.map_features[0].lane.polyline
    np.testing.assert_array_equal(read_points(line), [(p.x, p.y) for p in line])
    line[3].ClearField("z")
    np.testing.assert_array_equal(read_points(line), [(p.x, p.y) for p in line])


@protos
def test_bad_records_are_skipped_by_name(tmp_path):
    from tether.data.womd import read_file

    still, short, flat = scenario("still"), scenario("short"), scenario("flat")
    for track in still.tracks:
        for state in track.states:
            state.center_x = state.velocity_x = 0.0
    del short.tracks[0].states[50:]
    for state in flat.tracks[0].states:
        state.width = 0.0
    payloads = [
        scenario().SerializeToString(),
        b"no proto",
        b"",
        *(s.SerializeToString() for s in (still, short, flat)),
    ]
    path = write(tmp_path / "mixed.tfrecord", *payloads)
    ledger = SkipLedger(max_skipped=1.0)
    assert [raw.scenario_id for raw in read_file(path, ledger)] == ["made"]
    reasons = ["expected a WOMD Scenario", "expected a WOMD Scenario", "no valid ego", "number of states", "no size"]
    assert all(reason in str(error) for reason, error in zip(reasons, ledger.errors, strict=True))
    assert all(f"record {i}" in str(error) and path in str(error) for i, error in enumerate(ledger.errors, start=1))
    with pytest.raises(DataError, match="skipped 5 of 6"):
        strict = SkipLedger(max_skipped=0.5)
        list(read_file(path, strict))
        strict.finish()


@protos
@pytest.mark.parametrize("emptied", ["no map", "an unknown kind", "an empty lane", "no lane"])
def test_optional_parts_of_the_map_may_be_missing(emptied):
    from tether.data.womd import convert

    made, whole = scenario(), scenario()
    if emptied in ("no map", "an unknown kind"):
        del made.map_features[:]
    if emptied == "an unknown kind":
        made.map_features.add(id=3)
    if emptied == "an empty lane":
        made.map_features.add(id=57).lane.type = 2
    if emptied == "no lane":
        del made.map_features[0]
    (raw,) = convert(made, "here")
    record = pad(raw, SceneSpec())
    validate(record, SceneSpec())
    line = 0.5 if emptied == "an empty lane" else 0.0  # the lane's own middle, or the log
    np.testing.assert_allclose(raw.route_y, line, atol=0.02)
    assert len(raw.road_type) == {"an empty lane": len(whole.map_features), "no lane": 6}.get(emptied, 0)


@protos
def test_any_error_of_a_record_costs_that_record_alone(tmp_path, monkeypatch):
    from tether.data import womd

    real = womd.convert

    def convert(made, *rest):
        if made.scenario_id == "s1":
            raise IndexError("boolean index did not match\nand more")
        return real(made, *rest)

    monkeypatch.setattr(womd, "convert", convert)
    path = write(tmp_path / "logs.tfrecord", *(scenario(f"s{i}").SerializeToString() for i in range(3)))
    ledger = SkipLedger(max_skipped=1.0)
    rules = records.Rules(1, None, 0, records.Fractions())
    assert [kept.scene.scenario_id for kept in records.kept_scenes([path], rules, ledger)] == ["s0", "s2"]
    (error,) = ledger.errors
    assert str(error).startswith(f"{path}, record 1: unexpected IndexError: boolean index did not match [test_data")
    monkeypatch.setattr(womd, "convert", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        list(womd.read_file(path, SkipLedger(max_skipped=1.0)))


@protos
def test_an_error_of_one_ego_names_the_file(tmp_path, monkeypatch):
    path = write(tmp_path / "logs.tfrecord", scenario("s0").SerializeToString())
    monkeypatch.setattr(records, "validate", lambda *_: 1 // 0)
    ledger = SkipLedger(max_skipped=1.0)
    assert not list(records.kept_scenes([path], records.Rules(1, None, 0, records.Fractions()), ledger))
    assert f"{path}, record s0 (ego 0): unexpected ZeroDivisionError" in str(ledger.errors[0])


def tracks(starts, speeds, kind=1):
    t = np.arange(91) * 0.1
    x = np.array(starts)[:, None] + np.array(speeds)[:, None] * t
    zero = np.zeros_like(x)
    moving = np.array(speeds)[:, None] + zero
    ones = np.ones(x.shape, bool)
    return dict(x=x, y=zero, heading=zero, vel_x=moving, vel_y=zero, valid=ones, agent_type=np.full(len(x), kind))


def test_egos_are_the_sdc_first_then_the_most_different():
    cars = tracks([0.0, 1.0, 90.0, 0.5, 50.0], [10.0, 10.0, 2.0, 0.5, 10.0])
    assert egos.choose_egos(cars, 0, 1) == [0]
    assert egos.choose_egos(cars, 0, 8) == [0, 2, 4, 1]  # row 3 travels less than 10 m
    assert egos.choose_egos(cars, 3, 2)[0] == 3  # the SDC needs only 3 m
    cars["valid"][0, 50] = False
    assert 0 not in egos.choose_egos(cars, 0, 8)
    assert egos.choose_egos(tracks([0.0], [5.0], kind=2), 0, 8) == []


def test_groups_are_split_by_their_name_alone():
    fractions = records.Fractions()
    names = [f"group{i}" for i in range(2000)]
    splits = [records.split_of(name, 0, fractions) for name in names]
    assert abs(splits.count("train") / 2000 - 0.55) < 0.04 and abs(splits.count("test") / 2000 - 0.2) < 0.03
    assert splits != [records.split_of(name, 1, fractions) for name in names]


@pytest.mark.parametrize("text", ["\ud800", "town \udfff"])
def test_half_of_a_surrogate_pair_in_a_manifest_is_named(tmp_path, text):
    manifest = tmp_path / "groups.json"
    manifest.write_text(json.dumps([{"scenario_id": "a", "location_group": text}]))  # as an escape
    with pytest.raises(DataError, match=r"groups\.json, record 0, field location_group: expected text that UTF-8"):
        build.read_manifest(manifest, "location_group")


@protos
def test_the_build_command_splits_by_group(tmp_path, capsys):
    from tether.data.sources import available_splits, open_split

    names = [f"s{i}" for i in range(16)]
    payloads = [scenario(name, east_m=0.3 * i).SerializeToString() for i, name in enumerate(names)]
    write(tmp_path / "a.tfrecord", *payloads[:8])
    write(tmp_path / "b.tfrecord", b"broken", *payloads[8:])
    manifest = tmp_path / "groups.json"
    manifest.write_text(json.dumps([{"scenario_id": n, "location_group": f"g{int(n[1:]) // 2}"} for n in names]))
    notes = tmp_path / "notes.json"
    notes.write_text(json.dumps([{"scenario_id": "s3", "note": "mind the tram"}]))
    fractions = records.Fractions(0.25, 0.25, 0.25, 0.25)
    config = build.BuildConfig(
        womd=str(tmp_path / "*.tfrecord"),
        out=tmp_path / "set",
        groups=manifest,
        notes=notes,
        max_skipped=0.1,
        seed=3,
        fractions=fractions,
    )
    assert build.build(config)
    summary = capsys.readouterr().out
    assert "scenes with one of the 1 notes: 2" in summary
    assert "32 scenes" in summary and "skipped 1 of 17" in summary and "record 0: expected a WOMD Scenario" in summary
    seen, noted = {}, set()
    for split in available_splits(config.out):
        for i in range(available_splits(config.out)[split]):
            record = open_split(config.out, split)[i]
            seen.setdefault(record.group, set()).add(split)
            noted |= {record.scenario_id} if record.instruction.endswith(", mind the tram") else set()
    assert noted == {"s3"}
    assert len(seen) == 8 and all(len(splits) == 1 for splits in seen.values())
    assert not build.build(config)
    with pytest.raises(DataError, match="expected JSON"):
        build.read_manifest(tmp_path / "a.json", "location_group")


@protos
@real
def test_real_records():
    from tether.data.womd import read_file

    groups = build.read_manifest(REAL / "manifest.json", "location_group")
    ledger = SkipLedger(max_skipped=0.1)
    files = sorted(REAL.glob("train/*-00000-of-*.tfrecord"))
    offsets = []
    for path in files:
        for raw, _ in zip(read_file(str(path), ledger, 2, groups), range(8), strict=False):
            record = pad(raw, SceneSpec())
            validate(record, SceneSpec())
            scene, shown = record.scene, record.scene.route_valid
            route = np.stack([scene.route_x[shown], scene.route_y[shown]], axis=1).astype(float)
            log = np.stack([scene.x[scene.ego], scene.y[scene.ego]], axis=1).astype(float)
            offsets.append(np.abs(project(log, route)[1]).max())
    assert len(files) >= 4 and len(offsets) >= 20
    assert max(offsets) < 4.0 and np.median(offsets) < 1.0


@protos
@real
def test_the_other_form_of_the_data_set_is_a_wrong_proto():
    from tether.data.womd import parse_scenario

    path = REAL / "original" / "motion_data_one_example.tfrecord"
    payload = next(tfrecord.read_records(str(path)))
    with pytest.raises(DataError, match="expected a WOMD Scenario proto"):
        parse_scenario(payload)


@protos
def test_a_tf_example_is_named_as_such():
    from tensorflow_datasets.proto import tf_example_pb2

    from tether.data import womd

    made = tf_example_pb2.Example()
    made.features.feature["scenario/id"].bytes_list.value.append(b"637f20cafde22ff8")
    made.features.feature["state/current/x"].float_list.value.extend([1.0, 2.0])
    for payload in (made.SerializeToString(), made.SerializeToString() * 2):
        with pytest.raises(DataError, match=r"found a tf\.Example: take Waymo's folder `scenario`"):
            womd.parse_scenario(payload)
    with pytest.raises(DataError, match="found one without scenario_id"):
        womd.parse_scenario(b"")
