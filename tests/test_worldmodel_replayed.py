"""Practice among imagined and logged traffic: which agents follow the log, and that nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.data.scene import SceneSpec
from tether.simulator.log_replay import LogReplay
from tether.simulator.replay import replay_actions
from tether.simulator.transition import log_agents
from tether.simulator.world import Action
from tether.worldmodel.conformance import batches
from tether.worldmodel.kinematic import KinematicConfig
from tether.worldmodel.replayed import Replayed


@pytest.fixture
def swerving(batch):
    """The conformance suite's scenes, whose others swerve after the current step, as no model expects."""
    later = np.maximum(np.arange(batch.x.shape[-1]) - SceneSpec.current, 0)
    is_other = np.arange(batch.x.shape[1]) != batch.ego[:, None]
    return batch.replace(y=batch.y + is_other[..., None] * np.float32(0.005) * later**2)


@pytest.fixture
def drive(sim_config, swerving, keys):
    """Drives some steps straight on in a World. Returns: the others' boxes [H, B, A, S], and the rewards."""
    is_ego = np.arange(swerving.x.shape[1]) == swerving.ego[:, None]

    def driven(world, start=10, steps=4, scene=swerving):
        count, agents = is_ego.shape
        action = Action(*jnp.zeros((2, count, steps, sim_config.substeps)))
        arrays = keys, scene, jnp.full(count, start), action
        rollout = jax.jit(lambda *given: replay_actions(world, (), *given))(*arrays)
        assert not np.any(rollout.agents.valid[:, :, agents:])
        seen = rollout.agents[:, :, :agents]
        others = seen.replace(valid=seen.valid & ~is_ego[..., None])
        return jax.tree.map(np.asarray, (others, rollout.outcome.reward))

    return driven


@pytest.fixture
def kinematic(sim_config):
    return KinematicConfig().build(sim_config)


def same(one, other):
    """bool[B, A]: whether an agent is where it is in the other rollout, all the time."""
    apart = np.hypot(one.x - other.x, one.y - other.y) * (one.valid & other.valid)
    return np.all((apart < 1e-4) & (one.valid == other.valid), (0, 3))


def test_with_all_agents_it_is_log_replay(sim_config, drive, kinematic):
    (logged, earned), (now, reward) = drive(LogReplay(sim_config)), drive(Replayed(kinematic, sim_config, 1.0))
    assert same(now, logged).all()
    np.testing.assert_allclose(reward, earned, atol=1e-5)


def test_each_agent_follows_the_log_or_the_model(sim_config, drive, kinematic):
    (logged, _), (imagined, _) = drive(LogReplay(sim_config)), drive(kinematic)
    half, _ = drive(Replayed(kinematic, sim_config, 0.5))
    seen = logged.valid.any((0, 3)) & ~same(logged, imagined)
    follows, own = same(half, logged) & seen, same(half, imagined) & seen
    assert (follows | own)[seen].all() and follows.any() and own.any()


def test_padding_changes_nothing(sim_config, drive, kinematic, swerving):
    world = Replayed(kinematic, sim_config, 0.5)
    (now, reward), (padded, as_much) = drive(world), drive(world, scene=batches.padded(swerving))
    assert same(now, padded).all()
    np.testing.assert_allclose(reward, as_much, atol=1e-5)


def test_after_the_log_all_are_the_models(sim_config, drive, kinematic, swerving):
    """The last whole step of the log ends at log step 90."""
    now, _ = drive(Replayed(kinematic, sim_config, 1.0), start=85, steps=3)
    last = log_agents(swerving, np.full((len(swerving.ego), 1), 90))
    there = np.asarray(last.valid)[..., 0] & now.valid[0, ..., -1]
    np.testing.assert_allclose(now.y[0, ..., -1][there], np.asarray(last.y)[..., 0][there], atol=1e-4)
    across = np.diff(now.y[..., -1], axis=0)[:, there]  # by their velocities, which know of no swerving
    assert np.abs(across - np.asarray(last.vel_y)[..., 0][there] * sim_config.step_s).max() < 0.5
