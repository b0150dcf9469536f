"""The replays that models are tested on, and changes to them that must not change the result.

B = 4 scenes, H = `HORIZON` steps. Scenes are padded: rows of agents, polylines and lights beyond the real ones.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.geometry import rotate, wrap_angle
from tether.data.scene import Scene, SceneSpec
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import log_ego, track_log
from tether.simulator.log_replay import LogReplay
from tether.simulator.prepare import prepare
from tether.simulator.replay import replay_actions
from tether.simulator.world import Agents, Params, Rollout, World
from tether.worldmodel.batch import ModelBatch, from_rollout
from tether.worldmodel.conformance import scenes

HORIZON, BRAKING = 4, 2.5  # steps, m/s^2
AGENT_FIELDS = ("x", "y", "heading", "vel_x", "vel_y", "valid", "length", "width", "agent_type")
ROAD_FIELDS = ("road_x", "road_y", "road_valid", "road_type")
LIGHT_FIELDS = ("light_x", "light_y", "light_route_s", "light_state", "light_valid")
SET_FIELDS = (*AGENT_FIELDS, *ROAD_FIELDS, *LIGHT_FIELDS)  # sets, in whatever order


@dataclasses.dataclass(frozen=True)
class Motion:
    """A rigid motion: a turn by `angle` [rad] about the origin, then a shift [m]."""

    angle: float
    x: float
    y: float


def four_scenes(simulator: SimulatorConfig) -> Scene:
    """Prepared scenes [B = 4]: free road, lead vehicle, crossing vehicle, red light."""
    some = [scenes.straight(), scenes.lead_vehicle(), scenes.crossing_vehicle(), scenes.red_light()]
    return scenes.stack([prepare(scene, simulator) for scene in some])


def braking(scene: Scene) -> Scene:
    """Agent 1 of each scene brakes from the current step on, until it stands."""
    time = np.maximum(np.arange(scene.x.shape[-1]) - SceneSpec.current, 0) * SceneSpec.dt
    speed = np.hypot(scene.vel_x[:, 1], scene.vel_y[:, 1])
    lost = BRAKING * np.minimum(time, speed[:, SceneSpec.current, None] / BRAKING)
    mean_lost = (lost[:, 1:] + lost[:, :-1]) / 2
    missing = np.concatenate([np.zeros_like(lost[:, :1]), np.cumsum(mean_lost * SceneSpec.dt, 1)], 1)
    cos, sin = np.cos(scene.heading[:, 1]), np.sin(scene.heading[:, 1])
    shifts = {"x": missing * cos, "y": missing * sin, "vel_x": lost * cos, "vel_y": lost * sin}
    fields = {name: getattr(scene, name).copy() for name in shifts}
    for name, shift in shifts.items():
        fields[name][:, 1] -= shift * scene.valid[:, 1]
    return dataclasses.replace(scene, **fields)


def replay(scene: Scene, simulator: SimulatorConfig) -> ModelBatch:
    """The ego follows its log from the current step on; nothing terminates within the horizon."""
    rows = scene.ego.shape[0]
    start = jnp.full(rows, SceneSpec.current, jnp.int32)
    action = track_log(log_ego(scene, start), scene, start, HORIZON * simulator.substeps, simulator)
    action = jax.tree.map(lambda a: a.reshape(rows, HORIZON, -1), action)
    keys = jax.random.split(jax.random.key(0), rows)
    rollout = replay_actions(LogReplay(simulator), (), keys, scene, start, action)
    return from_rollout(scene, start, rollout, jnp.ones(rows, bool))


def imagine(model: World, params: Params, keys: jax.Array, batch: ModelBatch) -> Rollout:
    """A batch's actions in a model, without what a policy would see there: the suite draws no images."""
    rollout = replay_actions(model, params, keys, batch.scene, batch.start, batch.action)
    return rollout.replace(observation=(), final=())


def moved(scene: Scene, motion: Motion, simulator: SimulatorConfig) -> Scene:
    """Prepared scenes [B, ...] after a rigid motion, with map tile and road index made anew. Numpy."""
    rows = [jax.tree.map(lambda a, row=row: np.asarray(a[row]), scene) for row in range(len(scene.ego))]
    return scenes.stack([prepare(_moved_row(row, motion), simulator) for row in rows])


def _moved_row(scene: Scene, motion: Motion) -> Scene:
    masks = {
        "": scene.valid,
        "road_": scene.road_valid,
        "light_": scene.light_valid.any(-1),
        "route_": scene.route_valid,
    }
    fields = {"heading": np.where(scene.valid, wrap_angle(scene.heading + motion.angle), 0)}
    fields["vel_x"], fields["vel_y"] = rotate(scene.vel_x, scene.vel_y, motion.angle)
    for kind, mask in masks.items():
        x, y = rotate(getattr(scene, kind + "x"), getattr(scene, kind + "y"), motion.angle)
        fields[kind + "x"], fields[kind + "y"] = np.where(mask, x + motion.x, 0), np.where(mask, y + motion.y, 0)
    return dataclasses.replace(scene, **{name: np.asarray(a, np.float32) for name, a in fields.items()})


def moved_boxes(agents: Agents, motion: Motion) -> Agents:
    """Valid boxes after a rigid motion."""
    x, y = rotate(agents.x, agents.y, motion.angle)
    vel_x, vel_y = rotate(agents.vel_x, agents.vel_y, motion.angle)
    return Agents(x + motion.x, y + motion.y, agents.heading + motion.angle, vel_x, vel_y, agents.valid)


def reordered(scene: Scene) -> Scene:
    """Agents, polylines and lights in reverse order."""
    return scene.replace(
        **{name: getattr(scene, name)[:, ::-1] for name in SET_FIELDS}, ego=scene.x.shape[1] - 1 - scene.ego
    )


def padded(scene: Scene) -> Scene:
    """Two more padded agents, three polylines, a light."""
    more = {**dict.fromkeys(AGENT_FIELDS, 2), **dict.fromkeys(ROAD_FIELDS, 3), **dict.fromkeys(LIGHT_FIELDS, 1)}

    def wider(field: jax.Array, rows: int) -> jax.Array:
        return jnp.pad(field, [(0, 0), (0, rows)] + [(0, 0)] * (field.ndim - 2))

    return scene.replace(**{name: wider(getattr(scene, name), rows) for name, rows in more.items()})


def with_noisy_padding(scene: Scene) -> Scene:
    """The same masks, with numbers in place of the zeros beneath them."""
    masked = {"valid": ("x", "y", "heading", "vel_x", "vel_y"), "road_valid": ("road_x", "road_y")}
    fields = {
        name: jnp.where(getattr(scene, mask), getattr(scene, name), 7.7)
        for mask, names in masked.items()
        for name in names
    }
    return scene.replace(**fields)


def with_another_future(scene: Scene) -> Scene:
    """The same scenes up to the current step; after it agents are elsewhere or absent, and lights change."""
    later = jnp.arange(scene.x.shape[-1]) > SceneSpec.current
    other = (jnp.arange(scene.x.shape[1]) != scene.ego[:, None])[..., None]  # the simulator may know the log's end
    tracks = ("x", "y", "heading", "vel_x", "vel_y")
    return scene.replace(
        **{name: jnp.where(later, getattr(scene, name) + 1.5, getattr(scene, name)) for name in tracks},
        valid=scene.valid ^ (later & other),
        light_state=jnp.where(later, (scene.light_state + 2) % 9, scene.light_state),
        light_valid=scene.light_valid ^ later,
    )


def others(agents: Agents, batch: ModelBatch) -> dict[str, jax.Array]:
    """The imagined motion of all valid agents but the ego, 0 elsewhere; the heading by its cosine and sine.

    Args: agents: [H, B, A, S].
    """
    rows = jnp.arange(agents.x.shape[2]) != batch.scene.ego[:, None]
    kept = agents.valid & rows[..., None]
    fields = {name: getattr(agents, name) for name in ("x", "y", "vel_x", "vel_y")}
    fields |= {"cos_heading": jnp.cos(agents.heading), "sin_heading": jnp.sin(agents.heading)}
    return {"valid": kept} | {name: jnp.where(kept, field, 0.0) for name, field in fields.items()}
