"""Logs that end now, as they are for a submission: what is continued, and what is refused."""

import pytest

from tests.damaged_logs import EVEN, INF, NAN, noted, one_state, states, times
from tests.raw_scenes import scenario
from tether.data.errors import DataError
from tether.data.padding import pad
from tether.data.scene import (
    SceneSpec,
)
from tether.data.validation import validate

pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")

from tether.data import womd_tracks as faults_of
from tether.data.sim_agents import read_sim_agents
from tether.data.womd_history import history_scene
from tether.data.womd_tracks import Notes

SPEC = SceneSpec()


def history(made):
    notes = Notes()
    scene = history_scene(made, SPEC.steps, SPEC.dt, notes)
    validate(pad(scene, SPEC), SPEC)
    return scene, read_sim_agents(made), noted(notes)


def test_every_agent_at_the_current_step_is_continued():
    """Sizes, headings and states that are none: the usual box, and what was seen before."""
    made = scenario(vehicles=6)
    states(made, 1, length=0.0, width=0.0)
    states(made, 2, width=-2.0)
    made.tracks[2].object_type = 2
    one_state(made, 3, 10, heading=NAN, velocity_x=INF)
    one_state(made, 4, 5, center_x=NAN)
    del made.tracks[5].states[60:]
    scene, sim, counts = history(made)
    assert scene.valid[:, 10].all() and len(scene.x) == len(sim.agent_id) == 6
    boxes = [faults_of.USUAL_BOX[kind] for kind in (1, 2)]
    for row, box in zip((1, 2), boxes, strict=True):
        assert (scene.length[row], scene.width[row]) == (sim.length[row], sim.width[row]) == box
    assert (scene.heading[3, 10], sim.heading[3, 10], scene.vel_x[3, 10]) == (0.0, 0.0, 10.0)
    assert not scene.valid[4, 5] and not sim.valid[4, 5] and sim.x[4, 5] == 0.0
    assert sim.valid[5, 59] and not sim.valid[5, 60:].any()
    assert counts == {faults_of.BOXES: 2, "states that are not finite or beyond reason": 2}


def test_an_agent_that_is_nowhere_is_named():
    made = scenario()
    for state in made.tracks[1].states:
        state.center_x = NAN
    for read in (lambda: history_scene(made, 91, 0.1), lambda: read_sim_agents(made)):
        with pytest.raises(DataError, match="track 1 is valid at step 10, and no step says where it is"):
            read()


def test_a_submission_names_tracks_that_cannot_be():
    made = scenario()
    made.tracks[1].id = 0
    with pytest.raises(DataError, match="one track for each id"):
        read_sim_agents(made)
    made.tracks[1].CopyFrom(made.tracks[0])
    assert read_sim_agents(made).agent_id.tolist() == [0]
    made.tracks_to_predict.add(track_index=7)
    with pytest.raises(DataError, match=r"tracks_to_predict: expected indices of 2 tracks, found \[7\]"):
        read_sim_agents(made)


def test_a_history_without_a_map_or_with_wrong_times():
    made = scenario()
    del made.map_features[:]
    scene, sim, _ = history(made)
    assert scene.road_points == () and sim.road_edges == ()
    with pytest.raises(DataError, match="timestamps_seconds"):
        history(times(made, 2 * EVEN))
