"""The conformance suite on the built-in models and the examples; for one of them alone: `-k rssm`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.worldmodel.batch import driven_window
from tether.worldmodel.conformance.small import SMALL
from tether.worldmodel.conformance.test_rules import *  # noqa: F403

WORLD_MODELS = tuple(SMALL)


def test_failing_step_is_swept_to_its_end(model_batch, sim_config):
    """The recorded ego rests where it fails; what a model reads of that step must not show it."""
    rested = jax.tree.map(lambda a: a.at[:, 1].set(a[:, 1, :1]), model_batch.ego)
    whole, cut = (driven_window(b, 10, sim_config) for b in (model_batch, model_batch.replace(ego=rested)))
    end_of_step = 10 + 2 * 5
    np.testing.assert_allclose(cut.x[:, :, : end_of_step + 1], whole.x[:, :, : end_of_step + 1], atol=1e-4)


def test_bfloat16_comes_near_float32(case, fitted, model_batch, sim_config):
    """Each term of the first loss is within 2 % or 0.02 of float32's; gradients are finite and float32."""
    sizes = getattr(case.config, "sizes", None)
    if not hasattr(sizes, "dtype"):
        pytest.skip("always float32")
    model = dataclasses.replace(case.config, sizes=dataclasses.replace(sizes, dtype="bfloat16")).build(sim_config)
    expected = {term: value for term, value in fitted.history[0].items() if term != "gradient_norm"}
    key = jax.random.fold_in(jax.random.key(2), 0)
    gradients, metrics = jax.jit(jax.grad(model.loss, has_aux=True))(case.params, key, model_batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02), metrics, expected)
    assert all(leaf.dtype == jnp.float32 and jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


def test_scenes_are_as_intended(model_batch):
    """The lead vehicle brakes: after 2 s it is 2.5 * 2^2 / 2 = 5 m behind constant speed; all drive on."""
    lead = scenes.lead_vehicle()
    assert float(lead.x[1, 30] - model_batch.scene.x[1, 1, 30]) == pytest.approx(5.0, abs=1e-3)
    assert bool(model_batch.alive.all())
