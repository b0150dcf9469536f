"""Closest among the top K: windows in which the others drove as the model would have, and stayed near the log.

Teacher forcing shows a model only places where logs have been; its own small errors lead it elsewhere. Here the others
take at each step, among the K tokens that the model finds likeliest, the one that ends nearest to the log; fitting then
asks from each such place for the token that leads back. After CAT-K (arXiv 2412.05334).
"""

import jax
import jax.numpy as jnp

from tether.data.scene import Array, Scene
from tether.simulator.world import Agents
from tether.worldmodel import tokens_net
from tether.worldmodel.features import Frame
from tether.worldmodel.motion import at_step, estimate_motion, move
from tether.worldmodel.motion_tokens import Vocabulary, motion_distance, token_controls, type_rows
from tether.worldmodel.window import Window, sense_frame


def closest_boxes(
    params: dict,
    sizes: tokens_net.Sizes,
    vocabulary: Vocabulary,
    count: int,
    scene: Scene,
    window: Window,
    truth: Agents,
    dt: float,
) -> Agents:
    """The boxes that follow the window's history, without gradients.

    The ego is as driven, whoever appears does so where the log has it, and nobody outlives the log.

    Args:
      count: K.
      window: of the logged boxes; its frames before the H last are the history.
      truth: `Agents` [B, H, A, S], what the log holds after that.
    Returns: `Agents` [B, H, A, S].
    """
    params, first = jax.lax.stop_gradient(params), window.after.x.shape[1] - truth.x.shape[1]
    frames, sensed = (jax.tree.map(lambda a: a[:, : first + 1], tree) for tree in (window.frames, window.sensed))
    empty = tokens_net.empty_cache(sizes, *frames.now.x.shape[::2])
    hidden, cache = tokens_net.run(params, sizes, sensed, frames.now.valid, empty)
    rows, substeps = type_rows(scene.agent_type), truth.x.shape[-1]
    ego = jnp.arange(truth.x.shape[2]) == scene.ego[:, None]

    def step(carry: tuple, inputs: tuple) -> tuple[tuple, Agents]:
        now, before, hidden, cache = carry
        truth, lights = inputs
        log_probs = tokens_net.mixture(tokens_net.motion_log_probs(params, vocabulary, hidden, rows))
        chosen = closest_motion(vocabulary, count, log_probs, now, before, rows, truth, dt)
        logged = (ego | ~now.valid)[..., None]
        boxes = jax.tree.map(lambda log, own: jnp.where(logged, log, own), truth, chosen).replace(valid=truth.valid)
        after = at_step(boxes, -1)
        sensed, _ = sense_frame(Frame(after, now, *lights), scene, substeps * dt)
        sensed, seen = jax.tree.map(lambda a: a[:, None], (sensed, after.valid))
        hidden, cache = tokens_net.run(params, sizes, sensed, seen, cache)
        return (after, now, hidden[:, 0], cache), boxes

    lights = tuple(getattr(window.frames, f"light_{name}")[:, first + 1 :] for name in ("state", "valid", "age"))
    inputs = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (truth, lights))
    start = (*(jax.tree.map(lambda a: a[:, -1], f) for f in (frames.now, frames.before)), hidden[:, -1], cache)
    _, boxes = jax.lax.scan(step, start, inputs)
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), boxes)


def closest_motion(
    vocabulary: Vocabulary,
    count: int,
    log_probs: Array,
    now: Agents,
    before: Agents,
    rows: Array,
    truth: Agents,
    dt: float,
) -> Agents:
    """Of each agent's `count` likeliest motions the one nearest to the truth.

    Args: log_probs: float32[..., V]; now, before: `Agents` [...]; rows: int32[...]; truth: `Agents` [..., S].
    Returns: `Agents` [..., S].
    """
    substeps = truth.x.shape[-1]
    motion = estimate_motion(now, before, substeps * dt)
    _, likeliest = jax.lax.top_k(log_probs, count)
    acceleration, turn = token_controls(vocabulary, likeliest, rows[..., None])
    each_now, each_motion = jax.tree.map(lambda a: a[..., None], (now, motion))
    tried = move(each_now, each_motion, acceleration, each_motion.turn_rate + turn, substeps, dt)
    best = jnp.argmin(motion_distance(tried, truth), -1)[..., None, None]
    return jax.tree.map(lambda a: jnp.take_along_axis(a, best, -2)[..., 0, :], tried)
