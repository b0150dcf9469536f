"""Many devices and several processes: where arrays lie, and that the numbers are those of one device."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tether.training import mesh, presets
from tether.training.mesh import ALONE, MeshConfig, parameter_spec
from tether.training.processes import DistributedConfig, Votes, to_host
from tether.training.validation import check_rows, validate

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("shape", "sizes", "expected"),
    [
        ((8, 16), (1, 2, 1), (None, "fsdp")),  # the largest dimension
        ((8, 16), (1, 2, 2), ("fsdp", "tensor")),  # of those that tensor leaves
        ((8, 16), (2, 1, 4), (None, "tensor")),
        ((8, 15), (1, 2, 4), ("fsdp",)),  # an axis cuts no dimension that it does not divide
        ((3, 3, 12, 8), (1, 4, 1), (None, None, "fsdp")),
        ((5, 15), (1, 2, 2), ()),
        ((4, 16), (1, 2, 2), ()),  # small
        ((1024,), (1, 2, 2), ()),  # a vector
    ],
)
def test_the_rule_for_parameters(shape, sizes, expected):
    assert parameter_spec(shape, dict(zip(mesh.AXES, sizes, strict=True)), 65) == PartitionSpec(*expected)


def test_a_mesh_of_other_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match=rf"expected the {jax.device_count()} devices found here, found -1 x 3 x 1"):
        mesh.make(MeshConfig(fsdp=3))


def test_rows_that_cannot_be_shared_are_listed():
    parts = dataclasses.replace(ALONE, mesh=jax.sharding.AbstractMesh((2, 2, 1), mesh.AXES)).row_parts
    with pytest.raises(ValueError, match=r"(?s)mesh\.fsdp = 4.*fit\.scenes / 2: expected a multiple of 4, found 2"):
        check_rows(presets.tiny(), parts)
    check_rows(presets.h200(), parts)


@pytest.mark.parametrize(
    ("several", "expected"),
    [
        (DistributedConfig(processes=2), "coordinator: expected host:port of the first process, found None"),
        (DistributedConfig(coordinator="a:1", processes=2, index=2), "index: expected below distributed.processes"),
        (DistributedConfig(coordinator="a:1", detect=True), "coordinator: expected none"),
    ],
)
def test_processes_that_cannot_meet_are_refused(several, expected):
    with pytest.raises(ValueError, match=expected):
        validate(dataclasses.replace(presets.tiny(), distributed=several))


def test_one_device_has_no_layout():
    rows = {"a": np.arange(4)}
    assert ALONE.keep(rows) is rows and ALONE.spread(rows) is rows and ALONE.gathered(rows) is rows
    assert ALONE.own(3).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(to_host(ALONE.assemble(rows))["a"], rows["a"])


def test_one_process_decides_at_once():
    assert Votes().cast(True, False) == (True, False)


def child(devices, *arguments):
    """A process of `mesh_child.py` with so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "tests.mesh_child", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags}, stdout=subprocess.PIPE, text=True
    )


def printed(process):
    """The JSON that a process prints last. Fails where the process fails."""
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """What the process with eight devices prints."""
    return printed(child(8, "devices", tmp_path_factory.mktemp("checkpoints")))


def test_losses_on_a_mesh_are_those_of_one_device(eight):
    alone, cut = eight["imitation"]["alone"], eight["imitation"]["cut"]
    assert len(set(alone["losses"])) > 1
    np.testing.assert_allclose(cut["losses"], alone["losses"], rtol=1e-5)


def test_parameters_and_moments_are_cut_and_stay_where_they_are(eight):
    layout = eight["imitation"]["cut"]
    assert layout["kept"] and min(layout["cut"].values()) > 20


def test_checkpoints_go_on_on_another_mesh_bit_for_bit(eight):
    assert eight["restored"] == [True, True, True]


def test_minibatches_of_spread_transitions_are_spread(eight):
    assert eight["transitions"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes prints."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    directory = tmp_path_factory.mktemp("checkpoints")
    running = [child(2, "process", directory, port, index) for index in range(2)]
    return [printed(process) for process in running]


def test_processes_read_their_own_rows_and_make_one_batch_of_them(two):
    assert [one["own"] for one in two] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for one in two:
        assert not one["addressable"] and one["placed"] and one["assembled"] and one["gathered"]
        assert one["keys"] == jax.random.key_data(jax.random.split(jax.random.key(1), 8)).tolist()


def test_processes_write_one_checkpoint_and_all_read_it(two):
    assert two[0]["restored"] == two[1]["restored"] is not None


def test_a_stop_of_one_process_reaches_all_one_step_later(two):
    for one in two:
        assert one["votes"] == [[False, False], [False, False], [False, True], [False, False]]
