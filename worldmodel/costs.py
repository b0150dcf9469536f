"""The heads of costs and cont: how likely each event is in a step that a learned World imagines.

They read margins, how near the imagined boxes came to each event, and are fitted in imagination on what happened in the
replay. With the true boxes an event is a margin that passes 0. With imagined boxes a head learns the probability of
the event given the margin, of a crash given a gap for example, and so accounts for the model's own errors.
Letters: B batch, H steps, S sub-steps, A agents.
"""

import jax
import jax.numpy as jnp

from tether.data.scene import Array
from tether.simulator import geometry
from tether.simulator.config import SimulatorConfig
from tether.simulator.events import PREDICTED
from tether.simulator.outcome import BEHIND_COS, boxes_of, ego_box
from tether.simulator.replay import replay_actions
from tether.simulator.road_index import segments_at
from tether.simulator.unending import Unending
from tether.simulator.world import Agents, EgoState, Outcome, Params, State, World
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.nets import Initial, mlp, mlp_layers

ENDS = ("failure", *PREDICTED)  # failure: any event that ends a rollout, 1 - cont
FAR_M = 20.0  # distances are clipped here
SCALES_M = (1.0, 4.0, 20.0)  # resolve a margin near 0, within an agent's width and from afar
FLAGS = ("collision", *PREDICTED, "corridor")
DISTANCES = 5
MARGINS = DISTANCES * len(SCALES_M) + len(FLAGS) + 2  # features of a step
HIDDEN = 64
RARE_LOGIT = -5.0  # prior of an event, before any fitting; 0.1 % too much in a step becomes 1.6 % in 8 s
LEAST = 1e-6  # probabilities are clipped to this distance from 0 and 1 in the loss


def cost_layers() -> dict[str, list[dict[str, Initial]]]:
    """Layers of the heads, for `nets.draw`."""
    return {"costs": mlp_layers((MARGINS, HIDDEN, HIDDEN, len(ENDS)), scale=0.1)}


def cost_probabilities(params: dict, margins: Array) -> dict[str, Array]:
    """`cont` and the probability of each cost in a step. float32[..., MARGINS] -> dict of float32[...]."""
    probabilities = jax.nn.sigmoid(mlp(params["costs"], margins) + RARE_LOGIT)
    return {"cont": 1 - probabilities[..., 0], **{name: probabilities[..., i] for i, name in enumerate(ENDS) if i}}


def cost_terms(world: World, params: Params, key: jax.Array, batch: ModelBatch, simulator: SimulatorConfig) -> dict:
    """Cross-entropy between the heads' probabilities in imagination and the events of the replay; terms of a loss.

    Only the heads learn here. Half of the rows are imagined; rows whose ego left its log come first. Where the ego
    follows its log, the others keep clear of it and it of them, so heads fitted there would take gaps for too safe.

    Args: params: with `costs` as in `cost_layers`.   key: one for the batch.
    """
    rows = jnp.argsort(batch.dynamics)[: max(batch.dynamics.shape[0] // 2, 1)]
    batch = batch[rows]
    params = jax.lax.stop_gradient({**params, "costs": None}) | {"costs": params["costs"]}
    keys = jax.random.split(key, len(rows))
    rollout = replay_actions(Unending(world, simulator), params, keys, batch.scene, batch.start, batch.action)
    predicted = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), rollout.outcome.predicted)
    outcome = batch.outcome
    happened = {name: outcome.happened(name) for name in PREDICTED}
    happened["cont"] = ~outcome.termination
    probabilities = {name: jnp.clip(predicted[name], LEAST, 1 - LEAST) for name in happened}
    cross_entropy = {name: -jnp.log(jnp.where(happened[name], p, 1 - p)) for name, p in probabilities.items()}
    return {name: (value, batch.alive) for name, value in cross_entropy.items()}


def margins(state: State, swept: EgoState, agents: Agents, outcome: Outcome, config: SimulatorConfig) -> Array:
    """Features of a step: its distance from each event.

    Args: state: before the step, [B].  swept: [B, S], past any failure.  agents: [B, A, S], all after each sub-step.
      outcome: of the step.
    Returns: float32[B, MARGINS].
    """
    near = jax.vmap(lambda *row: distances(*row, config))(state, swept, agents)
    scaled = [jnp.tanh(near / scale) for scale in SCALES_M]
    flags = [outcome.happened(name).astype(jnp.float32)[:, None] for name in FLAGS]
    beyond = jnp.tanh(jnp.abs(outcome.route_offset_m[:, -1:]) - config.corridor_m)
    return jnp.concatenate([*scaled, *flags, outcome.ttc_s.min(-1, keepdims=True) / config.ttc_cap_s, beyond], -1)


def distances(state: State, swept: EgoState, agents: Agents, config: SimulatorConfig) -> Array:
    """Depth in other boxes and beyond road edges [m], negative while there is room; float32[DISTANCES] of one scene.

    In order: the largest depth in another box within the step; the same for boxes that are not behind, within the step
    and at its end; the largest depth beyond an edge, within the step and at its end. Clipped to `FAR_M`.
    """
    ego, others = swept[:, None], agents.T
    boxes = boxes_of(others, state.scene)
    present = others.valid & (jnp.arange(agents.x.shape[0]) != state.scene.ego)
    depth = jnp.where(present, geometry.penetration(ego_box(ego), boxes), -FAR_M)
    seen = geometry.relative(ego_box(ego), boxes)
    ahead = jnp.where(seen.x <= BEHIND_COS * jnp.sqrt(seen.x**2 + seen.y**2), -FAR_M, depth)
    corners, index = geometry.corners(ego_box(swept)), state.scene.road_index
    edge = geometry.signed_edge_distance(segments_at(index, index.edges, config.near_edges, *corners), *corners).max(-1)
    return jnp.clip(jnp.stack([depth.max(), ahead.max(), ahead[-1].max(), edge.max(), edge[-1]]), -FAR_M, FAR_M)
