"""The outcomes of all agents: the ego's are the World's own, the others' are computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes
from oracle_cases import CONFIG, Case, changed, follow

from tether.data.scene import LightState, SceneSpec
from tether.data.sources import STARTER, open_split
from tether.simulator.log_replay import LogReplay
from tether.simulator.rollout import substep_motion
from tether.simulator.studies.everyone import logged_routes, measure_everyone, place
from tether.simulator.transition import log_lights
from tether.simulator.world import Action

SPEC = SceneSpec()
WORLD = LogReplay(CONFIG)
HORIZON, S = 8, CONFIG.substeps
SAME = ("collision", "at_fault", "off_road")  # what does not depend on the route
CLOSE = {"overlap_m": 1e-4, "ttc_s": 1e-3}


@jax.jit
def everyone(scene, action):
    """The World's `Outcome` [H, B, ...] and everyone's measures [H, B, A, S] of the actions [B, H * S]."""
    keys = jax.random.split(jax.random.key(0), scene.ego.shape[0])
    routes = jax.vmap(lambda one: logged_routes(one, CONFIG))(scene)

    def body(state, step):
        now = jax.tree.map(lambda field: jax.lax.dynamic_slice_in_dim(field, step * S, S, axis=1), action)
        after, outcome = WORLD.step((), keys, state, now)
        _, agents = substep_motion(state, after, S)
        lights = log_lights(scene, state.time[:, None] + 1 + jnp.arange(S))
        route_s = jax.vmap(place)(routes, state.time)
        measures = jax.vmap(lambda *row: measure_everyone(*row, CONFIG))(state, agents, *lights, routes, route_s)
        return after, (outcome, measures)

    start = jnp.full(scene.ego.shape, SPEC.current)
    return jax.lax.scan(body, WORLD.reset((), keys, scene, start), jnp.arange(HORIZON))[1]


def hand_made(spec: SceneSpec) -> dict:
    """Scenes by what happens in them; the ego drives at 10 m/s from x = 0."""
    light = {state: scenes.with_light(scenes.straight(spec), 40.0, state) for state in (LightState.STOP, LightState.GO)}
    runner = {state: scenes.with_agent(scene, 1, 20.0, 0.0, speed=10.0) for state, scene in light.items()}
    aside = scenes.with_rows(light[LightState.STOP], 0, {"light_y": 30.0, "light_route_s": -1.0})
    gone = scenes.with_agent(scenes.straight(spec), 1, 30.0, 3.5, np.pi, speed=8.0, steps=range(13, 91))
    gone = scenes.with_agent(gone, 2, 30.0, 0.0, speed=10.0, steps=range(20))
    gone = scenes.with_agent(gone, 3, 80.0, 3.5, np.pi, speed=8.0, steps=range(15, 91))
    return {
        "red": scenes.with_agent(runner[LightState.STOP], 2, 40.0, -8.0, np.pi / 2, speed=8.0),
        "green": runner[LightState.GO],
        "light_without_lane": scenes.with_agent(aside, 1, 20.0, 30.0, speed=10.0),
        "beside_the_road": scenes.with_agent(
            scenes.with_agent(scenes.straight(spec), 1, 10.0, -4.0, speed=5.0), 2, 60.0, 3.5, np.pi, speed=5.0
        ),
        "come_and_go": gone,
        "rear_end": scenes.with_agent(scenes.straight(spec), 1, 14.5, 0.0, speed=2.0),
    }


def measured(some: list, action: Action | None = None) -> tuple:
    """Numpy results of `everyone`, at constant velocity without `action`."""
    still = np.zeros((len(some), HORIZON * S), np.float32)
    batch = scenes.stack([scenes.indexed(scene, CONFIG) for scene in some])
    return jax.tree.map(np.asarray, everyone(batch, Action(still, still) if action is None else action))


def in_time(field: np.ndarray) -> np.ndarray:
    """[B, ..., H * S] of [H, B, ..., S]."""
    field = np.moveaxis(field, 0, -2)
    return field.reshape(*field.shape[:-2], -1)


@pytest.fixture(scope="module")
def by_hand() -> tuple:
    """Results of the hand-made scenes."""
    return measured(list(hand_made(SPEC).values()))


@pytest.fixture(scope="module")
def outcomes(by_hand) -> dict:
    """By scene: `valid` of the World's outcome, [H * S], and everyone's measures [A, H * S]."""
    valid, measures = in_time(by_hand[0].valid), {name: in_time(field) for name, field in by_hand[1].items()}
    names = enumerate(hand_made(SPEC))
    return {name: (valid[i], {key: field[i] for key, field in measures.items()}) for i, name in names}


def assert_ego_agrees(outcome, measures, ego: np.ndarray, first: int) -> None:
    """The ego's row is the outcome; comfort only from step `first` on: before, the World knows the log's average."""
    own = {name: field[:, np.arange(len(ego)), ego] for name, field in measures.items()}
    valid = outcome.valid
    assert own["valid"][valid].all()
    for name in SAME:
        np.testing.assert_array_equal(own[name][valid], getattr(outcome, name)[valid], name)
    for name, tolerance in CLOSE.items():
        np.testing.assert_allclose(own[name][valid], getattr(outcome, name)[valid], rtol=0, atol=tolerance)
    rough, valid = own["uncomfortable"][first:], valid[first:]
    np.testing.assert_array_equal(rough[valid], outcome.uncomfortable[first:][valid])


def test_the_egos_row_is_the_worlds_outcome_by_hand(by_hand):
    outcome, measures = by_hand
    assert_ego_agrees(outcome, measures, np.zeros(outcome.valid.shape[1], int), first=0)
    assert outcome.at_fault.any()


def test_the_egos_row_is_the_worlds_outcome_on_starter_scenes(by_hand):
    source, rng = open_split(STARTER, "train", SPEC), np.random.default_rng(0)
    rows = by_hand[0].valid.shape[1]  # batches of one size are compiled once
    chosen = [source[i].scene for i in np.linspace(0, len(source) - 1, 6 * rows).astype(int)]
    cases = [Case(scene, SPEC.current, 1.0, (-1.0) ** i) for i, scene in enumerate(chosen)]
    happened = dict.fromkeys((*SAME, "uncomfortable"), 0)
    for some in (cases[first : first + rows] for first in range(0, len(cases), rows)):
        batch = scenes.stack([scenes.indexed(case.scene, CONFIG) for case in some])
        action = changed(follow(batch, np.full(rows, SPEC.current)), some, rng)
        outcome, measures = measured([case.scene for case in some], action)
        assert_ego_agrees(outcome, measures, batch.ego, first=1)
        happened = {name: n + int((getattr(outcome, name) & outcome.valid)[1:].sum()) for name, n in happened.items()}
    assert min(happened.values()) > 0, happened


def test_an_agent_that_runs_a_red_light_is_reported(outcomes):
    """Row 1 has its front at 22.25 m and does 1 m in a sub-step: it passes 40 m in the 18th."""
    _, measures = outcomes["red"]
    np.testing.assert_array_equal(np.flatnonzero(measures["red_light"][1]), [17])
    assert not measures["red_light"][2].any()  # it crosses the stop point on another path


def test_an_agent_that_passes_a_green_light_is_not_reported(outcomes):
    _, measures = outcomes["green"]
    assert not measures["red_light"].any() and measures["valid"][1].all()


def test_a_stop_point_without_a_lane_applies_to_no_agent(outcomes):
    _, measures = outcomes["light_without_lane"]
    assert not measures["red_light"][1].any() and measures["valid"][1].all()


def test_an_agent_off_the_road_is_reported(outcomes):
    _, measures = outcomes["beside_the_road"]
    assert measures["off_road"][1].all() and not measures["off_road"][[0, 2]].any()
    assert not measures["wrong_way"][2].any()  # it follows its own lane


def test_absent_agents_do_not_count(outcomes):
    """An agent that appears within a step counts from the next step on; one that appears at the end of a step, without
    a past, from the second next; one that vanishes, until then."""
    _, measures = outcomes["come_and_go"]
    steps = SPEC.current + 1 + np.arange(HORIZON * S)
    np.testing.assert_array_equal(measures["valid"][1], steps >= 16)
    np.testing.assert_array_equal(measures["valid"][2], steps <= 19)
    np.testing.assert_array_equal(measures["valid"][3], steps >= 21)
    assert measures["valid"][0].all() and not measures["valid"][4:].any()


def test_an_agent_that_appears_at_constant_speed_is_comfortable_and_on_its_path(outcomes):
    _, measures = outcomes["come_and_go"]
    counted = measures["valid"]
    assert not measures["uncomfortable"][counted].any() and not measures["corridor"][counted].any()
    for row in (1, 3):
        np.testing.assert_allclose(measures["progress_m"][row, counted[row]], 0.8, atol=1e-4)
    np.testing.assert_allclose(measures["progress_m"][2, counted[2]], 1.0, atol=1e-4)


def test_both_sides_of_a_contact_are_reported(outcomes):
    """The ego, 8 m/s faster, closes a gap of 10 m in 1.25 s, and drives into the other from behind."""
    valid, measures = outcomes["rear_end"]
    for row in (0, 1):
        np.testing.assert_array_equal(np.flatnonzero(measures["collision"][row] & valid), [12])
    assert measures["at_fault"][0, 12] and not measures["at_fault"][1, 12]
    np.testing.assert_allclose(measures["overlap_m"][:2, 12], 0.4, atol=1e-4)


def test_padding_agents_changes_nothing(by_hand):
    _, expected = measured(list(hand_made(SceneSpec(agents=4)).values()))
    for name, field in expected.items():
        np.testing.assert_allclose(by_hand[1][name][:, :, :4], field, rtol=0, atol=1e-5, err_msg=name)
    assert expected["valid"].any() and not by_hand[1]["valid"][:, :, 4:].any()
