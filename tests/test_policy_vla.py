"""The VLA: exact log-probabilities, masks, temperature, plan; imitation targets and learning."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scenes
from imitated import ROWS, SIMULATOR, eight_rows

from tether.data.scene import SceneSpec
from tether.policy.action_head import Decision
from tether.policy.imitation import ImitationConfig, imitation_loss
from tether.policy.language import slot_masks
from tether.policy.sizes import SIZES, parameters
from tether.policy.transformer import RESIDUAL, SMALL, structure
from tether.policy.vla import REASONING, categorical_kl, tiny
from tether.simulator.config import SimulatorConfig

VLA = tiny().build(SIMULATOR, scenes.TINY)
LOSS = ImitationConfig()


@pytest.fixture(scope="module")
def batch():
    return eight_rows(VLA, LOSS)


@pytest.fixture(scope="module")
def params():
    """Random, with logits that are far from uniform."""
    params = VLA.init(jax.random.key(0))
    return {**params, "logits": jax.tree.map(lambda leaf: 20 * leaf + 0.1, params["logits"])}


@pytest.fixture(scope="module")
def act():
    return jax.jit(lambda params, key, observation: VLA.act(params, key, observation, ()))


@pytest.fixture(scope="module")
def evaluate():
    return jax.jit(VLA.evaluate)


@pytest.fixture(scope="module")
def acted(act, params, batch):
    return act(params, jax.random.split(jax.random.key(1), ROWS), batch.observation)


def test_parameters_have_the_names_by_which_some_begin_otherwise():
    """So that none of them falls back to the usual scale when it is renamed."""
    shapes = [structure(tiny(head).build(SIMULATOR, scenes.TINY).shape)[1] for head in ("discrete", "flow")]
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    names = {getattr(entry, "key", None) for path in paths for entry in path}
    assert names >= SMALL | RESIDUAL | {"value", "out", "blocks", "layers"}


def test_replay_parity(acted, evaluate, params, batch):
    """Tokens that were sampled one by one score the same in one teacher-forced pass."""
    _, _, extras = acted
    replayed = evaluate(params, batch.observation, extras["decision"])
    for name in ("log_prob", "reasoning_log_prob", "value"):
        np.testing.assert_allclose(replayed[name], extras[name], atol=1e-4, err_msg=name)
    assert np.std(extras["log_prob"]) > 0.05


def test_tokens_stay_in_their_closed_sets(acted):
    tokens = np.asarray(acted[2]["decision"].tokens)
    assert tokens.shape == (ROWS, VLA.tokens)
    assert slot_masks()[np.arange(REASONING), tokens[:, :REASONING]].all()
    assert (tokens[:, REASONING:] >= 0).all() and (tokens[:, REASONING:] < VLA.config.actions.shape).all()


def test_joint_action_table_sums_to_one(evaluate, params, batch):
    """p(a) p(kappa | a) over all pairs of bins, for one state and one reasoning."""
    pairs = np.array(list(itertools.product(*(range(n) for n in VLA.config.actions.shape))))
    padded = np.resize(pairs, (-(-len(pairs) // ROWS) * ROWS, 2))
    one = jax.tree.map(lambda field: jnp.repeat(field[:1], ROWS, axis=0), batch.observation)
    reasoning = np.tile(np.asarray(batch.decision.tokens[:1, :REASONING]), (ROWS, 1))
    log_probs = [
        evaluate(params, one, Decision(jnp.asarray(np.concatenate([reasoning, chunk], 1))))["log_prob"]
        for chunk in padded.reshape(-1, ROWS, 2)
    ]
    np.testing.assert_allclose(np.exp(np.concatenate(log_probs)[: len(pairs)]).sum(), 1.0, atol=1e-4)


def test_entropy_is_that_of_the_slots(evaluate, params, batch):
    scores = evaluate(params, batch.observation, batch.decision)
    table = np.exp(np.asarray(scores["logits"], np.float64))
    np.testing.assert_allclose(table.sum(-1), 1.0, atol=1e-5)
    entropy = -np.where(table > 0, table * np.log(np.maximum(table, 1e-300)), 0).sum(-1)
    np.testing.assert_allclose(scores["entropy"], entropy[:, REASONING:].sum(-1), rtol=1e-4)
    np.testing.assert_allclose(scores["reasoning_entropy"], entropy[:, :REASONING].sum(-1), rtol=1e-4)


def test_action_depends_on_the_reasoning(evaluate, params, batch):
    """Other reasoning before the same action changes its probability."""
    tokens = batch.decision.tokens
    other = tokens.at[:, 0].set(jnp.where(tokens[:, 0] == 6, 7, 6))
    changed, kept = (evaluate(params, batch.observation, Decision(t))["log_prob"] for t in (other, tokens))
    assert np.abs(changed - kept).min() > 1e-6


def test_reasoning_can_be_given(params, batch, evaluate):
    """The given reasoning is kept, and the action is drawn as it is scored after this reasoning."""
    given = jnp.roll(batch.decision.tokens[:, :REASONING], 1, axis=0)
    keys = jax.random.split(jax.random.key(1), ROWS)
    _, _, extras = jax.jit(lambda o: VLA.act(params, keys, o, (), given))(batch.observation)
    np.testing.assert_array_equal(extras["decision"].tokens[:, :REASONING], given)
    scores = evaluate(params, batch.observation, extras["decision"])
    np.testing.assert_allclose(extras["log_prob"], scores["log_prob"], atol=1e-4)


def test_instruction_matters_and_its_padding_does_not(evaluate, params, batch):
    """The embedding of the padding token may be anything; that of another token may not."""
    token = int(batch.observation.instruction[0, 0]) + sum(VLA.config.actions.shape)

    def with_embedding(index):
        return {**params, "embedding": params["embedding"].at[index].add(1.0)}

    base, padding, token = (
        evaluate(p, batch.observation, batch.decision)["log_prob"]
        for p in (params, with_embedding(0), with_embedding(token))
    )
    np.testing.assert_allclose(padding, base, atol=1e-6)
    assert np.abs(token - base).min() > 1e-6


def test_room_for_a_longer_instruction_changes_nothing(evaluate, params, batch):
    """The same instruction in twice the room, whatever the positions beyond it hold."""
    roomy = tiny().build(SIMULATOR, dataclasses.replace(scenes.TINY, text=2 * scenes.TINY.text))
    instruction = jnp.pad(batch.observation.instruction, ((0, 0), (0, scenes.TINY.text)))
    more = jax.random.normal(jax.random.key(0), (scenes.TINY.text, VLA.shape.width))
    positions = {**params, "prefix_position": jnp.concatenate([params["prefix_position"], more])}
    scores = jax.jit(roomy.evaluate)(positions, batch.observation.replace(instruction=instruction), batch.decision)
    base = evaluate(params, batch.observation, batch.decision)
    for name in ("log_prob", "reasoning_log_prob", "value", "plan"):
        np.testing.assert_allclose(scores[name], base[name], atol=1e-4)


def test_greedy_ignores_the_key(params, batch):
    greedy = jax.jit(lambda key: VLA.with_temperature(0.0).act(params, key, batch.observation, ()))
    first, second = (greedy(jax.random.split(jax.random.key(seed), ROWS))[2]["decision"].tokens for seed in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_samples_follow_the_key_of_their_row(acted, act, params, batch):
    """Changing one row's key and picture changes no other row."""
    keys = jax.random.split(jax.random.key(1), ROWS)
    other = batch.observation.replace(bev=batch.observation.bev.at[0].set(0))
    _, _, extras = act(params, keys.at[0].set(jax.random.key(99)), other)
    np.testing.assert_array_equal(extras["decision"].tokens[1:], acted[2]["decision"].tokens[1:])


def test_plan_begins_with_the_commit(params, batch):
    def both(observation):
        keys = jax.random.split(jax.random.key(0), ROWS)
        return VLA.plan(params, observation), VLA.with_temperature(0.0).act(params, keys, observation, ())[0]

    plan, committed = jax.jit(both)(batch.observation)
    assert plan.acceleration.shape == plan.curvature.shape == (ROWS, 64)
    np.testing.assert_allclose(plan.acceleration[:, :5], committed.acceleration, atol=1e-6)
    np.testing.assert_allclose(plan.curvature[:, :5], committed.curvature, atol=1e-6)
    assert np.abs(np.diff(plan.curvature, axis=1)).max() < 0.13


def test_cameras_join_as_further_patches(params, batch):
    """Two cameras of 20 x 40 are 2 x 3 patches each: each of them is seen, and distinguished from the other."""
    vla = dataclasses.replace(tiny(), cameras=(2, 20, 40)).build(SIMULATOR, scenes.TINY)
    assert vla.shape.patches == VLA.shape.patches + 2 * 6
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (ROWS, 2, 20, 40, 3)), jnp.uint8)
    score = jax.jit(lambda p, o: vla.evaluate(p, o, batch.decision))
    scores = [
        score(vla.init(jax.random.key(0)), batch.observation.replace(camera=camera))
        for camera in (images, images.at[:, 0].set(0), images.at[:, 1].set(0), images[:, ::-1])
    ]
    for name in ("log_prob", "value"):
        for other in scores[1:]:
            assert np.abs(other[name] - scores[0][name]).min(0).max() > 1e-6, name


def test_missing_cameras_are_reported(batch):
    vla = dataclasses.replace(tiny(), cameras=(2, 20, 40)).build(SIMULATOR, scenes.TINY)
    shape = jax.eval_shape(vla.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"Observation.camera: expected uint8\[8, 2, 20, 40, 3\], found no camera"):
        jax.eval_shape(vla.value, shape, batch.observation)
    other = batch.observation.replace(camera=jnp.zeros((ROWS, 1, 20, 40, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"found \(8, 1, 20, 40, 3\)"):
        jax.eval_shape(vla.value, shape, other)


def test_cameras_that_were_not_asked_for_change_nothing(evaluate, params, batch):
    seen = batch.observation.replace(camera=jnp.full((ROWS, 1, 8, 8, 3), 9, jnp.uint8))
    without, with_camera = (evaluate(params, o, batch.decision)["log_prob"] for o in (batch.observation, seen))
    np.testing.assert_array_equal(with_camera, without)


@pytest.mark.parametrize("head", ["discrete", "flow"])
@pytest.mark.parametrize(("size", "millions"), [("1m", 1), ("10m", 10), ("50m", 50), ("300m", 300)])
def test_sizes_are_what_they_are_called(size, millions, head):
    vla = dataclasses.replace(SIZES[size], head=head).build(SimulatorConfig(), SceneSpec())
    assert parameters(vla) == pytest.approx(millions * 1e6, rel=0.1)


def test_values_do_not_train_the_trunk(params, batch):
    grads = jax.jit(jax.grad(lambda p: VLA.value(p, batch.observation).sum()))(params)
    assert all(not np.any(leaf) for name, tree in grads.items() if name != "value" for leaf in jax.tree.leaves(tree))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads["value"]))


def test_imitation_targets_know_where_the_log_ends(batch):
    """A label looks 1 s ahead: log step 80 is the last with one; knots at 1.0 s, 1.5 s, ... end with the log."""
    np.testing.assert_array_equal(batch.valid, [True, True, True, True, True, False, True, True])
    assert batch.plan_valid.sum(1).tolist() == [12, 12, 11, 1, 1, 0, 8, 5]
    np.testing.assert_allclose(jnp.where(batch.plan_valid[..., None], batch.plan, 0.0), 0.0, atol=1e-3)


def test_invalid_rows_teach_nothing(params, batch):
    loss = jax.jit(lambda batch: imitation_loss(VLA, params, batch, LOSS)[0])
    junk = jnp.where(batch.valid[:, None], batch.decision.tokens, jnp.array([6, 13, 21, 31, 0, 0]))
    np.testing.assert_allclose(loss(batch), loss(batch.replace(decision=Decision(junk))), rtol=1e-6)


def test_imitation_overfits_a_few_scenes(batch):
    optimiser = optax.adam(3e-3)
    params = VLA.init(jax.random.key(0))

    @jax.jit
    def step(params, state):
        (loss, metrics), grads = jax.value_and_grad(lambda p: imitation_loss(VLA, p, batch, LOSS), has_aux=True)(params)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, loss, metrics

    state, losses = optimiser.init(params), []
    for _ in range(80):
        params, state, loss, metrics = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.1 * losses[0]
    assert set(metrics) == {"action_cross_entropy", "reasoning_cross_entropy", "plan_error", "exact_action"}
    assert metrics["exact_action"].sum() == batch.valid.sum()


def test_kl_of_two_categoricals():
    logits, reference = jnp.log(jnp.asarray([[[0.5, 0.5]]])), jnp.log(jnp.asarray([[[0.25, 0.75]]]))
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    np.testing.assert_allclose(categorical_kl(logits, reference), [expected], rtol=1e-6)
    np.testing.assert_allclose(categorical_kl(logits, logits), [0], atol=1e-7)
