"""`python -m tether.data.build` from outside: settings, files and disks that cannot work, and what it leaves behind."""

import dataclasses
import fcntl
import importlib.util
import json
import os
import resource
import sys
import tempfile

import pytest

from tests.raw_scenes import scenario
from tether.data import build, records, tfrecord, womd
from tether.data.errors import DataError
from tether.data.records import Fractions
from tether.data.sources import available_splits, open_split

protos = pytest.mark.skipif(
    importlib.util.find_spec("waymo_open_dataset") is None,
    reason="needs the WOMD protos: pip install --no-deps waymo-open-dataset-tf-2-12-0==1.6.7",
)
with_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="needs Apache Beam: pip install -e '.[beam]'"
)
ONE_SPLIT = [f"--fractions.{name}=0" for name in ("grounding", "validation", "test")]


def write(path, *names):
    """A file of scenarios."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(tfrecord.frame(scenario(name, 1).SerializeToString()) for name in names))
    return str(path)


def run(capsys, *arguments):
    """Status, output and error of the command."""
    status = build.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys, *arguments):
    """The one line of an error."""
    status, _, error = run(capsys, *arguments)
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in error
    assert status == 2 and len(lines) == 1, error
    return lines[0]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--fractions.train=0", *ONE_SPLIT], "fractions: expected a finite sum above 0, found 0.0"),
        (["--fractions.train=-1"], "fractions.train: expected a number of at least 0, found -1.0"),
        (["--fractions.test=nan"], "fractions.test: expected a number of at least 0, found nan"),
        (["--fractions.test=inf"], "fractions.test: expected a number of at least 0, found inf"),
        (
            [f"--fractions.{name}=1e308" for name in ("train", "test")],
            "fractions: expected a finite sum above 0, found inf",
        ),
        (["--egos-per-scene=0"], "egos_per_scene: expected at least 1, found 0"),
        (["--max-skipped=2"], "max_skipped: expected a fraction in [0, 1], found 2.0"),
        (["--max-skipped=nan"], "max_skipped: expected a fraction in [0, 1], found nan"),
        (["--seed=-1"], "seed: expected at least 0, found -1"),
        (["--shards=0", "--beam"], "shards: expected at least 1, found 0"),
        (["--shards=2"], "shards: expected none without --beam, found 2"),
        (["--held-out="], "held_out: expected a name, found "),
        (["--held-out=x", *ONE_SPLIT], "fractions of what --held-out is for: expected a finite sum above 0, found 0.0"),
        (
            ["--egos-per-scene=-3", "--max-skipped=-1"],
            "found -3; max_skipped: expected a fraction in [0, 1], found -1.0",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_read(tmp_path, capsys, options, line):
    assert line in refused(capsys, "--womd", tmp_path / "none", "--out", tmp_path / "set", *options)
    assert not list(tmp_path.iterdir())


def test_usage_names_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        build.main(["--womd", "x"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit):
        build.main(["--help"])
    assert "usage: python -m tether.data.build [-h]" in capsys.readouterr().out


def test_missing_protos_are_reported_in_one_line_before_anything_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "waymo_open_dataset", None)
    monkeypatch.setitem(sys.modules, "waymo_open_dataset.protos", None)
    womd.protos.cache_clear()
    error = refused(capsys, "--womd", tmp_path, "--out", tmp_path / "set")
    assert "the WOMD protos are missing: pip install --no-deps waymo-open-dataset" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        (
            [{"scenario_id": "a", "location_group": 3}],
            "expected an object with the texts scenario_id and location_group",
        ),
        ([{"scenario_id": "a", "location_group": g} for g in "xy"], "found 'x' and 'y' for a"),
        ("a", "expected an object with the texts"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path, entries, line):
    (tmp_path / "groups.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match=line):
        build.read_manifest(tmp_path / "groups.json", "location_group")


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("logs") / "a.tfrecord", *(f"s{i}" for i in range(4)))


@protos
def test_a_build_leaves_its_set_and_nothing_else(logs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    status, out, error = run(capsys, "--womd", logs, "--out", tmp_path / "place" / "set", *ONE_SPLIT)
    assert status == 0 and "4 scenes" in out and "skipped 0 of 4" in out
    assert "Downloading" not in out + error and "Unknown size" not in out + error
    assert "split train, scenes 4" in error, "how far the work is"
    assert not list((tmp_path / "temporary").iterdir())
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["set"]


@protos
def test_an_unwritable_directory_is_reported_in_one_line(logs, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "request.json").write_text("[]")
    for out, line in (
        ("file", "file: expected a directory or nothing, found a file"),
        ("file/set", "Not a directory"),
        ("list", "request.json: expected an object, found []"),
    ):
        assert line in refused(capsys, "--womd", logs, "--out", tmp_path / out, *ONE_SPLIT)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "list"}
    assert (tmp_path / "file").read_text() == "precious"


@protos
def test_a_full_disk_is_reported_in_one_line_and_leaves_nothing(logs, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        error = refused(capsys, "--womd", logs, "--out", tmp_path / "set", *ONE_SPLIT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in error and not list(tmp_path.iterdir())


@protos
def test_another_build_in_the_same_place_is_refused_and_a_dead_one_is_not(logs, tmp_path, capsys):
    work = tmp_path / ".set.incomplete"
    (work / "tether_scenes").mkdir(parents=True)
    (work / "half").write_text("a file")
    held = os.open(work, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    arguments = "--womd", logs, "--out", tmp_path / "set", *ONE_SPLIT
    assert "another build is writing here" in refused(capsys, *arguments)
    assert (work / "half").exists()
    os.close(held)
    assert run(capsys, *arguments)[0] == 0 and [path.name for path in tmp_path.iterdir()] == ["set"]


@protos
@pytest.mark.parametrize("beam", [[], pytest.param(["--beam", "runner=DirectRunner"], marks=with_beam)])
def test_a_set_that_is_too_small_for_its_splits_names_the_options(logs, tmp_path, capsys, beam):
    error = refused(capsys, "--womd", logs, "--out", tmp_path / "set", *beam)
    assert "no record has a scene for this split" in error
    assert "another --seed, other --fractions, or do without it (--fractions." in error
    assert not list(tmp_path.iterdir())


@protos
def test_a_stopped_build_prints_one_line_and_exits_with_130(logs, tmp_path, capsys, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(womd, "convert", stopped)
    status, _, error = run(capsys, "--womd", logs, "--out", tmp_path / "set", *ONE_SPLIT)
    assert status == 130 and error.splitlines()[-1] == "stopped; nothing is left behind"
    assert not list(tmp_path.iterdir())


@protos
def test_a_folder_of_tf_examples_is_refused_before_anything_starts(tmp_path, capsys):
    from tensorflow_datasets.proto import tf_example_pb2

    made = tf_example_pb2.Example()
    made.features.feature["scenario/id"].bytes_list.value.append(b"a")
    (tmp_path / "a.tfrecord").write_bytes(tfrecord.frame(made.SerializeToString()))
    assert "take Waymo's folder `scenario`" in refused(capsys, "--womd", tmp_path, "--out", tmp_path / "set")


@protos
def test_finished_means_the_same_content_and_the_same_converter(logs, tmp_path, capsys, monkeypatch):
    source, out = tmp_path / "v1" / "a.tfrecord", tmp_path / "set"
    write(source, "s0", "s1")
    arguments = "--out", out, *ONE_SPLIT
    assert run(capsys, "--womd", source, *arguments)[0] == 0
    elsewhere = tmp_path / "v2" / "a.tfrecord"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(source.read_bytes())
    assert run(capsys, "--womd", elsewhere, *arguments)[:2] == (
        0,
        f"{out}: from 1 files of 0.1 MB\n{out}: found finished\n",
    )
    write(elsewhere, "t0", "t1")
    assert "different: ['files']" in refused(capsys, "--womd", elsewhere, *arguments)
    assert "different: ['egos_per_scene']" in refused(capsys, "--womd", source, *arguments, "--egos-per-scene", 3)
    monkeypatch.setattr(build, "CONVERTER", records.CONVERTER + 1)
    assert "different: ['converter']" in refused(capsys, "--womd", source, *arguments)
    assert {open_split(out, "train")[i].scenario_id for i in range(2)} == {"s0", "s1"}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """As Waymo lays them out: folders of training and of validation. One scenario is in both, against the rules."""
    root = tmp_path_factory.mktemp("scenario")
    names = [f"t{i}" for i in range(8)]
    for number in range(2):
        name = f"training.tfrecord-{number:05d}-of-00002"
        write(root / "training" / name, *names[number::2], *["in both"] * number)
    write(root / "validation" / "validation.tfrecord-00000-of-00001", *(f"v{i}" for i in range(6)), "in both")
    return root


def official_config(official, out, **changes):
    fractions = Fractions(train=0.7, grounding=0.3, validation=0.5, test=0.5)
    places = dict(womd=str(official / "training"), held_out=str(official / "validation"), out=str(out))
    return build.BuildConfig(**places, fractions=fractions, egos_per_scene=1, seed=1, **changes)


@pytest.mark.parametrize("beam", [None, pytest.param(("runner=DirectRunner",), marks=with_beam)])
@protos
def test_no_scenario_is_in_training_and_evaluation(official, tmp_path, beam):
    """The recipe of docs/data_at_scale.md for Waymo's official training and validation."""
    out = tmp_path / "set"
    build.build(official_config(official, out, beam=beam))
    held = {
        split: {open_split(out, split)[i].scenario_id for i in range(count)}
        for split, count in available_splits(out).items()
    }
    assert set(held) == {"train", "grounding", "validation", "test"} and all(held.values())
    assert held["train"] | held["grounding"] == {f"t{i}" for i in range(8)}
    assert held["validation"] | held["test"] == {"in both"} | {f"v{i}" for i in range(6)}
    assert sum(map(len, held.values())) == 15, "no scenario is in two splits"
    summary = json.loads((out / "summary.json").read_text())
    assert sum(split["not_kept"].get("group_in_another_split", 0) for split in summary["split"].values()) == 1
    assert json.loads((out / "request.json").read_text())["held_out"][0]["name"].startswith("validation.tfrecord")


@protos
def test_a_file_cannot_be_trained_on_and_held_out(official, tmp_path):
    both = dataclasses.replace(official_config(official, tmp_path / "set"), womd=str(official / "*" / "*"))
    with pytest.raises(DataError, match=r"expected other files for --held-out, found 1 of --womd among them"):
        build.build(both)


@protos
def test_an_ego_that_two_records_of_a_group_hold_is_kept_once(tmp_path, capsys):
    write(tmp_path / "a.tfrecord", "first ego", "second ego", "elsewhere")
    groups = [("first ego", "here"), ("second ego", "here"), ("elsewhere", "there")]
    manifest = [{"scenario_id": name, "location_group": group} for name, group in groups]
    (tmp_path / "groups.json").write_text(json.dumps(manifest))
    arguments = "--womd", tmp_path, "--out", tmp_path / "set", "--groups", tmp_path / "groups.json", *ONE_SPLIT
    status, out, _ = run(capsys, *arguments)
    assert status == 0 and "2 scenes" in out and "not kept, same_ego: 1" in out
    source = open_split(tmp_path / "set", "train")
    assert [source[i].scenario_id for i in range(2)] == ["first ego", "elsewhere"]


@protos
def test_the_summary_counts_egos_that_begin_off_the_road(tmp_path, capsys):
    made = scenario("beside the road", 1)
    for state in made.tracks[0].states:
        state.center_y = -4.0  # the edge is at -2
    (tmp_path / "a.tfrecord").write_bytes(tfrecord.frame(made.SerializeToString()))
    status, out, _ = run(capsys, "--womd", tmp_path, "--out", tmp_path / "set", *ONE_SPLIT)
    assert status == 0 and "off the road before any action (marked): 1" in out
    assert open_split(tmp_path / "set", "train")[0].starts_off_road
