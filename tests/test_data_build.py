"""Building a data set: what is counted, and that a pipeline builds what one process does."""

import collections
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import random
import sys

import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource

from tests.raw_scenes import scenario, straight_road
from tether.data import beam, build, records, tfrecord
from tether.data.errors import DataError, SkipLedger
from tether.data.padding import Dropped
from tether.data.raw import localize
from tether.data.recordings import Recordings
from tether.data.records import Fractions, Kept, Rules
from tether.data.statistics import Statistics, reason
from tether.data.sumo.generate import scenes_hash
from tether.data.womd import convert

protos = pytest.mark.skipif(
    importlib.util.find_spec("waymo_open_dataset") is None,
    reason="needs the WOMD protos: pip install --no-deps waymo-open-dataset-tf-2-12-0==1.6.7",
)
with_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="needs Apache Beam: pip install -e '.[beam]'"
)


def kept(split, group, polylines=0, nearest=float("inf"), off_road=False, speed=10.0):
    raw = localize(straight_road(group=group, speed=speed))
    dropped = Dropped(agents=1, polylines=polylines, lights=0, tokens=0, nearest_polyline_m=nearest)
    return Kept(split, raw, dropped, off_road)


def part(scenes, seen=0, skipped=(), noted=()):
    ledger = SkipLedger(max_skipped=1.0)
    for file, record, counts in noted:
        ledger.note(file, record, counts)
    statistics = Statistics(seen=seen, skipped=list(skipped))
    statistics.note(ledger.notes)
    collections.deque(statistics.counted(scenes, Recordings()), maxlen=0)
    return statistics


def test_statistics_count_what_is_kept_and_what_is_left_out():
    error = DataError("expected 91 states per track, found [3]", "tracks")
    ledger = SkipLedger(max_skipped=1.0)
    for record in range(4):
        ledger.see("a.tfrecord", str(record))
    ledger.skip("a.tfrecord", "2", error)
    again = kept("train", "g1", 9)
    first = kept("train", "g1"), kept("train", "g1", 3, 60.25, speed=11.0, off_road=True)
    statistics = part([*first, again, kept("test", "g2", 2, 50.0)])
    statistics.close(ledger)
    summary = statistics.to_json()
    assert (summary["split"]["train"]["scenes"], summary["split"]["train"]["groups"]) == (2, 1)
    assert (summary["split"]["train"]["starts_off_road"], summary["split"]["test"]["starts_off_road"]) == (1, 0)
    assert (summary["split"]["train"]["not_kept"], summary["split"]["test"]["not_kept"]) == ({"same_ego": 1}, {})
    raw = kept("train", "g1").scene
    assert sum(summary["split"]["train"]["agents"].values()) == 2 * len(raw.x)
    assert summary["split"]["train"]["with"]["vehicle_near"] == 2
    left = summary["split"]["train"]["left_out"]
    assert left == {"agents": 2, "polylines": 3, "lights": 0, "tokens": 0, "nearest_polyline_m": 60.2}
    assert summary["split"]["test"]["left_out"]["nearest_polyline_m"] == 50.0
    assert (summary["records"], summary["skipped"]["records"]) == (4, 1)
    assert summary["skipped"]["by_reason"] == {"tracks: expected # states per track, found [#]": 1}
    assert summary["skipped"]["first"] == ["a.tfrecord, record 2, field tracks: " + error.reason]
    assert summary["noted"] == {}


def test_notes_count_records_and_occurrences():
    ledger = SkipLedger(max_skipped=1.0)
    ledger.note("b", "7", {"tracks left out": 3, "lights that move": 0})
    ledger.note("a", "9", {"tracks left out": 2})
    ledger.note("a", "9", {"tracks left out": 2})  # read again for another split
    ledger.note("a", "9", {"lights that move": 1})
    statistics = Statistics()
    statistics.close(ledger)
    assert statistics.to_json()["noted"] == {
        "lights that move": {"records": 1, "count": 1, "example": "a, record 9"},
        "tracks left out": {"records": 2, "count": 5, "example": "a, record 9"},
    }


def test_reasons_do_not_depend_on_the_record():
    errors = [DataError(f"expected at least 0.05 m, found {n} tracks", "length", f"scene{n}", "a") for n in (2, 30)]
    assert {reason(error) for error in errors} == {"length: expected at least # m, found # tracks"}


def test_parts_add_up_in_any_order():
    parts = [
        [kept("train", "g1"), kept("test", "g2", 1, 70.0)],
        [kept("train", "g3", 4, 40.0)],
        [],
        [kept("train", "g4", 1, 55.0, speed=9.0)],
    ]
    skipped = [("b: bad", "bad"), ("a: bad", "bad"), ("c: short", "short"), ("d: bad", "bad")]
    noted = [("b", "1", {"moved": 1}), ("a", "2", {"moved": 4, "flat": 2}), ("c", "3", {}), ("b", "4", {"flat": 1})]
    whole = part(itertools.chain(*parts), 8, skipped, noted).to_json()
    assert whole["noted"]["flat"] == {"records": 2, "count": 3, "example": "a, record 2"}

    def pieces():
        return [part(scenes, 2, [m], [note]) for scenes, m, note in zip(parts, skipped, noted, strict=True)]

    for seed in range(3):
        shuffled = pieces()
        random.Random(seed).shuffle(shuffled)
        assert beam.total([beam.total(shuffled[:2]), beam.total([]), *shuffled[2:]]).to_json() == whole


def test_splits_of_fraction_zero_are_not_made():
    rules = Rules(1, None, 0, Fractions(train=0.9, grounding=0.0, validation=0.1, test=0.0))
    assert rules.splits == ["validation", "train"]
    assert {rules.split(f"g{i}") for i in range(200)} == {"train", "validation"}


def test_without_beam_the_extra_is_named(monkeypatch):
    for name in ("apache_beam", "apache_beam.options", "apache_beam.options.pipeline_options"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=r'pip install -e "\.\[beam\]"'):
        beam.options(["runner=DirectRunner"])


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Three files of WOMD records, one of the records broken."""
    folder = tmp_path_factory.mktemp("logs")
    names = [f"s{i}" for i in range(18)]
    for number in range(3):
        payloads = [scenario(name).SerializeToString() for name in names[number::3]]
        broken = [b"broken"] if number == 1 else []
        (folder / f"{number}.tfrecord").write_bytes(b"".join(map(tfrecord.frame, [*broken, *payloads])))
    return str(folder / "*.tfrecord")


@protos
def test_a_change_of_the_conversion_comes_with_another_converter():
    """Where this fails, add one to `records.CONVERTER` and write the new hash down: old sets are then built again."""
    known = {3: "ec7b5c45092c4e2bcf8947482d9e007135f8fd2f6cc92a7e4e90422d6effe908"}
    assert known[records.CONVERTER] == scenes_hash([localize(raw) for raw in convert(scenario(vehicles=3), "here", 3)])


def config(logs, out, **changes):
    fractions = Fractions(train=0.5, grounding=0.0, validation=0.5, test=0.0)
    return build.BuildConfig(
        womd=logs, out=str(out), egos_per_scene=2, max_skipped=0.06, fractions=fractions, **changes
    )


def files(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.array_record*")}


def contents(folder):
    """Each record of each split and how often it is there."""
    counts = collections.Counter()
    for path in folder.glob("*.array_record*"):
        split = path.name.split("-")[1]
        counts.update((split, record) for record in ArrayRecordDataSource(str(path)))
    return counts


@pytest.fixture(scope="module")
def plain(logs, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "set"
    assert build.build(config(logs, out))
    return out


@protos
def test_the_summary_stands_beside_the_records(plain):
    summary = json.loads((plain / "summary.json").read_text())
    scenes = {name: split["scenes"] for name, split in summary["split"].items()}
    assert sum(scenes.values()) == 36 and set(scenes) == {"train", "validation"}
    assert (summary["records"], summary["skipped"]["records"]) == (19, 1)
    (message,) = summary["skipped"]["first"]
    assert "1.tfrecord, record 0: expected a WOMD Scenario proto" in message


@protos
@with_beam
def test_a_pipeline_builds_the_same_records_and_summary(logs, plain, tmp_path):
    assert build.build(config(logs, tmp_path / "set", beam=("runner=DirectRunner",)))
    assert contents(tmp_path / "set") == contents(plain)
    assert (tmp_path / "set" / "summary.json").read_bytes() == (plain / "summary.json").read_bytes()
    with pytest.raises(DataError, match=r"another request \(different: \['shuffled'\]\)"):
        build.build(config(logs, tmp_path / "set"))


@protos
@with_beam
def test_shards_are_the_same_for_any_number_of_workers(logs, tmp_path):
    for name, workers in (("one", 1), ("three", 3)):
        options = ("runner=DirectRunner", f"direct_num_workers={workers}", "direct_running_mode=multi_threading")
        build.build(config(logs, tmp_path / name, beam=options, shards=2))
    assert files(tmp_path / "one") == files(tmp_path / "three") and len(files(tmp_path / "one")) == 4


@protos
@with_beam
def test_too_many_skipped_records_leave_no_set(logs, tmp_path):
    strict = dataclasses.replace(config(logs, tmp_path / "set", beam=("runner=DirectRunner",)), max_skipped=0.05)
    with pytest.raises(DataError, match=r"(?s)skipped 1 of 19 records.*1\.tfrecord, record 0"):
        build.build(strict)
    assert not list(tmp_path.iterdir())
