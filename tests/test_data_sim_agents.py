import numpy as np
import pytest
import raw_scenes

from tether.data.errors import DataError
from tether.data.scene import LightState
from tether.data.sim_agents import read_sim_agents

pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")


@pytest.fixture
def proto():
    """Three vehicles; the second is to be predicted, the third is not there at the current step."""
    made = raw_scenes.scenario(vehicles=3)
    made.tracks_to_predict.add(track_index=1)
    made.tracks[2].states[10].valid = False
    made.tracks[1].states[10].length = 5.5
    return made


def test_which_agents_are_simulated_and_evaluated(proto):
    extra = proto.tracks.add()
    extra.CopyFrom(proto.tracks[0])
    extra.id = 77
    scene = read_sim_agents(proto)
    assert (scene.agent_id.tolist(), scene.evaluated.tolist()) == ([0, 1, 77], [True, True, False])


def test_sizes_are_those_of_the_current_step(proto):
    np.testing.assert_allclose(read_sim_agents(proto).length, [4.5, 5.5])


def test_invalid_steps_and_headings_stay_as_they_are(proto):
    proto.tracks[0].states[30].Clear()
    proto.tracks[0].states[31].heading = -4.0
    scene = read_sim_agents(proto)
    assert (scene.x[0, 30], scene.valid[0, 30], scene.heading[0, 31]) == (0.0, False, -4.0)


def test_only_surface_streets_are_lanes(proto):
    proto.map_features.add(id=20).lane.type = 1
    scene = read_sim_agents(proto)
    assert (scene.lane_id.tolist(), len(scene.road_edges)) == ([7], 1)
    np.testing.assert_allclose(scene.road_edges[0][0], [-60, -2, 0])


def test_a_light_that_is_not_observed_is_unknown_and_at_the_origin(proto):
    del proto.dynamic_map_states[5].lane_states[:]
    scene = read_sim_agents(proto)
    assert scene.light_lane.tolist() == [7]
    assert (scene.light_state[0, 5], scene.light_x[0, 5]) == (LightState.UNKNOWN, 0.0)
    assert (scene.light_state[0, 6], scene.light_x[0, 6]) == (LightState.STOP, 50.0)


def test_a_scene_without_agents_is_an_error(proto):
    for track in proto.tracks:
        track.states[10].valid = False
    with pytest.raises(DataError, match="no track is valid at step 10"):
        read_sim_agents(proto)


def test_a_short_track_of_the_logs_own_vehicle_is_an_error(proto):
    del proto.tracks[1].states[-1]
    assert read_sim_agents(proto).valid[1].tolist() == [True] * 90 + [False]
    del proto.tracks[0].states[-1]
    with pytest.raises(DataError, match="expected 91 states of the log's own vehicle, found 90"):
        read_sim_agents(proto)
