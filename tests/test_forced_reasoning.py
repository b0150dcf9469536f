"""Forced reasoning: its tokens, and how its effect is counted and reported."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.data.text import TOKEN_ID
from tether.evaluation import policies as evaluation
from tether.evaluation import report
from tether.evaluation.forced_reasoning import REASONING_MODES, ForcedReasoning, exchanged
from tether.evaluation.report import METRICS, Results
from tether.policy.action_head import Decision
from tether.policy.language import LabelConfig
from tether.simulator.world import Action
from tether.training.drives import NamedPolicy, reasoning_scores

ROWS = 6
OWN_TOKENS = jnp.arange(2, 2 + 4 * ROWS, dtype=jnp.int32).reshape(ROWS, 4)
SPEED = 10.0


@dataclasses.dataclass(frozen=True)
class WithReasoning:
    """A policy whose own reasoning is the row of `OWN_TOKENS`; it brakes by 0.1 m/s^2 times the first token."""

    def reset(self, params, scene):
        return ()

    def act(self, params, key, observation, carry, reasoning=None):
        tokens = OWN_TOKENS if reasoning is None else reasoning
        braking = jnp.broadcast_to(-0.1 * tokens[:, :1], (ROWS, 5))
        decision = jnp.concatenate([tokens, jnp.zeros((ROWS, 2), jnp.int32)], axis=1)
        return Action(braking, jnp.zeros((ROWS, 5))), carry, {"decision": Decision(decision)}


def forced(mode):
    observation = types.SimpleNamespace(ego=jnp.full((ROWS, 4), SPEED))
    keys = jax.random.split(jax.random.key(0), ROWS)
    return ForcedReasoning(WithReasoning(), mode).act((), keys, observation, ())


def test_shuffled_reasoning_is_that_of_other_rows():
    action, _, extras = forced("shuffled")
    tokens = np.asarray(extras["decision"].tokens[:, :4])
    assert sorted(map(tuple, tokens)) == sorted(map(tuple, np.asarray(OWN_TOKENS)))
    assert (tokens != OWN_TOKENS).all() and extras["reasoning_changed"].all()
    np.testing.assert_allclose(extras["acceleration_change"], 0.1 * np.abs(tokens - OWN_TOKENS)[:, 0], atol=1e-6)
    np.testing.assert_allclose(action.acceleration[:, -1], -0.1 * tokens[:, 0], atol=1e-6)
    assert extras["action_changed"].all()  # rows differ by 0.4 m/s^2 or more


def test_reasoning_is_exchanged_anew_with_every_key():
    first, other = (exchanged(jax.random.split(jax.random.key(seed), ROWS), OWN_TOKENS) for seed in (0, 1))
    assert (first != other).any()


def test_blank_reasoning_is_padding():
    action, _, extras = forced("blank")
    assert TOKEN_ID["<pad>"] == 0 and "decision" not in extras
    np.testing.assert_allclose(action.acceleration, 0.0)
    np.testing.assert_allclose(extras["acceleration_change"], 0.1 * OWN_TOKENS[:, 0], atol=1e-6)


def test_an_unknown_mode_is_refused_and_a_known_one_named():
    policy = NamedPolicy("imitation", WithReasoning(), ())
    assert evaluation.forced(policy, "blank").name == "imitation, reasoning blank"
    with pytest.raises(ValueError, match="did you mean 'blank'"):
        evaluation.forced(policy, "blanc")


def test_reasoning_counts_until_the_rollout_ends():
    """Two rows over two steps; the second row ends after one, and its later reasoning does not count."""
    phrases = [TOKEN_ID[phrase] for phrase in ("slow down", "keep lane", "free road", "0 m")]
    accelerations = jnp.array([[-1.0, -1.0], [1.0, 1.0]])[..., None]  # kept, then broken
    tokens = jnp.broadcast_to(jnp.array(phrases), (2, 2, 4))
    result = types.SimpleNamespace(
        extras={"decision": Decision(tokens), "reasoning_changed": jnp.ones((2, 2), bool)},
        action=Action(accelerations, jnp.zeros((2, 2, 1))),
        observation=types.SimpleNamespace(ego=jnp.full((2, 2, 4), SPEED)),
        alive=jnp.array([[True, True], [True, False]]),
    )
    scores = reasoning_scores(result, LabelConfig())
    np.testing.assert_allclose(scores["consistency"], [0.75, 1.0])
    np.testing.assert_allclose(scores["reasoning_changed"], [1.0, 1.0])
    assert set(scores) == {"consistency", "reasoning_changed"}


@pytest.fixture(scope="module")
def summary():
    """A policy with reasoning, the same one under each mode of forced reasoning, and one without reasoning."""
    without = {metric: np.zeros(8) for metric in METRICS}
    own = without | {"score": np.full(8, 0.9), "consistency": np.full(8, 0.95)}
    policies = {"idm": without, "imitation": own}
    for mode in REASONING_MODES:
        policies[f"imitation{report.FORCED}{mode}"] = own | {"score": np.full(8, 0.4), "reasoning_changed": np.ones(8)}
    del policies[f"imitation{report.FORCED}blank"]["consistency"]
    names = tuple("abcdefgh")
    results = Results(names, names, (False,) * 8, {"log_replay": policies})
    return report.summarise(results)["log_replay"]


def test_a_forced_policy_is_compared_with_itself(summary):
    assert set(summary["paired"]) == {f"imitation, reasoning {mode} - imitation" for mode in REASONING_MODES}
    for change in summary["paired"].values():
        assert change["score"]["mean"] == pytest.approx(-0.5)
    assert "consistency" not in summary["paired"]["imitation, reasoning blank - imitation"]


def test_the_table_of_reasoning_leaves_out_policies_without_it(summary):
    table = report.reasoning_table(summary)
    assert "idm" not in table and "| imitation | 0.950 [0.950, 0.950] | - |" in table
    assert "| imitation, reasoning blank | - | 1.000 [1.000, 1.000] |" in table
    assert report.has_reasoning(summary) and not report.has_reasoning({"policies": {"idm": summary["policies"]["idm"]}})
