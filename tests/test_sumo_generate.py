"""The SUMO generator end to end, where SUMO is installed, and the starter set that ships."""

import json

import pytest

from tether.data.scene import SceneSpec
from tether.data.sources import STARTER, available_splits, open_split
from tether.data.sumo.generate import HASH_FILE, SUMMARY_FILE, NetworkJob, file_hashes, network_scenes, scenes_hash
from tether.data.sumo.install import SumoError, import_libsumo
from tether.data.sumo.workers import run_job
from tether.data.validation import validate

SPLITS = ("train", "grounding", "validation", "test")
LARGEST_BYTES = 20_000_000

shipped = pytest.mark.skipif(not (STARTER / HASH_FILE).exists(), reason="the starter set is not in this checkout")


@pytest.fixture
def sumo() -> None:
    """Skips where SUMO cannot be imported."""
    try:
        import_libsumo()
    except SumoError as error:
        pytest.skip(str(error))


def test_networks_and_demand_do_not_depend_on_the_hash_seed(sumo, tmp_path, monkeypatch):
    made = []
    for hash_seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
        made.append(run_job(network_and_demand, tmp_path / hash_seed))
    assert made[0] == made[1]
    assert made[0] != run_job(other_network_and_demand, tmp_path / "3")


def network_and_demand(directory, seed: int = 5) -> tuple[bytes, bytes]:
    """A spider's web and its traffic as files; netconvert's header, which holds the time, is left out."""
    from tether.data.sumo.demand import write_demand
    from tether.data.sumo.network import build_network
    from tether.data.sumo.road_network import read_network

    directory.mkdir()
    job = NetworkJob(seed, 2, 1)
    network = build_network(job.stream("network").randrange(2**30), job.kind, directory)
    write_demand(job.stream("demand"), read_network(network), job.kind, directory / "demand.xml", 30.0)
    return network.read_bytes().partition(b"<net ")[2], (directory / "demand.xml").read_bytes()


def other_network_and_demand(directory) -> tuple[bytes, bytes]:
    """The same with another seed."""
    return network_and_demand(directory, seed=6)


@shipped
def test_a_shipped_network_is_made_again_byte_for_byte(sumo):
    request = json.loads((STARTER / "request.json").read_text())
    job = NetworkJob(request["seed"], 3, request["scenes"])
    expected = json.loads((STARTER / SUMMARY_FILE).read_text())["network_sha256"]
    assert scenes_hash(run_job(network_scenes, job).scenes) == expected[job.name]


@shipped
def test_starter_files_are_those_that_were_made():
    assert file_hashes(STARTER) == (STARTER / HASH_FILE).read_text()
    assert sum(path.stat().st_size for path in STARTER.iterdir()) <= LARGEST_BYTES


@shipped
def test_starter_splits_share_no_network():
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(STARTER)
    groups = {split: {example["group"] for example in builder.as_data_source(split=split)} for split in SPLITS}
    assert set(available_splits(STARTER)) == set(SPLITS)
    assert sum(map(len, groups.values())) == len(set().union(*groups.values()))
    for names in groups.values():
        assert {name.decode().split("-")[0] for name in names} == {"grid", "random", "spider", "highway"}


@shipped
def test_starter_records_load_and_are_valid():
    for split in SPLITS:
        source = open_split(STARTER, split)
        record = source[len(source) // 2]
        validate(record, SceneSpec())
        assert record.source == "sumo" and record.group in record.scenario_id
