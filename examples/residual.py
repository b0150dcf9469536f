"""Your own world model in one file: a small network corrects constant turn rate and speed.

Each agent's acceleration and change of turn rate over a step are drawn from a normal distribution,

    p(control | what the agent senses) = N(mean, scale),   mean, scale = MLP(own motion, lanes, neighbours, lights),

whose exact likelihood of the logged controls is the loss. There are no outcome heads and no memory; a model needs no
more than this. Try it:

    python -m tether.worldmodel.conformance --world-model examples.residual:ResidualConfig
    python train.py cpu --world_model examples.residual:ResidualConfig --stage fit_world_model --directory runs/residual

Other settings are another config class, named the same way: `examples.residual:LikeliestConfig`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.scipy.stats import norm

from tether.data.scene import Array, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import Observed
from tether.simulator.transition import advance_state, start_state
from tether.simulator.world import Action, Agents, Outcome, State
from tether.worldmodel.batch import ModelBatch, driven_window
from tether.worldmodel.features import Frame, Sensed
from tether.worldmodel.heads import counted_steps
from tether.worldmodel.motion import estimate_motion, move
from tether.worldmodel.nets import dense_layer, draw, mlp, mlp_layers, pool
from tether.worldmodel.noise import agent_noise, agent_rank
from tether.worldmodel.window import sense_frame, sense_frames, substep_boxes, window_frames

KINDS = ("lanes", "neighbours", "lights")
CONTROL_SCALE = np.array([2.0, 0.2])  # m/s^2 and rad/s: brings ordinary controls near 1
LARGEST = np.array([8.0, 1.0])  # m/s^2 and rad/s, limits of the controls
SMALLEST_SCALE = 0.05  # of a control, in units of CONTROL_SCALE: below it lies annotation noise


@dataclasses.dataclass(frozen=True)
class ResidualConfig:
    """The model's settings.

    Attributes:
      hidden: width of the hidden layers.
      temperature: of the draws; 1 samples the fitted distribution, 0 takes each agent's likeliest motion.
    """

    hidden: int = 64
    temperature: float = 1.0

    def build(self, simulator: SimulatorConfig) -> "Residual":
        """The model for this simulator's step and dynamics."""
        return Residual(self, simulator)


@dataclasses.dataclass(frozen=True)
class LikeliestConfig(ResidualConfig):
    """Deterministic: the smallest displacement, not the most realistic traffic."""

    temperature: float = 0.0


@dataclasses.dataclass(frozen=True)
class Residual(Observed):
    """`WorldModel`. B batch, F frames (one per step), A agents, S sub-steps; controls are [..., 2]."""

    config: ResidualConfig
    simulator: SimulatorConfig

    sees_images = False

    def init(self, key: jax.Array, batch: ModelBatch) -> dict:
        """Fresh parameters: a plain dict of arrays."""
        _, _, sensed = jax.eval_shape(self._observed, batch)
        hidden = self.config.hidden
        layers = {kind: dense_layer(getattr(sensed, kind).shape[-1], hidden) for kind in KINDS}
        inputs = sensed.own.shape[-1] + len(KINDS) * hidden
        return draw(key, layers | {"controls": mlp_layers((inputs, hidden, hidden, 4), scale=0.1)})

    def loss(self, params: dict, key: jax.Array, batch: ModelBatch) -> tuple[Array, dict[str, Array]]:
        """Negative log-likelihood of the others' logged controls."""
        frames, after, sensed = self._observed(batch)
        end, step_s = after[..., -1], self.simulator.step_s
        motion, following = estimate_motion(frames.now, frames.before, step_s), estimate_motion(end, frames.now, step_s)
        acceleration = (following.speed - motion.speed) / step_s
        logged = jnp.stack([acceleration, following.turn_rate - motion.turn_rate], -1) / CONTROL_SCALE
        mean, scale = self._controls(params, sensed)
        others = jnp.arange(end.x.shape[-1]) != batch.scene.ego[:, None, None]
        counted = frames.now.valid & end.valid & others & counted_steps(batch, self.simulator.substeps)[..., None]
        surprise = -norm.logpdf(logged, mean, scale).sum(-1)
        loss = jnp.sum(surprise, where=counted) / jnp.maximum(counted.sum(), 1)
        return loss, {"loss": loss}

    def reset(self, params: dict, key: jax.Array, scene: Scene, start: Array) -> State:
        """Starts from the logged history; the latent assigns noise to agents."""
        state = start_state(scene, start, latent=())
        return state.replace(latent=agent_rank(state.now, scene.ego))

    def step(self, params: dict, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """Draws the others' controls and moves them; lights stay; ego motion and outcome are the simulator's."""
        substeps, dt = self.simulator.substeps, self.simulator.dt
        now, before, step_s = state.now, state.history[..., -1 - substeps], self.simulator.step_s
        frame = Frame(now, before, state.light_state, state.light_valid, jnp.zeros(state.light_state.shape))
        mean, scale = self._controls(params, sense_frame(frame, state.scene, step_s)[0])
        noise = ndtri(jnp.clip(agent_noise(key, state.latent, (2,)), 1e-6, 1 - 1e-6))
        controls = jnp.clip(CONTROL_SCALE * (mean + self.config.temperature * scale * noise), -LARGEST, LARGEST)
        motion = estimate_motion(now, before, step_s)
        others = move(now, motion, controls[..., 0], motion.turn_rate + controls[..., 1], substeps, dt)
        return advance_state(state, action, others, *state.held_lights(substeps), state.latent, self.simulator)

    def _observed(self, batch: ModelBatch) -> tuple[Frame, Agents, Sensed]:
        """Frames [B, F] before each step, the boxes [B, F, A, S] after it, and what agents sensed before it."""
        substeps = self.simulator.substeps
        boxes = driven_window(batch, substeps, self.simulator)
        frames = window_frames(boxes, batch.scene, batch.start - substeps, self.simulator)
        # The first frame has nothing before it, the last one nothing after it. A State does not hold lights' ages.
        frames = frames.replace(light_age=jnp.zeros_like(frames.light_age))[:, 1:-1]
        after = substep_boxes(boxes, substeps)[:, 1:]
        return frames, after, sense_frames(frames, batch.scene, self.simulator.step_s)[0]

    def _controls(self, params: dict, sensed: Sensed) -> tuple[Array, Array]:
        """Mean and scale of the controls in units of `CONTROL_SCALE`, each float32[..., A, 2]."""
        pooled = [pool(params[kind], getattr(sensed, kind), getattr(sensed, f"{kind}_mask")) for kind in KINDS]
        outputs = mlp(params["controls"], jnp.concatenate([sensed.own, *pooled], -1))
        return outputs[..., :2], SMALLEST_SCALE + jax.nn.softplus(outputs[..., 2:] - 1)
