"""Open loop: how near a policy's plan stays to the log when it is asked in the log's own states.

It stands beside the closed-loop score to show how little the two have to do with each other: in open loop no error of
the policy ever reaches the policy.
"""

import functools

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.policy.action_space import logged_waypoints
from tether.policy.vla import VLA
from tether.simulator.config import SimulatorConfig
from tether.simulator.dynamics import advance, log_ego
from tether.simulator.observe import observe
from tether.simulator.transition import start_state
from tether.simulator.world import Params
from tether.training.mesh import Layout

STARTS = (10, 18, 26)  # log steps; the last leaves just the 6.4 s of a plan
HORIZONS_S = (1.0, 3.0, 6.4)


@functools.partial(jax.jit, static_argnames=("vla", "simulator", "layout"))
def open_loop(vla: VLA, simulator: SimulatorConfig, layout: Layout, params: Params, scene: Scene) -> dict[str, Array]:
    """Average displacement of the greedy plan from the log [m], over all of `STARTS`.

    The plan is driven by the exact dynamics from the log's state; steps where the log is invalid do not count.

    Args: scene: `Scene` [B, ...], prepared.
    Returns: `ade_1s_m`, `ade_3s_m`, `ade_6.4s_m`, float32[B].
    """
    params, rows = layout.gathered(params), scene.ego.shape[0]
    scene = jax.tree.map(lambda a: jnp.repeat(a, len(STARTS), axis=0), scene)
    time = jnp.tile(jnp.array(STARTS), rows)
    plan = vla.plan(params, observe(start_state(scene, time, ()), simulator))
    driven = advance(log_ego(scene, time), plan, simulator.limits, simulator.dt)
    log = logged_waypoints(scene, time, plan.acceleration.shape[-1])
    apart = jnp.hypot(driven.x - log.x, driven.y - log.y)
    at_s = jnp.arange(1, apart.shape[-1] + 1) * simulator.dt
    return {
        f"ade_{horizon_s:g}s_m": _mean(apart, log.valid & (at_s <= horizon_s + 1e-6), rows) for horizon_s in HORIZONS_S
    }


def _mean(values: Array, counted: Array, rows: int) -> Array:
    """Mean of what counts in each scene; [rows * starts, N] -> [rows]."""
    total = jnp.where(counted, values, 0.0).reshape(rows, -1).sum(1)
    return total / jnp.maximum(counted.reshape(rows, -1).sum(1), 1)
