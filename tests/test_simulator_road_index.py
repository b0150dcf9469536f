"""The road index gives the same decisions as the whole map, within its reach."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle_map
import pytest
import scenes

from tether.data.scene import DRIVING_LANE_TYPES, ROAD_EDGE_TYPES, CellLists, RoadType, Scene, SceneSpec
from tether.simulator import geometry
from tether.simulator.config import SimulatorConfig
from tether.simulator.geometry import Segments
from tether.simulator.outcome import lane_distances, map_events
from tether.simulator.road_index import EDGE_REACH_M, cell_at, index_road, segments_at
from tether.simulator.world import EgoState

CONFIG = SimulatorConfig()
UNCUT = dataclasses.replace(CONFIG, near_edges=128, near_lanes=128)
SMALL = dataclasses.replace(CONFIG, index_entries=2048, near_edges=512, near_lanes=512)  # few entries, no cut either
SPEC = SceneSpec(agents=1, polylines=64, points=16, lights=1, route_points=4, text=4)
OTHERS = (RoadType.LANE_BIKE, RoadType.LINE_SOLID_SINGLE_WHITE)
KINDS = (*DRIVING_LANE_TYPES, *ROAD_EDGE_TYPES, *DRIVING_LANE_TYPES, *OTHERS)
SIZES = ((6, 20.0), (16, 60.0), (40, 100.0), (60, 200.0))  # polylines, half the width of the map [m]
PLACES = 1000


def random_map(seed: int) -> Scene:
    """Winding polylines of edges, lanes and others that cross each other, 2 to 16 points each; padding in between."""
    rng = np.random.default_rng(seed)
    scene, (count, half) = scenes.empty(SPEC), SIZES[seed % len(SIZES)]
    rows = rng.choice(SPEC.polylines, count, replace=False)
    points = rng.integers(2, SPEC.points + 1, count)
    heading = rng.uniform(-np.pi, np.pi, (count, 1)) + rng.normal(0, 0.3, (count, SPEC.points)).cumsum(1)
    step = rng.uniform(0.5, 4.0, (count, 1)) * np.stack([np.cos(heading), np.sin(heading)])
    x, y = rng.uniform(-half, half, (2, count, 1)) + step.cumsum(-1)
    valid = np.arange(SPEC.points) < points[:, None]
    road = {"road_x": x * valid, "road_y": y * valid, "road_valid": valid}
    return scenes.with_rows(scene, rows, road | {"road_type": rng.permutation(np.resize(KINDS, count))})


def random_poses(seed: int, half: float = 120.0) -> EgoState:
    """A small car at random places, fields [PLACES]."""
    rng = np.random.default_rng(seed)
    x, y, heading = (rng.uniform(-size, size, PLACES).astype(np.float32) for size in (half, half, np.pi))
    zero = np.zeros(PLACES, np.float32)
    return EgoState(x, y, heading, zero, zero, zero, zero + 0.5, zero + 0.25)


def of_types(scene: Scene, types: tuple[int, ...]) -> Segments:
    """All segments of the map of some types, fields [K]; K is that of the whole map."""
    known = scene.road_valid & np.isin(scene.road_type, types)[:, None]
    return Segments(*(field.reshape(-1) for field in geometry.segments(scene.road_x, scene.road_y, known)))


@jax.jit
def by_whole_map(edges, lanes, x, y, heading):
    """Signed distance [PLACES] from the edges, and from the lanes against and along a pose."""
    return geometry.signed_edge_distance(edges, x, y), *lane_distances(lanes, x, y, heading)


def by_index(index, x, y, heading, config):
    """The same from the lists of the index."""
    edges = segments_at(index, index.edges, config.near_edges, x, y)
    lanes = segments_at(index, index.lanes, config.near_lanes, x, y)
    return geometry.signed_edge_distance(edges, x, y), *lane_distances(lanes, x, y, heading)


@jax.jit
def events_of(scene, ego):
    """off_road and wrong_way, bool[PLACES]."""
    return map_events(scene, ego, CONFIG)


def events(scene: Scene, ego: EgoState) -> dict:
    """The same of a scene that is not yet indexed, in numpy."""
    return jax.tree.map(np.asarray, events_of(scenes.indexed(scene, CONFIG), ego))


def lists(cells: CellLists) -> list[list[int]]:
    """The segments of each cell."""
    return [cells.entry[begin : begin + count].tolist() for begin, count in zip(cells.begin, cells.count, strict=True)]


def assert_same_as_whole_map(scene: Scene, config: SimulatorConfig, seed: int) -> None:
    """Edges within the index's reach, lanes within that of the wrong-way rule, to a millionth of a metre."""
    ego = random_poses(seed, SIZES[seed % len(SIZES)][1])
    pose = ego.x, ego.y, ego.heading
    whole = of_types(scene, ROAD_EDGE_TYPES), of_types(scene, DRIVING_LANE_TYPES)
    expected = [np.asarray(part) for part in by_whole_map(*whole, *pose)]
    indexed = jax.jit(by_index, static_argnums=4)(index_road(scene, config), *pose, config)
    near = np.abs(expected[0]) < EDGE_REACH_M
    assert near.sum() > 20 and len(np.unique(np.sign(expected[0][near]))) == 2
    np.testing.assert_allclose(np.asarray(indexed[0])[near], expected[0][near], rtol=0, atol=1e-6)
    reach = config.lane_range_m + config.lane_margin_m
    for simulated, exact in zip(indexed[1:], expected[1:], strict=True):
        simulated, close = np.asarray(simulated), exact < reach
        assert close.any() and (simulated[~close] >= reach).all()
        np.testing.assert_allclose(simulated[close], exact[close], rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_lists_give_the_distances_of_the_whole_map(seed):
    scene = random_map(seed)
    index = index_road(scene, UNCUT)
    assert max(index.edges.count.max(), index.lanes.count.max()) < UNCUT.near_edges
    assert_same_as_whole_map(scene, UNCUT, seed)


@pytest.mark.parametrize("seed", (2, 3))
def test_lists_that_do_not_fit_make_the_grid_coarser_and_stay_exact(seed):
    scene = random_map(seed)
    fine, coarse = (index_road(scene, config).grid for config in (UNCUT, SMALL))
    assert np.prod(coarse[3:]) <= CONFIG.index_cells / 2 < np.prod(fine[3:]) and coarse[2] > fine[2]
    assert_same_as_whole_map(scene, SMALL, seed)


def test_entries_that_hold_no_list_are_refused():
    with pytest.raises(ValueError, match="index_entries"):
        index_road(random_map(0), dataclasses.replace(CONFIG, index_entries=16))


@pytest.mark.parametrize("kinds", [(), DRIVING_LANE_TYPES], ids=["empty", "lanes alone"])
def test_without_edges_nothing_is_off_road(kinds):
    scene = random_map(2)
    scene = dataclasses.replace(scene, road_valid=scene.road_valid & np.isin(scene.road_type, kinds)[:, None])
    happened = events(scene, random_poses(0))
    assert not happened["off_road"].any() and happened["wrong_way"].any() == bool(kinds)


def test_outside_the_grid_the_nearest_cell_counts():
    index = index_road(random_map(1), CONFIG)
    ego = random_poses(0, half=300.0)
    corner, size, shape = index.grid[:2], index.grid[2], index.grid[3:].astype(int)
    row, column = (np.arange(count) for count in shape)
    centre_x, centre_y = corner[0] + (row + 0.5) * size, corner[1] + (column + 0.5) * size
    nearest = np.abs(ego.x[:, None] - centre_x).argmin(1) * shape[1] + np.abs(ego.y[:, None] - centre_y).argmin(1)
    far = np.stack([ego.x, ego.y], axis=-1)
    outside = ((far < corner) | (far > corner + size * shape)).any(-1)
    assert 100 < outside.sum() < PLACES - 10
    np.testing.assert_array_equal(cell_at(index.grid, ego.x, ego.y), nearest)


def test_far_beside_a_road_is_off_it():
    """Beside the straight road, at x between its ends, up to 100 m from its edges at y = -2 and 5.5.

    A lane on either side widens the grid: its cells far from edges list none of their own.
    """
    scene, ego = scenes.straight(), random_poses(0, half=100.0)
    for y in (-100.0, 100.0):
        scene = scenes.with_polyline(scene, np.linspace(*scenes.ROAD_X, 16), np.full(16, y), RoadType.LANE_SURFACE)
    ego = ego.replace(x=np.abs(ego.x))
    inside = (ego.y > scenes.RIGHT_EDGE_Y + 0.3) & (ego.y < scenes.LEFT_EDGE_Y - 0.3)
    outside = (ego.y < scenes.RIGHT_EDGE_Y) | (ego.y > scenes.LEFT_EDGE_Y)
    off_road = events(scene, ego)["off_road"]
    assert inside.sum() > 20 and off_road[outside].all() and not off_road[inside].any()


@pytest.mark.parametrize("change", ["padded", "shuffled"])
def test_neither_padding_nor_order_of_polylines_changes_a_decision(change, rng):
    scene, ego = random_map(3), random_poses(1)
    padding = [(0, SPEC.polylines), (0, 0)]
    names = ("road_x", "road_y", "road_valid", "road_type")
    if change == "padded":
        road = {name: np.pad(getattr(scene, name), padding[: getattr(scene, name).ndim]) for name in names}
    else:
        order = rng.permutation(SPEC.polylines)
        road = {name: getattr(scene, name)[order] for name in names}
    expected, changed = events(scene, ego), events(dataclasses.replace(scene, **road), ego)
    for name, decisions in expected.items():
        assert 0 < decisions.sum() < PLACES
        np.testing.assert_array_equal(changed[name], decisions, name)


def test_a_cells_list_is_cut_to_those_nearest_to_its_centre():
    """Of what a cell would list, farther segments are left out: there a decision may differ from the whole map's."""
    scene = random_map(3)
    whole = index_road(scene, CONFIG)
    cut = index_road(scene, dataclasses.replace(CONFIG, near_edges=2, near_lanes=1))
    np.testing.assert_array_equal(cut.grid, whole.grid)
    for name, most in (("edges", 2), ("lanes", 1)):
        before, after = lists(getattr(whole, name)), lists(getattr(cut, name))
        assert after == [entries[:most] for entries in before] and before != after
    size, columns = whole.grid[2], int(whole.grid[4])
    long = [cell for cell, entries in enumerate(before) if len(entries) > 1]
    for cell in long[:: len(long) // 20]:
        centre = whole.grid[:2] + size * (np.array([[cell // columns, cell % columns]]) + 0.5)
        ends = whole.segments[before[cell]].reshape(-1, 2, 2)
        _, distance = oracle_map.feet(
            centre, oracle_map.segments_of(*np.moveaxis(ends, -1, 0), np.ones(ends.shape[:2], bool))
        )
        assert distance.argmin() == 0


def test_a_scene_that_is_not_prepared_is_refused():
    ego = jax.tree.map(jnp.asarray, random_poses(0))
    with pytest.raises(ValueError, match=r"road index \(simulator.prepare makes it\)"):
        map_events(scenes.straight(), ego, CONFIG)


def test_the_scenes_of_a_bucket_share_shapes_and_dtypes():
    """So nothing is compiled anew for another scene, however dense its map is, or where there is none."""
    maps = [*(random_map(seed) for seed in range(len(SIZES))), scenes.empty(SPEC)]
    indices = [index_road(scene, CONFIG) for scene in maps]
    assert indices[0].edges.count.sum() != indices[1].edges.count.sum()
    kinds = {tuple((field.shape, field.dtype) for field in jax.tree.leaves(index)) for index in indices}
    assert len(kinds) == 1
