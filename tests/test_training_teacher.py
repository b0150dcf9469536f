"""DAgger in imagination: the teacher's reasoning and actions in the states that the policy got itself into."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from tether.data.text import TOKEN_ID, VOCABULARY
from tether.policy.action_space import ActionSpace, knot_of
from tether.policy.baselines import IDM
from tether.policy.coach import CoachConfig
from tether.policy.discrete_head import DiscreteHead
from tether.policy.flow_head import FlowConfig, FlowHead
from tether.policy.language import LabelConfig, sentence
from tether.policy.vla import REASONING, tiny
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.simulator.prepare import prepare
from tether.training.drives import roll_out
from tether.training.imagination import Imagine, Trust, row_keys
from tether.training.mesh import ALONE
from tether.training.objectives.dagger import DAgger
from tether.training.objectives.pmpo import PMPO
from tether.training.returns import ReturnsConfig
from tether.training.teacher import Teacher

SIMULATOR = SimulatorConfig(render=RenderConfig(tile_height=96, tile_width=96, tile_y_min=-48.0))
SCENES = {
    "free": scenes.straight(speed=8.0),
    "stopped lead": scenes.lead_vehicle(gap=30.0, speed=0.0),
    "red light": scenes.red_light(30.0),
}
SPACE = ActionSpace()
RULES = IDM(SIMULATOR, LabelConfig().follower)
TEACHER = Teacher(RULES, DiscreteHead(SPACE, plan_knots=12), LabelConfig())


@pytest.fixture(scope="module")
def labels():
    """Scene to the teacher's tokens at the log's current step."""
    scene = scenes.stack([prepare(one, SIMULATOR) for one in SCENES.values()])
    world, start = LogReplay(SIMULATOR), jnp.full(len(SCENES), 10)

    def label(keys):
        return TEACHER.label((), keys, world.observe((), world.reset((), keys, scene, start))).tokens

    return dict(zip(SCENES, np.asarray(jax.jit(label)(jax.random.split(jax.random.key(0), len(SCENES)))), strict=True))


def test_the_teacher_brakes_for_what_is_ahead_and_gives_the_reason(labels):
    brakes = {name: SPACE.accelerations[tokens[REASONING]] for name, tokens in labels.items()}
    assert brakes["stopped lead"] < -1 and brakes["red light"] < -1 and brakes["free"] >= 0
    assert "a vehicle is" in sentence(labels["stopped lead"]) and "is red" in sentence(labels["red light"])
    assert labels["free"][0] in (TOKEN_ID["keep speed"], TOKEN_ID["speed up"])


def test_the_teacher_keeps_straight_on_a_straight_route(labels):
    tokens = jnp.asarray(np.stack(list(labels.values())))[:, REASONING:]
    np.testing.assert_array_equal(knot_of(SPACE, tokens)[:, 1], 0)


def test_the_flow_head_learns_the_action_before_rounding(labels):
    """The same reasoning; an acceleration within a bin of the dithered one; nothing about later knots."""
    head = FlowHead(SPACE, plan_knots=12, config=FlowConfig(repeats=2))
    teacher, world = Teacher(RULES, head, LabelConfig()), LogReplay(SIMULATOR)
    scene = scenes.stack([prepare(one, SIMULATOR) for one in SCENES.values()])

    def label(keys):
        return teacher.label((), keys, world.observe((), world.reset((), keys, scene, jnp.full(len(SCENES), 10))))

    labelled = jax.jit(label)(jax.random.split(jax.random.key(0), len(SCENES)))
    shown, binned = labelled.motion, np.stack(list(labels.values()))
    actions = shown.x - shown.time[..., None, None] * shown.velocity
    assert actions.shape == (len(SCENES), 2, 1, 2)
    np.testing.assert_allclose(actions[:, 0], actions[:, 1], atol=1e-5)
    np.testing.assert_allclose(2 * actions[:, 0, 0, 0], knot_of(SPACE, binned[:, REASONING:])[:, 0], atol=1.5)
    np.testing.assert_array_equal(labelled.tokens[0], binned[0, :REASONING])


def test_a_coach_teaches_its_mean_decision():
    """On average over the draws of the rounding; the reasoning is the one that agrees with what is taught."""
    coach = CoachConfig(width=8, agent_width=4, agents=2).build(SIMULATOR, SPACE)
    teacher, count = Teacher(coach.deployed, DiscreteHead(SPACE, plan_knots=12), LabelConfig()), 256
    scene = scenes.stack([prepare(SCENES["red light"], SIMULATOR)] * count)
    world, keys = LogReplay(SIMULATOR), jax.random.split(jax.random.key(0), count)

    def both(params, keys):
        seen = world.observe((), world.reset((), keys, scene, jnp.full(count, 10)))
        return teacher.label(params, keys, seen).tokens, coach.mean(coach.evaluate(params, coach.look(seen)))

    tokens, mean = jax.jit(both)(coach.init(jax.random.key(1)), keys)
    np.testing.assert_allclose(knot_of(SPACE, tokens[:, REASONING:]).mean(0), mean[0], atol=0.05)
    assert (tokens[:, :REASONING] < len(VOCABULARY)).all()


@pytest.fixture(scope="module")
def imagined():
    """Experience [H, R] by objective, from the same rollouts of an untrained policy; in log replay, to be quick."""
    vla = dataclasses.replace(tiny(), actions=SPACE).build(SIMULATOR, scenes.TINY)
    rows = [prepare(SCENES[name], SIMULATOR) for name in ("stopped lead", "free")]
    scene, keys = scenes.stack(rows), row_keys(jax.random.key(1), 2, 1)
    params, trust = vla.init(jax.random.key(2)), Trust(jnp.int32(3), jnp.float32(1), jnp.float32(0))

    def both(params, scene):
        def imagine(objective):
            keep = Imagine(objective, ReturnsConfig(), TEACHER, 1)
            program = LogReplay(SIMULATOR), vla, keep, 4, ALONE
            return roll_out(*program, (), params, scene, keys, jnp.full(2, 10), keys[0], trust, ()).experience

        return {"pmpo": imagine(PMPO()), "dagger": imagine(DAgger())}

    return jax.device_get(jax.jit(both)(params, scene))


def test_the_policys_own_states_are_labelled(imagined):
    """Same observations as those that its own decisions led to; other tokens."""
    drawn, taught = imagined["pmpo"], imagined["dagger"]
    np.testing.assert_array_equal(drawn.observation.pose, taught.observation.pose)
    np.testing.assert_array_equal(drawn.returns, taught.returns)
    assert (drawn.decision.tokens != taught.decision.tokens).any()
    first = np.asarray(SPACE.accelerations)[taught.decision.tokens[0, :, REASONING]]
    assert first[0] < -1 and first[1] >= 0


def test_only_trusted_states_are_learned_from(imagined):
    """The horizon of 3 of 4 steps leaves weights of 4/3 on it and none behind."""
    taught = imagined["dagger"]
    np.testing.assert_allclose(taught.weight, np.outer([4 / 3] * 3 + [0], [1, 1]), rtol=1e-6)
    np.testing.assert_array_equal(taught.weight, taught.reasoning_weight)
