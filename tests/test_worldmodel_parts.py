"""The parts that world models share: motion, batches, sampling, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from benchmarks.world_models import product_flops
from tether.data.scene import RoadType
from tether.simulator.config import SimulatorConfig
from tether.simulator.world import Agents
from tether.worldmodel import registry
from tether.worldmodel.batch import log_window
from tether.worldmodel.features import Pose, _nearest, _polyline_tokens
from tether.worldmodel.fitting import FittingConfig
from tether.worldmodel.heads import advance_drift, disagreement, no_drift, reduce_terms
from tether.worldmodel.motion import estimate_motion, move, running_sum, standing
from tether.worldmodel.nets import symlog
from tether.worldmodel.noise import agent_rank
from tether.worldmodel.oracle import Oracle, OracleConfig
from tether.worldmodel.rssm import RSSMConfig
from tether.worldmodel.rssm_loss import kl_terms
from tether.worldmodel.rssm_net import sample
from tether.worldmodel.window import light_age

SIDES = ("kl_prior", "kl_posterior")


def box(x=0.0, y=0.0, heading=0.0, vel_x=0.0, vel_y=0.0, valid=True) -> Agents:
    """One agent."""
    return Agents(*(jnp.array([v], jnp.float32) for v in (x, y, heading, vel_x, vel_y)), valid=jnp.array([valid]))


def test_constant_turn_follows_a_circle():
    """10 m/s at 0.5 rad/s is a circle of 20 m radius; a quarter of it takes pi seconds."""
    now, before = box(heading=0.0, vel_x=10.0), box(heading=-0.25, vel_x=10.0)
    motion = estimate_motion(now, before, 0.5)
    assert float(motion.turn_rate[0]) == pytest.approx(0.5, abs=1e-5)
    moved = move(now, motion, jnp.zeros(1), motion.turn_rate, 10, np.pi / 10)
    assert float(moved.x[0, -1]) == pytest.approx(20.0, abs=1e-3)
    assert float(moved.y[0, -1]) == pytest.approx(20.0, abs=1e-3)
    assert float(moved.vel_y[0, -1]) == pytest.approx(10.0, abs=1e-3)


def test_braking_ends_at_standstill_and_reverse_is_kept():
    """From 1 m/s at -10 m/s^2 speed is 0 from the first sub-step on: mean speed 0.5 for 0.1 s is 0.05 m."""
    now = box(vel_x=-1.0)  # heading 0, so it drives backwards
    motion = estimate_motion(now, now, 0.5)
    moved = move(now, motion, jnp.array([-10.0]), jnp.zeros(1), 5, 0.1)
    np.testing.assert_allclose(moved.x[0], -0.05, atol=1e-5)
    np.testing.assert_allclose(moved.vel_x[0], 0.0, atol=1e-6)


def test_a_standing_agent_can_learn_to_start():
    now = box()
    motion = estimate_motion(now, now, 0.5)
    slope = jax.grad(lambda a: move(now, motion, a, jnp.zeros(1), 5, 0.1).x[0, -1])(jnp.array([-1.0]))
    assert float(slope[0]) > 0.1


def test_log_window_is_invalid_outside_the_log(batch):
    window = log_window(batch, jnp.full(4, 88), before=2, after=4)
    assert window.x.shape == (4, 4, 7)
    assert bool(window.valid[0, 0, :5].all()) and not bool(window.valid[0, 0, 5:].any())
    np.testing.assert_allclose(window.x[0, 0, :5], batch.x[0, 0, 86:91])


def test_nearest_picks_the_cheapest_in_order():
    cost = jnp.array([[5.0, 1.0, jnp.inf, 0.0, 3.0], [jnp.inf, 2.0, jnp.inf, jnp.inf, jnp.inf]])
    index, valid = _nearest(cost, 3)
    np.testing.assert_array_equal(index[0], [3, 1, 4])
    np.testing.assert_array_equal(valid, [[True, True, True], [True, False, False]])
    assert int(index[1, 0]) == 1


def test_rounding_does_not_choose_between_the_segments_of_a_corner():
    """East to (10, 0), then north. From outside the corner both segments are equally near, but for rounding: the first
    one is taken wherever one stands there and however one is turned."""
    line = np.array([0.0, 10.0, 10.0]), np.array([0.0, 0.0, 10.0])
    scene = scenes.with_polyline(scenes.empty(), *line, RoadType.LANE_SURFACE)
    out, heading = jnp.linspace(0.5, 5.0, 64), jnp.linspace(-3.0, 3.0, 64)
    outside = Pose(10 + out, -0.7 * out, heading)
    seen = _polyline_tokens(scene, jnp.zeros((64, 1), jnp.int32), outside, outside)[:, 0, 2:4]
    np.testing.assert_allclose(seen, symlog(jnp.stack([jnp.cos(heading), -jnp.sin(heading)], -1)), atol=1e-5)


def test_the_mean_of_a_term_does_not_round_with_its_length():
    """0.1 in every one of 32 x 16 x 32 entries; one float32 sum over all of them is off by 1.5e-4 of it."""
    values = jnp.full((32, 16, 32), 0.1)
    _, means = reduce_terms({"term": (values, jnp.ones_like(values))}, {})
    assert float(means["term"]) == pytest.approx(0.1, rel=1e-5)


def test_samples_follow_their_distribution():
    log_probs = jnp.log(jnp.array([0.1, 0.6, 0.3]))
    uniforms = (jnp.arange(1000) + 0.5)[:, None] / 1000
    drawn = sample(jnp.broadcast_to(log_probs, (1000, 1, 3)), uniforms)
    np.testing.assert_allclose(drawn.mean(0), [0.1, 0.6, 0.3], atol=2e-3)


def test_light_age_counts_from_the_last_change():
    state = jnp.array([[4, 4, 4, 6, 6, 6, 4]])
    np.testing.assert_allclose(light_age(state, 0.1), [[0.0, 0.1, 0.2, 0.0, 0.1, 0.2, 0.0]], atol=1e-6)


def test_rank_is_the_order_by_distance_to_the_ego():
    agents = Agents(
        *(jnp.array([[9.0, 0.0, 0.0, 4.0]]),) + (jnp.zeros((1, 4)),) * 4, valid=jnp.array([[1, 1, 0, 1]]) > 0
    )
    np.testing.assert_array_equal(agent_rank(agents, jnp.array([1])), [[2, 0, 3, 1]])


def two_members(speed: float, valid: bool = True) -> tuple[Agents, Agents]:
    """Three agents, the ego, one 10 m and one 100 m from it; two members put them 3 m and 4 m to either side."""
    end = jnp.zeros((1, 3, 2, 1)).at[0, :, :, 0].set(jnp.array([-3.0, 3.0]))
    members = Agents(end, end * 4 / 3, jnp.zeros_like(end), end / 3 * speed, jnp.zeros_like(end), valid=end == 0)
    still = (jnp.zeros((1, 3)),) * 4
    return members, Agents(jnp.array([[0.0, 10.0, 100.0]]), *still, valid=jnp.full((1, 3), valid))


def test_spread_is_the_members_deviation_near_the_ego():
    """Members at +-3 m and +-4 m put agent 1 apart by 5 m; agent 2 is 100 m away; agent 0 is the ego."""
    members, now = two_members(speed=0.0)
    drift = advance_drift(no_drift(1, 3, 2), members, now, 0.5)
    assert float(disagreement(drift, now, jnp.array([0]))[0]) == pytest.approx(5.0)


def test_drift_goes_on_at_the_members_velocities():
    """+-2 m/s after a step of 0.5 s are +-1 m more along x: (3 + 1 + 3, 4 + 4) m after two such steps."""
    members, now = two_members(speed=2.0)
    drift = advance_drift(advance_drift(no_drift(1, 3, 2), members, now, 0.5), members, now, 0.5)
    assert float(disagreement(drift, now, jnp.array([0]))[0]) == pytest.approx(np.hypot(7.0, 8.0))
    np.testing.assert_allclose(drift.vel_x[0], [[-4.0, 4.0]] * 3)
    unseen = advance_drift(no_drift(1, 3, 2), *two_members(speed=2.0, valid=False), 0.5)
    assert all(not np.any(field) for field in jax.tree.leaves(unseen))


def test_free_nats_cost_neither_side():
    """KL(0.6, 0.4 | 0.5, 0.5) is 0.02 nats: with 1 nat free nothing is pulled, with none each side to the other."""
    prior, posterior = jnp.log(jnp.array([[[0.5, 0.5]]])), jnp.log(jnp.array([[[0.6, 0.4]]]))

    def slopes(free: float) -> list:
        terms = [lambda p, q, n=name: kl_terms(p, q, jnp.ones(1), free)[n][0].sum() for name in SIDES]
        return [jax.grad(term, side)(prior, posterior) for side, term in enumerate(terms)]

    assert not any(np.any(slope) for slope in slopes(1.0))
    assert all(np.any(slope) for slope in slopes(0.0))


def test_learning_rate_warms_up_and_decays_to_what_refits_have():
    """0 at first, the peak after the warm-up, half way of the cosine in the middle, then 5 % of the peak for good."""
    rate = FittingConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.05).schedule(110)
    np.testing.assert_allclose([rate(step) for step in (0, 10, 60, 110, 500)], [0, 1, 0.525, 0.05, 0.05], atol=1e-6)
    assert float(FittingConfig(learning_rate=1.0, warmup_steps=10).schedule(4)(4)) == pytest.approx(0.4)


def test_a_standing_agent_with_little_acceleration_keeps_standing():
    speed, asked = jnp.array([0.0, 0.2, 0.0, 0.3, 5.0, 0.3]), jnp.array([0.4, 0.4, 0.6, 0.6, 0.4, -1.0])
    np.testing.assert_allclose(standing(speed, asked), [0.0, -0.2, 0.6, 0.6, 0.4, -1.0])


def test_models_are_built_by_name_and_import_path():
    assert isinstance(registry.build("oracle", None, SimulatorConfig()), Oracle)
    assert isinstance(
        registry.build("tether.worldmodel.oracle:OracleConfig", OracleConfig(), SimulatorConfig()), Oracle
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rsm", "did you mean 'rssm'"),
        ("tether.worldmodel.rssm:RSSMConfg", "did you mean 'RSSMConfig'"),
        ("nowhere.model:Config", "No module named 'nowhere'"),
    ],
)
def test_unknown_names_are_explained(name, message):
    with pytest.raises(ValueError, match=message):
        registry.build(name, None, SimulatorConfig())


def test_a_config_of_another_model_is_refused():
    with pytest.raises(TypeError, match="expected a OracleConfig, found a RSSMConfig"):
        registry.build("oracle", RSSMConfig(), SimulatorConfig())


def test_model_flops_are_the_networks_products():
    """Three steps of [4, 16] x [16, 8]; a running sum over five sub-steps is no network's."""

    def steps(x, weight):
        _, out = jax.lax.scan(lambda carry, row: (carry, row @ weight), 0.0, x)
        return running_sum(out[..., :5])

    jaxpr = jax.make_jaxpr(jax.jit(steps))(jnp.ones((3, 4, 16)), jnp.ones((16, 8)))
    assert product_flops(jaxpr.jaxpr) == 3 * 2 * 4 * 16 * 8


def test_model_flops_count_convolutions():
    """3 x 3 x 5 inputs for each of 7 features at each of 2 x 8 x 8 places."""

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    jaxpr = jax.make_jaxpr(convolve)(jnp.ones((2, 16, 16, 5)), jnp.ones((3, 3, 5, 7)))
    assert product_flops(jaxpr.jaxpr) == 2 * (3 * 3 * 5) * (2 * 8 * 8 * 7)
