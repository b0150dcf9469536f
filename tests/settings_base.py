"""What the probes of settings share: configs with fields replaced, and programs and arrays in a form to compare."""

import dataclasses
import functools
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scenes

from tether.data.scene import SceneSpec
from tether.simulator.log_replay import LogReplay
from tether.simulator.observe import observe
from tether.simulator.prepare import prepare
from tether.training import models, presets
from tether.training.scenes import open_splits

BASE = {
    "world_model": "kinematic",
    "name": "tiny",
    "rounds.objective": "pmpo",
    "coaching.rounds": 1,
    "coaching.imitation_steps": 2,
    "coaching.batches": 2,
    "coaching.rows": 4,
    "coaching.minibatch": 8,
    "coach.width": 8,
    "coach.agent_width": 4,
    "coach.agents": 2,
}


def changed(config: Any, changes: dict[str, Any]) -> Any:
    """The config with fields replaced by their dotted names."""
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        new = (
            changed(getattr(config, head), {rest: value})
            if rest
            else tuple(value)
            if isinstance(value, list)
            else value
        )
        config = dataclasses.replace(config, **{head: new})
    return config


def text(function: Any, *args: Any) -> tuple:
    """What a function compiles to, without addresses of objects."""
    traced = jax.make_jaxpr(function)(*args)
    return re.sub("0x[0-9a-f]+", "", str(traced)), digest(traced.consts)


def digest(tree: Any) -> tuple:
    """Shapes and contents of arrays."""
    leaves = [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in _arrays(tree)]
    return tuple(
        (a.shape, str(a.dtype), zlib.crc32(np.ascontiguousarray(a).tobytes())) for a in map(np.asarray, leaves)
    )


def _arrays(tree: Any) -> list:
    return [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def filled(shapes: Any) -> Any:
    """Arrays of these shapes that are all different inside: 0.5 to 1.5, ones, or True."""

    def fill(leaf: Any) -> np.ndarray:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return np.ones(leaf.shape, leaf.dtype)
        return np.linspace(0.5, 1.5, int(np.prod(leaf.shape))).reshape(leaf.shape).astype(leaf.dtype)

    return jax.tree.map(fill, shapes)


@functools.cache
def logged(simulator: Any) -> Any:
    """Two scenes, prepared."""
    both = scenes.stack([prepare(scene, simulator) for scene in (scenes.lead_vehicle(), scenes.red_light())])
    missing = SceneSpec.text - both.instruction.shape[1]
    return both.replace(instruction=np.pad(both.instruction, [(0, 0), (0, missing)]))


def vla_of(config):
    return config.policy.build(config.simulator, config.spec)


@functools.cache
def observation_of(simulator):
    keys = jax.random.split(jax.random.key(0), 2)
    return observe(LogReplay(simulator).reset((), keys, logged(simulator), jnp.full(2, 10)), simulator)


@functools.cache
def opened(data, spec, simulator):
    return open_splits(data, spec, simulator)


@functools.cache
def at_start():
    """The arrays of a run, and the scenes that it reads."""
    config = changed(presets.tiny(), BASE)
    splits = opened(config.data, config.spec, config.simulator)
    built = models.build(config)
    return filled(jax.eval_shape(lambda: models.begin(config, built, splits.train)))
