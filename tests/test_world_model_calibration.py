"""Calibration of probabilities: numbers by hand, rollouts that go on past failures, and the measure on tiny scenes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.data.scene import SceneSpec
from tether.evaluation.judges import baseline
from tether.evaluation.world_models import calibration, probabilities
from tether.evaluation.world_models.study import Subject
from tether.simulator.events import PREDICTED
from tether.simulator.transition import start_state
from tether.training import validation
from tether.training.config import Config, FitConfig
from tether.worldmodel import costs
from tether.worldmodel.nets import draw
from tether.worldmodel.oracle import Oracle


def test_incidence_of_one_event_is_one_minus_the_product():
    """0.5 then 0.5: 0.5, 0.75."""
    chance = jnp.full(2, 0.5)
    np.testing.assert_allclose(probabilities.incidence(chance, 1 - chance), [0.5, 0.75])


def test_an_event_cannot_happen_to_rows_that_another_has_ended():
    """Half of the rows end in the first step; 0.2 of all have the event then, and 0.2 of the other half in the next."""
    incidence = probabilities.incidence(jnp.full(2, 0.2), jnp.array([0.5, 0.9]))
    np.testing.assert_allclose(incidence, [0.2, 0.3], atol=1e-6)


def test_incidence_stays_a_probability_where_heads_contradict_each_other():
    incidence = probabilities.incidence(jnp.full(16, 0.5), jnp.ones(16))
    assert float(incidence[-1]) == pytest.approx(1 - 0.5**16)


def test_only_the_first_failure_counts():
    event = jnp.array([[0, 0, 1, 1], [0, 1, 0, 0]], bool)
    ends = jnp.array([[0, 1, 1, 0], [0, 1, 0, 0]], bool)
    np.testing.assert_array_equal(probabilities.happened_by(event, ends), [[0, 0, 0, 0], [0, 1, 1, 1]])


def test_skill_and_error_of_known_forecasts():
    """The base rate 0.5 has a Brier score of 0.25. Right forecasts of 0.9 or 0.1 score 0.01, so the skill is 0.96."""
    happened = np.array([1.0, 0.0] * 5)
    probability = np.where(happened > 0, 0.9, 0.1)
    assert probabilities.brier_skill(probability, happened) == pytest.approx(0.96)
    assert probabilities.calibration_error(probability, happened) == pytest.approx(0.1)
    assert probabilities.brier_skill(np.full(10, 0.5), happened) == pytest.approx(0.0)
    assert probabilities.calibration_error(np.full(10, 0.5), happened) == pytest.approx(0.0)
    assert probabilities.brier_skill(1 - probability, happened) < 0


def test_errors_of_opposite_sign_cancel_only_within_a_bin():
    """0.18 and 0.22 have bins of their own and are off by 0.18 and 0.78; both of 0.7 together by 2 * 0.7 - 1."""
    probability, happened = np.array([0.22, 0.18, 0.7, 0.7]), np.array([1.0, 0.0, 1.0, 0.0])
    assert probabilities.calibration_error(probability, happened) == pytest.approx((0.18 + 0.78 + 0.4) / 4)
    diagram = probabilities.reliability(probability, happened)
    assert diagram.happened[[1, 2, 7]].tolist() == [0.0, 1.0, 0.5] and diagram.fraction[7] == 0.5
    assert diagram.probability[2] == pytest.approx(0.22) and np.isnan(diagram.probability[0])


def test_rare_events_have_no_skill():
    happened = np.zeros(100)
    happened[: probabilities.LEAST_EVENTS - 1] = 1
    assert math.isnan(probabilities.brier_skill(happened, happened))
    assert math.isnan(probabilities.brier_skill(happened, 1 - happened))
    assert math.isnan(probabilities.average_precision(happened, np.zeros(100)))


def test_average_precision_by_hand():
    """Ranked yes, no, yes: precision 1 at the first half of the recall, 2/3 at the second. A tie is one threshold."""
    assert probabilities.average_precision(np.array([0.9, 0.5, 0.2]), np.array([1.0, 0.0, 1.0])) == pytest.approx(5 / 6)
    assert probabilities.average_precision(np.full(4, 0.3), np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)


def test_a_scaling_maps_forecasts_to_observed_frequencies():
    """Of forecasts of 0.8 half happen, of forecasts of 0.2 a tenth; a factor and an offset fit both."""
    probability = np.repeat(np.float32([0.8, 0.2]), 10_000)
    happened = np.r_[np.arange(10_000) % 2 == 0, np.arange(10_000) % 10 == 0]
    scaling = probabilities.fit_scaling(probability, happened)
    np.testing.assert_allclose(scaling(np.float32([0.8, 0.2])), [0.5, 0.1], atol=1e-3)
    slope = np.log(9) / (2 * np.log(4))  # the log-odds are +-log 4 before, 0 and -log 9 after
    np.testing.assert_allclose(scaling, [slope, -np.log(9) / 2], atol=0.01)


def test_a_scaling_of_an_event_that_never_happened_stays_above_zero():
    scaling = probabilities.fit_scaling(np.linspace(0, 1, 98), np.zeros(98, bool))
    assert 0 < scaling(np.float32([0.5]))[0] < 0.02 and np.isfinite(scaling(np.float32([0, 1]))).all()


def test_heads_are_scaled_by_other_policies_on_other_scenes():
    """With forecasts of 0.5, policy 0 fails in a fifth of the held-out ones, policy 1 never: each scales the other."""
    shape = (2, 10, len(calibration.EVENTS), len(calibration.HORIZONS_S))
    probability = {"mine, heads": np.full(shape, 0.5, np.float32), "mine, boxes": np.zeros(shape, np.float32)}
    happened = np.zeros(shape, bool)
    happened[0, :2] = True
    counted = np.ones((2, 10, len(calibration.HORIZONS_S)), bool)
    evaluated = calibration.Forecasts(probability, ~happened, counted)
    scaled = calibration.scaled(evaluated, calibration.Forecasts(probability, happened, counted))
    assert set(scaled) == {"mine, heads scaled"}
    np.testing.assert_allclose(scaled["mine, heads scaled"][1], 0.2, atol=0.01)
    assert (scaled["mine, heads scaled"][0] < 0.03).all()


@pytest.fixture(scope="module")
def study(batch, sim_config):
    """Five scenes in two chunks, the second filled up, and the simulator as its own model."""

    class Tiny:
        config = Config(name="tiny", simulator=sim_config)
        simulator, steps = sim_config, 16
        subjects = (Subject("oracle", Oracle(sim_config), ()),)
        groups = np.array(["a", "b", "c", "c", "d"])

        def chunks(self):
            yield np.array([0, 1, 2, 3]), 4, batch
            yield np.array([4, 4, 4, 4]), 1, jax.tree.map(lambda a: np.repeat(a[:1], 4, 0), batch)

        split = "test"

        def on(self, split):
            return self

        def keys(self, rows):
            return jax.random.split(jax.random.key(0), len(rows))

    return Tiny()


def test_the_replay_itself_forecasts_every_event(study, sim_config, monkeypatch, tmp_path):
    monkeypatch.setattr(calibration, "DRAWS", 1)
    monkeypatch.setattr(calibration, "RESAMPLES", 20)
    monkeypatch.setattr(probabilities, "LEAST_EVENTS", 1)
    study.policies = {name: baseline(name, sim_config) for name in ("expert", "go_straight")}
    finding = calibration.measure(study)
    row = finding.rows["oracle, boxes, all"]
    assert row["skill_8s"]["mean"] == pytest.approx(1.0) and row["ece_8s"]["mean"] == pytest.approx(0.0)
    curves = finding.details["curves"]["go_straight"]
    assert (
        curves["by_forecaster"]["oracle, boxes"]["failure"]["rate"][-1] == pytest.approx(0.4)
        and curves["rows"] == [5] * 7
    )
    assert "skill_off_road" not in row  # it never happens here
    calibration.draw(finding, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_a_replay_goes_on_past_its_failure(study, batch, keys):
    """The ego runs a red light and keeps its 10 m/s, where an ending World would hold it."""
    replay = jax.jit(calibration.replay(study, baseline("go_straight", study.simulator)))
    result = replay((), batch, keys)
    failed = np.asarray(result.outcome.termination)[3]
    assert failed.any() and not failed[-1] and bool(result.alive.all())
    np.testing.assert_allclose(np.diff(np.asarray(result.ego.x)[3].ravel()), 1.0, atol=1e-3)
    happened, counted = calibration.truth(result, calibration.at(study))
    assert bool(happened[3, calibration.EVENTS.index("red_light"), -1]) and bool(counted.all())


def test_fractions_of_perturbed_scenes():
    assert [FitConfig(scenes=8, perturbed=p).perturbed_scenes for p in (0.0, 0.25, 0.5)] == [0, 2, 4]
    validation.validate(dataclasses.replace(Config(), fit=FitConfig(perturbed=0.0)))
    with pytest.raises(ValueError, match=r"fit\.perturbed: expected 0 to below 1, found 1\.0"):
        validation.validate(dataclasses.replace(Config(), fit=FitConfig(perturbed=1.0)))


def test_margins_are_the_room_that_is_left(batch, sim_config):
    """The edge is 2 m from the lane's centre, half the ego's width less from the ego; the free road is empty."""
    state = start_state(batch, jnp.full(4, SceneSpec.current), latent=())
    swept, boxes = state.ego[:, None], state.history[..., -1:]
    near = jax.jit(jax.vmap(lambda *row: costs.distances(*row, sim_config)))(state, swept, boxes)
    width = float(state.ego.width[0])
    np.testing.assert_allclose(near[:, 3:], width / 2 - 2, atol=1e-4)
    np.testing.assert_allclose(near[0, :3], -costs.FAR_M)  # no agent there
    gap = float(boxes.x[1, 1, 0] - state.ego.x[1]) - float(state.scene.length[1, :2].mean())
    np.testing.assert_allclose(near[1, :3], -min(gap, costs.FAR_M), atol=1e-4)


def test_heads_without_weights_predict_continuation():
    zeros = {"costs": jax.tree.map(jnp.zeros_like, draw(jax.random.key(0), costs.cost_layers()["costs"]))}
    probability = costs.cost_probabilities(zeros, jnp.zeros((3, costs.MARGINS)))
    assert probability.keys() == {"cont", *PREDICTED}
    np.testing.assert_allclose(probability["cont"], 1 - 1 / (1 + np.exp(5)), rtol=1e-5)
