"""The BEV image that a policy sees: a static map tile per scene, cut and turned per step, with the traffic on top.

Image: row 0 is ahead, column 0 is left; the ego's centre is `RenderConfig.behind` metres above the lower border and
in the middle. The ego itself is not drawn: it is always at the same place. Values are coverage times 255.
Tile: row i is x, column j is y of the scene's frame, both ascending from the corner in `RenderConfig`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from tether.data.geometry import from_frame, to_frame
from tether.data.scene import (
    DRIVING_LANE_TYPES,
    LINE_TYPES,
    RED_STATES,
    ROAD_EDGE_TYPES,
    VEHICLE_TYPES,
    VULNERABLE_TYPES,
    YELLOW_STATES,
    Array,
    LightState,
    RoadType,
    Scene,
    is_type,
)
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.geometry import Box
from tether.simulator.world import EgoState, State

MAP_CHANNELS = ("road_edge", "lane", "marking", "route")
CHANNELS = (
    *MAP_CHANNELS,
    "vehicle",
    "vehicle_0.5s_ago",
    "vehicle_1s_ago",
    "vulnerable",
    "vulnerable_ago",
    "light_red",
    "light_yellow",
    "light_green",
)
AGO_STEPS = (0, 5, 10)  # log steps back at which boxes are drawn
FLASHING_STATES = (LightState.FLASHING_STOP, LightState.FLASHING_CAUTION)  # drive with care, as at yellow
LIGHT_COLOURS = (RED_STATES, (*YELLOW_STATES, *FLASHING_STATES), (LightState.ARROW_GO, LightState.GO))
LINE_WIDTH_M = 1.0  # one pixel: thinner lines fade
ROUTE_WIDTH_M = 3.0
LIGHT_RADIUS_M = 2.0
OFF_ROUTE_LIGHT = 0.4  # brightness of lights that do not concern the ego
MIN_BOX_PX = 1.0  # a pedestrian of 0.5 m must not vanish between pixels
FULL_SPEED_MPS = 35.0  # speed limit at which the route is drawn brightest
AREA_BRIGHTNESS = {RoadType.CROSSWALK: 128, RoadType.SPEED_BUMP: 64}


def rasterize_map(scene: Scene, config: SimulatorConfig) -> np.ndarray:
    """Draws the roadgraph and route of one numpy scene on the host.

    Channels: road edges; centre lines of driving lanes, bike lanes darker; lane markings, with crosswalks and speed
    bumps as darker areas; the route, 3 m wide, the brighter the higher its speed limit.

    Returns: uint8[tile_height, tile_width, 4], `MAP_CHANNELS`.
    """
    render = config.render
    lines: dict[str, list] = {name: [] for name in MAP_CHANNELS}
    for x, y, valid, kind in zip(scene.road_x, scene.road_y, scene.road_valid, scene.road_type, strict=True):
        style = _style(int(kind))
        if style is not None and valid.any():
            lines[style[0]].append((x[valid], y[valid], *style[1:]))
    if scene.route_valid.any():
        lines["route"] = _route_lines(scene)
    return np.stack([_draw(lines[name], render) for name in MAP_CHANNELS], axis=-1)


def _style(kind: int) -> tuple[str, int, float] | None:
    """Channel, brightness and line width [m] (0 fills the area) of a road type; None if not drawn."""
    if kind in ROAD_EDGE_TYPES:
        return "road_edge", 255, LINE_WIDTH_M
    if kind in DRIVING_LANE_TYPES:
        return "lane", 255, LINE_WIDTH_M
    if kind == RoadType.LANE_BIKE:
        return "lane", 128, LINE_WIDTH_M
    if kind in LINE_TYPES:
        return "marking", 255, LINE_WIDTH_M
    if kind in AREA_BRIGHTNESS:
        return "marking", AREA_BRIGHTNESS[kind], 0.0
    return None


def _route_lines(scene: Scene) -> list:
    x, y, limit = (field[scene.route_valid] for field in (scene.route_x, scene.route_y, scene.route_speed_limit))
    brightness = np.where(limit > 0, 95 + 160 * np.minimum(limit / FULL_SPEED_MPS, 1), 175).astype(int)
    return [(x[i : i + 2], y[i : i + 2], int(brightness[i]), ROUTE_WIDTH_M) for i in range(len(x) - 1)]


def _draw(lines: list, render: RenderConfig) -> np.ndarray:
    """One channel of the tile, supersampled; brighter lines are drawn later."""
    fine = render.supersampling / render.resolution
    size = (render.tile_width * render.supersampling, render.tile_height * render.supersampling)
    image = Image.new("L", size)
    pen = ImageDraw.Draw(image)
    for x, y, brightness, width in sorted(lines, key=lambda line: line[2]):
        # PIL counts from pixel centres.
        columns, rows = (y - render.tile_y_min) * fine - 0.5, (x - render.tile_x_min) * fine - 0.5
        points = np.stack([columns, rows], axis=-1).ravel().tolist()
        if width == 0 and len(x) >= 3:
            pen.polygon(points, fill=brightness)
        elif len(x) >= 2:
            pen.line(points, fill=brightness, width=max(round(width * fine), 1))
    return np.asarray(image.reduce(render.supersampling))


def render(state: State, config: SimulatorConfig) -> Array:
    """The image bev uint8[B, H, W, C] of `CHANNELS`."""
    px_x, px_y = pixel_centres(config.render)
    ground = jax.vmap(lambda tile, ego: sample_tile(tile, ego, px_x, px_y, config.render))
    boxes, lights = draw_boxes(state, px_x, px_y, config.render), draw_lights(state, px_x, px_y, config.render)
    vehicles, vulnerable = boxes[:, 0], boxes[:, 1]
    vulnerable_ago = jnp.maximum(vulnerable[:, 1], 0.5 * vulnerable[:, 2])
    drawn = jnp.concatenate([vehicles, jnp.stack([vulnerable[:, 0], vulnerable_ago], axis=1), lights], axis=1)
    return jnp.concatenate([bytes_of(ground(state.scene.map_tile, state.ego)), bytes_of(drawn * 255)], axis=-1)


def bytes_of(planes: Array) -> Array:
    """uint8[B, H, W, C] of [B, C, H, W]. The barrier keeps XLA from drawing everything again for each channel."""
    return jnp.moveaxis(jax.lax.optimization_barrier(jnp.round(planes).astype(jnp.uint8)), 1, -1)


def pixel_centres(config: RenderConfig) -> tuple[Array, Array]:
    """x [H, 1] and y [1, W] of the pixels in the ego's frame [m]."""
    ahead = config.height * config.resolution - config.behind
    x = ahead - (jnp.arange(config.height) + 0.5) * config.resolution
    y = (config.width / 2 - jnp.arange(config.width) - 0.5) * config.resolution
    return x[:, None], y[None, :]


def sample_tile(tile: Array, ego: EgoState, px_x: Array, px_y: Array, config: RenderConfig) -> Array:
    """The turned crop of the tile, bilinear: float32[4, H, W] in 0..255; 0 outside the tile."""
    x, y = from_frame(px_x, px_y, ego.x, ego.y, ego.heading)
    row = (x - config.tile_x_min) / config.resolution - 0.5
    column = (y - config.tile_y_min) / config.resolution - 0.5
    row_floor, column_floor = jnp.floor(row), jnp.floor(column)
    down, right = row - row_floor, column - column_floor
    # One look-up for four channels; the barrier below keeps XLA from looking up again for each.
    packed = jax.lax.bitcast_convert_type(tile, jnp.uint32).reshape(-1)
    shift = 8 * jnp.arange(len(MAP_CHANNELS), dtype=jnp.uint32)[:, None, None]

    def tap(i, j, weight):
        row, column = row_floor + i, column_floor + j
        inside = (row >= 0) & (row < tile.shape[0]) & (column >= 0) & (column < tile.shape[1])
        place = jnp.where(inside, row * tile.shape[1] + column, 0).astype(jnp.int32)
        texel = jax.lax.optimization_barrier(packed.at[place].get(mode="promise_in_bounds"))
        return (texel >> shift & 255).astype(jnp.float32) * jnp.where(inside, weight, 0.0)

    above = tap(0, 0, (1 - down) * (1 - right)) + tap(0, 1, (1 - down) * right)
    return above + tap(1, 0, down * (1 - right)) + tap(1, 1, down * right)


def coverage(box: Box, px_x: Array, px_y: Array, resolution: float) -> Array:
    """The fraction of each pixel [..., H, W] that a box [...] covers, for boxes larger than a pixel."""
    box = jax.tree.map(lambda field: field[..., None, None], box)
    cos, sin = jnp.cos(box.heading) / resolution, jnp.sin(box.heading) / resolution
    parts = ((px_x - box.x) * cos, (box.x - px_x) * sin), ((px_y - box.y) * sin, (px_y - box.y) * cos)
    # Rows and columns are kept apart, so that only an addition is left to do per pixel.
    row, column = jax.lax.optimization_barrier(parts)
    far_along, far_across = (
        jnp.maximum(size, MIN_BOX_PX * resolution) / (2 * resolution) + 0.5 for size in (box.length, box.width)
    )
    along = jnp.clip(far_along - jnp.abs(row[0] + column[0]), 0.0, 1.0)
    return along * jnp.clip(far_across - jnp.abs(row[1] + column[1]), 0.0, 1.0)


def draw_boxes(state: State, px_x: Array, px_y: Array, config: RenderConfig) -> Array:
    """Coverage [B, 2, 3, H, W] by vehicles, and by vulnerable road users, at each of `AGO_STEPS`."""
    scene = state.scene
    past = jax.tree.map(lambda field: jnp.stack([field[..., -1 - ago] for ago in AGO_STEPS], axis=-1), state.history)
    ego = state.ego[:, None, None]
    x, y = to_frame(past.x, past.y, ego.x, ego.y, ego.heading)
    other = (jnp.arange(x.shape[1]) != scene.ego[:, None])[..., None] & past.valid
    seen = other & in_view(x, y, jnp.hypot(scene.length, scene.width)[..., None] / 2, config)
    size = [jnp.broadcast_to(field[..., None], x.shape) for field in (scene.length, scene.width)]
    boxes = Box(x, y, past.heading - ego.heading, *size)

    def draw(canvas, box, weight):
        return jnp.maximum(canvas, coverage(box, px_x, px_y, config.resolution) * weight[:, None, None])

    def layer(kinds):
        visible = seen & is_type(scene.agent_type, kinds)[..., None]
        canvas = jnp.zeros((len(x), len(AGO_STEPS), config.height, config.width))
        return draw_each(draw, canvas, (boxes, visible.astype(jnp.float32)), visible.any(-1))

    return jnp.stack([layer(kinds) for kinds in (VEHICLE_TYPES, VULNERABLE_TYPES)], axis=1)


def in_view(x: Array, y: Array, radius: Array, config: RenderConfig) -> Array:
    """Whether a disc in the ego's frame may touch the image."""
    margin = jnp.maximum(radius, MIN_BOX_PX * config.resolution) + config.resolution
    ahead = config.height * config.resolution - config.behind
    beside = config.width * config.resolution / 2
    return (x > -config.behind - margin) & (x < ahead + margin) & (jnp.abs(y) < beside + margin)


def draw_each(draw: Callable, canvas: Array, things: Any, seen: Array) -> Array:
    """Draws the things that are in view (`seen` [B, N]) onto the canvas [B, ...], one of each row at a time.

    A maximum over the things' axis takes ten times as long on a CPU. The loop ends with the row that has most things.

    Args: draw: from a row's canvas and one of its things to the canvas.   things: pytree of [B, N, ...].
    """
    passed = jnp.cumsum(seen, axis=1)

    def body(count, canvas):
        thing = jnp.sum(passed <= count, axis=1)  # N where a row has no more things: the fill value 0 draws nothing

        def take(field):
            return jax.vmap(lambda values, i: values.at[i].get(mode="fill", fill_value=0))(field, thing)

        return jax.vmap(draw)(canvas, *jax.tree.map(take, things))

    return jax.lax.fori_loop(0, jnp.max(passed[:, -1]), body, canvas)


def draw_lights(state: State, px_x: Array, px_y: Array, config: RenderConfig) -> Array:
    """Discs [B, 3, H, W] at the stop points of red, yellow and green lights; those on the route at full brightness."""
    scene, ego = state.scene, state.ego[:, None]
    x, y = to_frame(scene.light_x, scene.light_y, ego.x, ego.y, ego.heading)
    on_route = jnp.where(scene.light_route_s >= 0, 1.0, OFF_ROUTE_LIGHT)
    colours = jnp.stack([is_type(state.light_state, states) for states in LIGHT_COLOURS], axis=-1)
    seen = state.light_valid & in_view(x, y, LIGHT_RADIUS_M, config)
    weight = colours * (on_route * seen)[..., None]

    def draw(canvas, x, y, weight):
        distance = jnp.hypot(px_x - x, px_y - y)
        disc = jnp.clip((LIGHT_RADIUS_M - distance) / config.resolution + 0.5, 0.0, 1.0)
        return jnp.maximum(canvas, disc * weight[:, None, None])

    canvas = jnp.zeros((len(x), len(LIGHT_COLOURS), config.height, config.width))
    return draw_each(draw, canvas, (x, y, weight), weight.any(2))
