"""The flow head: its arithmetic by hand, exact log-probabilities, marginals, learning."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scenes
from imitated import ROWS, SIMULATOR, eight_rows

from tether.policy.action_head import Memory
from tether.policy.action_space import ActionSpace
from tether.policy.flow_head import Chain, FlowConfig, FlowHead, NoisyCopies, log_density, normalise, times, transition
from tether.policy.imitation import ImitationConfig, imitation_loss
from tether.policy.vla import REASONING, tiny
from tether.training.experience import Experience
from tether.training.learning import Rates, optimiser, policy_step
from tether.training.mesh import ALONE

VLA = tiny(head="flow").build(SIMULATOR, scenes.TINY)
LOSS = ImitationConfig(perturbed=1.0)
MEAN, SPREAD = np.array([1.0, -0.5]), np.array([0.5, 0.2])  # of the actions of `gaussian`, normalised


def gaussian(x, time, cache, seen):
    """The velocity E[e - a | x_t] whose flow leads from noise to independent normals; any [B, M, N, 2], [B, M]."""
    t = time[..., None, None]
    surplus = (x - (1 - t) * MEAN) / ((1 - t) ** 2 * SPREAD**2 + t**2)
    return t * surplus - (MEAN + (1 - t) * SPREAD**2 * surplus)


def stub(velocity):
    """A network that knows nothing but this velocity."""
    shape = types.SimpleNamespace(slots=REASONING + 1)
    return types.SimpleNamespace(shape=shape, expert=velocity, suffix=lambda *args: (None, ()))


def drawn(head: FlowHead, rows: int, temperature: float):
    """Knots, chains and log-probabilities of `gaussian`."""
    keys, tokens = jax.random.split(jax.random.key(0), rows), jnp.zeros((rows, REASONING), jnp.int32)
    memory = Memory((), jnp.ones((rows, 3), bool))
    return jax.jit(lambda keys: head.draw(stub(gaussian), keys, tokens, memory, temperature))(keys)


@pytest.fixture(scope="module")
def batch():
    return eight_rows(VLA, LOSS)


@pytest.fixture(scope="module")
def params():
    """Random, with a velocity that is far from zero and from simple."""
    params = VLA.init(jax.random.key(0))
    expert = {**params["expert"], "leave": jax.tree.map(lambda leaf: 20 * leaf, params["expert"]["leave"])}
    return {**params, "expert": expert}


@pytest.fixture(scope="module")
def act():
    return jax.jit(lambda policy, params, key, observation: policy.act(params, key, observation, ()), static_argnums=0)


@pytest.fixture(scope="module")
def evaluate():
    return jax.jit(VLA.evaluate)


@pytest.fixture(scope="module")
def acted(act, params, batch):
    return act(VLA, params, jax.random.split(jax.random.key(1), ROWS), batch.observation)


def test_normalised_knots():
    """2 m/s^2 count as 1; asinh(0.02 / 0.02) = ln(1 + sqrt 2)."""
    np.testing.assert_allclose(normalise(jnp.array([[-3.0, 0.02]])), [[-1.5, 0.881374]], rtol=1e-5)


def test_velocity_targets():
    """x_t = t e + (1 - t) a and v = e - a: then x - t v is the action, and x + (1 - t) v the noise."""
    head = FlowHead(ActionSpace(), 1, FlowConfig(repeats=2000))
    knots = jnp.array([[[1.0, 0.02], [-2.0, 0.0]]])
    committed, decision = head.demonstrate(jax.random.split(jax.random.key(0), 1), knots)
    shown: NoisyCopies = decision.motion
    t = shown.time[..., None, None]
    np.testing.assert_array_equal(committed, knots[:, 0])
    assert decision.tokens.shape == (1, 0)
    action = np.broadcast_to([[0.5, 0.881374], [-1.0, 0.0]], shown.x.shape)
    np.testing.assert_allclose(shown.x - t * shown.velocity, action, atol=1e-5)
    noise = np.asarray(shown.x + (1 - t) * shown.velocity)
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.05)
    # Beta(1.5, 1): mean 0.6, P(t < 0.25) = 0.25 ^ 1.5 = 0.125
    time = np.asarray(shown.time)
    np.testing.assert_allclose([time.mean(), np.mean(time < 0.25)], [0.6, 0.125], atol=0.02)
    assert time.min() >= 0.001 and time.max() <= 1


def test_log_probability_of_a_chain_against_numpy(rng):
    """The stochastic equation written out step by step, in double precision."""
    head, x = FlowHead(ActionSpace(), 1, FlowConfig(noise=0.6)), rng.normal(size=(3, 5, 2))
    expected = np.zeros(3)
    for k, t in enumerate([1.0, 0.75, 0.5, 0.25]):
        sigma = 0.6 * np.sqrt(t / (1 - (t if t < 1 else 0.75)))
        v = np.asarray(gaussian(x[:, None, None, k], np.full((3, 1), t), None, None))[:, 0, 0]
        mean = x[:, k] - 0.25 * (v + sigma**2 / (2 * t) * (x[:, k] + (1 - t) * v))
        variance = sigma**2 * 0.25
        expected += np.sum(-((x[:, k + 1] - mean) ** 2) / (2 * variance) - 0.5 * np.log(2 * np.pi * variance), -1)
    memory = Memory((), jnp.ones((3, 2), bool))
    scores = head.score(stub(gaussian), Chain(jnp.asarray(x, jnp.float32)), None, memory)
    np.testing.assert_allclose(scores["motion_log_prob"], expected, rtol=1e-4)


def test_density_of_a_normal():
    # twice the standard normal at 1: 2 * (-0.5 - 0.918939); at deviation 2: each 0.125 less bad, ln 2 lower
    x, mean = jnp.array([[1.0, -1.0]]), jnp.zeros((1, 2))
    np.testing.assert_allclose(log_density(x, mean, jnp.ones((1, 1))), [-2.837877], rtol=1e-6)
    np.testing.assert_allclose(log_density(x, mean, jnp.full((1, 1), 2.0)), [-3.474171 + 0.0], rtol=1e-5)


def test_both_equations_end_in_the_actions_distribution():
    """Ordinary and stochastic, in many steps, from noise to the normals of `gaussian`."""
    rows, steps = 4096, 200
    head = FlowHead(ActionSpace(), 1, FlowConfig(drawn_steps=steps))
    stochastic = np.asarray(drawn(head, rows, 1.0)[1].x[:, -1])
    x = np.random.default_rng(0).normal(size=(rows, 2))
    for time in np.asarray(times(steps)):
        x = x - gaussian(x[:, None, None], np.full((rows, 1), time), None, None)[:, 0, 0] / steps
    for samples in (stochastic, x):
        np.testing.assert_allclose(samples.mean(0), MEAN, atol=0.03)
        np.testing.assert_allclose(samples.std(0), SPREAD, rtol=0.05)
    assert abs(np.corrcoef(stochastic.T)[0, 1]) < 0.05


def test_without_noise_the_flow_ends_in_the_median():
    """1.0 and -0.5 normalised: 2 m/s^2 and 0.02 sinh(-0.5) of kappa_max, for every key; 10 steps come within 2 %."""
    knots, chain, _ = drawn(FlowHead(ActionSpace(), 1, FlowConfig()), 3, 0.0)
    np.testing.assert_allclose(knots, np.tile([2.0, 0.02 * np.sinh(-0.5)], (3, 1)), rtol=0.02)
    assert chain.x.shape == (3, 11, 2) and not chain.x[:, 0].any()


def test_temperature_scales_the_noise():
    head = FlowHead(ActionSpace(), 1, FlowConfig(drawn_steps=20))
    cold, warm = (np.asarray(drawn(head, 2048, temperature)[1].x[:, -1]) for temperature in (0.5, 1.0))
    np.testing.assert_allclose(cold.std(0) / warm.std(0), 0.5, rtol=0.1)


def test_knots_stay_within_the_action_space():
    head = FlowHead(ActionSpace(), 1, FlowConfig())
    memory = Memory((), jnp.ones((2, 3), bool))

    def away(x, time, cache, seen):
        return jnp.broadcast_to(jnp.array([9.0, -9.0]), x.shape)

    knots, _, _ = head.draw(stub(away), jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 4), int), memory, 0.0)
    np.testing.assert_allclose(knots, [[-6.0, 1.0]] * 2)


def test_kl_of_steps_by_hand():
    """Means apart by half a deviation in both numbers, in each of 5 steps: 5 * 2 * 0.5 * 0.25."""
    now = {"mean": jnp.ones((1, 5, 2)), "deviation": jnp.full((1, 5, 1), 0.2)}
    before = {"mean": now["mean"] - 0.1, "deviation": now["deviation"]}
    head = FlowHead(ActionSpace(), 1, FlowConfig(drawn_steps=5))
    np.testing.assert_allclose(head.kl(now, before), [1.25], rtol=1e-5)
    np.testing.assert_array_equal(head.kl(now, now), [0.0])


def test_the_first_step_takes_its_noise_from_the_next():
    """At t = 1 of 5 steps: sigma^2 = eta^2 / 0.2, so deviation eta, and the mean shrinks by eta^2 / 2 beside v / 5."""
    x, v = jnp.array([[1.0, -2.0]]), jnp.array([[0.5, 0.0]])
    mean, deviation = transition(x, jnp.ones(1), v, 5, 0.7)
    np.testing.assert_allclose(deviation, [[0.7]], rtol=1e-6)
    np.testing.assert_allclose(mean, x * (1 - 0.245) - 0.2 * v, rtol=1e-6)


def test_replay_parity(acted, evaluate, params, batch):
    """The chain that was drawn step by step scores the same in one teacher-forced pass."""
    _, _, extras = acted
    replayed = evaluate(params, batch.observation, extras["decision"])
    for name in ("log_prob", "reasoning_log_prob", "value"):
        np.testing.assert_allclose(replayed[name], extras[name], atol=1e-5, err_msg=name)
    assert np.std(extras["log_prob"]) > 0.5
    assert extras["decision"].tokens.shape == (ROWS, REASONING)


def test_the_action_depends_on_the_observation_and_the_reasoning(evaluate, acted, params, batch):
    decision = acted[2]["decision"]
    other = decision.tokens.at[:, -1].set(jnp.where(decision.tokens[:, -1] == 31, 32, 31))
    blind = batch.observation.replace(bev=jnp.zeros_like(batch.observation.bev))
    kept = evaluate(params, batch.observation, decision)["log_prob"]
    changed = evaluate(params, batch.observation, decision.replace(tokens=other))["log_prob"]
    assert np.abs(changed - kept).min() > 1e-5
    assert np.abs(evaluate(params, blind, decision)["log_prob"] - kept).min() > 1e-5


def test_a_knot_does_not_depend_on_later_knots(evaluate, params, batch):
    """Noise on the last knots changes no error before them."""
    shown = batch.decision.motion
    changed = shown.replace(x=shown.x.at[:, :, 5:].add(1.0))
    before, after = (
        evaluate(params, batch.observation, batch.decision.replace(motion=motion))["knot_error"]
        for motion in (shown, changed)
    )
    np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-5)
    assert np.abs(after[:, 5:] - before[:, 5:]).min() > 1e-3


def test_copies_of_a_chunk_do_not_see_each_other(evaluate, params, batch):
    shown = batch.decision.motion
    motion = jax.tree.map(lambda a: a[:, ::-1], shown)
    errors, reversed_copies = (
        evaluate(params, batch.observation, batch.decision.replace(motion=m))["knot_error"] for m in (shown, motion)
    )
    np.testing.assert_allclose(reversed_copies, errors, rtol=1e-4, atol=1e-5)


def test_plan_begins_with_the_commit(act, params, batch):
    plan = jax.jit(VLA.plan)(params, batch.observation)
    keys = jax.random.split(jax.random.key(7), ROWS)
    committed, _, extras = act(VLA.with_temperature(0.0), params, keys, batch.observation)
    assert plan.acceleration.shape == plan.curvature.shape == (ROWS, 64)
    np.testing.assert_allclose(plan.acceleration[:, :5], committed.acceleration, atol=1e-6)
    np.testing.assert_allclose(plan.curvature[:, :5], committed.curvature, atol=1e-6)
    assert extras["decision"].motion.x.shape == (ROWS, 1 + VLA.config.flow.steps, 2)


def test_good_actions_become_likelier_and_bad_ones_less_likely(acted, evaluate, params, batch):
    """A few gradient steps on all rows at +1, or all at -1; at the first, nothing has moved from the reference."""
    extras = acted[2]
    shown = Experience(
        observation=batch.observation,
        decision=extras["decision"],
        log_prob=extras["log_prob"],
        reasoning_log_prob=extras["reasoning_log_prob"],
        weight=jnp.ones(ROWS),
        reasoning_weight=jnp.zeros(ROWS),
        returns=jnp.zeros(ROWS),
        valid=jnp.ones(ROWS, bool),
    )
    rates = Rates(*map(jnp.float32, (1e-3, 0.0, 0.01, 0.0, 0.0)))
    reference = params
    step = jax.jit(lambda params, state, shown: policy_step(VLA, ALONE, params, state, reference, shown, rates))
    for sign in (1.0, -1.0):
        signed = shown.replace(weight=sign * shown.weight)
        moved, state, first = step(params, optimiser().init(params), signed)
        assert first["parity"] < 1e-5 and abs(first["kl"]) < 1e-6
        for _ in range(3):
            moved, state, later = step(moved, state, signed)
        gained = evaluate(moved, batch.observation, extras["decision"])["log_prob"] - extras["log_prob"]
        assert sign * float(gained.mean()) > 0.1
        assert later["kl"] > 1e-4


def test_imitation_overfits_a_few_scenes(act, batch):
    """The velocity's error falls, and the action without sampling approaches the demonstrated one."""
    optimiser, params = optax.adam(1e-2), VLA.init(jax.random.key(0))
    greedy, keys = VLA.with_temperature(0.0), jax.random.split(jax.random.key(0), ROWS)
    shown = batch.decision.motion
    actions = (shown.x - shown.time[..., None, None] * shown.velocity)[:, :1]

    def noisy(key):
        noise, time = jax.random.normal(key, shown.x.shape), jax.random.uniform(key, shown.time.shape, minval=0.01)
        fraction = time[..., None, None]
        motion = NoisyCopies(fraction * noise + (1 - fraction) * actions, time, noise - actions)
        return batch.replace(decision=batch.decision.replace(motion=motion))

    @jax.jit
    def step(params, state, key):
        def loss(params):
            return imitation_loss(VLA, params, noisy(key), LOSS)

        (loss, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, loss, metrics

    def distance(params):
        _, _, extras = act(greedy, params, keys, batch.observation)
        return float(np.abs(normalise(extras["knot"]) - actions[:, 0, 0])[batch.valid].mean())

    state, losses, before = optimiser.init(params), [], distance(params)
    for seed in range(250):
        params, state, loss, metrics = step(params, state, jax.random.key(seed))
        losses.append(float(loss))
    assert set(metrics) == {"reasoning_cross_entropy", "action_error", "plan_error"}
    assert np.mean(losses[-20:]) < 0.15 * losses[0]
    assert distance(params) < 0.25 * before
