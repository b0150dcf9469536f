"""The ego's BEV image as a further input: coarse, for the ego's own memory alone, since it is centred on the ego."""

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.render import CHANNELS, render
from tether.simulator.world import Agents, EgoState, State
from tether.worldmodel.frames import rendered_frames


def view_width(simulator: SimulatorConfig, cell: int) -> int:
    """V, numbers of a coarse image. Raises: ValueError where cells do not fill it."""
    height, width = simulator.render.height, simulator.render.width
    if height % cell or width % cell:
        raise ValueError(f"expected an image of whole cells of {cell} pixels, found {height} x {width}")
    return height * width // cell**2 * len(CHANNELS)


def coarse(image: Array, cell: int) -> Array:
    """Means over cells of `cell` x `cell` pixels. uint8[..., H, W, C] -> float32[..., V] in [0, 1]."""
    *lead, height, width, channels = image.shape
    cells = image.astype(jnp.float32).reshape(*lead, height // cell, cell, width // cell, cell, channels)
    return (cells.mean((-4, -2)) / 255).reshape(*lead, -1)


def window_view(boxes: Agents, scene: Scene, first: Array, simulator: SimulatorConfig, cell: int) -> Array:
    """What the ego sees at each frame of a window, float32[B, F, V]. Args: see `frames.rendered_frames`."""
    return coarse(rendered_frames(boxes, scene, first, simulator), cell)


def step_view(
    state: State, swept: EgoState, boxes: Agents, lights: tuple[Array, Array], simulator: SimulatorConfig, cell: int
) -> Array:
    """What the ego sees after a step, past any failure in it, float32[B, V].

    Args: state: before the step.  swept: [B, S].  boxes: [B, A, S], the ego's row as swept.  lights: [B, L, S] each.
    """
    steps = boxes.x.shape[-1]
    after = state.replace(
        time=state.time + steps,
        ego=jax.tree.map(lambda field: field[:, -1], swept),
        history=jax.tree.map(lambda old, new: jnp.concatenate([old[..., steps:], new], -1), state.history, boxes),
        light_state=lights[0][..., -1],
        light_valid=lights[1][..., -1],
    )
    return coarse(render(after, simulator), cell)
