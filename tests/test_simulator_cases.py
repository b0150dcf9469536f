"""Whole rollouts in hand-made scenes with known answers: what simulators of this kind get wrong.

One step at a time is in `test_simulator_outcome.py`; formulas in `test_simulator_geometry.py`.
"""

import dataclasses

import jax
import numpy as np
import pytest
import scenes
from probes import Planned, by_substep, moving, plan
from test_simulator_route import SPEEDS, line_of, scene_along

from tether.data.geometry import rotate, wrap_angle
from tether.data.scene import RoadType, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.simulator.rollout import rollout
from tether.simulator.score import driving_score
from tether.training.drives import steps_of

CONFIG = SimulatorConfig()
HORIZON = 16
EVENTS = ("collision", "at_fault", "off_road", "wrong_way", "red_light", "corridor", "uncomfortable")


@jax.jit
def _drive(scene, plans):
    keys = jax.random.split(jax.random.key(0), 1)
    result = rollout(LogReplay(CONFIG), (), Planned(CONFIG), plans, scene, HORIZON, keys, keys)
    outcome = result.outcome.replace(valid=result.outcome.valid & result.alive[..., None])
    own_return = steps_of(result, None).own_reward.sum(1)
    return result.ego, outcome, driving_score(result, scene, CONFIG) | {"own_return": own_return}


@dataclasses.dataclass(frozen=True)
class Result:
    """A rollout of 8 s without batch axis: fields of `EgoState` and `Outcome` [80] by name, the score's by name."""

    ego: dict[str, np.ndarray]
    outcome: dict[str, np.ndarray]
    score: dict[str, float]

    def when(self, event: str) -> list[int]:
        """The sub-steps at which the event happens."""
        return np.flatnonzero(self.outcome[event]).tolist()

    def happened(self) -> set[str]:
        """Events that happen at all."""
        return {name for name in EVENTS if self.when(name)}


def drive(scene: Scene, plan) -> Result:
    """Drives `plan` from the current step on."""
    ego, outcome, score = _drive(scenes.stack([scenes.indexed(scene, CONFIG)]), scenes.stack([plan]))
    ego = {name: by_substep(getattr(ego, name))[0] for name in ("x", "y", "heading")}
    outcome = {name: by_substep(getattr(outcome, name))[0] for name in (*EVENTS, "valid", "progress_m", "overlap_m")}
    outcome = {name: values * outcome["valid"] for name, values in outcome.items()}
    return Result(ego, outcome, {name: float(value[0]) for name, value in score.items()})


def test_contacts_in_several_substeps_of_one_step_all_count():
    """Hit from behind in sub-step 1, into a parked car in sub-step 4: neither hides the other."""
    hit = scenes.with_agent(scenes.straight(), 1, x=-5.2, y=0.0, speed=16.0)  # 0.7 m behind, closing by 0.6 m
    both = scenes.with_agent(hit, 2, x=8.55, y=0.0)  # 4.05 m ahead, closing by 1 m
    result = drive(both, plan())
    assert result.when("collision") == [1, 4] and result.when("at_fault") == [4]
    np.testing.assert_allclose(result.outcome["overlap_m"][[1, 4]], [0.5, 0.95], atol=1e-3)
    assert result.outcome["valid"].sum() == 5 and result.score["score"] == 0
    assert drive(hit, plan()).happened() == {"collision"}


def test_hit_from_behind_by_a_replayed_car_costs_no_score():
    """The ego brakes from 10 m/s at 4 m/s^2: 12.5 m, of the 80 m of its log."""
    result = drive(scenes.with_agent(scenes.straight(), 1, x=-12.0, y=0.0, speed=10.0), plan(-4.0))
    assert result.happened() - {"uncomfortable"} == {"collision"} and len(result.when("collision")) == 1
    assert result.outcome["valid"].all() and result.score["failure"] == 0
    np.testing.assert_allclose(result.score["progress"], 12.5 / 80, rtol=1e-4)
    np.testing.assert_allclose(result.score["score"], 12.5 / 80 / 0.8, rtol=1e-4)


def test_the_own_return_ignores_contacts_that_are_not_the_egos_fault():
    """When replayed traffic hits the ego, the own return is that of an empty road, but for the time to collision; a
    contact that is the ego's fault costs as much as in the return."""
    empty, parked = scenes.straight(), scenes.with_agent(scenes.straight(), 1, x=30.0, y=0.0)
    hit = scenes.with_agent(scenes.straight(), 1, x=-5.2, y=0.0, speed=16.0)
    free, through, crash = (drive(scene, plan()).score for scene in (empty, hit, parked))
    assert free["own_return"] == free["return"]
    assert through["return"] < through["own_return"] - CONFIG.reward.contact
    assert 0 <= free["own_return"] - through["own_return"] < CONFIG.reward.contact
    assert crash["own_return"] == crash["return"] < free["return"] - CONFIG.reward.failure


@pytest.mark.parametrize(("y", "off"), [(-1.3, True), (-1.0, False), (4.8, True), (4.5, False)])
def test_an_ego_that_starts_off_the_road_fails_even_standing_still(y, off):
    """Its corners reach 0.2 m beyond an edge, or not quite there; a log that goes nowhere earns 1 otherwise."""
    scene = moving(scenes.straight(speed=0.0), 0, 0.0, 0.0, y=y)
    result = drive(scenes.with_route(scene, np.array([-20.0, 100.0]), y), plan())
    assert result.when("off_road") == [0] * off and result.score["score"] == 1.0 - off


def without_roads(scene: Scene) -> Scene:
    """Neither edges nor lanes."""
    return dataclasses.replace(scene, road_valid=np.zeros_like(scene.road_valid))


def forked() -> Scene:
    """At x = 10.5 a lane leaves the ego's lane to the left at 30 degrees, which the route takes; another against the
    traffic crosses there."""
    way = np.array([0.0, 20.0, 40.0, 80.0])
    x, y = 10.5 + way * np.cos(np.pi / 6), way * np.sin(np.pi / 6)
    scene = dataclasses.replace(scenes.straight(), road_valid=scenes.straight().road_valid & False)
    for line in (
        (np.array([-60.0, 10.5, 200.0]), np.zeros(3)),
        (x, y),
        (np.array([31.0, -9.0]), np.array([5.0, -5.0])),
    ):
        scene = scenes.with_polyline(scene, *line, RoadType.LANE_SURFACE)
    return scenes.with_route(scene, np.append(scenes.ROUTE_START_X, x), np.append(0.0, y))


def test_following_the_route_at_a_fork_causes_no_event():
    """30 degrees over 8 m, the rear axle on an arc of radius 48 / pi that begins at x = 7 - 1.125: it ends at (13.514,
    2.047), the centre 1.125 m farther at 30 degrees, which is 4.759 m along the branch, with 65 m to go."""
    result = drive(forked(), plan(steer=((7, 15, np.pi / 6 / 8),)))
    assert result.happened() <= {"uncomfortable"} and result.outcome["valid"].all()
    np.testing.assert_allclose(result.outcome["progress_m"].sum(), 10.5 + 4.759 + 65.0, atol=2e-3)


def test_the_other_branch_of_a_fork_leaves_the_corridor_and_is_not_the_wrong_way():
    """Straight on, the route is half as far to the left as the fork is behind: 4 m at x = 18.5. The way along it is
    21 m to the fork, of which 1 m was behind the ego's first pose, and 8.5 m times cos 30 degrees."""
    result = drive(forked(), plan())
    assert result.happened() == {"corridor"} and result.when("corridor") == [18]
    np.testing.assert_allclose(result.outcome["progress_m"].sum(), 10.5 + 8.5 * np.cos(np.pi / 6), atol=1e-3)


RADIUS = 19 / np.pi  # of the rear axle: 38 sub-steps of 0.5 m turn around
AXLE = 4.5 / 4  # from the centre back to the rear axle


def turning_around() -> Scene:
    """At x = 10 the ego's lane turns around to the left, as its centre does, and comes back beside itself."""
    turn = np.linspace(0, np.pi, 40)
    back = np.linspace(5.0, -60.0, 20)
    x = np.concatenate([[-20.0, 0.0], 10 - AXLE + RADIUS * np.sin(turn) + AXLE * np.cos(turn), back])
    y = np.concatenate([[0.0, 0.0], RADIUS * (1 - np.cos(turn)) + AXLE * np.sin(turn), np.full(20, 2 * RADIUS)])
    scene = without_roads(scenes.straight(speed=5.0))
    for part in (slice(0, 2), slice(42, 62)):
        scene = scenes.with_polyline(scene, x[part][:16], y[part][:16], RoadType.LANE_SURFACE)
    return scenes.with_route(scene, x, y)


def test_a_u_turn_along_the_route_is_progress_and_no_wrong_way():
    """10 m, half a circle of 19 m of the rear axle, 11 m back: the heading passes pi, the progress does not notice."""
    result = drive(turning_around(), plan(steer=((20, 58, 1 / RADIUS),)))
    assert result.happened() == set() and result.outcome["valid"].all()
    np.testing.assert_allclose(result.outcome["progress_m"].sum(), 21.0 + 19.0 * np.hypot(1, AXLE / RADIUS), atol=0.05)
    np.testing.assert_allclose(result.outcome["progress_m"], 0.5, atol=0.03)
    end = [result.ego[name][-1] for name in ("x", "y")]
    np.testing.assert_allclose(end, [-1.0 - 2 * AXLE, 2 * RADIUS], atol=1e-3)
    assert abs(wrap_angle(result.ego["heading"][-1] - np.pi)) < 1e-4


def test_a_u_turn_into_the_lane_that_was_left_is_the_wrong_way():
    """The ego starts turned around: its lane runs against it. With a lane or a route that runs with it less than a
    metre farther away it is in the right."""
    facing_back = moving(scenes.straight(), 0, 0.0, 5.0, heading=np.pi)
    assert drive(facing_back, plan()).outcome["wrong_way"].all()
    beside = scenes.with_polyline(facing_back, np.array([60.0, -60.0]), np.array([0.9, 0.9]), RoadType.LANE_SURFACE)
    assert not drive(beside, plan()).when("wrong_way")
    returning = scenes.with_route(facing_back, np.array([60.0, -60.0]), 0.0)
    assert not drive(returning, plan()).when("wrong_way")


def turned(scene: Scene, angle: float) -> Scene:
    """The scene in a frame that is turned by `angle`, so that headings wrap elsewhere."""
    fields = {}
    for x, y, valid in (
        ("x", "y", scene.valid),
        ("vel_x", "vel_y", scene.valid),
        ("road_x", "road_y", scene.road_valid),
        ("route_x", "route_y", scene.route_valid),
    ):
        for name, values in zip((x, y), rotate(getattr(scene, x), getattr(scene, y), angle), strict=True):
            fields[name] = np.asarray(values * valid, np.float32)
    return dataclasses.replace(scene, heading=np.asarray(wrap_angle(scene.heading + angle) * scene.valid), **fields)


def eventful() -> Scene:
    """A bend to the right over the edge of the road, past a red light, with a car coming up from behind."""
    scene = scenes.with_light(scenes.straight(), 60.0)
    return scenes.with_agent(scene, 1, x=-8.0, y=0.0, speed=13.0)


@pytest.mark.parametrize("angle", [np.pi, np.pi - 1e-3, -np.pi / 2, 3.0])
@pytest.mark.parametrize("steer", [(), ((0, 20, -0.004),), ((10, 30, 0.01), (30, 50, -0.01))])
def test_where_headings_wrap_changes_nothing(angle, steer):
    """At an angle of pi, and just below it while the ego turns, its heading jumps from pi to -pi."""
    actions = plan(-0.5, steer=steer)
    expected, result = drive(eventful(), actions), drive(turned(eventful(), angle), actions)
    assert expected.happened() >= {"collision"}
    for name in EVENTS:
        assert result.when(name) == expected.when(name), name
    np.testing.assert_allclose(result.outcome["progress_m"], expected.outcome["progress_m"], atol=2e-3)
    assert result.score["score"] == pytest.approx(expected.score["score"], abs=1e-3)


def road_of(points: int, rng: np.random.Generator) -> Scene:
    """The road of `scenes.straight`, its lines in a third of so many points, and clutter that is neither edge nor lane
    in the others."""
    spec = dataclasses.replace(scenes.TINY, polylines=-(-points // scenes.TINY.points) + 4)
    scene = scenes.straight(spec)
    lines = [scene.road_y[row, 0] for row in range(4)], [scene.road_x[row, [0, -1]] for row in range(4)]
    kinds, size = scene.road_type[:4], scenes.TINY.points - 1
    scene = dataclasses.replace(scene, road_valid=np.zeros_like(scene.road_valid))
    for y, (begin, end), kind in zip(*lines, kinds, strict=True):
        x = np.linspace(begin, end, points // 12)
        for first in range(0, len(x) - 1, size):
            part = x[first : first + size + 1]
            scene = scenes.with_polyline(scene, part, np.full(len(part), y), kind)
    free = np.flatnonzero(~scene.road_valid.any(-1))[:-4]
    walks = rng.uniform(-80, 80, (2, len(free), 1)) + rng.normal(0, 2, (2, len(free), size + 1)).cumsum(-1)
    clutter = {
        "road_x": walks[0],
        "road_y": walks[1],
        "road_valid": True,
        "road_type": RoadType.LINE_BROKEN_SINGLE_WHITE,
    }
    return scenes.with_rows(scene, free, clutter)


@pytest.mark.parametrize(("points", "within"), [(200, 0.15), (20_000, 0.05)])
def test_few_and_many_map_points_give_the_same_events(points, within, rng):
    """A turn to either side of 1 / 100 m: at a way s the centre is 1.125 m ahead of the rear axle, the corner ahead
    2.25 m on and 0.9 m aside, the edge 2 m away from the first centre on the right, and the oncoming lane on the left
    nearer than the own one by 1 m from y = 2.25 on."""
    scene = road_of(points, rng)
    assert abs(scene.road_valid.sum() / points - 1) < within
    assert drive(scene, plan()).happened() == set()

    way = np.arange(1, 81.0)
    heading = way / 100
    y = 100 * (1 - np.cos(heading)) + AXLE * np.sin(heading)
    corner = y + 2.25 * np.sin(heading) + 0.9 * np.cos(heading)
    right = drive(scene, plan(steer=((0, 80, -0.01),)))
    assert right.happened() == {"off_road"} and right.when("off_road") == [int(np.argmax(corner > 2.0))]
    left = drive(scene, plan(steer=((0, 80, 0.01),)))
    assert left.when("wrong_way")[0] == int(np.argmax(y > 2.25))
    assert left.when("corridor") == [int(np.argmax(y > 4.0))] or left.when("off_road") == [int(np.argmax(corner > 5.5))]


def test_agents_come_and_go_within_a_rollout():
    """A parked car at 20 m that is seen for a while counts only while it is there: the ego reaches it in sub-step 15,
    log step 26, and would be through it in log step 36."""
    parked = {"x": 20.0, "y": 0.0}
    for steps, when in ((range(0, 26), []), (range(0, 27), [15]), (range(25, 34), [15]), (range(30, 34), [])):
        result = drive(scenes.with_agent(scenes.straight(), 1, **parked, steps=steps), plan())
        assert result.when("at_fault") == when, steps
        assert result.outcome["valid"].sum() == (when[0] + 1 if when else 80)


def coach_turning(alongside: float | None = None) -> Scene:
    """A coach of 13.8 m whose rear axle turns left on a radius of 19 m, so that its centre slips by 0.18 rad; a car
    passes around the same centre on a radius of `alongside` metres, its middle level with the coach's rear."""
    time = (np.arange(91) - 10) * 0.1
    turn, speed, axle, radius = 6.0 / 19 * time, 6.0, 13.8 / 4, 19.0
    x, y = radius * np.sin(turn) + axle * np.cos(turn), radius * (1 - np.cos(turn)) + axle * np.sin(turn)
    aside = speed * axle / radius
    track = {"x": x - axle, "y": y, "heading": wrap_angle(turn), "length": 13.8, "width": 2.55}
    track["vel_x"] = speed * np.cos(turn) - aside * np.sin(turn)
    track["vel_y"] = speed * np.sin(turn) + aside * np.cos(turn)
    scene = scenes.with_rows(without_roads(scenes.straight()), 0, track)
    way = np.linspace(-0.5, 3.5, 60)
    route_x, route_y = radius * np.sin(way) + axle * np.cos(way) - axle, radius * (1 - np.cos(way)) + axle * np.sin(way)
    scene = scenes.with_route(scene, route_x, route_y)
    if alongside is None:
        return scene
    place = turn - 4.0 / alongside
    car = {"x": alongside * np.sin(place) - axle, "y": radius - alongside * np.cos(place)}
    pace = alongside * 6.0 / 19
    car |= {"heading": wrap_angle(place), "vel_x": pace * np.cos(place), "vel_y": pace * np.sin(place)}
    return scenes.with_rows(scenes.with_agent(scene, 1, 0.0, 0.0), 1, car)


def test_a_coach_is_replayed_as_it_turned():
    """Position and heading of the log, until the log's end comes into sight: beyond it no turn is known."""
    scene = coach_turning()
    result = drive(scene, plan(expert=True))
    assert result.happened() == set() and result.score["score"] == 1.0
    for name, within in (("x", 0.03), ("y", 0.03), ("heading", 5e-3)):
        apart = wrap_angle(result.ego[name] - getattr(scene, name)[0, 11:])
        np.testing.assert_allclose(apart[:75], 0.0, atol=within, err_msg=name)


def test_a_coachs_rear_does_not_swing_into_the_next_lane():
    """A car 0.3 m beside the coach's rear corner, which is 20.57 m from the centre of the turn; turned along its
    centre's way the coach's rear would reach out to 21.7 m and hit it."""
    result = drive(coach_turning(alongside=20.57 + 0.3 + 0.9), plan(expert=True))
    assert not result.when("collision") and result.outcome["valid"].all()


@pytest.mark.parametrize("name", SPEEDS)
def test_progress_on_a_route_that_comes_by_again(name):
    """The log has progress 1; braking at 8 m/s^2 gains speed^2 / 16 of the 8 s at that speed."""
    scene = scene_along(name)
    log = drive(scene, plan(expert=True)).score
    assert log["progress"] == pytest.approx(1.0, abs=0.03) and log["score"] == 1.0
    braking = drive(scene, plan(-8.0)).score
    assert braking["progress"] == pytest.approx(SPEEDS[name] / 128, rel=0.1)
    assert braking["score"] == pytest.approx(SPEEDS[name] / 128 / 0.8, rel=0.1)


def test_a_light_counts_on_its_own_pass():
    """A light for the second pass of the crossing is red all the time: the first pass does not run it."""
    scene = scene_along("eight")
    line = line_of("eight")
    passes = np.flatnonzero(np.diff(np.sign(line[:, 0]))) * 0.25
    red = scenes.with_rows(scenes.with_light(scene, 0.0), 0, {"light_route_s": passes[1]})
    front = 10.0 + 0.6 * np.arange(11, 91) + 2.25
    result = drive(red, plan(expert=True)).when("red_light")
    assert len(result) == 1 and abs(result[0] - int(np.argmax(front > passes[1]))) <= 1
