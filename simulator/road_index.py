"""A grid over each scene's map that lists the road edges and lanes that can matter in a cell; made once, on the host.

Testing every segment of a map at each step costs a hundred times more than what can matter there. The grid's cells
list exact segments, so a decision is the one that the whole map gives (`benchmarks/accuracy.py` counts how often
it is not). Most cells are empty or share a list, so the lists stand one after the other and cells point into them.

- Road edges: a cell lists those that can be nearest to a place in it. A segment nearest to a place within r of the
  cell's centre is at most 2 r farther from the centre than the centre's nearest. A cell farther than `EDGE_REACH_M`
  from any edge takes the list of the nearest cell within that distance: far from edges, a place changes from one side
  of the road's edge to the other only where edges fold or stop.
- Driving lanes: a cell lists all within the reach of the wrong-way rule. Which of them lead to which:
  `lane_graph.py`.

Letters: K segments, N = M * P places for segments, C cells, J entries of lists.
"""

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from tether.data.scene import DRIVING_LANE_TYPES, ROAD_EDGE_TYPES, Array, CellLists, RoadIndex, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.geometry import Segments
from tether.simulator.lane_graph import following_segments

EDGE_REACH_M = 12.0


def index_road(scene: Scene, config: SimulatorConfig) -> RoadIndex:
    """The index of one numpy scene, on the finest grid whose lists fit.

    Raises: ValueError for a config in which not even the list of a single cell is sure to fit.
    """
    if config.index_entries < (longest := max(config.near_edges, config.near_lanes)):
        raise ValueError(f"index_entries: expected at least {longest}, the longest list, found {config.index_entries}")
    ends = segment_ends(scene)
    kinds = np.repeat(scene.road_type, scene.road_x.shape[-1])
    there = np.isfinite(ends).all(-1)
    chosen = [np.flatnonzero(there & np.isin(kinds, types)) for types in (ROAD_EDGE_TYPES, DRIVING_LANE_TYPES)]
    cells, lists = config.index_cells, None
    while lists is None:
        grid = grid_over(ends[np.concatenate(chosen)], cells)
        lists = lists_of(ends, *chosen, grid, config)
        cells //= 2
    segments = np.where(there[:, None], ends, 0.0).astype(np.float32)
    return RoadIndex(segments, grid.astype(np.float32), *lists, following_segments(ends, chosen[1]))


def lists_of(
    ends: np.ndarray, edges: np.ndarray, lanes: np.ndarray, grid: np.ndarray, config: SimulatorConfig
) -> tuple[CellLists, CellLists] | None:
    """The lists of a grid; None where they do not fit. edges, lanes: rows int[K] of `ends`."""
    diagonal, reach = grid[2] * np.sqrt(2), config.lane_range_m + config.lane_margin_m
    near_edges = nearest_only(*entries(ends, edges, grid, EDGE_REACH_M + diagonal), diagonal)
    near_lanes = entries(ends, lanes, grid, reach + diagonal / 2)
    near_edges, near_lanes = ranked(*near_edges, config.near_edges), ranked(*near_lanes, config.near_lanes)
    if max(len(near_edges[0]), len(near_lanes[0])) > config.index_entries:
        return None
    return shared(cell_lists(*near_edges, config), grid), cell_lists(*near_lanes, config)


def segment_ends(scene: Scene) -> np.ndarray:
    """ax, ay, bx, by of the segment that begins at each point, nan where none does: float64[N, 4]."""
    x, y = (np.where(scene.road_valid, field, np.nan).astype(float) for field in (scene.road_x, scene.road_y))
    after = [np.concatenate([field[:, 1:], np.full_like(field[:, :1], np.nan)], axis=1) for field in (x, y)]
    ends = np.stack([x, y, *after], axis=-1).reshape(-1, 4)
    return np.where(np.isfinite(ends).all(-1, keepdims=True), ends, np.nan)


def grid_over(ends: np.ndarray, cells: int) -> np.ndarray:
    """Corner x, y [m], size of a cell [m], rows and columns: at most `cells` squares that cover segments [K, 4]."""
    if not len(ends):
        return np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    corners = ends.reshape(-1, 2)
    low, high = corners.min(0) - EDGE_REACH_M, corners.max(0) + EDGE_REACH_M
    across = high - low
    size = np.sqrt(np.prod(across) / cells)
    while np.prod(np.ceil(across / size)) > cells:
        size *= 1.01
    return np.array([*low, size, *np.ceil(across / size)])


def entries(ends: np.ndarray, chosen: np.ndarray, grid: np.ndarray, reach: float) -> tuple[np.ndarray, ...]:
    """Cell, segment and distance of all pairs of a cell's centre and a chosen segment within `reach` of it: [J]."""
    low_x, low_y, size, rows, columns = grid
    a, b = ends[chosen, :2], ends[chosen, 2:]
    corner = np.array([low_x, low_y])
    first = np.floor((np.minimum(a, b) - corner - reach) / size).astype(int)
    last = np.floor((np.maximum(a, b) - corner + reach) / size).astype(int)
    first, last = np.maximum(first, 0), np.minimum(last, np.array([rows, columns], int) - 1)
    wide = last - first + 1
    count = wide.prod(1)
    segment = np.repeat(np.arange(len(chosen)), count)
    order = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    row, column = first[segment, 0] + order // wide[segment, 1], first[segment, 1] + order % wide[segment, 1]
    distance = distance_to(a[segment], b[segment], low_x + (row + 0.5) * size, low_y + (column + 0.5) * size)
    kept = distance <= reach
    return (row * int(columns) + column)[kept], chosen[segment[kept]], distance[kept]


def distance_to(a: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance of each point to its segment: a, b float64[J, 2]; x, y float64[J]."""
    along_x, along_y = (b - a).T
    from_x, from_y = x - a[:, 0], y - a[:, 1]
    square = np.maximum(along_x**2 + along_y**2, 1e-12)
    t = np.clip((from_x * along_x + from_y * along_y) / square, 0.0, 1.0)
    return np.hypot(from_x - t * along_x, from_y - t * along_y)


def nearest_only(
    cell: np.ndarray, segment: np.ndarray, distance: np.ndarray, slack: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries at most `slack` farther from their cell's centre than its nearest."""
    least = np.full(int(cell.max(initial=-1)) + 1, np.inf)
    np.minimum.at(least, cell, distance)
    kept = distance <= least[cell] + slack + 1e-3
    return cell[kept], segment[kept], distance[kept]


def ranked(cell: np.ndarray, segment: np.ndarray, distance: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Cell and segment of entries by cell, the nearest `most` of each."""
    order = np.lexsort((distance, cell))
    cell, segment = cell[order], segment[order]
    count = np.bincount(cell)
    kept = np.arange(len(cell)) - (np.cumsum(count) - count)[cell] < most
    return cell[kept], segment[kept]


def cell_lists(cell: np.ndarray, segment: np.ndarray, config: SimulatorConfig) -> CellLists:
    """Ranked entries as padded lists."""
    count = np.bincount(cell, minlength=config.index_cells)
    entry = np.zeros(config.index_entries, np.int32)
    entry[: len(segment)] = segment
    return CellLists((np.cumsum(count) - count).astype(np.int32), count.astype(np.int32), entry)


def shared(lists: CellLists, grid: np.ndarray) -> CellLists:
    """The lists, where empty cells point to the list of the nearest cell that is not."""
    rows, columns = grid[3:].astype(int)
    count = lists.count[: rows * columns].reshape(rows, columns)
    if not count.any():
        return lists
    nearest = ndimage.distance_transform_edt(count == 0, return_distances=False, return_indices=True)
    source = np.arange(len(lists.count))
    source[: rows * columns] = (nearest[0] * columns + nearest[1]).ravel()
    return CellLists(begin=lists.begin[source], count=lists.count[source], entry=lists.entry)


def cell_at(grid: Array, x: Array, y: Array) -> Array:
    """The cell int32[...] of places [...]; outside the grid the nearest one."""
    low_x, low_y, size, rows, columns = grid
    row = jnp.clip(jnp.floor((x - low_x) / size), 0, rows - 1)
    column = jnp.clip(jnp.floor((y - low_y) / size), 0, columns - 1)
    return (row * columns + column).astype(jnp.int32)


def rows_at(index: RoadIndex, lists: CellLists, most: int, x: Array, y: Array) -> tuple[Array, Array]:
    """Rows of `index.segments` that can matter at places [...], and whether each is one: int32 and bool[..., most]."""
    cell = cell_at(index.grid, x, y)[..., None]
    order = jnp.arange(most)
    return lists.entry[lists.begin[cell] + order], order < lists.count[cell]


def segments_at(index: RoadIndex, lists: CellLists, most: int, x: Array, y: Array) -> Segments:
    """The segments that can matter at places [...]: `Segments` with fields [..., most]. One scene, without batch axis.

    Args: index: of a prepared scene.   lists: `index.edges` or `index.lanes`.   most: their longest list.
    """
    rows, listed = rows_at(index, lists, most, x, y)
    return Segments(*jnp.moveaxis(index.segments[rows], -1, 0), valid=listed)
