"""The ranking of policies: statistics by hand, and a study in which the right answer is known."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import scenes
from PIL import Image

from tether.data.scene import Record, Scene
from tether.evaluation.world_models import ranking, returns
from tether.evaluation.world_models import study as opening
from tether.evaluation.world_models.study import CEILING, FLOORS, Study, Subject
from tether.policy.baselines import GoStraight
from tether.simulator.prepare import prepare
from tether.simulator.world import Action
from tether.training.config import Config
from tether.training.drives import NamedPolicy
from tether.training.state import Progress
from tether.worldmodel.registry import build

FLOOR = FLOORS[0]
ACCELERATIONS = (-4.0, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Steady(GoStraight):
    """Keeps its heading at the acceleration float32[] that is its params: one program serves many policies."""

    def act(self, params, key, observation, carry):
        nothing = jnp.zeros((observation.time.shape[0], self.config.substeps))
        return Action(acceleration=nothing + params, curvature=nothing), carry, {}


def stopping_lead() -> Scene:
    """A vehicle that stays 20 m ahead of the ego up to the current step and stands from there on."""
    scene = scenes.lead_vehicle(gap=20.0, speed=10.0)
    stands = np.arange(scene.x.shape[-1]) > scenes.TINY.current
    x = np.where(stands, scene.x[1, scenes.TINY.current], scene.x[1])
    return scenes.with_rows(scene, 1, {"x": x, "vel_x": np.where(stands, 0.0, scene.vel_x[1])})


@pytest.fixture(scope="module")
def study(sim_config) -> Study:
    """Three scenes in batches of two, three policies, the ceiling and a floor."""
    made = {"free": scenes.straight(), "stops": stopping_lead(), "red": scenes.red_light(60.0)}
    records = [
        Record(prepare(scene, sim_config), name, "hand", name, "follow the road", np.zeros(3))
        for name, scene in made.items()
    ]
    policies = {f"{a:+g}": NamedPolicy(f"{a:+g}", Steady(sim_config), jnp.float32(a)) for a in ACCELERATIONS}
    subjects = tuple(Subject(name, build(name, None, sim_config), ()) for name in (CEILING, FLOOR))
    config = Config(name="hand", spec=scenes.TINY, simulator=sim_config)
    return Study(config, subjects, records, policies, "test", batch=2)


@pytest.fixture(scope="module")
def finding(study):
    return ranking.measure(study)


def test_a_world_that_replays_the_log_ranks_perfectly_and_without_bias(finding):
    intervals = {name: (one["mean"], one["low"], one["high"]) for name, one in finding.rows[CEILING].items()}
    assert intervals["spearman"][0] == 1 and intervals["spearman_learned"][0] == 1
    for name in ("mmrv", "bias", "absolute_bias", "failure_mmrv", "failure_bias", "failure_absolute_bias"):
        assert intervals[name] == (0, 0, 0), name
    assert finding.details["imagined"][CEILING] == finding.details["grounded"]
    assert finding.details["misplaced"][CEILING] == []
    assert "heads_spearman" not in intervals  # it has none


def test_a_world_in_which_no_agent_brakes_is_too_optimistic(finding, study):
    bias = finding.rows[FLOOR]["bias"]
    assert bias["mean"] > 0 and bias["n"] == len(study.records)
    assert finding.rows[FLOOR]["failure_bias"]["mean"] < 0
    assert finding.paired[f"{CEILING} - {FLOOR}"]["bias"]["mean"] == pytest.approx(-bias["mean"])
    # only the policy that brakes stops behind the standing vehicle; if that moved on, only the fast one would reach it
    assert finding.details["grounded"]["at_fault"] == pytest.approx([0, 1 / 3, 1 / 3])
    assert finding.details["imagined"][FLOOR]["at_fault"] == pytest.approx([0, 0, 1 / 3])
    assert finding.details["imagined"][FLOOR]["red_light"] == finding.details["grounded"]["red_light"]


def test_the_figure_shows_every_subject(finding, tmp_path):
    path = tmp_path / "ranking.png"
    ranking.draw(finding, path)
    assert Image.open(path).width > 500


def test_a_single_policy_has_no_rank(study):
    alone = dataclasses.replace(study, policies=dict(list(study.policies.items())[:1]))
    with pytest.raises(ValueError, match="at least 2 policies"):
        ranking.measure(alone)


def test_a_run_without_the_stage_that_it_is_read_for_is_refused(monkeypatch):
    monkeypatch.setattr(opening, "build_models", lambda config: None)
    monkeypatch.setattr(opening, "restore", lambda *_: (None, Progress(finished=("0/fit_world_model",))))
    with pytest.raises(ValueError, match="runs/x: its policy is not trained yet: stage imitate is not finished"):
        opening.policies_in("runs/x", Config(), [])


def test_statistics_by_hand():
    # four policies, two scenes; imagination swaps the last two
    grounded = {
        "return": np.array([[0.0, 2.0], [2.0, 4.0], [3.0, 5.0], [5.0, 7.0]]),
        "failure": np.array([[1, 1], [1, 1], [0, 1], [0, 0]]),
    }
    imagined = {
        "return": np.array([[1.0, 1.0], [2.0, 4.0], [7.0, 9.0], [5.0, 5.0]]),
        "failure": grounded["failure"],
        "predicted_return": np.array([[2.0, 2.0], [3.0, 3.0], [4.0, 4.0], [6.0, 6.0]]),
    }
    pairs = ranking.separable_pairs(grounded["return"], np.array(["a", "b"]))
    np.testing.assert_array_equal(pairs, [[1, 2, 3, 2, 3, 3], [0, 0, 0, 1, 1, 2]])  # better, worse
    statistics = ranking.statistics(grounded, imagined, np.array([False, True, True, True]), pairs)
    values = {name: statistic(np.arange(2)) for name, statistic in statistics.items()}
    assert values["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15)) and values["spearman_learned"] == pytest.approx(
        0.5
    )
    assert values["pairs"] == pytest.approx(5 / 6)
    assert values["mmrv"] == pytest.approx(
        (0 + 0 + 2 + 2) / 4
    )  # means 1, 3, 4, 6: the two that are swapped are 2 apart
    assert values["bias"] == pytest.approx((0 + 0 + 4 - 1) / 4)
    assert values["absolute_bias"] == pytest.approx((0 + 0 + 4 + 1) / 4)
    assert (values["failure_spearman"], values["failure_bias"]) == (pytest.approx(1), 0)
    assert values["heads_spearman"] == pytest.approx(1) and values["heads_bias"] == pytest.approx((1 + 0 + 0 + 0) / 4)
    assert statistics["bias"](np.array([1, 1])) == pytest.approx((-1 + 0 + 4 - 2) / 4)  # the second scene, drawn twice
    assert ranking.misplaced(imagined["return"], pairs, ["a", "b", "c", "d"]) == [["d", "c"]]
    assert "spearman_learned" not in ranking.statistics(grounded, imagined, np.array([False, False, True, True]), pairs)


def test_the_better_half_is_ranked_by_itself():
    # six policies; imagination turns the better three round
    grounded, imagined = (np.array([values, values], float).T for values in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 5, 4, 3]))
    none, pairs = np.zeros(6, bool), (np.array([], int), np.array([], int))
    statistics = ranking.statistics(
        {"return": grounded, "failure": grounded}, {"return": imagined, "failure": grounded}, none, pairs
    )
    assert statistics["spearman_better"](np.arange(2)) == pytest.approx(-1)
    assert statistics["spearman"](np.arange(2)) > 0.7 and "spearman_learned" not in statistics
    assert np.isnan(statistics["pairs"](np.arange(2)))  # nothing to put in order


def test_scenes_that_differ_do_not_make_up_for_policies_that_are_confused():
    easy_and_hard = np.array([[0.0, 10.0], [1.0, 11.0]])
    ranks = ranking.by_scene(easy_and_hard, easy_and_hard[::-1])
    assert ranks["spearman"] > 0.5 and ranks["spearman_within"] == pytest.approx(-1)


def test_heads_weigh_a_reward_by_the_probability_of_reaching_it():
    heads = {"reward": jnp.array([[1.0], [2.0], [4.0]]), "cont": jnp.array([[0.5], [0.0], [0.5]])}
    result = SimpleNamespace(outcome=SimpleNamespace(predicted=heads), alive=jnp.array([[True], [True], [False]]))
    np.testing.assert_allclose(returns.predicted_return(result)["predicted_return"], [1 + 0.5 * 2])
    result.outcome.predicted = {}
    assert returns.predicted_return(result) == {}


def test_imagination_goes_no_further_than_the_log(batch):
    cut = batch.replace(valid=np.asarray(batch.valid) & (np.arange(batch.valid.shape[-1]) <= 62))
    result = SimpleNamespace(
        observation=SimpleNamespace(time=10 + 5 * np.arange(16)[:, None] + np.zeros((1, 4), int)),
        outcome=SimpleNamespace(valid=np.ones((16, 4, 5), bool)),
    )
    counted = returns.within_log(result, cut)
    np.testing.assert_array_equal(counted.sum(0), 10)  # the eleventh step would end at 65
    assert returns.within_log(result, batch).all()
