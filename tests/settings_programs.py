"""Probes of settings by programs: what is drawn, traced or computed under a config, for `test_settings.py`."""

import functools

import jax
import jax.numpy as jnp
import pytest
import raw_scenes
from settings_base import at_start, digest, filled, logged, observation_of, text, vla_of

from tether.data.padding import pad
from tether.policy.action_space import drive_to, extend, logged_waypoints
from tether.policy.imitation import perturb
from tether.policy.language import consistency, label
from tether.simulator.dynamics import log_ego
from tether.simulator.log_replay import LogReplay
from tether.simulator.observe import observe
from tether.simulator.rollout import rollout
from tether.simulator.world import Action
from tether.training import imagination, mesh, models, stages
from tether.training.disturbed_expert import drive_expert, undisturbed
from tether.training.drives import roll_out
from tether.training.learning import imitation_step
from tether.worldmodel import learned_world


def padded(config):
    """The scenes that are read."""
    record = pad(raw_scenes.straight_road(), config.spec)
    return digest(record.scene.replace(road_index=()))


def prepared(config):
    """What is drawn and indexed once per scene."""
    return digest(logged(config.simulator))


def world(config):
    """A step of the simulator, and what is seen before it."""
    simulator, scene = config.simulator, logged(config.simulator)

    def step(scene, acceleration):
        key, action = jax.random.split(jax.random.key(0), 2), Action(acceleration, acceleration)
        state = LogReplay(simulator).reset((), key, scene, jnp.full(2, 10))
        return observe(state, simulator), LogReplay(simulator).step((), key, state, action)

    return text(step, scene, jnp.zeros((2, simulator.substeps)))


def network(config):
    """The policy's parameters."""
    return str(jax.eval_shape(vla_of(config).init, jax.random.key(0)))


def coach_network(config):
    """The coach's parameters."""
    return str(jax.eval_shape(models.build(config).coach.init, jax.random.key(0)))


def coach_acting(config):
    """A decision of the coach without chance."""
    coach, key = models.build(config).coach.deployed, jax.random.split(jax.random.key(0), 2)
    params = jax.eval_shape(coach.init, key[0])
    observation = observation_of(config.simulator)
    return text(lambda params: coach.act(params, key, observation, ())[0], params)


def acting(config):
    """A decision, by chance and without."""
    vla, key = vla_of(config), jax.random.split(jax.random.key(0), 2)
    params = jax.eval_shape(vla.init, key[0])
    observation = observation_of(config.simulator)

    def act(temperature, params, observation):
        return vla.with_temperature(temperature).act(params, key, observation, ())

    return tuple(text(functools.partial(act, temperature), params, observation) for temperature in (0.0, 1.0))


def deciding(config):
    """The labels of actions, and the actions that follow from them."""
    vla, scene, space = vla_of(config), logged(config.simulator), config.policy.actions

    def labelled(scene, key, later):
        ego, waypoints = log_ego(scene, jnp.full(2, 20)), logged_waypoints(scene, jnp.full(2, 20), space.horizon)
        knot, knots = vla.head.demonstrate(key, vla.head.towards(ego, waypoints, config.simulator.limits)[:, None])
        motion = jnp.stack([ego.speed, ego.acceleration, ego.curvature, ego.speed], -1)
        return knots, extend(space, drive_to(space, knot, motion, vla.substeps), motion, later)

    return text(labelled, scene, jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 12, 2)))


def reasoning(config):
    """The labels of reasoning, and how consistent the actions are with it."""
    labels, observation = config.imitation.labels, observation_of(config.simulator)

    def reasoning_of(observation, acceleration):
        tokens = label(labels, observation, acceleration, acceleration)
        return consistency(labels, tokens, Action(acceleration[:, None], acceleration[:, None]), acceleration)

    return text(reasoning_of, observation, jnp.zeros(2))


def model_parameters(config):
    """What a world model learns."""
    model, batch = models.build(config).world_model, rollouts(config.simulator)
    return str(jax.eval_shape(model.init, jax.random.key(0), batch))


@functools.cache
def rollouts(simulator):
    """Two logged rollouts."""
    keys = jax.random.split(jax.random.key(0), 2)
    function = functools.partial(drive_expert, simulator, 4)
    return filled(jax.eval_shape(function, logged(simulator), undisturbed(2), keys)).replace(scene=logged(simulator))


def model_fit(config):
    """A model's loss, without the costs that are fitted in imagination: those read nothing more."""
    model, batch = models.build(config).world_model, rollouts(config.simulator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_world, "cost_terms", lambda *args: {})
        params = jax.eval_shape(model.init, jax.random.key(0), batch)
        return text(model.loss, params, jax.random.key(0), batch)


def model_reset(config):
    """A reset of a model."""
    model, batch, keys = (
        models.build(config).world_model,
        rollouts(config.simulator),
        jax.random.split(jax.random.key(0)),
    )
    params = jax.eval_shape(model.init, keys[0], batch)
    return text(lambda params: model.reset(params, keys, batch.scene, jnp.full(2, 10)), params)


def model_step(config):
    """A step of a model."""
    model, batch, substeps = (
        models.build(config).world_model,
        rollouts(config.simulator),
        config.simulator.substeps,
    )
    params, keys = jax.eval_shape(model.init, jax.random.key(0), batch), jax.random.split(jax.random.key(0), 2)
    state = jax.eval_shape(model.reset, params, keys, batch.scene, jnp.full(2, 10))
    action = Action(jnp.zeros((2, substeps)), jnp.zeros((2, substeps)))
    return text(lambda params, state: model.step(params, keys, state, action), params, state)


@functools.cache
def rolled_out(vla, simulator, horizon):
    """A rollout of the policy in the simulator, its shapes."""
    scene, keys = logged(simulator), jax.random.split(jax.random.key(0), 2)
    params = jax.eval_shape(vla.init, keys[0])
    return jax.eval_shape(
        lambda p: rollout(LogReplay(simulator), (), vla, p, scene, horizon, keys, keys, jnp.full(2, 10)), params
    )


def learning(config):
    """What is learned from an imagined rollout."""
    vla, keys = vla_of(config), jax.random.split(jax.random.key(0), 2)
    rollout = rolled_out(vla, config.simulator, config.rounds.horizon)
    trust = imagination.Trust(jnp.int32(12), jnp.float32(1), jnp.float32(0.5))
    coach = config.coach.build(config.simulator, config.policy.actions)
    keep, params = models.practice(config, models.Models(None, vla, config.imitation.labels, coach)), ()
    if config.rounds.teacher == "coach":
        params = coach.init(jax.random.key(0))
    return text(lambda rollout: keep(rollout, None, keys, trust, params), rollout)


def disturbing(config):
    """Where the ego is put beside the log."""
    ego = log_ego(logged(config.simulator), jnp.full(2, 20))
    return text(lambda ego, key: perturb(ego, key, config.imitation.loss), ego, jax.random.split(jax.random.key(0), 2))


def imitating(config):
    """A step of imitation."""
    now = at_start()
    args = (now.policy, now.policy_optimizer, logged(config.simulator), jax.random.key(0), jnp.float32(1))
    static = vla_of(config), config.simulator, config.imitation, mesh.ALONE
    return text(lambda *args: imitation_step(*static, *args), *args)


def demonstrating(config):
    """Rollouts near the log."""
    keys = jax.random.split(jax.random.key(0), 2)
    closest = stages.closed_loop.closest_to_log(config, models.build(config))
    program = LogReplay(config.simulator), closest, imagination.demonstrate, config.rollout_steps, mesh.ALONE
    return text(lambda *args: roll_out(*program, (), *args, (keys, keys)), at_start().policy, logged(config.simulator))


def optimising(config):
    """The world model's optimiser."""
    rates = [float(config.fit.optimizer.schedule(config.fit.steps)(step)) for step in range(40)]
    optimizer, weights = config.fit.optimizer.build(config.fit.steps), {"w": jnp.full(3, 2.0)}
    state = optimizer.init(weights)
    for _ in range(3):
        updates, state = optimizer.update({"w": jnp.array([0.1, 3.0, 9.0])}, state, weights)
    return rates, digest(updates)
