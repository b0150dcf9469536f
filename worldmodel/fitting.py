"""One gradient step on a world model; the loop over data is the caller's."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tether.data.scene import Array
from tether.data.settings import setting
from tether.simulator.world import Params
from tether.worldmodel.batch import ModelBatch
from tether.worldmodel.interface import WorldModel


@dataclasses.dataclass(frozen=True)
class FittingConfig:
    """AdamW with warm-up and cosine decay, if any.

    Attributes:
      learning_rate: largest learning rate of the world model's fit, reached after the warm-up.
      warmup_steps: steps over which the world model's learning rate grows linearly from 0; 0 for no warm-up.
      final_fraction: fraction of the learning rate that is left when the fit ends, and stays for refits; the decay is a
        cosine, and 1 is none.
      clip: largest global norm of the world model's gradient; larger gradients are scaled down to it.
      weight_decay: weight decay of AdamW in the world model's fit.
    """

    learning_rate: float = 1.5e-3
    warmup_steps: int = setting(30, least=0)
    final_fraction: float = setting(1.0, most=1)
    clip: float = setting(1.0, above=0)
    weight_decay: float = 1e-3

    def build(self, steps: int) -> optax.GradientTransformation:
        """The optimiser of a fit of so many steps; later ones have the rate that it ends with."""
        rate = self.schedule(steps)
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adamw(rate, weight_decay=self.weight_decay))

    def schedule(self, steps: int) -> optax.Schedule:
        """The learning rate of each step."""
        end = max(steps, self.warmup_steps + 1)  # a fit that ends within the warm-up has no decay
        final = self.final_fraction * self.learning_rate
        return optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, self.warmup_steps, end, final)


@flax.struct.dataclass
class FitState:
    """The state of a fit.

    Attributes:
      params: of the model.
      optimizer: the optimiser's state.
      step: int32, gradient steps taken.
    """

    params: Params
    optimizer: optax.OptState
    step: Array


def start_fit(params: Params, optimizer: optax.GradientTransformation) -> FitState:
    """The state before the first step."""
    return FitState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def fit_step(
    model: WorldModel, optimizer: optax.GradientTransformation
) -> Callable[[FitState, jax.Array, ModelBatch], tuple[FitState, dict[str, Array]]]:
    """The step as a pure function of (state, key, batch), to be jitted with the state donated.

    The metrics are those of the model's loss, and `gradient_norm` before clipping. The key is folded with the step.
    """

    def step(state: FitState, key: jax.Array, batch: ModelBatch) -> tuple[FitState, dict[str, Array]]:
        key = jax.random.fold_in(key, state.step)
        gradients, metrics = jax.grad(model.loss, has_aux=True)(state.params, key, batch)
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        metrics = metrics | {"gradient_norm": jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients)))}
        return FitState(optax.apply_updates(state.params, updates), moments, state.step + 1), metrics

    return step
