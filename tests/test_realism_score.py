import dataclasses

import numpy as np
import pytest
import sim_agents_scenes as made

from tether.data.scene import AgentType
from tether.data.sim_agents import read_sim_agents
from tether.data.tfrecord import read_records
from tether.data.womd import parse_scenario
from tether.evaluation.realism.features import Tracks
from tether.evaluation.realism.likelihood import Histogram, indication_likelihood, likelihood, log_likelihood
from tether.evaluation.realism.score import HISTOGRAMS, INDICATIONS, WEIGHTS, counted, realism

# The official package's values for one record with its log as all rollouts, where the log is invalid the last pose
# held. The constant-velocity filling is known by its sum only.
LAST_POSE_HELD = {
    "metametric": 0.577892,
    "linear_speed": 0.826529,
    "linear_acceleration": 0.531948,
    "angular_speed": 0.495456,
    "angular_acceleration": 0.668174,
    "distance_to_nearest_object": 0.284462,
    "collision_indication": 0.074765,
    "time_to_collision": 0.757779,
    "distance_to_road_edge": 0.577606,
    "offroad_indication": 0.999970,
    "traffic_light_violation": 0.999970,
    "simulated_collision_rate": 0.5,
}
CONSTANT_VELOCITY = {"metametric": 0.812856}
ROUNDING = 1e-5  # the official code works in float32, in coordinates of several kilometres


def test_a_histogram_by_hand():
    """Bins [0, 1), [1, 2], one pseudo-count each: 0.5, 1.5, 7 and NaN make 1 + 1 and 3 + 1 of 6."""
    histogram = Histogram(0.0, 2.0, 2, 1.0)
    simulated = np.array([[[0.5, 1.5]], [[7.0, np.nan]]])
    log_probability = log_likelihood(histogram, np.array([[-3.0, 1.0]]), simulated)
    np.testing.assert_allclose(np.exp(log_probability), [[2 / 6, 4 / 6]])
    np.testing.assert_allclose(
        likelihood(histogram, np.array([[-3.0, 1.0]]), simulated, np.ones((1, 2), bool)), np.sqrt(2 / 6 * 4 / 6)
    )


def test_each_agent_has_its_own_histogram():
    logged = np.array([[0.5], [0.5]])
    simulated = np.array([[[0.5], [1.5]]])
    log_probability = log_likelihood(Histogram(0.0, 2.0, 2, 1.0), logged, simulated)
    np.testing.assert_allclose(np.exp(log_probability), [[2 / 3], [1 / 3]])


def test_an_indication_by_hand():
    """It happens to the first agent in 1 of 4 rollouts, and in the log; after it is lost nothing counts."""
    simulated = np.zeros((4, 2, 3), bool)
    simulated[0, 0, 1] = simulated[1, 0, 2] = True
    logged = np.array([[True, False, True], [False, False, False]])
    valid = np.array([[True, True, False], [True, True, True]])
    expected = np.sqrt(1.001 / 4.002 * 4.001 / 4.002)
    np.testing.assert_allclose(indication_likelihood(logged, simulated, valid), expected)


def test_differences_count_where_all_their_steps_are_valid():
    """One step is missing; the ends of the future have no neighbour."""
    valid = np.ones(made.STEPS, bool)
    valid[made.CURRENT + 1 + 40] = False
    scene = made.scene(made.cruise(1.0), valid=valid)
    missing = {
        "distance_to_road_edge": {40},
        "linear_speed": {0, 39, 41, 79},
        "angular_speed": {0, 39, 41, 79},
        "linear_acceleration": {0, 1, 38, 40, 42, 78, 79},
        "angular_acceleration": {0, 1, 38, 40, 42, 78, 79},
    }
    for name, steps in missing.items():
        assert set(np.flatnonzero(~counted(scene, name)[0])) == steps


def test_weights_sum_to_one():
    assert set(WEIGHTS) == {*HISTOGRAMS, *INDICATIONS}
    np.testing.assert_allclose(sum(WEIGHTS.values()), 1.0)


def test_a_log_that_repeats_itself_is_likely():
    """All 2 * 80 simulated speeds are in one bin of ten: (160 + 0.1) / (160 + 1), but for the last, unknown one."""
    scene = made.scene([made.cruise(6.0), made.cruise(6.0, 30.0)], light_state=np.zeros((1, made.STEPS), int))
    score = realism(scene, made.repeated(scene, 2))
    np.testing.assert_allclose(score["linear_speed"], (2 * 79 + 0.1) / 161)
    np.testing.assert_allclose(score["offroad_indication"], 2.001 / 2.002)
    assert score["simulated_collision_rate"] == 0.0
    assert score["average_displacement_error"] == 0.0


def test_displacement_is_over_all_valid_steps_and_the_best_rollout():
    scene = made.scene(made.cruise(0.0))
    tracks = made.repeated(scene, 2)
    score = realism(scene, dataclasses.replace(tracks, y=tracks.y + np.array([0.91, 0.455])[:, None, None]))
    np.testing.assert_allclose(score["average_displacement_error"], 0.6)
    np.testing.assert_allclose(score["min_average_displacement_error"], 0.4)


def test_crashing_where_the_log_does_not_is_unlikely():
    scene = made.scene([made.cruise(10.0), made.cruise(10.0, 20.0)])
    tracks = made.repeated(scene, 4)
    crash = dataclasses.replace(tracks, x=np.stack([tracks.x[0, [0, 0]], *tracks.x[1:]]))
    score = realism(scene, crash)
    np.testing.assert_allclose(score["collision_indication"], 3.001 / 4.002)
    assert score["simulated_collision_rate"] == 0.25


PER_AGENT = ("agent_id", "agent_type", "x", "y", "z", "heading", "valid", "length", "width", "height")


def with_distant_agents(scene, count):
    """The scene with agents that are not evaluated and stay out of reach of the others."""
    fields = {name: getattr(scene, name) for name in PER_AGENT}
    fields = {name: np.concatenate([values, np.repeat(values[:1], count, axis=0)]) for name, values in fields.items()}
    fields["x"][-count:] = 1e4
    evaluated = np.concatenate([scene.evaluated, np.zeros(count, bool)])
    return dataclasses.replace(scene, evaluated=evaluated, **fields)


def test_agents_out_of_reach_change_nothing():
    scene = made.scene([made.cruise(10.0), made.cruise(6.0, 14.0)], evaluated=(0, 1))
    more = with_distant_agents(scene, 3)
    assert realism(more, made.repeated(more, 3)) == realism(scene, made.repeated(scene, 3))


def test_what_the_log_does_not_see_changes_nothing_but_the_histograms():
    """A crash after the log has lost the agent is no crash."""
    valid = np.ones((2, made.STEPS), bool)
    valid[0, 60:] = False
    scene = made.scene([made.cruise(10.0), made.cruise(10.0, 20.0)], valid=valid, evaluated=(0, 1))
    tracks = made.repeated(scene, 2)
    crash = dataclasses.replace(tracks, x=np.where(np.arange(80) >= 50, tracks.x[:, [0, 0]], tracks.x))
    assert realism(scene, tracks)["collision_indication"] > 0.999
    one_sided = realism(dataclasses.replace(scene, evaluated=np.array([True, False])), crash)
    assert one_sided["simulated_collision_rate"] == 0.0
    assert realism(scene, crash)["simulated_collision_rate"] == 0.5


@pytest.mark.parametrize("field", ["x", "heading"])
def test_rollouts_are_checked(field):
    scene = made.scene(made.cruise(1.0))
    tracks = made.repeated(scene, 2)
    values = getattr(tracks, field)
    with pytest.raises(ValueError, match=rf"{field}: expected shape \[K, 1, 80\], found \[2, 1, 79\]"):
        realism(scene, dataclasses.replace(tracks, **{field: values[..., :-1]}))
    with pytest.raises(ValueError, match=f"{field}: expected finite"):
        realism(scene, dataclasses.replace(tracks, **{field: np.full(values.shape, np.nan)}))


def test_a_feature_without_valid_values_is_an_error():
    scene = made.scene(made.cruise(1.0), agent_type=np.array([AgentType.PEDESTRIAN]))
    with pytest.raises(ValueError, match="shows no time_to_collision"):
        realism(scene, made.repeated(scene, 2))


@pytest.fixture(scope="module")
def official(real_data):
    """The record that the golden values are about, as proto and as the challenge's scene."""
    pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")
    file = real_data / "original" / "motion_data_one_scenario.tfrecord"
    if not file.is_file():
        pytest.skip("the record of the golden values is not beside the repository")
    proto = parse_scenario(next(read_records(str(file))))
    assert proto.scenario_id == "637f20cafde22ff8"
    return proto, read_sim_agents(proto)


def filled(official, constant_velocity):
    """32 times the log; where it is invalid, the last valid pose goes on or stands still."""
    proto, scene = official
    tracks = [track for track in proto.tracks if track.id in scene.agent_id]
    step = np.arange(scene.x.shape[1])
    last = np.maximum.accumulate(np.where(scene.valid, step, 0), axis=1)
    held = {name: np.take_along_axis(getattr(scene, name), last, axis=1) for name in ("x", "y", "z", "heading")}
    for name in ("x", "y") if constant_velocity else ():
        speed = np.array([[getattr(state, f"velocity_{name}") for state in track.states] for track in tracks])
        held[name] = held[name] + np.take_along_axis(speed, last, axis=1) * (step - last) * scene.dt
    return Tracks(**{name: np.repeat(values[None, :, scene.current + 1 :], 32, 0) for name, values in held.items()})


def test_which_agents_are_simulated_and_evaluated(official):
    proto, scene = official
    assert (len(proto.tracks), len(scene.agent_id), scene.evaluated.sum()) == (83, 50, 4)


@pytest.mark.parametrize(("constant_velocity", "expected"), [(False, LAST_POSE_HELD), (True, CONSTANT_VELOCITY)])
def test_the_official_values_are_reproduced(official, constant_velocity, expected):
    score = realism(official[1], filled(official, constant_velocity))
    assert {name: score[name] for name in expected} == pytest.approx(expected, abs=ROUNDING)
