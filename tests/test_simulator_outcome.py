"""One step of 0.5 s in hand-made scenes: what happened, whose fault it was, what ends."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.data.padding import pad
from tether.data.road_edges import starts_off_road
from tether.data.scene import ROAD_EDGE_TYPES, LightState, RoadType, SceneSpec
from tether.data.sources import STARTER, open_split
from tether.data.tfrecord import read_records
from tether.data.womd import convert, parse_scenario
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import log_ego
from tether.simulator.log_replay import LogReplay
from tether.simulator.outcome import map_events
from tether.simulator.transition import with_ego
from tether.simulator.world import Action

CONFIG = SimulatorConfig()
WORLD = LogReplay(CONFIG)


@jax.jit
def _step(scene, start, action, shift):
    state = WORLD.reset((), jax.random.split(jax.random.key(0), 1), scene, start)
    ego = log_ego(scene, start)
    moved = {name: getattr(ego, name) + shift[name] for name in shift}
    state = with_ego(state, ego.replace(**moved))
    return WORLD.step((), jax.random.split(jax.random.key(0), 1), state, action)


def step(scene, start=10, acceleration=0.0, curvature=0.0, **shift):
    """State and Outcome, batch axis removed, after one step from log step `start` with a shifted ego."""
    action = Action(jnp.full((1, 5), acceleration), jnp.full((1, 5), curvature))
    zero = dict(x=0.0, y=0.0, heading=0.0, speed=0.0)
    shift = {name: jnp.full(1, shift.get(name, 0.0)) for name in zero}
    after, outcome = _step(scenes.stack([scenes.indexed(scene, CONFIG)]), jnp.array([start]), action, shift)
    return jax.tree.map(lambda field: np.asarray(field[0]), (after, outcome))


def events(outcome):
    names = ("collision", "at_fault", "off_road", "wrong_way", "red_light", "corridor")
    return {name for name in names if getattr(outcome, name).any()}


def other(row=1, **agent):
    return scenes.with_agent(scenes.straight(), row, **agent)


def test_progress_on_a_free_road_is_the_distance_driven():
    after, outcome = step(scenes.straight())
    assert events(outcome) == set() and outcome.valid.all()
    np.testing.assert_allclose(outcome.progress_m, 1.0, atol=1e-4)
    np.testing.assert_allclose([after.route_s, after.ego.x, after.time], [25.0, 5.0, 15], atol=1e-4)
    full = CONFIG.reward.full_progress * scenes.SPEED_LIMIT
    np.testing.assert_allclose(outcome.reward_terms["progress"], 10 / full, rtol=1e-4)
    assert outcome.ttc_s.min() == CONFIG.ttc_cap_s


def test_front_contact_is_at_fault_and_ends_at_its_substep():
    # front at 2.25, the parked car's rear at 4.5: contact within the third sub-step at 10 m/s
    after, outcome = step(other(x=6.75, y=0.0))
    assert events(outcome) == {"collision", "at_fault"}
    np.testing.assert_array_equal(outcome.valid, [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(outcome.at_fault, [0, 0, 1, 0, 0])
    np.testing.assert_allclose(outcome.overlap_m, [0, 0, 0.75, 0, 0], atol=1e-4)
    assert outcome.termination and not outcome.truncation and not after.alive
    np.testing.assert_allclose(after.ego.x, 3.0, atol=1e-4)  # it rests where it happened
    np.testing.assert_allclose(outcome.ttc_s[0], 0.125, rtol=1e-3)


def test_rear_ended_by_a_replayed_car_is_not_its_fault():
    scene = other(x=-5.0, y=0.0, speed=10.0)  # 0.5 m behind
    after, outcome = step(scene, acceleration=-8.0)
    assert events(outcome) == {"collision"} and after.alive and not outcome.termination
    assert outcome.reward_terms["contact"] == -CONFIG.reward.contact


def test_a_standing_ego_is_never_at_fault():
    crossing = scenes.with_agent(scenes.straight(speed=0.0), 1, x=0.0, y=-4.0, heading=np.pi / 2, speed=5.0)
    assert events(step(crossing)[1]) == {"collision"}


def test_side_contact_of_a_moving_ego_is_at_fault():
    assert "at_fault" in events(step(other(x=0.0, y=2.2, speed=10.0), curvature=0.05)[1])


def test_a_parked_car_across_the_lane_line():
    """It reaches 0.3 m into the lane: the ego misses it in the middle of its lane and hits it at its left border."""
    parked = other(x=6.0, y=2.35)
    assert events(step(parked)[1]) == set()
    assert events(step(parked, y=0.75)[1]) == {"collision", "at_fault"}


def test_several_contacts_in_one_substep_at_fault_if_any_is():
    rear = dict(x=-5.0, y=0.0, speed=16.0)
    front = dict(x=5.3, y=0.0, speed=6.0)
    for first, second in ((rear, front), (front, rear)):
        scene = scenes.with_agent(other(1, **first), 2, **second)
        _, outcome = step(scene)
        assert events(outcome) == {"collision", "at_fault"}


def test_overlap_of_the_log_itself_is_not_a_collision():
    assert events(step(other(x=4.0, y=0.0, speed=10.0))[1]) == set()


UNSEEN = {"before": range(10, 11), "amid": range(12, 13), "at the start": range(0, 11), "long": range(0, 13)}


@pytest.mark.parametrize("unseen", UNSEEN)
def test_a_box_that_is_inside_and_unseen_for_a_while_begins_no_contact(unseen):
    """It moves along inside the ego's box all the time and is not seen for a frame, or appears there."""
    steps = [step for step in range(91) if step not in UNSEEN[unseen]]
    assert events(step(other(x=4.0, y=0.0, speed=10.0, steps=steps))[1]) == set()


def test_a_contact_begins_where_a_box_was_last_seen_apart():
    """A parked car 2.25 m ahead, which the ego reaches in its third sub-step, log step 13. Where it is not seen then,
    the contact begins when it is seen again; that it was apart before the step began stands in the history."""
    reached = {"x": 6.75, "y": 0.0}
    for unseen, when in ((range(12, 14), 3), (range(13, 15), 4), (range(10, 13), 2)):
        steps = [step for step in range(91) if step not in unseen]
        _, outcome = step(other(**reached, steps=steps))
        assert np.flatnonzero(outcome.collision).tolist() == [when], unseen


def test_boxes_that_part_and_meet_again_begin_a_contact():
    """A car inside the ego's box at first; it leaves at 16 m/s for 0.2 s, a gap of 0.7 m, and stands."""
    x = np.interp(np.arange(91), [0, 10, 12, 91], [4.0, 4.0, 7.2, 7.2])
    away = scenes.with_rows(other(x=4.0, y=0.0), 1, {"x": x})
    _, outcome = step(away)
    assert np.flatnonzero(outcome.collision).tolist() == [2]


def test_agents_that_appear_and_vanish():
    there = dict(x=6.75, y=0.0)
    assert events(step(other(**there, steps=range(0, 11)))[1]) == set()  # gone before it is reached
    assert events(step(other(**there, steps=range(12, 91)))[1]) == {"collision", "at_fault"}
    assert events(step(other(**there, steps=range(15, 91)))[1]) == set()  # it appears inside the ego's box


def test_off_road_by_a_corner_beyond_the_edge():
    # half width 0.9, edge at y = -2
    assert events(step(scenes.straight(), y=-1.05)[1]) == set()
    _, outcome = step(scenes.straight(), y=-1.15)
    assert events(outcome) == {"off_road"} and outcome.termination
    np.testing.assert_array_equal(outcome.valid, [1, 0, 0, 0, 0])  # an ego that starts off the road is caught at once


@pytest.mark.parametrize("kind", ROAD_EDGE_TYPES)
def test_every_type_of_road_edge_counts(kind):
    """The proto's default among them: a converter that sets no type draws edges all the same."""
    scene = scenes.straight()
    edges = np.isin(scene.road_type, ROAD_EDGE_TYPES)
    scene = dataclasses.replace(scene, road_type=np.where(edges, kind, scene.road_type).astype(np.int32))
    assert edges.any() and events(step(scene, y=-1.15)[1]) == {"off_road"}
    shifted = dataclasses.replace(scene, y=scene.y - np.float32(1.15))
    assert (starts_off_road(scene, 10), starts_off_road(shifted, 10)) == (False, True)


def starter_records(_):
    """Some scenes, their egos moved sideways."""
    source = open_split(STARTER, "validation")
    for scene in (source[i].scene for i in range(0, 48, 6)):
        yield from (dataclasses.replace(scene, y=scene.y + shift) for shift in np.float32([0.0, 2.0, -4.0, -9.0]))


def real_records(request):
    """Four records, two of whose egos are beside their road."""
    path = request.getfixturevalue("real_data") / "train" / "ngsim_commonroad-00000-of-00001.tfrecord"
    pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")
    for record in itertools.islice(read_records(str(path)), 4):
        yield from (pad(raw, SceneSpec()).scene for raw in convert(parse_scenario(record), "road", 8))


@pytest.mark.parametrize(("records", "least"), [(starter_records, 4), (real_records, 2)])
def test_a_record_is_marked_where_the_simulator_reports_off_road(records, least, request):
    """The host's mark and the rule that ends a rollout agree."""
    chosen = list(records(request))
    batch = scenes.stack([scenes.indexed(scene, CONFIG) for scene in chosen])
    start = log_ego(batch, jnp.full(len(chosen), 10))[:, None]
    simulated = jax.jit(jax.vmap(lambda scene, ego: map_events(scene, ego, CONFIG)))(batch, start)["off_road"][:, 0]
    marked = [starts_off_road(scene, 10) for scene in chosen]
    assert least <= sum(marked) <= len(marked) - least
    np.testing.assert_array_equal(marked, simulated)


def test_off_road_is_absent_without_road_edges():
    scene = scenes.straight()
    edges = np.isin(scene.road_type, (RoadType.EDGE_BOUNDARY, RoadType.EDGE_MEDIAN))
    bare = dataclasses.replace(scene, road_type=np.where(edges, RoadType.DRIVEWAY, scene.road_type))
    assert events(step(bare, y=-3.0)[1]) == set()


def test_corridor_ends_more_than_four_metres_from_the_route():
    assert "corridor" not in events(step(scenes.straight(), y=3.9)[1])
    assert "corridor" in events(step(scenes.straight(), y=4.1)[1])


def test_wrong_way_in_the_oncoming_lane_does_not_end():
    after, outcome = step(scenes.straight(), y=3.5)
    assert events(outcome) == {"wrong_way"} and after.alive
    assert events(step(scenes.straight(), y=1.6)[1]) == set()
    assert events(step(scenes.straight(), y=3.5, heading=np.pi, speed=-5.0)[1]) == set()


@pytest.mark.parametrize(
    ("state", "ran"),
    [(LightState.STOP, True), (LightState.ARROW_STOP, True), (LightState.CAUTION, False), (LightState.GO, False)],
)
def test_red_light_by_state(state, ran):
    # the front crosses x = 4 in the second sub-step
    _, outcome = step(scenes.with_light(scenes.straight(), 4.0, state))
    np.testing.assert_array_equal(outcome.red_light, [0, ran, 0, 0, 0])


def test_red_light_counts_only_when_crossed_observed_and_on_the_route():
    red = scenes.with_light(scenes.straight(), 4.0)
    assert events(step(scenes.with_light(scenes.straight(), 2.0))[1]) == set()  # the front stands beyond it already
    assert events(step(scenes.with_light(scenes.straight(), 9.0))[1]) == set()
    assert events(step(dataclasses.replace(red, light_valid=np.zeros_like(red.light_valid)))[1]) == set()
    assert events(step(dataclasses.replace(red, light_route_s=np.full_like(red.light_route_s, -1)))[1]) == set()


def test_comfort_bounds():
    assert not step(scenes.straight(), acceleration=2.0)[1].uncomfortable.any()
    assert step(scenes.straight(), acceleration=2.6)[1].uncomfortable.all()
    assert step(scenes.straight(), acceleration=-4.5)[1].uncomfortable.all()
    assert step(scenes.straight(), curvature=0.055)[1].uncomfortable.all()  # 5.5 m/s^2 lateral


def test_the_end_of_the_log_truncates_and_does_not_terminate():
    after, outcome = step(scenes.straight(), start=85)
    assert outcome.truncation and not outcome.termination and outcome.valid.all() and not after.alive
    after, outcome = step(scenes.straight(), start=88)
    np.testing.assert_array_equal(outcome.valid, [1, 1, 0, 0, 0])
    assert outcome.truncation and not after.alive
    after, outcome = step(scenes.straight(), start=84)
    assert not outcome.truncation and after.alive


def test_a_crash_in_the_last_step_is_a_termination():
    scene = other(x=75 + 6.75, y=0.0)
    _, outcome = step(scene, start=85)
    assert outcome.termination and not outcome.truncation


def test_with_ego_moves_its_past_rigidly():
    scene = scenes.stack([scenes.straight()])
    state = WORLD.reset((), jax.random.split(jax.random.key(0), 1), scene, jnp.array([10]))
    turned = with_ego(state, state.ego.replace(x=jnp.array([1.0]), y=jnp.array([2.0]), heading=jnp.array([np.pi / 2])))
    np.testing.assert_allclose(turned.history.x[0, 0], 1.0, atol=1e-5)
    np.testing.assert_allclose(turned.history.y[0, 0], 2.0 + np.arange(-10, 1), atol=1e-5)
    np.testing.assert_allclose(turned.history.vel_y[0, 0], 10.0, rtol=1e-5)
    np.testing.assert_allclose(turned.route_s, 21.0, rtol=1e-5)
