"""What the tests of policies imitate: eight scenes in a small view, from starts all over the log."""

import jax
import jax.numpy as jnp
import scenes

from tether.policy.imitation import ImitationBatch, ImitationConfig, imitation_targets
from tether.policy.language import LabelConfig
from tether.policy.vla import VLA
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.prepare import prepare

SIMULATOR = SimulatorConfig(render=RenderConfig(height=32, width=32, resolution=2.0, tile_height=128, tile_width=128))
ROWS = 8


def eight_rows(vla: VLA, loss: ImitationConfig) -> ImitationBatch:
    """Free roads, followers, red lights and crossings, two of each."""
    logged = [scenes.straight(speed=5.0), scenes.lead_vehicle(), scenes.red_light(), scenes.crossing_vehicle()]
    scene = scenes.stack([prepare(scene, SIMULATOR) for scene in logged] * 2)
    start = jnp.array([10, 20, 30, 79, 80, 81, 45, 60])
    keys = jax.random.split(jax.random.key(3), ROWS)
    build = jax.jit(lambda scene: imitation_targets(scene, start, keys, vla, SIMULATOR, loss, LabelConfig()))
    return build(scene)
