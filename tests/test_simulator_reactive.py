"""Reactive traffic: the log where nothing is worse than in it, and the right reaction where something is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes
from probes import STEPS, Planned, in_file, moving, open_plain, plan

from tether.data.scene import AgentType
from tether.simulator.log_replay import LogReplay
from tether.simulator.logged_paths import logged_paths, pose_at
from tether.simulator.prepare import prepare
from tether.simulator.reactive import Reactive
from tether.simulator.rollout import rollout

HORIZON = 16
TRACK = ("x", "y", "heading", "vel_x", "vel_y", "valid")
SIZE = ("length", "width", "agent_type")


def followed(follower_x):
    """A follower at the ego's 10 m/s, and a parked car."""
    return scenes.with_agent(moving(open_plain(10.0), 1, follower_x, 10.0), 3, 30.0, 3.5)


def cut_in():
    """A faster car behind the ego in the lane to its left."""
    return moving(open_plain(10.0), 1, -12.0, 12.0, y=3.5)


def ego_waits():
    """A crosser that the logged ego lets pass: it brakes from 1 s on and stands before x = 20."""
    scene = moving(open_plain(6.0), 0, 0.0, 6.0, -2.0, from_s=1.0)
    return scenes.with_agent(scene, 1, 20.0, -32.0, np.pi / 2, 8.0)


def ego_passes_behind():
    """A crosser that is through before the logged ego, at 6 m/s, is there; a pedestrian that walks towards the ego."""
    scene = scenes.with_agent(open_plain(6.0), 1, 20.0, -16.0, np.pi / 2, 8.0)
    return scenes.with_agent(scene, 2, 14.0, 0.0, np.pi, 0.6, AgentType.PEDESTRIAN, 0.6, 0.6)


def queue():
    """The logged ego brakes behind a car that stands, a tailgater brakes late behind it, another car squeezes past."""
    scene = moving(scenes.straight(), 0, 0.0, 10.0, -3.0, from_s=1.0)
    scene = scenes.with_agent(scene, 1, 34.0, 0.0)
    scene = moving(scene, 2, -8.0, 10.0, -3.5, from_s=1.3)
    return moving(scene, 3, -10.0, 9.0, 0.5, y=1.85)


def comings_and_goings():
    """A tailgater that appears, with a hole in its track; a lead that vanishes; a crosser just behind the ego."""
    seen = sorted({*range(25, 91)} - {*range(50, 55)})
    scene = scenes.with_agent(scenes.straight(), 1, -7.0, 0.0, speed=10.0, steps=seen)
    scene = scenes.with_agent(scene, 2, 9.0, 0.0, speed=10.0, steps=range(5, 50))
    return scenes.with_agent(scene, 3, 30.0, -35.0, np.pi / 2, 8.0, steps=range(0, 70))


TO_THE_LEFT = ((0, 12, 0.025), (12, 24, -0.025))
PROBES = {
    "brakes hard": (followed(-13.0), plan(-6.0)),
    "stops in lane": (followed(-20.0), plan(-2.5)),
    "cuts in": (cut_in(), plan(steer=TO_THE_LEFT)),
    "crosses first": (ego_waits(), plan()),
    "stops far off": (ego_passes_behind(), plan(-3.0)),
    "undisturbed": (followed(-13.0), plan()),
}


def six(one):
    """The same plan for six scenes."""
    return scenes.stack([one] * 6)


def batched(some, config):
    return scenes.stack([prepare(scene, config) for scene in some])


@pytest.fixture(scope="module")
def drive(sim_config):
    """Jitted: six scenes and plans in a World -> ego, agents and outcome."""

    def run(world, scene, plans):
        keys = jax.random.split(jax.random.key(0), scene.ego.shape[0])
        result = rollout(world, (), Planned(sim_config), plans, scene, HORIZON, keys, keys)
        return result.ego, result.agents, result.outcome

    return jax.jit(run, static_argnums=0)


@pytest.fixture(scope="module")
def probes(sim_config):
    """Scene [B] and plans [B, 80]."""
    logs, plans = zip(*PROBES.values(), strict=True)
    return batched(logs, sim_config), scenes.stack(list(plans))


@pytest.fixture(scope="module")
def reacted(drive, probes, sim_config):
    return jax.tree.map(np.asarray, drive(Reactive(sim_config), *probes))


@pytest.fixture(scope="module")
def replayed(drive, probes, sim_config):
    return jax.tree.map(np.asarray, drive(LogReplay(sim_config), *probes))


def track(result, probe, row):
    """The `Agents` row [80] of a probe."""
    index = list(PROBES).index(probe)
    return jax.tree.map(lambda field: field[:, index, row].reshape(-1), result[1])


def hits(result, probe):
    """Whether the ego was touched."""
    return bool(result[2].collision[:, list(PROBES).index(probe)].any())


def speed(agent):
    return np.hypot(agent.vel_x, agent.vel_y)


def rear_gap(result, probe):
    """From the follower's front to the ego's rear, both 4.5 m long and on y = 0 [m]."""
    return track(result, probe, 0).x - track(result, probe, 1).x - 4.5


def test_paths_bridge_holes_ignore_jitter_and_know_reverse(rng):
    """Row 1 stands for 2 s within 2 cm, then drives 0.5 m a step, unseen in between; row 2 reverses."""
    scene = scenes.with_agent(scenes.straight(), 1, 0.0, 0.0)
    way = 0.5 * np.maximum(np.arange(91.0) - 20, 0)
    jitter = np.where(way > 0, 0.0, rng.uniform(-0.02, 0.02, 91))
    seen = ~np.isin(np.arange(91), range(40, 50))
    scene = scenes.with_rows(scene, 1, {"x": (way + jitter) * seen, "vel_x": 5.0 * (way > 0) * seen, "valid": seen})
    scene = scenes.with_agent(scene, 2, 0.0, 0.0, 0.0, -3.0)
    paths = logged_paths(scene)
    np.testing.assert_allclose(paths.arc[1], way, atol=0.03)
    np.testing.assert_allclose(paths.sense[1:3], [1, -1])
    x, _, heading = pose_at(paths, jnp.broadcast_to(jnp.array([0.0, 12.3, 40.0]), (4, 3)))
    np.testing.assert_allclose(x[1:3], [[0.0, 12.3, 40.0], [3.0, 3.0 - 12.3, 3.0 - 40.0]], atol=0.04)
    np.testing.assert_allclose(heading[1:3], 0.0)


def test_with_the_logged_ego_the_others_follow_their_logs(drive, sim_config):
    """Also close behind, across, squeezing past, appearing and vanishing. An expert that brakes half a second before
    its log, and strays from it by 6 cm, disturbs only the tailgater behind it, for a moment."""
    some = [queue(), comings_and_goings()] * 3
    plans = [plan(-3.0, first=10), plan(), plan(expert=True), plan(expert=True), plan(), plan()]
    scene = batched(some, sim_config)
    _, agents, outcome = drive(Reactive(sim_config), scene, scenes.stack(plans))
    assert not np.asarray(outcome.termination)[:, :4].any()
    for name in TRACK:
        simulated = np.moveaxis(np.asarray(getattr(agents, name)), 0, 2).reshape(6, 4, STEPS)[:4, 1:]
        logged = getattr(scene, name)[:4, 1:, 11:]
        np.testing.assert_array_equal(simulated[:2], logged[:2], err_msg=name)
        if name in ("x", "y", "valid"):
            np.testing.assert_allclose(simulated[2:], logged[2:], atol=0.3, err_msg=name)


def test_log_replay_hits_an_ego_that_leaves_its_log(replayed):
    """So that the probes below are real ones."""
    assert [name for name in PROBES if hits(replayed, name)] == [
        "brakes hard",
        "stops in lane",
        "cuts in",
        "crosses first",
    ]


def test_reactive_traffic_does_not_hit_that_ego(reacted):
    assert not any(hits(reacted, name) for name in PROBES)


@pytest.mark.parametrize("probe", ["brakes hard", "stops in lane"])
def test_a_follower_brakes_and_stops_behind_an_ego_that_stops(reacted, probe):
    gap, pace = rear_gap(reacted, probe), speed(track(reacted, probe, 1))
    assert (np.diff(pace) <= 1e-3).all() and pace[-1] < 0.2
    assert gap.min() > 0.8 and gap[-1] < 4.0
    # The bound of braking, and poses that agree with the speed.
    assert np.diff(pace).min() >= -0.1 * Reactive(None).config.strongest_braking - 1e-3
    np.testing.assert_allclose(np.diff(track(reacted, probe, 1).x), 0.1 * pace[1:], atol=1e-3)


def test_a_car_brakes_for_an_ego_that_cuts_in(reacted):
    """It was closing in at 2 m/s; it ends behind, a little slower than the ego's 10 m/s."""
    pace = speed(track(reacted, "cuts in", 1))
    assert pace[0] == pytest.approx(12.0) and pace[20:].max() < 10.0
    assert (np.diff(rear_gap(reacted, "cuts in"))[10:] > 0).all()


def test_a_crosser_yields_where_the_ego_is_first_and_goes_on_after_it(reacted):
    crosser = track(reacted, "crosses first", 1)
    ego_through = np.argmax(track(reacted, "crosses first", 0).x > 20 + 0.9 + 2.25)
    assert crosser.y[ego_through] + 2.25 < -0.9
    assert speed(crosser).min() < 5.0 and speed(crosser)[-1] > 7.0 and crosser.y[-1] > 5.0


@pytest.mark.parametrize("probe", ["stops far off", "undisturbed"])
def test_undisturbed_agents_go_on_as_logged(reacted, replayed, probe):
    simulated, logged = track(reacted, probe, 1), track(replayed, probe, 1)
    jax.tree.map(np.testing.assert_array_equal, simulated, logged)


@pytest.mark.parametrize(("probe", "row"), [("stops far off", 2), ("brakes hard", 3)])
def test_pedestrians_and_parked_cars_are_replayed(reacted, replayed, probe, row):
    """The pedestrian comes within a metre of the ego."""
    jax.tree.map(np.testing.assert_array_equal, track(reacted, probe, row), track(replayed, probe, row))


def test_a_crosser_goes_on_where_the_ego_yields_later_than_in_its_log(drive, sim_config):
    """Half a second later, but harder: the crosser slows a little and goes on."""
    _, agents, outcome = drive(Reactive(sim_config), batched([ego_waits()] * 6, sim_config), six(plan(-4.0, first=15)))
    crosser = jax.tree.map(lambda field: np.asarray(field)[:, 0, 1].reshape(-1), agents)
    assert not np.asarray(outcome.collision).any()
    assert speed(crosser).min() > 7.0 and speed(crosser)[-1] > 7.9


def test_a_late_vehicle_waits_where_its_log_waited(drive, sim_config):
    """The follower's log brakes for a light and stops at x = 22; the ego, which goes on, held it up before."""
    scene = batched([moving(followed(-13.0), 1, -13.0, 10.0, -2.0, from_s=1.0)] * 6, sim_config)
    held_up = plan(-5.0, last=10)
    held_up = held_up._replace(acceleration=held_up.acceleration + plan(5.0, first=10, last=20).acceleration)
    _, agents, _ = drive(Reactive(sim_config), scene, six(held_up))
    x, logged = np.asarray(agents.x)[:, 0, 1].reshape(-1), scene.x[0, 1, 11:]
    assert (logged - x).max() > 1.0 and (x <= logged + 1e-3).all()
    np.testing.assert_allclose(x[-1], logged[-1], atol=1e-3)
    assert np.diff(x, 2).min() > -0.06


def test_harder_braking_brakes_the_follower_harder(drive, sim_config):
    plans = scenes.stack([plan(value) for value in (0.0, -1.0, -2.0, -3.0, -4.0, -6.0)])
    scene = batched([followed(-13.0)] * 6, sim_config)
    _, agents, _ = drive(Reactive(sim_config), scene, plans)
    way = np.asarray(agents.x)[:5, :, 1, -1]
    assert (np.diff(way, axis=1)[2:] < 0).all()


def test_a_close_follower_brakes_as_hard_as_it_can_if_necessary(drive, sim_config):
    """Half a second behind an ego that does so at 20 m/s; that its log asks for such a gap is no excuse."""
    scene = batched([in_file(20.0, 10.0, 0.0, 0.0)] * 6, sim_config)
    _, agents, outcome = drive(Reactive(sim_config), scene, six(plan(-8.0)))
    pace = speed(jax.tree.map(lambda field: np.asarray(field)[:, 0, 1].reshape(-1), agents))
    assert not np.asarray(outcome.collision).any()
    assert np.diff(pace).min() == pytest.approx(-0.8, abs=1e-3)


def test_no_agent_reacts_before_the_ego_has_acted(drive, probes, sim_config):
    """Plans that differ in the last sub-step of a step only: that step's boxes are the same, the next step's not."""
    scene, _ = probes
    plans = scenes.stack([plan(-8.0 * braked, first=14, last=15) for braked in (False, True)] * 3)
    scene = jax.tree.map(lambda field: np.repeat(field[:1], 6, axis=0), scene)
    _, agents, _ = drive(Reactive(sim_config), scene, plans)
    x = np.asarray(agents.x)[:, :, 1]
    np.testing.assert_array_equal(x[:3, 0], x[:3, 1])
    assert (x[3, 0] > x[3, 1]).all()


def test_a_late_vehicle_stays_until_it_has_driven_its_log(drive, sim_config):
    """The follower's log ends at step 40; braking behind the ego it has way left then, and vanishes at its end."""
    cut = moving(followed(-13.0), 1, -13.0, 10.0, steps=range(0, 41))
    cut = scenes.with_rows(cut, 1, {name: getattr(cut, name)[1] * cut.valid[1] for name in TRACK[:-1]})
    _, agents, _ = drive(Reactive(sim_config), batched([cut] * 6, sim_config), six(plan(-6.0, last=10)))
    x, valid = (np.asarray(field)[:, 0, 1].reshape(-1) for field in (agents.x, agents.valid))
    gone = np.argmin(valid)
    assert valid[:gone].all() and not valid[gone:].any()
    assert gone > 30 and x[gone - 1] == pytest.approx(-13.0 + 30.0, abs=1.0)


def test_order_padding_and_neighbours_change_nothing(drive, probes, reacted, sim_config):
    """Scenes backwards, agents backwards, rubbish in the rows that are padding."""
    scene, plans = probes
    padding = ~scene.valid.any(-1)

    def backwards(name):
        field, filler = getattr(scene, name), {"valid": False, "agent_type": 1}.get(name, 7.0)
        mask = padding if field.ndim == 2 else padding[..., None]
        return np.where(mask, np.asarray(filler, field.dtype), field)[::-1, ::-1]

    turned = jax.tree.map(lambda field: field[::-1], (scene, plans))
    rows = {name: backwards(name) for name in (*TRACK, *SIZE)}
    _, agents, outcome = drive(Reactive(sim_config), turned[0].replace(**rows, ego=3 - turned[0].ego), turned[1])
    restored = jax.tree.map(lambda field: np.asarray(field)[:, ::-1, ::-1], agents)
    assert padding.any()
    shown = ~padding[..., None]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a * shown, b * shown, atol=1e-3), restored, reacted[1])
    np.testing.assert_array_equal(np.asarray(outcome.collision)[:, ::-1], reacted[2].collision)
