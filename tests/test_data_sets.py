"""Writing, finding, reading and batching data sets."""

import dataclasses
import pathlib

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto import tf_example_pb2

from tests.raw_scenes import straight_road, turned
from tether.data.builder import write_dataset
from tether.data.errors import DataError, SkipLedger
from tether.data.padding import pad
from tether.data.pipeline import SceneBatches
from tether.data.raw import localize
from tether.data.scene import SceneSpec
from tether.data.sources import available_splits, open_split
from tether.data.storage import HEADING_RAD, MAP_M, SPEED_MPS, TRACK_M, decode, encode

SPEC = SceneSpec(agents=4, polylines=16, points=8, lights=2, route_points=60)
REQUEST = {"source": "hand", "seed": 3}


def scenes(count):
    return [localize(turned(straight_road(f"scene{i}", speed=4.0 + i), 0.3 * i)) for i in range(count)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets") / "set"
    assert write_dataset({"train": scenes(7), "test": scenes(2)}, path, REQUEST)
    return path


def test_storage_keeps_scenes_within_its_quantisation():
    raw = localize(turned(dataclasses.replace(straight_road(), note="mind the tram 🚋"), 0.7))
    back = decode(encode(raw))
    np.testing.assert_array_equal(back.valid, raw.valid)
    steps = dict(x=TRACK_M, y=TRACK_M, vel_x=SPEED_MPS, vel_y=SPEED_MPS)
    for name, step in steps.items():
        error = np.where(raw.valid, getattr(back, name) - getattr(raw, name), 0.0)
        assert np.abs(error).max() <= 0.501 * step, name
    assert np.abs(np.where(raw.valid, back.heading - raw.heading, 0.0)).max() <= 0.501 * HEADING_RAD
    for name in ("light_x", "route_x", "route_y", "length"):
        np.testing.assert_allclose(getattr(back, name), getattr(raw, name), atol=0.501 * MAP_M)
    for line, kept in zip(raw.road_points, back.road_points, strict=True):
        np.testing.assert_allclose(kept, line, atol=0.501 * MAP_M)
    same = ("scenario_id", "group", "source", "note", "ego", "current")
    assert all(getattr(back, name) == getattr(raw, name) for name in same)
    np.testing.assert_array_equal(back.light_state, raw.light_state)
    np.testing.assert_array_equal(back.origin, raw.origin)


def test_storage_of_a_scene_without_lights_or_road():
    bare = dataclasses.replace(
        straight_road(),
        road_type=np.zeros(0, int),
        road_points=(),
        **{name: getattr(straight_road(), name)[:0] for name in ("light_x", "light_y", "light_on_route")},
        **{name: getattr(straight_road(), name)[:0] for name in ("light_state", "light_valid")},
    )
    record = pad(decode(encode(localize(bare))), SPEC)
    assert not record.scene.road_valid.any() and not record.scene.light_valid.any()
    assert (record.scene.light_route_s == -1).all()


def test_a_split_reads_back(directory):
    assert available_splits(directory) == {"train": 7, "test": 2}
    source = open_split(directory, "train", SPEC)
    assert len(source) == 7
    for i, raw in enumerate(scenes(7)):
        record, expected = source[i], pad(raw, SPEC)
        assert (record.scenario_id, record.instruction) == (f"scene{i}", expected.instruction)
        np.testing.assert_allclose(record.scene.x, expected.scene.x, atol=TRACK_M)
        np.testing.assert_array_equal(record.scene.instruction, expected.scene.instruction)
    assert source[-1].scenario_id == "scene6"
    with pytest.raises(IndexError):
        source[7]


def test_another_spec_reads_the_same_set(directory):
    scene = open_split(directory, "test", dataclasses.replace(SPEC, agents=2, points=5))[0].scene
    assert scene.x.shape == (2, 91) and scene.road_x.shape == (16, 5)


def test_a_finished_set_is_not_rebuilt(directory):
    def never():
        raise AssertionError("scenes were asked for again")

    assert not write_dataset({"train": never}, directory, REQUEST)
    with pytest.raises(DataError, match=r"another request \(different: \['seed'\]\)"):
        write_dataset({"train": never}, directory, REQUEST | {"seed": 4})


def test_the_same_scenes_make_the_same_bytes(directory, tmp_path):
    write_dataset({"train": scenes(7), "test": scenes(2)}, tmp_path / "elsewhere", REQUEST)
    files = sorted(path.name for path in directory.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "elsewhere").iterdir())
    for name in files:
        assert (directory / name).read_bytes() == (tmp_path / "elsewhere" / name).read_bytes(), name
        assert str(tmp_path.parent.parent).encode() not in (directory / name).read_bytes(), name


def test_records_hold_their_fields_in_one_order(directory):
    """Within one process protobuf orders a map alike each time, so equal files alone would not show it."""
    for file in directory.glob("*.array_record*"):
        for record in ArrayRecordDataSource(str(file)):
            assert tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True) == record


def test_an_interrupted_build_leaves_no_set_and_is_rebuilt(tmp_path):
    def broken():
        yield scenes(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset({"train": broken}, tmp_path / "set", REQUEST)
    assert list(tmp_path.iterdir()) == []
    half = tmp_path / "set"
    half.mkdir()
    (half / "tether_scenes-train.array_record-00000-of-00001").write_bytes(b"half")
    with pytest.raises(DataError, match="expected a finished data set"):
        open_split(half, "train")
    assert write_dataset({"train": scenes(1)}, half, REQUEST)
    assert available_splits(half) == {"train": 1}


@pytest.mark.parametrize("place", ["memory://set", "nowhere://set"])
def test_a_place_that_tfds_cannot_write_to_is_refused(place):
    with pytest.raises(DataError, match=r"memory://|Protocol not known"):
        write_dataset({"train": scenes(1)}, place, REQUEST)


def test_a_link_is_followed_and_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "disk" / "sets").mkdir(parents=True)
    (tmp_path / "sets").symlink_to(tmp_path / "disk" / "sets")
    assert write_dataset({"train": scenes(1)}, "~/sets", REQUEST)
    assert (tmp_path / "sets").is_symlink() and available_splits(tmp_path / "disk" / "sets") == {"train": 1}
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["sets"]
    assert not write_dataset({"train": scenes(1)}, tmp_path / "sets", REQUEST)


def test_foreign_files_are_never_removed(tmp_path):
    (tmp_path / "thesis.json").write_text("precious")
    with pytest.raises(DataError, match=r"is not empty .*thesis\.json"):
        write_dataset({"train": scenes(1)}, tmp_path, REQUEST)
    assert (tmp_path / "thesis.json").exists()


def test_missing_splits_files_and_empty_splits_are_named(directory, tmp_path):
    with pytest.raises(DataError, match=r"expected a split of \['test', 'train'\], found 'valid'"):
        open_split(directory, "valid")
    with pytest.raises(DataError, match="found none"):
        open_split(pathlib.Path("nowhere"), "train")
    (tmp_path / "my logs").mkdir()
    (tmp_path / "my logs" / "a.tfrecord-00000").touch()
    with pytest.raises(DataError, match=r"python -m tether.data\.build --womd '.*/my logs' --out DIR`\), found logs"):
        open_split(tmp_path / "my logs", "train")
    with pytest.raises(DataError, match="split test: no scenes"):
        write_dataset({"train": scenes(1), "test": []}, tmp_path / "set", REQUEST)
    write_dataset({"train": scenes(1)}, tmp_path / "set", REQUEST)
    next((tmp_path / "set").glob("*.array_record*")).unlink()
    with pytest.raises(DataError, match="split train: expected 1 files, found 0"):
        open_split(tmp_path / "set", "train")


def batches(directory, **arguments):
    arguments = dict(batch_size=2, seed=5) | arguments
    return SceneBatches(open_split(directory, "train", SPEC), **arguments)


def take(iterator, count):
    return [next(iterator)[1].tolist() for _ in range(count)]


def test_batches_are_deterministic_and_reshuffled(directory):
    order = take(batches(directory), 7)
    assert order == take(batches(directory), 7)
    assert order != take(batches(directory, seed=6), 7)
    flat = [i for batch in order for i in batch]
    assert sorted(flat[:7]) == sorted(flat[7:]) == list(range(7)) and flat[:7] != flat[7:]


def test_a_batch_holds_the_scenes_of_its_indices(directory):
    scene, indices = next(batches(directory))
    source = open_split(directory, "train", SPEC)
    assert scene.x.shape == (2, 4, 91) and indices.dtype == np.int64
    for row, index in enumerate(indices):
        np.testing.assert_array_equal(scene.x[row], source[int(index)].scene.x)


def positions(iterator, count):
    """Of the scenes that were read, [count, rows, ...]."""
    return np.stack([next(iterator)[0].x for _ in range(count)])


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_each_batch_and_no_scene_is_read_twice_in_a_pass(directory, hosts):
    """Seven scenes in batches of four: seven batches are four passes."""
    whole = take(batches(directory, batch_size=4), 7)
    assert np.sort(np.reshape(whole, (4, 7)), axis=1).tolist() == [list(range(7))] * 4
    rows_by_host = np.split(np.arange(4), hosts)
    assert all(take(batches(directory, batch_size=4, rows=rows), 7) == whole for rows in rows_by_host)
    parts = [positions(batches(directory, batch_size=4, rows=rows), 7) for rows in rows_by_host]
    assert {part.shape[1] for part in parts} == {4 // hosts}
    source = open_split(directory, "train", SPEC)
    expected = [[source[index].scene.x for index in batch] for batch in whole]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)


def test_another_number_of_hosts_goes_on_with_the_same_batches(directory):
    alone = batches(directory, batch_size=4)
    take(alone, 3)
    state, expected = alone.get_state(), positions(alone, 2)
    for hosts in (2, 4):
        parts = [batches(directory, batch_size=4, rows=rows) for rows in np.split(np.arange(4), hosts)]
        for part in parts:
            part.set_state(state)
        np.testing.assert_array_equal(np.concatenate([positions(part, 2) for part in parts], axis=1), expected)


@pytest.mark.parametrize("rows", [[], [1, 2], [-1]])
def test_rows_that_a_batch_does_not_have_are_refused(directory, rows):
    with pytest.raises(ValueError, match="none of a batch of 2"):
        batches(directory, rows=rows)


def test_resuming_continues_with_the_next_batch(directory):
    iterator = batches(directory)
    take(iterator, 5)
    state = iterator.get_state()
    expected = take(iterator, 6)
    resumed = batches(directory)
    resumed.set_state(state)
    assert take(resumed, 6) == expected


def test_the_ledger_stops_past_its_fraction_with_the_list():
    ledger = SkipLedger(max_skipped=0.1, patience=20)
    for record in range(10):
        ledger.see("a.tfrecord", str(record))
    ledger.skip("a.tfrecord", "3", DataError("corrupt record"))
    ledger.skip("a.tfrecord", "3", DataError("corrupt record"))  # read again for another split
    assert (ledger.seen, len(ledger.errors)) == (10, 1)
    ledger.finish()
    ledger.skip("a.tfrecord", "4", DataError("no valid ego", record="id4"))
    with pytest.raises(DataError, match=r"(?s)skipped 2 of 10 .*record 3: corrupt.*record 4 \(id4\): no valid"):
        ledger.finish()
    with pytest.raises(DataError, match="skipped 3 of 10"):
        ledger.skip("a.tfrecord", "5", DataError("truncated"))
