"""The conformance suite on the built-in models and the examples; for one of them alone: `-k rssm`."""

import jax
import numpy as np
import pytest
import scenes

from worldmodel.batch import driven_window
from worldmodel.conformance.small import SMALL
from worldmodel.conformance.test_rules import *  # noqa: F403

WORLD_MODELS = tuple(SMALL)


def test_failing_step_is_swept_to_its_end(model_batch, sim_config):
    """The recorded ego rests where it fails; what a model reads of that step must not show it."""
    rested = jax.tree.map(lambda a: a.at[:, 1].set(a[:, 1, :1]), model_batch.ego)
    whole, cut = (driven_window(b, 10, sim_config) for b in (model_batch, model_batch.replace(ego=rested)))
    end_of_step = 10 + 2 * 5
    np.testing.assert_allclose(cut.x[:, :, : end_of_step + 1], whole.x[:, :, : end_of_step + 1], atol=1e-4)


def test_scenes_are_the_ones_meant(model_batch):
    """The lead vehicle brakes: after 2 s it is 2.5 * 2^2 / 2 = 5 m behind constant speed; all drive on."""
    lead = scenes.lead_vehicle()
    assert float(lead.x[1, 30] - model_batch.scene.x[1, 1, 30]) == pytest.approx(5.0, abs=1e-3)
    assert bool(model_batch.alive.all())
