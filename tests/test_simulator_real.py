"""The logged egos of real records, in the simulator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.data.errors import SkipLedger
from tether.data.padding import pad
from tether.data.scene import SceneSpec
from tether.data.womd import read_file
from tether.simulator.dynamics import advance, ego_track, log_actions, log_ego
from tether.simulator.studies.config import SmoothingConfig
from tether.simulator.studies.inverse import smooth_log_actions


@pytest.fixture(scope="module")
def logs(real_data):
    """The first 24 scenes of a real file, Scene[B]."""
    pytest.importorskip("waymo_open_dataset.protos.scenario_pb2")
    raw = read_file(str(real_data / "train" / "womd-00000-of-00004.tfrecord"), SkipLedger(1.0))
    return scenes.stack([pad(scene, SceneSpec()).scene for scene, _ in zip(raw, range(24), strict=False)])


def test_the_inverse_reproduces_real_egos(logs, sim_config):
    start = jnp.full(logs.ego.shape, SceneSpec.current)
    action = jax.jit(log_actions, static_argnums=(2, 3))(logs, start, 80, sim_config)
    swept = advance(log_ego(logs, start), action, sim_config.limits, sim_config.dt)
    error = np.hypot(swept.x - ego_track(logs, "x")[:, 11:], swept.y - ego_track(logs, "y")[:, 11:])
    assert np.median(error.max(axis=1)) < 0.1
    assert np.quantile(error.max(axis=1), 0.9) < 0.5


def test_the_smoothing_inverse_reproduces_real_egos(logs, sim_config):
    start = jnp.full(logs.ego.shape, SceneSpec.current)
    solve = jax.jit(smooth_log_actions, static_argnums=(2, 3, 4))
    ego, action = solve(logs, start, 80, sim_config, SmoothingConfig())
    swept = advance(ego, action, sim_config.limits, sim_config.dt)
    error = np.hypot(swept.x - ego_track(logs, "x")[:, 11:], swept.y - ego_track(logs, "y")[:, 11:])
    assert np.mean(error.max(axis=1) <= 0.1) >= 0.95
