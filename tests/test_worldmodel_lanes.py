"""Traffic that follows lanes, without noise: each scene has an answer that is known by rule.

The ego of all scenes stands on the straight road of `scenes.straight`; what is looked at drives on lanes of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.data.scene import AgentType, LightState, RoadType, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.geometry import Box, penetration
from tether.simulator.replay import replay_actions
from tether.simulator.transition import start_state
from tether.simulator.world import Action
from tether.worldmodel.lane_paths import paths_ahead
from tether.worldmodel.lanes import LanesConfig
from tether.worldmodel.motion import Motion

Y = 60.0  # of the lane that most scenes have
STEPS, CURRENT, SIMULATOR = 14, scenes.TINY.current, SimulatorConfig()
TURN_RATE = 0.3


def lane(scene: Scene, x, y) -> Scene:
    """With a driving lane through points, or between two."""
    points = np.linspace(0, 1, 16) if len(x) == 2 else np.linspace(0, 1, len(x))
    x, y = (np.interp(points, np.linspace(0, 1, len(values)), values) for values in (x, y))
    return scenes.with_polyline(scene, x, y, RoadType.LANE_SURFACE)


def along_x(y: float = Y) -> Scene:
    """A lane along x, 300 m long."""
    return lane(scenes.straight(speed=0.0), (-50.0, 250.0), (y, y))


def light(scene: Scene, row: int, x: float, y: float, state: LightState) -> Scene:
    """With a light over a place, of one state."""
    return scenes.with_rows(scenes.with_light(scene, x, state, row), row, {"light_y": y})


def bend() -> Scene:
    """40 m along x, a quarter of a circle of 20 m to the left, on along y; and an agent that turns on no lane."""
    angle = np.linspace(0, np.pi / 2, 12)
    scene = lane(scenes.straight(speed=0.0), (0.0, 40.0), (Y, Y))
    scene = lane(scene, 40 + 20 * np.sin(angle), Y + 20 - 20 * np.cos(angle))
    scene = scenes.with_agent(lane(scene, (60.0, 60.0), (Y + 20, Y + 120)), 1, x=10.0, y=Y, speed=8.0)
    heading = TURN_RATE * scenes.TINY.dt * (np.arange(scenes.TINY.steps) - CURRENT)
    circle = {"x": 20 * np.sin(heading), "y": -100 - 20 * np.cos(heading), "heading": heading}
    circle |= {"vel_x": 20 * TURN_RATE * np.cos(heading), "vel_y": 20 * TURN_RATE * np.sin(heading)}
    return scenes.with_rows(scenes.with_agent(scene, 2, x=0.0, y=-120.0), 2, circle)


def lights() -> Scene:
    """A red light 40 m ahead of one agent, and a green one on another lane, 40 m ahead of another."""
    scene = lane(along_x(), (-50.0, 250.0), (Y + 20, Y + 20))
    for row, (y, state) in enumerate(((Y, LightState.STOP), (Y + 20, LightState.GO))):
        scene = scenes.with_agent(light(scene, row, 40.0, y, state), row + 1, x=0.0, y=y, speed=10.0)
    return scene


def two(gap: float, behind: float, ahead: float) -> Scene:
    """Two vehicles of these speeds, the one with its rear `gap` metres before the other's front; a pedestrian apart."""
    scene = scenes.with_agent(along_x(), 1, x=0.0, y=Y, speed=behind)
    scene = scenes.with_agent(scene, 2, x=gap + 4.5, y=Y, speed=ahead)
    return scenes.with_agent(scene, 3, x=0.0, y=-50.0, heading=1.0, speed=1.4, agent_type=AgentType.PEDESTRIAN)


def crossing(agent_type: int, distance: float, speed: float) -> Scene:
    """A vehicle at 8 m/s, and at x = 30 another agent that crosses its lane from the right, so far before it."""
    scene = lane(scenes.with_agent(along_x(), 1, x=0.0, y=Y, speed=8.0), (30.0, 30.0), (Y - 50, Y + 200))
    return scenes.with_agent(scene, 2, x=30.0, y=Y - distance, heading=np.pi / 2, speed=speed, agent_type=agent_type)


def before_the_ego() -> Scene:
    """A vehicle at 10 m/s on the ego's lane, 40 m behind it."""
    scene = lane(scenes.straight(speed=0.0), (-100.0, 250.0), (0.0, 0.0))
    return scenes.with_agent(scene, 1, x=-40.0, y=0.0, speed=10.0)


SCENES = {
    "bend": bend,
    "lights": lights,
    "standing": lambda: two(40.0, 10.0, 0.0),
    "following": lambda: two(12.0, 10.0, 5.0),
    "queue": lambda: two(3.0, 0.0, 2.0),
    "first": lambda: crossing(AgentType.VEHICLE, 18.0, 8.0),
    "pedestrian": lambda: crossing(AgentType.PEDESTRIAN, 5.0, 1.4),
    "ego": before_the_ego,
}


@jax.jit
def imagined(settings, keys, batch):
    """`Agents` [H, B, A, S] while the ego stands. Args: settings: of the model, by name."""
    model = LanesConfig(**settings).build(SIMULATOR)
    rows = batch.ego.shape[0]
    nothing = jnp.zeros((rows, STEPS, SIMULATOR.substeps))
    start = jnp.full(rows, CURRENT)
    return replay_actions(model, (), keys, batch, start, Action(nothing, nothing)).agents


@pytest.fixture(scope="module")
def traffic():
    """A function from a seed and settings, without noise by default, to `Agents` [A, T] by name of the scene, numpy."""
    batch = scenes.stack([scenes.indexed(make(), SIMULATOR) for make in SCENES.values()])

    def of(seed: int = 0, **settings: float) -> dict:
        settings = {"acceleration_noise": 0.0, "speed_noise": 0.0, "nonreactive": 0.0} | settings
        keys = jax.random.split(jax.random.key(seed), len(SCENES))
        agents = jax.tree.map(np.asarray, imagined(settings, keys, batch))
        tracks = jax.tree.map(lambda a: a.transpose(1, 2, 0, 3).reshape(len(SCENES), a.shape[2], -1), agents)
        return {name: tracks[i] for i, name in enumerate(SCENES)}

    return of


def apart(agents, one: int, other: int) -> float:
    """The least distance [m] between the boxes of two agents over time; negative where they overlap."""
    boxes = [Box(agents.x[row], agents.y[row], agents.heading[row], 4.5, 1.8) for row in (one, other)]
    return -float(np.max(penetration(*boxes)))


def test_an_agent_follows_its_lane_round_a_bend_and_slows_down_for_it(traffic):
    x, y, speed = (getattr(traffic()["bend"], name)[1] for name in ("x", "y", "speed"))
    assert x[-1] > 56 and y[-1] > Y + 7
    radius = np.hypot(x - 40, y - Y - 20)[x > 40]
    np.testing.assert_allclose(radius, 20, atol=1.0)
    assert 0.6 * 2.5 < np.max(speed[x > 50] ** 2 / 20) < 1.1 * 2.5


def test_off_lanes_an_agent_keeps_its_turn_rate_and_speed(traffic):
    agents, time = traffic()["bend"], scenes.TINY.dt * np.arange(1, 5 * STEPS + 1)
    np.testing.assert_allclose(agents.speed[2], 6.0, rtol=1e-3)
    np.testing.assert_allclose(np.unwrap(agents.heading[2]), TURN_RATE * time, atol=0.02)


def test_an_agent_stops_at_a_red_light_and_not_at_a_green_one(traffic):
    agents = traffic()["lights"]
    assert agents.speed[1, -1] < 0.1 and 38 < agents.x[1, -1] + 2.25 < 40.5
    assert np.all(np.abs(agents.speed[2] - 10) < 0.1)


def test_an_agent_stops_behind_a_parked_vehicle(traffic):
    agents = traffic()["standing"]
    np.testing.assert_allclose(agents.x[2], 44.5, atol=1e-3)
    assert agents.speed[1, -1] < 0.1 and 1 < apart(agents, 1, 2) < 2


def test_an_agent_that_reacts_to_the_ego_stops_behind_it_and_one_that_does_not_drives_on(traffic):
    reacting, nonreactive = (traffic(nonreactive=fraction)["ego"] for fraction in (0.0, 1.0))
    assert reacting.speed[1, -1] < 0.1 and -10 < reacting.x[1, -1] < -4.5
    assert nonreactive.speed[1].min() > 7 and nonreactive.x[1, -1] > 10


def test_an_agent_that_does_not_react_to_the_ego_reacts_to_the_others(traffic):
    agents = traffic(nonreactive=1.0)["standing"]
    assert agents.speed[1, -1] < 0.1 and 1 < apart(agents, 1, 2) < 2


def test_a_pedestrian_keeps_its_velocity(traffic):
    agents = traffic()["standing"]
    np.testing.assert_allclose([agents.vel_x[3, -1], agents.vel_y[3, -1]], 1.4 * np.array([np.cos(1), np.sin(1)]))


def test_an_agent_follows_a_leader_at_its_speed(traffic):
    agents = traffic()["following"]
    assert apart(agents, 1, 2) > 2 and abs(agents.speed[1, -1] - agents.speed[2, -1]) < 0.5


@pytest.mark.parametrize(("name", "steady"), [("first", 8.0), ("pedestrian", 1.4)])
def test_an_agent_yields_to_one_that_crosses_first(traffic, name, steady):
    agents = traffic()[name]
    assert agents.speed[1].min() < 3.5 and apart(agents, 1, 2) > 0.5
    np.testing.assert_allclose(agents.speed[2], steady, atol=0.1)


def test_an_agent_of_a_queue_starts_when_its_leader_does_and_a_parked_one_never(traffic):
    """It starts by its noise: without any it would stand."""
    agents = traffic(acceleration_noise=0.5)
    assert agents["queue"].speed[1, 4] < 0.5 and agents["queue"].x[1, -1] > 10
    assert agents["standing"].speed[2].max() < 1e-3


def test_noise_makes_many_futures_and_one_for_each_key(traffic):
    one, again, other = (traffic(seed, acceleration_noise=0.3)["following"].x[1:3] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.all(np.abs(one - other)[:, -1] > 0.1)


@pytest.mark.parametrize(("name", "value"), [("acceleration_noise", 0.3), ("speed_noise", 0.2)])
def test_every_setting_acts(traffic, name, value):
    before, after = (traffic(**settings)["following"].x[2, -1] for settings in ({}, {name: value}))
    assert abs(after - before) > 0.1


def fork() -> Scene:
    """Agents at one place, 10 m before a lane ends where three begin: straight on, to the right and to the left."""
    scene = lane(scenes.straight(speed=0.0), (-20.0, 10.0), (Y, Y))
    for y in (Y, Y - 20, Y + 20):
        scene = lane(scene, (10.0, 50.0), (Y, y))
    for row in (1, 2, 3):
        scene = scenes.with_agent(scene, row, x=0.0, y=Y + 0.3, speed=8.0)
    return scenes.indexed(scene, SIMULATOR)


def test_a_choice_takes_a_lane_from_left_to_right():
    @jax.jit
    def ahead(scene, choice):
        still = jnp.zeros(4)
        now = start_state(jax.tree.map(lambda a: a[None], scene), jnp.array([CURRENT]), latent=()).now[0]
        return paths_ahead(now, Motion(now.speed, still, still), scene, choice, SIMULATOR)

    path = ahead(fork(), jnp.array([0.0, 0.1, 0.5, 0.9]))
    np.testing.assert_array_equal(path.on_lane, True)
    np.testing.assert_allclose(path.offset[1:], 0.3, atol=1e-4)
    slope = np.asarray((path.y - Y)[1:, -1] / (path.x[1:, -1] - 10))
    np.testing.assert_allclose(slope, [0.5, 0.0, -0.5], atol=1e-3)
    np.testing.assert_allclose(np.asarray(path.y)[:, 0], [0.0, Y, Y, Y], atol=1e-3)
