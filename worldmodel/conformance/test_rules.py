"""The rules of `worldmodel/interface.py`, one test each. They compare the boxes of all agents but the ego, and the
model's own predictions for a step; the outcome by geometry is the simulator's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.interpreters import partial_eval

from tether.simulator.dynamics import advance
from tether.simulator.log_replay import LogReplay
from tether.simulator.observe import observe
from tether.simulator.rollout import joined
from tether.simulator.world import Rollout
from tether.worldmodel.batch import log_window
from tether.worldmodel.conformance import batches
from tether.worldmodel.conformance.batches import HORIZON, Motion, others
from tether.worldmodel.conformance.plugin import FIT_STEPS, Case
from tether.worldmodel.pixels import Pixels

# Images of the road turn into themselves by quarter turns and whole pixels of 4 m only; heads may read images.
ANY_MOTION, QUARTER_TURN = Motion(angle=2.0, x=31.0, y=-17.0), Motion(angle=np.pi / 2, x=24.0, y=-16.0)


def assert_same(left, right, rule: str, atol: float = 1e-4, rtol: float = 1e-4) -> None:
    """Both trees agree; the message names the rule, the place and the difference."""
    if jax.tree.structure(left) != jax.tree.structure(right):
        raise AssertionError(f"{rule}: {jax.tree.structure(left)} became {jax.tree.structure(right)}")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if not np.allclose(a, b, atol=atol, rtol=rtol):
            raise AssertionError(
                f"{rule}: {jax.tree_util.keystr(path)} differs by up to {np.nanmax(np.abs(a - b)):.3g}"
            )


def assert_finite(tree, rule: str) -> None:
    """No NaN, no infinity."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        assert not jnp.issubdtype(leaf.dtype, jnp.floating) or jnp.all(jnp.isfinite(leaf)), f"{rule}: not so in {name}"


def predicted_by(imagined: Rollout) -> dict:
    """The model's own predictions for each step."""
    return {"predicted": imagined.outcome.predicted, "disagreement": imagined.outcome.disagreement}


def program(case: Case, sim_config, keys, model_batch) -> tuple[str, list]:
    """The jaxpr of imagination, built and traced anew, without addresses of objects; and the arrays that it holds."""
    model = case.config.build(sim_config)
    traced = jax.jit(lambda *args: batches.imagine(model, *args)).trace(case.params, keys, model_batch)
    return re.sub("0x[0-9a-f]+", "", str(traced.jaxpr)), traced.jaxpr.consts


def test_shapes_and_masks(imagined, model_batch):
    boxes = (HORIZON, 4, model_batch.scene.x.shape[1], 5)
    for name in ("x", "y", "heading", "vel_x", "vel_y", "valid"):
        actual = getattr(imagined.agents, name).shape
        assert actual == boxes, f"boxes are [H, B, A, S]: {name}: expected {boxes}, found {actual}"
    for name, value in imagined.outcome.predicted.items():
        assert value.shape == (HORIZON, 4), f"heads give one number per row: {name}: found {value.shape[2:]} per step"
    appeared = imagined.agents.valid & ~model_batch.scene.valid[..., 10:11]
    assert not np.any(appeared), "an agent that was not there at the start has appeared"
    assert_finite((imagined.agents, predicted_by(imagined), imagined.outcome.reward), "all that is imagined is finite")


def test_observation_is_the_simulators(case, keys, model_batch, sim_config):
    state = jax.eval_shape(case.model.reset, case.params, keys, model_batch.scene, model_batch.start)
    actual = jax.eval_shape(case.model.observe, case.params, state)
    expected = jax.eval_shape(lambda state: observe(state, sim_config), state)
    assert actual == expected, (
        f"a policy sees the same `Observation` in every World: expected {expected}, found {actual}"
    )


def test_ego_moves_by_exact_dynamics(imagined, model_batch, sim_config):
    action = jax.tree.map(lambda a: a.reshape(4, -1), model_batch.action)
    exact = advance(model_batch.first_ego, action, sim_config.limits, sim_config.dt)
    counted, agents = joined((imagined.alive[..., None] & imagined.outcome.valid, imagined.agents))
    for name in ("x", "y", "heading"):
        row = jnp.take_along_axis(getattr(agents, name), model_batch.scene.ego[:, None, None], 1)[:, 0]
        wanted = jnp.where(counted, getattr(exact, name), 0)
        assert_same(
            jnp.where(counted, row, 0), wanted, f"the ego moves by the simulator's dynamics ({name})", atol=1e-3
        )


def test_same_key_same_result(case, imagined, keys, model_batch):
    again = case.imagine(case.params, keys, model_batch)
    assert_same(again, imagined, "the same key gives the same result", atol=0, rtol=0)


def test_rows_are_independent(case, imagined, keys, model_batch):
    """A row has the same result in a batch of other rows, some of them there twice."""
    drawn = jnp.array([3, 2, 2, 0])
    again = case.imagine(case.params, keys[drawn], model_batch[drawn])
    expected = jax.tree.map(lambda a: a[:, drawn], imagined)
    assert_same(again, expected, "a row's result does not depend on its neighbours in the batch")


def test_order_of_agents_is_nothing(case, imagined, keys, model_batch):
    """Also of polylines and lights."""
    rule = "the order of agents, polylines and lights is nothing"
    again = case.imagine(case.params, keys, model_batch.replace(scene=batches.reordered(model_batch.scene)))
    back = again.agents[:, :, ::-1]
    assert_same(others(back, model_batch), others(imagined.agents, model_batch), rule)
    assert_same(predicted_by(again), predicted_by(imagined), rule)


def test_padding_is_nothing(case, imagined, keys, model_batch):
    rule = "more padded agents, polylines and lights change nothing"
    # Another shape is another compilation: of no more than is compared.
    short = jax.jit(
        lambda *args: (lambda again: (again.agents, predicted_by(again)))(batches.imagine(case.model, *args))
    )
    wide = model_batch.replace(scene=batches.padded(model_batch.scene))
    agents, predictions = short(case.params, keys, wide)
    count = model_batch.scene.x.shape[1]
    assert not np.any(agents.valid[:, :, count:]), f"{rule}: a padded agent became valid"
    cut = agents[:, :, :count]
    assert_same(others(cut, model_batch), others(imagined.agents, model_batch), rule)
    assert_same(predictions, predicted_by(imagined), rule)


def test_content_of_padding_is_nothing(case, imagined, keys, model_batch):
    rule = "numbers beneath a mask are never read"
    noisy = model_batch.replace(scene=batches.with_noisy_padding(model_batch.scene))
    again = case.imagine(case.params, keys, noisy)
    assert_same(others(again.agents, model_batch), others(imagined.agents, model_batch), rule)
    assert_same(predicted_by(again), predicted_by(imagined), rule)


@pytest.mark.parametrize("motion", [ANY_MOTION, QUARTER_TURN], ids=["any", "quarter"])
def test_rigid_motion_moves_all_alike(case, imagined, keys, model_batch, sim_config, motion):
    """To 2 mm, mm/s and 0.002 rad, 200 m from the origin; the heads, after quarter turns only, to 0.002."""
    scene = jax.tree.map(jnp.asarray, batches.moved(model_batch.scene, motion, sim_config))
    again = case.imagine(case.params, keys, model_batch.replace(scene=scene))
    expected = others(batches.moved_boxes(imagined.agents, motion), model_batch)
    assert_same(others(again.agents, model_batch), expected, "turned and shifted scenes go on alike", atol=2e-3)
    # Here a lane runs along the border of two pixels; turned, it is drawn into the other one, and heads may see it.
    if motion is QUARTER_TURN and not isinstance(case.model, Pixels):
        assert_same(predicted_by(again), predicted_by(imagined), "heads do not care where the scene lies", atol=2e-3)


def test_others_do_not_see_the_current_action(case, imagined, keys, model_batch):
    """Another action at the second step leaves the others' boxes after it as they were."""
    other = jax.tree.map(lambda a: a.at[:, 1].set(-3.0), model_batch.action)
    again = case.imagine(case.params, keys, model_batch.replace(action=other))
    moved = again.ego.x[1, :, -1] - imagined.ego.x[1, :, -1]
    assert np.any(np.abs(moved) > 0.1), "the ego itself has to obey its action"
    left, right = (others(rollout.agents[:2], model_batch) for rollout in (again, imagined))
    assert_same(left, right, "others at t + 1 do not depend on the ego's action at t", atol=0, rtol=0)


def test_future_of_the_log_is_not_read(case, imagined, keys, model_batch):
    if isinstance(case.model, LogReplay):
        pytest.skip("this model is the log")
    rule = "nothing of the log after the start is read"
    again = case.imagine(case.params, keys, model_batch.replace(scene=batches.with_another_future(model_batch.scene)))
    assert_same(others(again.agents, model_batch), others(imagined.agents, model_batch), rule)
    assert_same(predicted_by(again), predicted_by(imagined), rule)


def test_extreme_actions_stay_finite(case, keys, model_batch):
    signs = jnp.array([1e6, -1e6, 1e6, -1e6])[:, None, None]
    wild = jax.tree.map(lambda a: jnp.ones_like(a) * signs, model_batch.action)
    again = case.imagine(case.params, keys, model_batch.replace(action=wild))
    results = (again.agents, again.outcome.reward, predicted_by(again))
    assert_finite(results, "actions of a million leave all that is imagined finite")


def test_starts_at_any_log_step(case, keys, model_batch):
    """From step 40 the first sub-step continues the log of step 40, for the lead vehicle of scene 1."""
    again = case.imagine(case.params, keys, model_batch.replace(start=jnp.full(4, 40, jnp.int32)))
    apart = abs(float(again.agents.x[0, 1, 1, 0] - model_batch.scene.x[1, 1, 40]))
    assert apart < 1.0, f"a start at log step 40 goes on from there: the lead vehicle is {apart:.2f} m off after 0.1 s"
    assert_finite(again.agents, "a start at log step 40 stays finite")


def test_a_new_build_is_the_same_model(case, keys, model_batch, sim_config):
    """Numbers drawn while tracing would be frozen into the program, others in the next process."""
    first, second = (program(case, sim_config, keys, model_batch) for _ in range(2))
    rule = "a model is a function of its config: two builds of it"
    assert first[0] == second[0], f"{rule} compile to different programs"
    assert_same(first[1], second[1], f"{rule} hold different numbers", atol=0, rtol=0)


def test_images_are_asked_for_where_they_are_read(case, fitted, keys, model_batch):
    """A model that sees no images is fitted on scenes whose map was never drawn."""
    if case.model.sees_images:
        pytest.skip("sees images")
    programs = {
        "loss": (fitted.step, (fitted.state, keys[0], model_batch)),
        "reset or step": (case.imagine, (case.params, keys, model_batch)),
    }
    for name, (function, args) in programs.items():
        jaxpr = function.trace(*args).jaxpr.jaxpr
        _, read = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        leaves = zip(jax.tree_util.tree_leaves_with_path(args), read, strict=True)
        tiles = [used for (path, _), used in leaves if "map_tile" in jax.tree_util.keystr(path)]
        assert tiles == [False], f"sees_images is False, but {name} reads Scene.map_tile"


def test_fitting_overfits_four_scenes(case, fitted, imagined, keys, model_batch):
    """A model can overfit the braking vehicle and the rewards, whichever of them it predicts."""
    if not case.learns:
        pytest.skip("nothing to fit")
    for step, metrics in enumerate(fitted.history):
        assert_finite(metrics, f"metrics of the fit's step {step} are finite")
    again = case.imagine(fitted.state.params, keys, model_batch)
    learned = {}
    if not np.allclose(again.agents.x, imagined.agents.x, atol=1e-3):
        learned["distance from the log"] = [distance_from_log(i, model_batch) for i in (imagined, again)]
    if "reward" in imagined.outcome.predicted:
        learned["error of the reward head"] = [reward_error(i, model_batch) for i in (imagined, again)]
    assert learned, f"after {FIT_STEPS} steps of fitting on four scenes all is imagined as before"
    for what, (before, after) in learned.items():
        assert after < before / 2, f"four scenes are learned by heart: {what} went from {before:.3g} to {after:.3g}"


def distance_from_log(imagined: Rollout, model_batch) -> float:
    """Mean distance of the braking vehicles, agent 1 of each scene, from where the log has them [m]."""
    agents = joined(imagined.agents)[:, 1]
    log = log_window(model_batch.scene, model_batch.start, 0, agents.x.shape[-1])[:, 1, 1:]
    return float(jnp.hypot(agents.x - log.x, agents.y - log.y).mean(where=log.valid))


def reward_error(imagined: Rollout, model_batch) -> float:
    """Mean difference of the head's reward and the replay's."""
    apart = jnp.abs(imagined.outcome.predicted["reward"].T - model_batch.outcome.reward)
    return float(apart.mean(where=model_batch.alive))


def test_a_resumed_fit_goes_on_alike(fitted, model_batch, tmp_path):
    """After parameters and optimiser went through a checkpoint, the next step gives the same numbers."""
    host = jax.tree.map(np.array, jax.device_get(fitted.state))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "fit", host)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "fit", jax.tree.map(np.zeros_like, host))
    after = [fitted.step(state, jax.random.key(3), model_batch) for state in (restored, fitted.state)]
    assert_same(*after, "a fit resumed from a checkpoint goes on to the same numbers", atol=0, rtol=0)
