"""The source of the images of `pixels.py`, and the warp of an image by the ego's motion."""

import jax
import jax.numpy as jnp

from tether.data.geometry import from_frame
from tether.data.scene import Array, Scene
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.render import pixel_centres, render
from tether.simulator.transition import HISTORY_STEPS
from tether.simulator.world import Agents, EgoState, State
from tether.worldmodel.window import ego_row, window_frames


def rendered_frames(boxes: Agents, scene: Scene, first: Array, simulator: SimulatorConfig) -> Array:
    """The images of a window, as the simulator renders its boxes.

    This is the function to replace for a data set that has images of its own; it then reads them off `scene`.

    Args:
      boxes: `Agents` [B, A, (F - 1) * S + 1], the ego's row as driven.
      scene: `Scene` [B, ...].
      first: int32[B], log step of the window's first box; images are wanted at every S-th step from there.
    Returns: uint8[B, F, H, W, C].
    """
    substeps = simulator.substeps
    lights = window_frames(boxes, scene, first, simulator)
    # Boxes before the window are not drawn: a reset has no longer history either.
    early = jax.tree.map(lambda a: jnp.pad(a, [(0, 0), (0, 0), (HISTORY_STEPS - 1, 0)]), boxes)

    def image(inputs: tuple[Array, Array, Array]) -> Array:
        index, light_state, light_valid = inputs
        history = jax.tree.map(
            lambda a: jax.lax.dynamic_slice_in_dim(a, index * substeps, HISTORY_STEPS, axis=2), early
        )
        return render(_state(scene, first + index * substeps, history, light_state, light_valid), simulator)

    lights = (jnp.swapaxes(field, 0, 1) for field in (lights.light_state, lights.light_valid))
    count = (boxes.x.shape[-1] - 1) // substeps + 1
    return jnp.swapaxes(jax.lax.map(image, (jnp.arange(count), *lights)), 0, 1)


def _state(scene: Scene, time: Array, history: Agents, light_state: Array, light_valid: Array) -> State:
    """A state that can be rendered: of the ego's motion, only the pose is known."""
    own = ego_row(history[..., -1], scene.ego, -1)
    unknown = jnp.zeros_like(own.x)
    ego = EgoState(own.x, own.y, own.heading, *(unknown,) * 5)
    return State(scene, time, ego, history, light_state, light_valid, unknown, own.valid, latent=())


def warp(image: Array, along: Array, across: Array, turn: Array, config: RenderConfig) -> tuple[Array, Array]:
    """An ego-centred image as it looks from a pose that is `along` and `across` [m] and turned by `turn` [rad].

    This predicts the next image by geometry alone: the ground moves, and everything on it stands still.

    Args: image: float32[H, W, C]; along, across, turn: float32[].
    Returns: the image, bilinear, 0 where it shows ground that was not in view; and bool[H, W], True where it was.
    """
    height, width, channels = image.shape
    x, y = from_frame(*pixel_centres(config), along, across, turn)
    ahead = config.height * config.resolution - config.behind
    row = (ahead - x) / config.resolution - 0.5
    column = (config.width / 2 - y / config.resolution) - 0.5
    top, left = jnp.floor(row), jnp.floor(column)
    pixels = image.reshape(-1, channels)

    def tap(i: int, j: int) -> Array:
        at_row, at_column = (top + i).astype(int), (left + j).astype(int)
        inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        weight = jnp.abs(1 - i - (row - top)) * jnp.abs(1 - j - (column - left)) * inside
        return pixels[jnp.where(inside, at_row * width + at_column, 0)] * weight[..., None]

    seen = (row > -1) & (row < height) & (column > -1) & (column < width)
    return tap(0, 0) + tap(0, 1) + tap(1, 0) + tap(1, 1), seen
