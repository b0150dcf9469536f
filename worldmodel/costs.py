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
FAR_M = 20.0  # farther than this is as good as nothing there
SCALES_M = (1.0, 4.0, 20.0)  # a margin shows near 0, at an agent's width and on the way
FLAGS = ("collision", *PREDICTED, "corridor")
DISTANCES = 5
MARGINS = DISTANCES * len(SCALES_M) + len(FLAGS) + 2  # features of a step
HIDDEN = 64
RARE_LOGIT = -5.0  # belief in an event before any fitting; each tenth of a per cent too much grows 16-fold in 8 s
LEAST = 1e-6  # chances are kept this far from 0 and 1 in the loss


def cost_layers() -> dict[str, list[dict[str, Initial]]]:
    """For `nets.draw`."""
    return {"costs": mlp_layers((MARGINS, HIDDEN, HIDDEN, len(ENDS)), scale=0.1)}


def cost_chances(params: dict, margins: Array) -> dict[str, Array]:
    """`cont` and the chance of each cost in a step. float32[..., MARGINS] -> dict of float32[...]."""
    chances = jax.nn.sigmoid(mlp(params["costs"], margins) + RARE_LOGIT)
    return {"cont": 1 - chances[..., 0], **{name: chances[..., i] for i, name in enumerate(ENDS) if i}}


def cost_terms(world: World, params: Params, key: jax.Array, batch: ModelBatch, simulator: SimulatorConfig) -> dict:
    """Cross-entropy of what the heads say in imagination with what happened in the replay; terms of a loss.

    Only the heads learn here. Half of the rows are imagined, those first whose ego left its log: in a log, others keep
    clear of an ego that keeps clear of them, and imagined gaps look more harmless than they are for anyone else.

    Args: params: with `costs` as in `cost_layers`.   key: one for the batch.
    """
    rows = jnp.argsort(batch.dynamics)[: max(batch.dynamics.shape[0] // 2, 1)]
    batch = batch[rows]
    params = jax.lax.stop_gradient({**params, "costs": None}) | {"costs": params["costs"]}
    keys = jax.random.split(key, len(rows))
    driven = replay_actions(Unending(world, simulator), params, keys, batch.scene, batch.start, batch.action)
    predicted = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), driven.outcome.predicted)
    outcome = batch.outcome
    happened = {name: outcome.happened(name) for name in PREDICTED}
    happened["cont"] = ~outcome.termination
    chances = {name: jnp.clip(predicted[name], LEAST, 1 - LEAST) for name in happened}
    surprise = {name: -jnp.log(jnp.where(happened[name], p, 1 - p)) for name, p in chances.items()}
    return {name: (value, batch.alive) for name, value in surprise.items()}


def margins(state: State, swept: EgoState, agents: Agents, outcome: Outcome, config: SimulatorConfig) -> Array:
    """How near a step came to each event.

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

    Depth in any other within the step, in one that is not behind, and in the latter at the end; beyond an edge within
    the step, and at its end. No less than -`FAR_M`.
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
