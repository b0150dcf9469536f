"""What every world model must keep to. Run for one model with `-k rssm`; add yours to `MODELS`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from data.scene import Scene
from policy.baselines import LogExpert
from simulator.dynamics import advance
from simulator.log_replay import LogReplay
from simulator.rollout import rollout
from worldmodel import rssm_net, tokens_net
from worldmodel.batch import ModelBatch, driven_window, from_rollout
from worldmodel.fitting import FittingConfig, fit_step, start_fit
from worldmodel.kinematic import KinematicConfig
from worldmodel.oracle import OracleConfig
from worldmodel.quality import imagine_log
from worldmodel.rssm import RSSMConfig
from worldmodel.tokens import TokensConfig

SMALL_RSSM = rssm_net.Sizes(deter=16, groups=2, classes=4, hidden=24, tokens=12, outcome_hidden=24, ensemble=2)
SMALL_TOKENS = tokens_net.Sizes(width=16, layers=2, heads=2, things=12, window=3, outcome_hidden=24, ensemble=2)
MODELS = {
    "kinematic": KinematicConfig(),
    "oracle": OracleConfig(),
    "rssm": RSSMConfig(sizes=SMALL_RSSM),
    "tokens": TokensConfig(sizes=SMALL_TOKENS),
}
LEARNED = ("rssm", "tokens")
HORIZON, BRAKING = 4, 2.5  # steps, m/s^2


@dataclasses.dataclass(frozen=True)
class Case:
    """A model with its parameters, and imagining a batch's log in it, compiled."""

    model: object
    params: object
    imagine: object


@pytest.fixture(scope="session")
def model_batch(batch, sim_config) -> ModelBatch:
    """The expert's rollouts in four scenes, in which agent 1 brakes."""
    return replayed(jax.tree.map(jnp.asarray, braking(batch)), sim_config)


@pytest.fixture(scope="session", params=MODELS)
def case(request, model_batch, sim_config) -> Case:
    model = MODELS[request.param].build(sim_config)
    params = model.init(jax.random.key(1), model_batch)
    return Case(model, params, jax.jit(lambda key, batch: imagine_log(model, params, key, batch)))


@pytest.fixture(scope="session")
def imagined(case, keys, model_batch):
    """What the model makes of the batch."""
    return case.imagine(keys, model_batch)


def braking(scene: Scene) -> Scene:
    """Agent 1 of each scene brakes from the current step on, until it stands."""
    time = np.maximum(np.arange(scene.x.shape[-1]) - 10, 0) * 0.1
    speed = np.hypot(scene.vel_x[:, 1], scene.vel_y[:, 1])
    lost = BRAKING * np.minimum(time, speed[:, 10:11] / BRAKING)
    missing = np.concatenate([np.zeros_like(lost[:, :1]), np.cumsum((lost[:, 1:] + lost[:, :-1]) / 2 * 0.1, 1)], 1)
    cos, sin = np.cos(scene.heading[:, 1]), np.sin(scene.heading[:, 1])
    shifts = {"x": missing * cos, "y": missing * sin, "vel_x": lost * cos, "vel_y": lost * sin}
    fields = {name: getattr(scene, name).copy() for name in shifts}
    for name, shift in shifts.items():
        fields[name][:, 1] -= shift * scene.valid[:, 1]
    return dataclasses.replace(scene, **fields)


def replayed(scene: Scene, sim_config) -> ModelBatch:
    """The expert's rollouts from the current step."""
    rows = scene.ego.shape[0]
    keys, start = jax.random.split(jax.random.key(0), rows), jnp.full(rows, 10, jnp.int32)
    drive = jax.jit(
        lambda scene: rollout(LogReplay(sim_config), (), LogExpert(sim_config), (), scene, HORIZON, keys, keys)
    )
    return from_rollout(scene, start, drive(scene), jnp.ones(rows, bool))


def others(agents, batch: ModelBatch, steps: slice = slice(None)):
    """Boxes of all valid agents but the ego, cleared elsewhere."""
    rows = jnp.arange(agents.x.shape[1]) != batch.scene.ego[:, None]
    kept = agents.valid & rows[..., None]
    return jax.tree.map(lambda a: jnp.where(kept, a, 0)[..., steps], agents)


def assert_close(left, right, atol: float = 1e-4) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4), left, right)


def assert_finite(tree) -> None:
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.float32)


def test_shapes_and_masks(imagined, model_batch):
    boxes = (4, model_batch.scene.x.shape[1], HORIZON * 5)
    assert all(field.shape == boxes for field in jax.tree.leaves(imagined.agents))
    assert imagined.outcome.collision.shape == (4, HORIZON, 5)
    assert all(value.shape == (4, HORIZON) for value in imagined.outcome.predicted.values())
    seen = model_batch.scene.valid[..., 10:11]
    assert not np.any(imagined.agents.valid & ~seen), "an agent that was not there at the start"
    assert_finite((imagined.agents, imagined.outcome.disagreement, imagined.outcome.predicted, imagined.outcome.reward))


def test_ego_moves_by_exact_dynamics(imagined, model_batch, sim_config):
    action = jax.tree.map(lambda a: a.reshape(4, -1), model_batch.action)
    exact = advance(model_batch.first_ego, action, sim_config.limits, sim_config.dt)
    row = jnp.take_along_axis(imagined.agents.x, model_batch.scene.ego[:, None, None], 1)[:, 0]
    driven = jnp.repeat(imagined.alive, 5, axis=1) & imagined.outcome.valid.reshape(4, -1)
    np.testing.assert_allclose(jnp.where(driven, row, 0), jnp.where(driven, exact.x, 0), atol=1e-3)


def test_same_key_same_result(case, imagined, keys, model_batch):
    jax.tree.map(np.testing.assert_array_equal, case.imagine(keys, model_batch), imagined)


def test_rows_are_independent(case, imagined, keys, model_batch):
    """Reversing the batch reverses the result."""
    reverse = jax.tree.map(lambda a: a[::-1], (keys, model_batch))
    assert_close(jax.tree.map(lambda a: a[::-1], case.imagine(*reverse)), imagined)


def test_order_of_agents_is_nothing(case, imagined, keys, model_batch):
    """Reversing the agents, the polylines and the lights reverses the agents and changes nothing else."""
    agents, scene = model_batch.scene.x.shape[1], model_batch.scene
    ordered = ("route_x", "route_y", "route_speed_limit", "route_valid", "instruction", "map_tile", "road_index")
    turned = {
        name: getattr(scene, name)[:, ::-1] for name in scene.__dataclass_fields__ if name not in ("ego", *ordered)
    }
    turned = scene.replace(**turned, ego=agents - 1 - scene.ego)
    again = case.imagine(keys, model_batch.replace(scene=turned))
    back = again.replace(agents=jax.tree.map(lambda a: a[:, ::-1], again.agents))
    assert_close(others(back.agents, model_batch), others(imagined.agents, model_batch))
    assert_close(back.outcome.predicted, imagined.outcome.predicted)


def test_padding_is_nothing(case, imagined, keys, model_batch):
    """More padded agents, polylines and lights change nothing; two steps, to save compilation."""
    sizes = {(3, 4): 2, (3, 12): 3, (2, 4): 2, (2, 12): 3, (2, 2): 1, (3, 2): 1}  # (axes, second axis) -> rows to add

    def padded(field):
        extra = sizes.get((field.ndim, field.shape[1] if field.ndim > 1 else 0), 0)
        return jnp.pad(field, [(0, 0), (0, extra)] + [(0, 0)] * (field.ndim - 2)) if extra else field

    kept = {name: getattr(model_batch.scene, name) for name in ("instruction", "map_tile", "road_index")}
    bigger = jax.tree.map(padded, model_batch.scene).replace(**kept)
    assert bigger.x.shape[1] == 6 and bigger.road_x.shape[1] == 15 and bigger.light_x.shape[1] == 3
    short = jax.tree.map(lambda a: a[:, :2], (model_batch.action, model_batch.alive))
    again = case.imagine(keys, model_batch.replace(scene=bigger, action=short[0], alive=short[1]))
    cut = again.replace(agents=jax.tree.map(lambda a: a[:, :4], again.agents))
    assert_close(others(cut.agents, model_batch), others(imagined.agents, model_batch, slice(0, 10)))
    assert_close(cut.outcome.predicted, jax.tree.map(lambda a: a[:, :2], imagined.outcome.predicted))


def test_content_of_padding_is_nothing(case, imagined, keys, model_batch):
    scene = model_batch.scene
    noise = {
        name: jnp.where(getattr(scene, mask), getattr(scene, name), 7.7)
        for mask, names in {
            "valid": ("x", "y", "heading", "vel_x", "vel_y"),
            "road_valid": ("road_x", "road_y"),
        }.items()
        for name in names
    }
    again = case.imagine(keys, model_batch.replace(scene=scene.replace(**noise)))
    assert_close(others(again.agents, model_batch), others(imagined.agents, model_batch))
    assert_close(again.outcome.predicted, imagined.outcome.predicted)


def test_others_do_not_see_the_current_action(case, imagined, keys, model_batch):
    """Another action at the second step leaves the others' boxes after it as they were."""
    other = jax.tree.map(lambda a: a.at[:, 1].set(-3.0), model_batch.action)
    again = case.imagine(keys, model_batch.replace(action=other))
    ego = model_batch.scene.ego[:, None, None]
    moved = jnp.take_along_axis(again.agents.x - imagined.agents.x, ego, 1)[:, 0, 9]
    assert np.any(np.abs(moved) > 0.1), "the ego itself has to notice"
    jax.tree.map(
        np.testing.assert_array_equal,
        others(again.agents, model_batch, slice(0, 10)),
        others(imagined.agents, model_batch, slice(0, 10)),
    )


def test_extreme_actions_stay_finite(case, keys, model_batch):
    wild = jax.tree.map(lambda a: jnp.full_like(a, 1e6) * jnp.array([1, -1, 1, -1])[:, None, None], model_batch.action)
    again = case.imagine(keys, model_batch.replace(action=wild))
    assert_finite((again.agents, again.outcome.reward, again.outcome.disagreement, again.outcome.predicted))


def test_starts_at_any_log_step(case, keys, model_batch):
    """From step 40 the first sub-step continues the log of step 40, for the lead vehicle of scene 1."""
    again = case.imagine(keys, model_batch.replace(start=jnp.full(4, 40, jnp.int32)))
    logged = model_batch.scene.x[1, 1, 40]
    assert abs(float(again.agents.x[1, 1, 0] - logged)) < 1.0
    assert_finite(again.agents)


def test_failing_step_is_swept_to_its_end(model_batch, sim_config):
    """The recorded ego rests where it fails; what a model reads of that step must not show it."""
    rested = jax.tree.map(lambda a: a.at[:, 1].set(a[:, 1, :1]), model_batch.ego)
    whole, cut = (driven_window(b, 10, sim_config) for b in (model_batch, model_batch.replace(ego=rested)))
    end_of_step = 10 + 2 * 5
    np.testing.assert_allclose(cut.x[:, :, : end_of_step + 1], whole.x[:, :, : end_of_step + 1], atol=1e-4)


@pytest.fixture(scope="session", params=LEARNED)
def fitted(request, model_batch, sim_config):
    """First and last metrics of 60 steps on four scenes."""
    model = MODELS[request.param].build(sim_config)
    optimizer = FittingConfig(learning_rate=1e-2, warmup_steps=5).build(60)
    state = start_fit(model.init(jax.random.key(1), model_batch), optimizer)
    step, history = jax.jit(fit_step(model, optimizer)), []
    for _ in range(60):
        state, metrics = step(state, jax.random.key(2), model_batch)
        history.append(metrics)
    return history


def test_fitting_overfits_four_scenes(fitted):
    """A braking vehicle is learned by heart: 4 times nearer than constant speed; so are its rewards."""
    assert all(np.isfinite(float(value)) for metrics in fitted for value in metrics.values())
    assert fitted[-1]["loss"] < fitted[0]["loss"] - 1
    assert fitted[-1]["displacement_m"] < fitted[0]["displacement_m"] / 4
    assert fitted[-1]["reward"] < fitted[0]["reward"] / 2


def test_scenes_are_the_ones_meant(model_batch):
    """The lead vehicle brakes: after 2 s it is 2.5 * 2^2 / 2 = 5 m behind constant speed."""
    lead = scenes.lead_vehicle()
    assert float(lead.x[1, 30] - model_batch.scene.x[1, 1, 30]) == pytest.approx(5.0, abs=1e-3)
