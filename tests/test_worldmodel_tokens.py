"""The agent-token transformer: its vocabulary, its likelihood, its cache, and that no place or row matters."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.data.scene import AgentType
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Agents
from tether.worldmodel import tokens_net
from tether.worldmodel.batch import log_window
from tether.worldmodel.guidance import Guide
from tether.worldmodel.motion import estimate_motion, move
from tether.worldmodel.motion_tokens import (
    Vocabulary,
    mean_controls,
    motion_distance,
    nearest_token,
    prior_logits,
    token_controls,
    type_rows,
)
from tether.worldmodel.nets import draw
from tether.worldmodel.window import observe_window

SIZES = tokens_net.Sizes(width=16, layers=2, heads=2, things=12, window=3, outcome_hidden=24, ensemble=2)
VOCABULARY, DT, STEPS = Vocabulary(), 0.1, 5
ZERO = VOCABULARY.size // 2  # the grid's middle


def boxes(rng, count: int) -> tuple[Agents, Agents]:
    """`count` agents now and 0.5 s ago, at 1 to 15 m/s."""
    heading, speed = rng.uniform(-3, 3, count), rng.uniform(1, 15, count)
    turned = heading - rng.uniform(-0.2, 0.2, count)
    place, valid = rng.normal(size=(2, count)), np.ones(count, bool)
    now = Agents(*place, heading, speed * np.cos(heading), speed * np.sin(heading), valid)
    return jax.tree.map(jnp.asarray, (now, now.replace(heading=turned)))


def after_token(now: Agents, before: Agents, token, rows) -> Agents:
    motion, guide = estimate_motion(now, before, STEPS * DT), asked(now, before)
    acceleration, turn = token_controls(VOCABULARY, token, rows)
    return move(now, motion, guide.acceleration + acceleration, guide.turn_rate + turn, STEPS, DT)


def asked(now: Agents, before: Agents) -> Guide:
    """Ways that keep the turn rate and ask for 0.3 m/s^2."""
    turn_rate = estimate_motion(now, before, STEPS * DT).turn_rate
    return Guide(turn_rate, jnp.full_like(turn_rate, 0.3), jnp.full_like(turn_rate, jnp.inf))


def nearest(now: Agents, before: Agents, rows, after: Agents):
    motion = estimate_motion(now, before, STEPS * DT)
    return jax.jit(lambda *a: nearest_token(VOCABULARY, *a, DT))(now, motion, asked(now, before), rows, after)


def test_the_grid_holds_zero_and_its_ends():
    acceleration, turn = VOCABULARY.grids
    assert acceleration.shape == (3, 17) and turn.shape == (3, 15)
    assert np.all(np.diff(acceleration) > 0) and np.all(np.diff(turn) > 0)
    np.testing.assert_allclose(acceleration[:, [0, 8, 16]], [[-8, 0, 8], [-5, 0, 5], [-6, 0, 6]], atol=1e-6)
    np.testing.assert_allclose(token_controls(VOCABULARY, ZERO, jnp.arange(3)), 0.0, atol=1e-6)


def test_each_type_has_its_own_row():
    types = jnp.array([AgentType.VEHICLE, AgentType.PEDESTRIAN, AgentType.CYCLIST, 0, 99])
    np.testing.assert_array_equal(type_rows(types), [0, 1, 2, 0, 0])


def test_a_tokens_own_motion_is_nearest_to_it(rng):
    """Tokenising what a token does gives the token back, for every token that does not end in standstill."""
    acceleration, _ = VOCABULARY.grids
    tokens = np.arange(VOCABULARY.size)
    now, before = boxes(rng, VOCABULARY.size)
    rows = jnp.asarray(rng.integers(0, 3, VOCABULARY.size))
    recovered, moved = nearest(now, before, rows, after_token(now, before, tokens, rows))
    lost = -(0.3 + acceleration[rows, tokens // VOCABULARY.turns]) * STEPS * DT
    rolling = now.speed > lost + 1.0
    assert rolling.sum() > 200
    np.testing.assert_array_equal(recovered[rolling], tokens[rolling])
    np.testing.assert_allclose(moved.x, after_token(now, before, recovered, rows).x, atol=1e-4)


def test_nearest_is_the_best_of_all(rng):
    """Searching accelerations and turns in alternation is as good as searching all pairs."""
    now, before = boxes(rng, 64)
    rows = jnp.asarray(rng.integers(0, 3, 64))
    motion = estimate_motion(now, before, STEPS * DT)
    truth = move(now, motion, rng.normal(0, 2, 64), motion.turn_rate + rng.normal(0, 0.2, 64), STEPS, DT)
    _, moved = nearest(now, before, rows, truth)
    each = [after_token(now, before, jnp.full(64, token), rows) for token in range(0, VOCABULARY.size)]
    best = motion_distance(jax.tree.map(lambda *a: jnp.stack(a, -2), *each), truth).min(-1)
    distance = motion_distance(moved[..., None, :], truth)[..., 0]
    np.testing.assert_allclose(distance, best, rtol=0.01, atol=1e-5)


def test_unseen_substeps_do_not_count(rng):
    now, before = boxes(rng, 8)
    rows = jnp.zeros(8, int)
    truth = after_token(now, before, jnp.full(8, ZERO + 15), rows)
    hidden = truth.valid.at[:, 1].set(False)
    spoiled = truth.replace(x=truth.x.at[:, 1].set(99.0), valid=hidden)
    np.testing.assert_array_equal(nearest(now, before, rows, spoiled)[0], ZERO + 15)


def test_mean_controls_of_a_certain_token():
    certain = jnp.log(jax.nn.one_hot(jnp.array([3, 77]), VOCABULARY.size) + 1e-30)
    controls = mean_controls(VOCABULARY, certain, jnp.array([0, 1]))
    np.testing.assert_allclose(controls, token_controls(VOCABULARY, jnp.array([3, 77]), jnp.array([0, 1])), atol=1e-5)


def test_before_fitting_what_the_way_asks_is_likeliest():
    np.testing.assert_array_equal(jnp.argmax(prior_logits(VOCABULARY, jnp.arange(3)), -1), ZERO)


@pytest.fixture(scope="module")
def net(batch):
    """Parameters and a window of seven frames of the four scenes."""
    scene = jax.tree.map(jnp.asarray, batch)
    start = jnp.full(4, 30)
    window = observe_window(log_window(scene, start, 10, 20), scene, start - 10, SimulatorConfig())
    return draw(jax.random.key(3), tokens_net.layers(SIZES, VOCABULARY, window)), window


def forward(net, first: int, count: int, cache):
    params, window = net
    sensed, seen = jax.tree.map(lambda a: a[:, first : first + count], (window.sensed, window.frames.now.valid))
    return tokens_net.run(params, SIZES, sensed, seen, cache)


def test_the_cache_gives_what_the_whole_window_gives(net):
    """Step by step, and in two pieces; seven frames are more than the three that an agent attends to."""
    whole, last = forward(net, 0, 7, tokens_net.empty_cache(SIZES, 4, 4))
    assert np.abs(whole[:, -1]).max() > 0.1
    for cuts in ([1] * 7, [4, 3]):
        cache, pieces = tokens_net.empty_cache(SIZES, 4, 4), []
        for first, count in zip(itertools.accumulate([0, *cuts[:-1]]), cuts, strict=True):
            hidden, cache = forward(net, first, count, cache)
            pieces.append(hidden)
        np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cache, last)


def test_attention_is_causal_and_ends_with_the_window(net):
    """What changes at frame 3 changes frame 3 and its followers, and nothing that came before."""
    params, window = net
    own = window.sensed.own.at[:, 3].add(1.0)
    changed = params, window.replace(sensed=window.sensed.replace(own=own))
    empty = tokens_net.empty_cache(SIZES, 4, 4)
    apart = np.abs(forward(changed, 0, 7, empty)[0] - forward(net, 0, 7, empty)[0]).max((0, 2, 3))
    assert np.all(apart[:3] == 0) and np.all(apart[3:6] > 1e-3)
    alone = np.abs(forward(changed, 4, 3, empty)[0] - forward(net, 4, 3, empty)[0]).max()
    assert alone == 0, "frame 3 lies before these"


def test_likelihoods_sum_to_one(net):
    """Of each member and of their mixture, for every agent; the agents' types differ in their prior."""
    params, _ = net
    hidden, _ = forward(net, 0, 7, tokens_net.empty_cache(SIZES, 4, 4))
    rows = jnp.broadcast_to(jnp.array([0, 1, 2, 0]), hidden.shape[:-1])
    members = tokens_net.motion_log_probs(params, VOCABULARY, hidden, rows)
    assert members.shape == (4, 7, 4, 2, VOCABULARY.size)
    np.testing.assert_allclose(jnp.exp(members).sum(-1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(jnp.exp(tokens_net.mixture(members)).sum(-1), 1.0, rtol=1e-4)


def test_temperature_sharpens_down_to_the_mode(rng):
    """Draws at temperature T follow p^(1/T), at 0 they are the likeliest token; the unlikely ones can be left out."""
    small = Vocabulary(accelerations=3, turns=3)
    probs = np.array([0.02, 0.2, 0.03, 0.1, 0.3, 0.05, 0.1, 0.15, 0.05])
    log_probs = jnp.broadcast_to(jnp.log(probs), (20000, 9))
    uniforms = jnp.asarray(rng.uniform(size=(20000, 2)), jnp.float32)
    for temperature in (1.0, 0.5):
        drawn = tokens_net.draw_tokens(small, log_probs, uniforms, temperature, 0.0)
        expected = probs ** (1 / temperature) / np.sum(probs ** (1 / temperature))
        np.testing.assert_allclose(np.bincount(drawn, minlength=9) / 20000, expected, atol=0.012)
    assert np.all(tokens_net.draw_tokens(small, log_probs, uniforms, 0.0, 0.0) == 4)
    drawn = tokens_net.draw_tokens(small, log_probs, uniforms, 1.0, 0.4)
    expected = np.where(probs >= 0.4 * 0.3, probs, 0) / np.sum(probs[probs >= 0.4 * 0.3])
    np.testing.assert_allclose(np.bincount(drawn, minlength=9) / 20000, expected, atol=0.012)
