"""The referee: its pure parts, and one starter network live where SUMO is installed."""

import dataclasses
import os
import socket
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes
from test_sumo_parts import two_lanes

from tether.data.polyline import wrap
from tether.data.scene import SceneSpec
from tether.data.sources import STARTER, open_split
from tether.data.sumo.install import SumoError, import_libsumo
from tether.data.sumo.simulate import Log, recording
from tether.simulator.dynamics import track_log
from tether.simulator.log_replay import LogReplay
from tether.simulator.observe import ego_of
from tether.simulator.prepare import prepare
from tether.simulator.referee.fleet import Fleet
from tether.simulator.referee.frame import from_sumo, to_sumo, window_of
from tether.simulator.referee.manners import FACTORS, change_manners, factors
from tether.simulator.referee.messages import Sight
from tether.simulator.referee.origin import origin_of
from tether.simulator.referee.recognise import cast_of
from tether.simulator.referee.row import boxes_from_sumo
from tether.simulator.referee.world import Referee
from tether.simulator.rollout import rollout
from tether.simulator.world import Action

SMALL = SceneSpec(agents=16, polylines=64, lights=8)  # fewer agents than the scenes have
STEPS = 8
BRAKING = -6.0
ORIGIN = np.array([100.0, -50.0, 2.0])


class Follow(NamedTuple):
    """Follows the log, but accelerates no more than `params` float32[B] allows [m/s^2]."""

    config: object

    def reset(self, params, scene):
        return scene

    def act(self, params, key, observation, scene):
        logged = track_log(ego_of(observation), scene, observation.time, self.config.substeps, self.config)
        return Action(jnp.minimum(logged.acceleration, params[:, None]), logged.curvature), scene, {}


@pytest.fixture(scope="module")
def records(sim_config):
    """Two scenes of one network, their egos on the move with someone behind."""
    if not STARTER.is_dir():
        pytest.skip("the starter set is not in this checkout")
    source = open_split(STARTER, "test", SMALL)
    groups = [source.scene(index).group for index in range(len(source))]
    network = [index for index, group in enumerate(groups) if group == groups[0]]
    some = [source[network[3]], source[network[4]]]
    return [dataclasses.replace(record, scene=prepare(record.scene, sim_config)) for record in some]


@pytest.fixture(scope="module")
def fleet(records):
    """The simulations of `records`; skips without SUMO."""
    try:
        import_libsumo()
    except SumoError as error:
        pytest.skip(str(error))
    fleet = Fleet(records)
    yield fleet
    towns = list(fleet.towns.values())
    fleet.close()
    assert [town.process.returncode for town in towns] == [0], "it ends after all that were forked from it"


@pytest.fixture(scope="module")
def drive(fleet, records, sim_config):
    """Drives two rows -> ego, agents, outcome, lights as numpy."""

    def run(world, params, scene, most, keys):
        result = rollout(world, params, Follow(sim_config), most, scene, STEPS, keys, keys)
        return result.ego, result.agents, result.outcome, result.light_state

    jitted = jax.jit(run, static_argnums=0)

    def one(world, rows, most, seed=0):
        rows = np.array(rows)
        params = fleet.open(rows) if isinstance(world, Referee) else ()
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(rows)
        scene = scenes.stack([records[row].scene for row in rows])
        return jax.tree.map(np.asarray, jitted(world, params, scene, jnp.full(2, most, jnp.float32), keys))

    return one


@pytest.fixture(scope="module")
def world(fleet, sim_config):
    return Referee(sim_config, fleet)


@pytest.fixture(scope="module")
def replayed(drive, world):
    """Both scenes, the ego along its log."""
    return drive(world, [0, 1], np.inf)


@pytest.fixture(scope="module")
def braked(drive, world):
    """Both scenes, the ego at full braking."""
    return drive(world, [0, 1], BRAKING)


def row(result, index):
    """One row of a time-major result."""
    return jax.tree.map(lambda field: field[:, index], result)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_egos_own_log_causes_no_contact_and_the_others_begin_as_logged(replayed, records):
    _, agents, outcome, lights = replayed
    assert not outcome.termination.any() and outcome.valid.all() and (outcome.progress_m.sum((0, 2)) > 10.0).all()
    for index, record in enumerate(records):
        scene, now = record.scene, SceneSpec.current + 1
        seen = scene.valid[:, now]
        np.testing.assert_array_equal(agents.valid[0, index, :, 0], seen)
        for name, tolerance in (("x", 0.1), ("y", 0.1), ("vel_x", 1.0), ("vel_y", 1.0), ("heading", 0.1)):
            simulated, logged = getattr(agents, name)[0, index, :, 0], getattr(scene, name)[:, now]
            apart = (simulated - logged)[seen]
            np.testing.assert_allclose(wrap(apart) if name == "heading" else apart, 0, atol=tolerance, err_msg=name)
        np.testing.assert_array_equal(lights[1, index], scene.light_state[:, SceneSpec.current + 5])


def test_manners_differ_from_those_of_the_logs(replayed, records):
    apart = np.abs(replayed[1].x[-1, 0, :, -1] - records[0].scene.x[:, SceneSpec.current + 5 * STEPS])
    seen = replayed[1].valid[-1, 0, :, -1] & records[0].scene.valid[:, SceneSpec.current + 5 * STEPS]
    assert 0.2 < apart[seen].max() < 10.0


def test_a_follower_brakes_where_log_replay_hits_the_ego(drive, braked, sim_config):
    assert drive(LogReplay(sim_config), [0, 1], BRAKING)[2].collision.any((0, 2)).all()
    assert not braked[2].collision.any()
    assert (braked[0].speed[-1, :, -1] == 0.0).all()


def test_the_seed_decides_the_manners(drive, world, replayed):
    equal(drive(world, [0, 1], np.inf), replayed)
    other = drive(world, [0, 1], np.inf, seed=1)
    assert np.abs(other[1].x - replayed[1].x).max() > 0.1


def test_a_row_depends_on_its_record_alone(drive, world, braked):
    """In the other order, and twice in one batch, as what pads the last batch is."""
    turned, twice = drive(world, [1, 0], BRAKING), drive(world, [1, 1], BRAKING)
    equal(row(turned, 0), row(braked, 1))
    equal(row(turned, 1), row(braked, 0))
    equal(row(twice, 0), row(braked, 1))
    equal(row(twice, 1), row(braked, 1))
    assert (braked[0].x[:, 0] != braked[0].x[:, 1]).any(), "two rows that are alike: their order shows nothing"


def straight_on(substeps):
    """Poses float32[2, S, 3] straight ahead from the current pose, at 5 m/s."""
    ahead = 0.5 * np.arange(1, substeps + 1)
    return np.broadcast_to(np.stack([ahead, 0 * ahead, 0 * ahead], -1), (2, substeps, 3)).astype(np.float32)


def begin(fleet):
    """A rollout of both records; its number."""
    rows = fleet.open(np.arange(2))
    return fleet.reset(rows, np.zeros(2, np.uint32), np.full(2, SceneSpec.current))


def test_a_simulation_that_dies_is_repeated_once_and_then_named(fleet, records):
    alive = np.ones(2, bool)
    number = begin(fleet)
    fleet.step(number, alive, straight_on(2))
    expected = fleet.step(number, alive, straight_on(3))
    number = begin(fleet)
    fleet.step(number, alive, straight_on(2))
    cut_off(fleet.rollouts[0])
    equal(fleet.step(number, alive, straight_on(3)), expected)
    cut_off(fleet.rollouts[0])
    with pytest.raises(SumoError, match=f"{records[0].scenario_id}: its simulation died 2 times"):
        fleet.step(number, alive, straight_on(1))


def cut_off(rollout):
    """Shuts the link to the simulation's process, as if the process were gone."""
    socket.socket(fileno=os.dup(rollout._simulation._link.fileno())).shutdown(socket.SHUT_RDWR)


def test_a_rollout_that_is_over_is_refused(fleet):
    old = begin(fleet)
    begin(fleet)
    with pytest.raises(ValueError, match="drives one at a time"):
        fleet.step(old, np.ones(2, bool), straight_on(1))
    with pytest.raises(ValueError, match="takes over at log step 10"):
        fleet.reset(np.arange(2), np.zeros(2, np.uint32), np.array([10, 20]))


def test_rows_that_are_over_end_their_simulation(fleet):
    number, alive = begin(fleet), np.array([False, True])
    boxes, lights = fleet.step(number, alive, straight_on(2))
    assert not boxes["valid"][0].any() and not lights[0].any() and boxes["valid"][1].any()


@pytest.mark.parametrize(
    ("sumo", "message"),
    [
        ("raise ImportError", r"cannot be set up for {0} and the other scenes of grid-0-4: expected SUMO"),
        ("import os; os._exit(3)", r"process for {0} and the other scenes of grid-0-4 died 2 times"),
    ],
)
def test_a_network_that_cannot_be_simulated_is_named(records, fleet, monkeypatch, tmp_path, sumo, message):
    """A package `sumo` that shadows the real one in the network's process."""
    (tmp_path / "sumo.py").write_text(sumo)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    other = Fleet(records)
    with pytest.raises(SumoError, match=message.format(records[0].scenario_id)):
        other.open(np.arange(2))
    other.close()


def test_without_sumo_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sumo", None)
    with pytest.raises(SumoError, match=r"pip install -e \"\.\[sumo\]\""):
        Fleet([])


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not report a process's processors")
def test_one_processor_is_refused_rather_than_waited_for(monkeypatch):
    pytest.importorskip("sumo", reason="SUMO is not installed")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    with pytest.raises(SumoError, match="needs two processors"):
        Fleet([])


@dataclasses.dataclass(frozen=True)
class Named:
    """The fields of a record that identify its origin."""

    scenario_id: str = "grid-7-4-v12-141"
    group: str = "grid-7-4"
    source: str = "sumo"


def test_a_record_knows_its_network_and_moment():
    job, first = origin_of(Named())
    assert (job.name, job.seed, job.index, first) == ("grid-7-4", 7, 4, 141)


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "womd"},
        {"scenario_id": "5f2a"},
        {"group": "grid-7-8"},
        {"group": "spider-7-4", "scenario_id": "spider-7-4-v12-141"},
    ],
)
def test_a_record_from_elsewhere_is_named(wrong):
    record = dataclasses.replace(Named(), **wrong)
    with pytest.raises(ValueError, match=f"made by `python -m tether.data.sumo`.*{record.scenario_id}"):
        origin_of(record)


def test_poses_in_sumos_terms():
    """A car 4 m long at the frame's origin that looks north: its front is 2 m further north, at 0 degrees."""
    pose = to_sumo(np.array([0.0, 0.0, np.pi / 2 - ORIGIN[2]]), 4.0, ORIGIN)
    np.testing.assert_allclose(pose, [100.0, -48.0, 0.0], atol=1e-9)


def test_poses_survive_sumo(rng):
    poses, length = rng.uniform(-3, 3, (5, 7, 3)), rng.uniform(0, 5, (5, 1))
    np.testing.assert_allclose(from_sumo(to_sumo(poses, length, ORIGIN), length, ORIGIN), poses, atol=1e-9)


def test_boxes_have_the_velocity_of_their_displacement_and_vanish_far_off():
    """Eastwards along the frame: the ego, one that leaves the radius, one that appears at 9 m/s, padding."""
    origin, nan = np.zeros(3), np.full(4, np.nan)

    def sight(step):
        late = [10.0 + step, 3.0, 90.0, 9.0] if step else nan
        agents = np.array([[step, 0.0, 90.0, 3.0], [84.0 + 2 * step, 0.0, 90.0, 0.0], late, nan])
        return Sight(agents, np.zeros(1, np.int32), np.inf)

    boxes = boxes_from_sumo([sight(step) for step in range(3)], 0, np.array([4.0, 4.0, 0.0, 0.0]), origin)
    np.testing.assert_array_equal(boxes["valid"], [[1, 1], [0, 0], [1, 1], [0, 0]])
    np.testing.assert_allclose(boxes["x"], [[-1, 0], [0, 0], [11, 12], [0, 0]], atol=1e-5)
    np.testing.assert_allclose(boxes["vel_x"], [[10, 10], [0, 0], [9, 10], [0, 0]], atol=1e-5)
    np.testing.assert_allclose(boxes["heading"], 0.0, atol=1e-6)


class Vehicles:
    """A stand-in for `libsumo.vehicle` with one value for everything."""

    def __init__(self):
        self.changed = {}

    def __getattr__(self, name):
        if name.startswith("get"):
            return lambda vehicle: 2.0
        return lambda vehicle, value: self.changed.update({name[3:]: value})


def test_manners_are_drawn_by_vehicle_name():
    assert factors("scene 0", "v1") == factors("scene 0", "v1")
    assert factors("scene 0", "v1") != factors("scene 0", "v2") != factors("scene 1", "v2")
    drawn = [factors("scene 0", f"v{number}") for number in range(200)]
    for name, (low, high) in FACTORS.items():
        values = [one[name] for one in drawn]
        assert low <= min(values) < max(values) <= high and min(values) < 1.0 < max(values)
    vehicles = Vehicles()
    change_manners(vehicles, "v1", "scene 0")
    assert vehicles.changed == {name: 2.0 * value for name, value in factors("scene 0", "v1").items()}


def test_agents_are_recognised_by_their_tracks():
    """Two cars pass the same place; padding has no name; a track without a vehicle is refused."""
    log = Log(lanes={"e_0": 0})
    log.agents = {"v": (0, 1, 4.0, 2.0, "car0", ("e",)), "w": (1, 1, 4.0, 2.0, "car0", ("e",))}
    log.rows = [(row, step, 100.0 + row + 0.5 * step, 7.0, 90.0, 0) for row in range(2) for step in range(40)]
    record = recording(log, 40)
    scene = scenes.empty(scenes.TINY)
    fields = {name: getattr(scene, name).copy() for name in ("x", "y", "valid")}
    fields["x"][[2, 0], :30] = record.x[:, 5:35] - 90.0
    fields["y"][[2, 0], :30] = record.y[:, 5:35]
    fields["valid"][[2, 0], :30] = True

    @dataclasses.dataclass(frozen=True)
    class Logged:
        scene: object
        scenario_id: str = "here"
        origin: np.ndarray = dataclasses.field(default_factory=lambda: np.array([90.0, 0.0, 0.0]))

    cast = cast_of(window_of(Logged(dataclasses.replace(scene, **fields)), 5, 10), record, two_lanes())
    assert cast.names == ("w", None, "v", None) and cast.signals == (None, None)
    fields["y"][0, 20] += 0.1
    with pytest.raises(SumoError, match="here: expected the traffic"):
        cast_of(window_of(Logged(dataclasses.replace(scene, **fields)), 5, 10), record, two_lanes())
