"""A part of the probe set (`probes.py`); `python -m benchmarks.reactive` runs all of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scenes

from tether.simulator.config import SimulatorConfig
from tether.simulator.corridor import Boxes, span_within
from tether.simulator.foresight import extrapolate
from tether.simulator.log_replay import LogReplay
from tether.simulator.reactive import Reactive
from tether.simulator.rollout import rollout
from tether.simulator.transition import HISTORY_STEPS
from tether.simulator.world import Agents

SOME = 20  # of each kind
HIT_IN_REPLAY = ("brakes hard", "stops in lane")  # all of them; of those where the ego comes first, most


def some_of(kind: str) -> list[probes.Probe]:
    """Drawn once and for all, without order: neighbours differ in one parameter."""
    cases = list(probes.KINDS[kind][0]())
    return [cases[i] for i in np.random.default_rng(0).permutation(len(cases))[:SOME]]


@pytest.fixture(scope="module")
def reactions():
    """Of all kinds, `{world: {kind: [Reaction]}}`."""
    config, chosen = SimulatorConfig(), [probe for kind in probes.KINDS for probe in some_of(kind)]
    scene = scenes.stack([scenes.indexed(probe.scene, config) for probe in chosen])
    plans = scenes.stack([probe.plan for probe in chosen])
    keys = jax.random.split(jax.random.key(0), len(chosen))

    @functools.partial(jax.jit, static_argnums=0)
    def drive(world, scene, plans, keys):
        result = rollout(world, (), probes.Planned(config), plans, scene, 16, keys, keys)
        return result.ego, result.agents, result.outcome

    def by_kind(world):
        results = iter(probes.reactions(scene, *drive(world, scene, plans, keys)))
        return {kind: [next(results) for _ in range(SOME)] for kind in probes.KINDS}

    return {world.__name__: by_kind(world(config)) for world in (Reactive, LogReplay)}


@pytest.mark.parametrize("kind", probes.KINDS)
def test_the_reaction_has_the_right_sign_in_all_cases(reactions, kind):
    right = probes.KINDS[kind][1]
    pairs = zip(some_of(kind), reactions["Reactive"][kind], strict=True)
    assert [probe.case for probe, reaction in pairs if not right(reaction)] == []


def test_the_reaction_in_log_replay_has_the_wrong_sign(reactions):
    """No agent brakes there, so the probes tell the Worlds apart."""
    replayed = reactions["LogReplay"]
    for kind, (_, right) in probes.KINDS.items():
        assert all(right(one) == (right is probes.as_logged) for one in replayed[kind]), kind
    assert all(one.hit for kind in HIT_IN_REPLAY for one in replayed[kind])
    assert sum(one.hit for one in replayed["goes first"] + replayed["cuts in"]) > SOME


def test_a_box_begins_in_a_corridor_where_its_first_point_inside_lies(rng):
    """Against points scattered over the box."""
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 201)] * 2), axis=-1).reshape(-1, 2)
    half_width, checked = 0.7, 0
    for across, turn, length, width in rng.uniform([-5, -np.pi, 0.5, 0.5], [5, np.pi, 9, 3], (200, 4)):
        one = dict.fromkeys(Boxes.__dataclass_fields__, jnp.zeros(1))
        one |= {"heading": jnp.array([turn]), "length": jnp.array([length]), "width": jnp.array([width])}
        span = span_within(jnp.array([[across]]), Boxes(**one), jnp.zeros((1, 1)), jnp.array([[half_width]]))
        reach, near_end = (float(value[0, 0]) for value in span)
        along = grid[:, 0] * length * np.cos(turn) - grid[:, 1] * width * np.sin(turn)
        aside = across + grid[:, 0] * length * np.sin(turn) + grid[:, 1] * width * np.cos(turn)
        within = np.abs(aside) < half_width
        assert (reach > 0) == within.any() or within.sum() < 20
        if within.sum() > 100:
            np.testing.assert_allclose(near_end, along[within].min(), atol=0.15)
            checked += 1
    assert checked > 50


def test_a_braking_ego_is_predicted_to_stop():
    """At 10 m/s and -4 m/s^2 it stands after 2.5 s and 12.5 m; one that accelerates keeps its speed."""
    speeds = np.stack([10 - 0.4 * np.arange(-HISTORY_STEPS + 1, 2), 10 + 0.4 * np.arange(-HISTORY_STEPS + 1, 2)])
    in_s, limits = jnp.array([1.0, 2.5, 3.0]), SimulatorConfig().limits
    nothing = jnp.zeros(HISTORY_STEPS + 1)
    for speed, expected in zip(speeds, ([8.0, 12.5, 12.5], [10.0, 25.0, 30.0]), strict=True):
        track = Agents(nothing, nothing, nothing, jnp.asarray(speed), nothing, nothing == 0)
        predicted = extrapolate(track, jnp.float32(4.5), jnp.float32(1.8), in_s, limits)
        np.testing.assert_allclose(predicted.x[0], expected, rtol=1e-4)
