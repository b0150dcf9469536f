"""The image, pixel by pixel, and the observation beside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.data.geometry import to_frame
from tether.data.scene import VEHICLE_TYPES, VULNERABLE_TYPES, AgentType, LightState, SceneSpec
from tether.simulator.config import SimulatorConfig
from tether.simulator.geometry import Box
from tether.simulator.log_replay import LogReplay
from tether.simulator.observe import observe
from tether.simulator.prepare import prepare
from tether.simulator.render import (
    AGO_STEPS,
    CHANNELS,
    LIGHT_COLOURS,
    LIGHT_RADIUS_M,
    MAP_CHANNELS,
    OFF_ROUTE_LIGHT,
    coverage,
    draw_boxes,
    draw_lights,
    pixel_centres,
)
from tether.simulator.transition import with_ego

CONFIG = SimulatorConfig()
WORLD = LogReplay(CONFIG)
EGO_ROW, EGO_COLUMN = 50, 32  # the ego's centre lies on the border between pixels 49|50 and 31|32


@jax.jit
def look(scene, shift):
    start = jnp.full(scene.ego.shape, 10)
    state = WORLD.reset((), jax.random.split(jax.random.key(0), scene.ego.shape[0]), scene, start)
    ego = state.ego.replace(x=state.ego.x + shift[0], y=state.ego.y + shift[1], heading=state.ego.heading + shift[2])
    return observe(with_ego(state, ego), CONFIG)


def view(scene, x=0.0, y=0.0, heading=0.0):
    """The observation of one scene from a shifted pose, and its image by channel name."""
    batch = scenes.stack([prepare(scene, CONFIG)])
    seen = jax.tree.map(lambda field: np.asarray(field[0]), look(batch, jnp.array([x, y, heading])))
    return seen, {name: seen.bev[..., i].astype(int) for i, name in enumerate(CHANNELS)}


@pytest.fixture(scope="module")
def busy():
    """Lead vehicle 20 m ahead at 10 m/s, a pedestrian 8 m to the left, a red light on the route 30 m ahead."""
    scene = scenes.with_agent(scenes.straight(), 1, x=20.0, y=0.0, speed=10.0)
    scene = scenes.with_agent(scene, 2, 10.0, 8.0, agent_type=AgentType.PEDESTRIAN, length=0.6, width=0.6)
    return scenes.with_light(scene, 30.0)


def test_vehicles_are_drawn_where_they_are_and_were(busy):
    _, image = view(busy)
    # rear at 17.75, front at 22.25, half width 0.9; rows count downwards from 50 m ahead
    expected = np.zeros((64, 64))
    expected[28:32, 31:33] = 0.9
    expected[[27, 32], 31:33] = 0.9 * 0.25
    np.testing.assert_allclose(image["vehicle"] / 255, expected, atol=0.01)
    np.testing.assert_allclose(image["vehicle_0.5s_ago"][5:], image["vehicle"][:-5], atol=1)
    np.testing.assert_allclose(image["vehicle_1s_ago"][10:], image["vehicle"][:-10], atol=1)


def test_vulnerable_agents_cover_at_least_a_pixels_area(busy):
    _, image = view(busy)
    np.testing.assert_allclose(image["vulnerable"].sum() / 255, 1.0, atol=0.02)
    rows, columns = np.nonzero(image["vulnerable"])
    np.testing.assert_allclose([rows.mean(), columns.mean()], [EGO_ROW - 10 - 0.5, EGO_COLUMN - 8 - 0.5])


def test_the_ego_itself_is_not_drawn():
    _, image = view(scenes.straight())
    assert not any(image[name].any() for name in CHANNELS[len(MAP_CHANNELS) :])


def test_map_lines_are_drawn_where_the_roadgraph_has_them():
    _, image = view(scenes.straight())
    edge = image["road_edge"][30]
    assert edge[33:35].sum() > 200 and edge[25:28].sum() > 200  # y = -2 and y = 5.5
    assert edge[29:33].sum() == 0
    assert image["route"][30, 30:34].min() > 40 and image["route"][30, 36:].max() == 0
    assert image["lane"][30, 31:33].sum() > 150


def test_a_turned_ego_sees_the_map_turned():
    """Facing left at the same place, the road runs from side to side."""
    _, image = view(scenes.straight(), heading=np.pi / 2)
    edge = image["road_edge"][:, 20]
    assert edge[EGO_ROW + 1 : EGO_ROW + 4].sum() > 200 and edge[EGO_ROW - 7 : EGO_ROW - 4].sum() > 200


def test_outside_the_tile_there_is_nothing():
    _, image = view(scenes.straight(), x=-200.0)
    assert not any(image[name].any() for name in MAP_CHANNELS)


@pytest.mark.parametrize(
    ("state", "channel"),
    [(LightState.STOP, "light_red"), (LightState.CAUTION, "light_yellow"), (LightState.ARROW_GO, "light_green")],
)
def test_lights_are_drawn_by_colour(state, channel):
    _, image = view(scenes.with_light(scenes.straight(), 30.0, state))
    assert image[channel][EGO_ROW - 31, EGO_COLUMN] == 255
    assert sum(image[name].any() for name in CHANNELS if name.startswith("light")) == 1


def test_lights_off_the_route_are_dimmer(busy):
    off = dataclasses.replace(busy, light_route_s=np.full_like(busy.light_route_s, -1))
    seen, image = view(off)
    assert image["light_red"].max() == 102
    assert np.isinf(seen.light_distance).all()


def test_observation_is_in_the_egos_frame(busy):
    seen, _ = view(busy, y=1.0, heading=np.pi / 2)
    np.testing.assert_allclose(seen.pose, [0, 1, np.pi / 2], atol=1e-6)
    # the lead vehicle is 20 m ahead in the scene: to the right of an ego that faces left, 1 m behind it
    np.testing.assert_allclose([seen.agent_x[1], seen.agent_y[1]], [-1, -20], atol=1e-5)
    np.testing.assert_allclose([seen.agent_vel_x[1], seen.agent_vel_y[1]], [0, -10], atol=1e-5)
    np.testing.assert_allclose(seen.agent_heading[1], -np.pi / 2, atol=1e-6)
    np.testing.assert_array_equal(seen.agent_valid, [False, True, True, False])
    np.testing.assert_allclose(seen.route_offset, 1.0, atol=1e-5)


def test_ego_features_and_light_distance(busy):
    seen, _ = view(busy)
    np.testing.assert_allclose(seen.ego, [10, 0, 0, scenes.SPEED_LIMIT], atol=1e-4)
    np.testing.assert_allclose(seen.light_distance, [30 - 2.25, np.inf], rtol=1e-5)
    assert seen.light_state[0] == LightState.STOP and seen.time == 10


CROWD = SceneSpec(agents=12, polylines=4, lights=12, route_points=64, text=4)


def crowded(count, rng):
    """`count` agents and lights in and around the image, many of them across its border."""
    scene = scenes.straight(CROWD)
    for row in range(count):
        x, y, heading = rng.uniform(-20, 56), rng.uniform(-38, 38), rng.uniform(-np.pi, np.pi)
        kind, size = rng.integers(1, 5), {"length": rng.uniform(0.4, 12.0), "width": rng.uniform(0.4, 3.0)}
        scene = scenes.with_agent(scene, row, x, y, heading, rng.uniform(0, 15), kind, **size) if row else scene
        state = {"light_state": rng.integers(1, 7), "light_valid": True, "light_x": x, "light_y": -y}
        scene = scenes.with_rows(scene, row, state | {"light_route_s": rng.choice([-1.0, 30.0])})
    return scene


@jax.jit
def traffic(scene):
    """What is drawn of boxes [B, 2, 3, H, W] and lights [B, 3, H, W], and the State."""
    start = jnp.full(scene.ego.shape, 10)
    state = WORLD.reset((), jax.random.split(jax.random.key(0), scene.ego.shape[0]), scene, start)
    pixels = pixel_centres(CONFIG.render)
    return draw_boxes(state, *pixels, CONFIG.render), draw_lights(state, *pixels, CONFIG.render), state


@pytest.fixture(scope="module")
def crowds():
    """A batch of rows with 1, 4 and 12 agents and lights, and the same rows as batches of one."""
    rng = np.random.default_rng(0)
    rows = [scenes.indexed(crowded(count, rng), CONFIG) for count in (1, 4, 12)]
    return traffic(scenes.stack(rows)), [traffic(scenes.stack([row])) for row in rows]


def test_everything_is_drawn_whether_in_view_or_not(crowds):
    """Against the maximum over all agents and all lights: what lies outside the view adds nothing to the image."""
    (boxes, lights, state), _ = crowds
    scene, pixels, sharp = state.scene, pixel_centres(CONFIG.render), CONFIG.render.resolution
    ego = state.ego[:, None]
    others = jnp.arange(CROWD.agents) != scene.ego[:, None]
    for i, ago in enumerate(AGO_STEPS):
        past = state.history[..., -1 - ago]
        x, y = to_frame(past.x, past.y, ego.x, ego.y, ego.heading)
        box = Box(x, y, past.heading - ego.heading, scene.length, scene.width)
        cover = coverage(box, *pixels, sharp) * (past.valid & others)[..., None, None]
        for j, kinds in enumerate((VEHICLE_TYPES, VULNERABLE_TYPES)):
            expected = jnp.max(cover * np.isin(scene.agent_type, kinds)[..., None, None], axis=1)
            np.testing.assert_allclose(boxes[:, j, i], expected, atol=1e-5)
            assert expected.any()
    x, y = to_frame(scene.light_x, scene.light_y, ego.x, ego.y, ego.heading)
    disc = jnp.clip(
        (LIGHT_RADIUS_M - jnp.hypot(pixels[0] - x[..., None, None], pixels[1] - y[..., None, None])) / sharp + 0.5, 0, 1
    )
    bright = jnp.where(scene.light_route_s >= 0, 1.0, OFF_ROUTE_LIGHT) * state.light_valid
    for j, states in enumerate(LIGHT_COLOURS):
        expected = jnp.max(disc * (bright * np.isin(state.light_state, states))[..., None, None], axis=1)
        np.testing.assert_allclose(lights[:, j], expected, atol=1e-5)
        assert expected.any()


def test_a_row_is_drawn_as_alone(crowds):
    """The loop over a batch's things ends with its fullest row. The image's bytes are the same; before they are rounded
    to bytes, the last bit may differ, for another batch is another program."""
    together, alone = crowds
    for row, single in enumerate(alone):
        for all_rows, own in zip(together[:2], single[:2], strict=True):
            np.testing.assert_allclose(all_rows[row], own[0], atol=1e-6)
            shown = [np.rint(255 * np.asarray(image)).astype(np.uint8) for image in (all_rows[row], own[0])]
            np.testing.assert_array_equal(*shown)
    assert [int(np.asarray(single[0]).any()) for single in alone] == [0, 1, 1]  # the first row has the ego alone


def test_an_agent_just_outside_the_view_changes_nothing():
    """The image ends 32 m to the left; a box along its border is 1.8 m wide."""
    _, alone = view(scenes.straight())
    images = {y: view(scenes.with_agent(scenes.straight(), 1, 10.0, y))[1] for y in (36.0, 33.0, 32.5)}
    for name in CHANNELS:
        np.testing.assert_array_equal(images[36.0][name], alone[name])
        np.testing.assert_array_equal(images[33.0][name], alone[name])
    assert images[32.5]["vehicle"].any()  # 0.4 m of it are in view
