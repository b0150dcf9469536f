"""A world model for data sets of images and ego motion only: the next image is drawn by shortcut forcing.

    given        the frame before, moved by the ego's exact motion: an ego-centred image  `frames.py`
                 turns and slides when the ego moves, and that need not be learned
    tokenizer    the difference from it <-> one bounded latent per patch                  `image_latent.py`
    transformer  the clean latent from a noisy one, given that and the frames up to now   `pixels_net.py`
    drawing      K steps from noise to the next latent                                    `shortcut.py`
    heads        reward, cont and costs of the step, from the drawn image and the motion  `pixels_heads.py`

The disagreement is the difference between two draws of the same step: the root mean square over the images' brightness.

No boxes are learned. `State` and `Outcome` by geometry need some; the others', where a data set has any, move as in
`kinematic.py`, so they never depend on the ego's current action. The image does: it is centred on the ego, so the model
needs the ego's motion. In expert logs that leaks what the expert saw, as for any model that predicts the view after an
action. Where boxes are known, `rssm` and `tokens` are the models without this leak.
After Dreamer 4 (arXiv 2509.24527). Its tokenizer is fitted first and then frozen; here one loss fits all at once, and
no gradient of the transformer or of the heads reaches the tokenizer.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import Array, Observation, Scene
from tether.simulator.config import SimulatorConfig
from tether.simulator.observe import observe
from tether.simulator.render import CHANNELS
from tether.simulator.transition import ego_track_of, start_state, sweep
from tether.simulator.world import Action, Agents, Outcome, State
from tether.worldmodel import image_latent, pixels_net, shortcut
from tether.worldmodel.batch import ModelBatch, driven_window
from tether.worldmodel.frames import rendered_frames, warp
from tether.worldmodel.heads import Terms, counted_steps, reduce_terms
from tether.worldmodel.image_latent import PatchSizes, brightness
from tether.worldmodel.kinematic import Kinematic, KinematicConfig
from tether.worldmodel.pixels_heads import outcome_logits, outcome_terms, outcomes_of
from tether.worldmodel.pixels_net import Given
from tether.worldmodel.shortcut import Levels
from tether.worldmodel.tokens_net import Cache, empty_cache
from tether.worldmodel.window import EGO_MOTION_SCALE, ego_motion, ego_row, history_boxes

FrameSource = Callable[[Agents, Scene, Array, SimulatorConfig], Array]  # see `frames.rendered_frames`


@dataclasses.dataclass(frozen=True)
class PixelsConfig:
    """The model's settings.

    Attributes:
      tokenizer, sizes: of the networks.
      steps: K, from noise to an image; a power of two up to `finest`.
      finest: 1 / d_min of shortcut forcing, a power of two.
      bootstrap: fraction of the rows that learn steps longer than the finest.
      context_tau: signal level at which frames of the past are read; a little noise hides what is wrong in drawn ones.
      moved: the ego's motion moves the pixels, as in a BEV. False for cameras: the frame before is given as it is.
      context: world steps of history before the first transition when fitting; a reset uses all there is.
    """

    tokenizer: PatchSizes = dataclasses.field(default_factory=PatchSizes)
    sizes: pixels_net.Sizes = dataclasses.field(default_factory=pixels_net.Sizes)
    steps: int = 4
    finest: int = 16
    bootstrap: float = 0.25
    context_tau: float = 0.9
    moved: bool = True
    context: int = 2

    def build(self, simulator: SimulatorConfig) -> "Pixels":
        """The model for this simulator's step, dynamics and images."""
        render = simulator.render
        return Pixels(self, simulator, rendered_frames, (render.height, render.width, len(CHANNELS)))


@flax.struct.dataclass
class Latent:
    """The model's private state.

    Attributes:
      image: float32[B, H, W, C] in [0, 1], what the policy sees now: the frame source's at the start, then drawn ones.
      cache: `tokens_net.Cache`, the frames up to now.
    """

    image: Array
    cache: Cache


@dataclasses.dataclass(frozen=True)
class Pixels:
    """`WorldModel`.

    Attributes:
      config, simulator: settings.
      frames: where images come from.
      shape: of an image, [H, W, C].
    """

    config: PixelsConfig
    simulator: SimulatorConfig
    frames: FrameSource
    shape: tuple[int, int, int]

    sees_images = True

    def init(self, key: jax.Array, batch: ModelBatch) -> dict:
        """Fresh parameters."""
        return pixels_net.init_net(key, self.shape, self.config.tokenizer, self.config.sizes)

    def loss(self, params: dict, key: jax.Array, batch: ModelBatch) -> tuple[Array, dict[str, Array]]:
        """Every frame from the noisy ones before it, each at its own signal level."""
        k_rows, k_given, k_levels, k_noise = jax.random.split(key, 4)
        rows = batch.alive.shape[0]
        # The first rows are bootstrapped, but a batch is ordered: logged rollouts first, then disturbed ones.
        batch = batch[jax.random.permutation(k_rows, rows)]
        substeps, context = self.simulator.substeps, self.config.context
        boxes = driven_window(batch, context * substeps, self.simulator)
        image = brightness(self.frames(boxes, batch.scene, batch.start - context * substeps, self.simulator))
        ego = _ego_frames(boxes, batch.scene.ego, substeps)
        given = self.window_given(params, self._half_decoded(params, k_given, image, ego), ego)
        latent = self.encode(params, image, given)
        decoded = image_latent.image_loss(self._logits(params, latent, given), image)
        drawn = self._draw_errors(params, (k_levels, k_noise), jax.lax.stop_gradient(latent), given)
        heads = self._heads(params, image[:, context + 1 :], given.motion[:, context + 1 :])
        terms = self._image_terms(batch, decoded, drawn)
        return reduce_terms(terms | outcome_terms(heads, batch), {})

    def _half_decoded(self, params: dict, key: jax.Array, image: Array, ego: Agents) -> Array:
        """Images [B, F, H, W, C], half of them as decoded: imagination has real ones at its start only."""
        given = self.window_given(params, image, ego)
        decoded = self.decode(params, self.encode(params, image, given), given)
        chosen = jax.random.bernoulli(key, 0.5, image.shape[:2])
        return jax.lax.stop_gradient(jnp.where(shortcut.over(chosen, image), decoded, image))

    def encode(self, params: dict, image: Array, given: Given) -> Array:
        """Images [B, F, H, W, C] in [0, 1] as latents [B, F, P, L]."""
        return image_latent.encode(params["tokenizer"], image, given.background, self.config.tokenizer)

    def decode(self, params: dict, latent: Array, given: Given) -> Array:
        """Latents [B, F, P, L] as images [B, F, H, W, C] in [0, 1]."""
        return jax.nn.sigmoid(self._logits(params, latent, given))

    def _logits(self, params: dict, latent: Array, given: Given) -> Array:
        sizes = self.config.tokenizer
        return image_latent.decode_logits(params["tokenizer"], latent, given.background, given.seen, sizes)

    def _heads(self, params: dict, image: Array, motion: Array) -> dict[str, Array]:
        """The outcome heads' outputs, from what an image [..., H, W, C] shows and the ego's motion [..., 3] there."""
        return outcome_logits(params["outcome"], self._content(params, image), motion)

    def _content(self, params: dict, image: Array) -> Array:
        """All that images show, as latents against black. No gradient: the tokenizer is fitted by its own loss."""
        black = jnp.zeros_like(image)
        return jax.lax.stop_gradient(image_latent.encode(params["tokenizer"], image, black, self.config.tokenizer))

    def _draw_errors(self, params: dict, keys: tuple, latent: Array, given: Given) -> Array:
        """Shortcut forcing's loss of each frame [B, F]."""
        config, (rows, frames) = self.config, latent.shape[:2]
        # Long steps learn from the finest one: at least one row trains that.
        bootstrapped = min(math.ceil(config.bootstrap * rows), rows - 1)
        levels = shortcut.draw_levels(keys[0], rows, frames, config.finest, bootstrapped)

        def predict(noisy: Array, levels: Levels) -> Array:
            cut = jax.tree.map(lambda a: a[: len(noisy)], given)
            return pixels_net.run(params, config.sizes, noisy, levels, cut, self._empty_cache(noisy))[0]

        noise = jax.random.normal(keys[1], latent.shape)
        return shortcut.losses(predict, latent, noise, levels, bootstrapped)

    def _image_terms(self, batch: ModelBatch, decoded: Array, drawn: Array) -> Terms:
        """The tokenizer's loss of all frames while a row is alive; drawing's at `counted_steps` but first frames."""
        context = self.config.context
        past = jnp.ones((len(batch.alive), context + 1), bool)
        log = batch.dynamics[:, None] & past[:, 1:]
        counted = jnp.concatenate([~past[:, :1], log, counted_steps(batch, self.simulator.substeps)], 1)
        return {"image": (decoded, jnp.concatenate([past, batch.alive], 1)), "shortcut": (drawn, counted)}

    def _context(self, latent: Array) -> Levels:
        """The signal level at which the past is read. Args: latent: [B, F, P, L]."""
        tau = jnp.full(latent.shape[:2], self.config.context_tau)
        return Levels(tau, jnp.full_like(tau, 1 / self.config.finest))

    def _empty_cache(self, latent: Array) -> Cache:
        return empty_cache(self.config.sizes, latent.shape[0], latent.shape[-2])

    def window_given(self, params: dict, image: Array, ego: Agents) -> Given:
        """`Given` of the frames [B, F] of a window, each from the frame before; all zeros for the first."""
        known = self._given(params, image[:, :-1], ego[:, :-1], ego[:, 1:])
        return jax.tree.map(lambda a: jnp.concatenate([jnp.zeros_like(a[:, :1]), a], 1), known)

    def _given(self, params: dict, image: Array, before: Agents, after: Agents) -> Given:
        """`Given` of the frames after a step. image: [B, F, H, W, C], those before; before, after: the ego [B, F]."""
        motion = ego_motion(before, after)
        moved, seen = image, jnp.ones(image.shape[:-1])
        if self.config.moved:
            pose = (motion[..., i] / scale for i, scale in enumerate(EGO_MOTION_SCALE))
            moved, seen = jax.vmap(jax.vmap(functools.partial(warp, config=self.simulator.render)))(image, *pose)
        in_view = image_latent.to_patches(seen[..., None].astype(jnp.float32), self.config.tokenizer.patch).mean(-1)
        return Given(moved, self._content(params, moved), in_view, motion)

    def reset(self, params: dict, key: jax.Array, scene: Scene, start: Array) -> State:
        """Reads the history's images."""
        state = start_state(scene, start, latent=())
        boxes, first = history_boxes(state, self.simulator)
        image = brightness(self.frames(boxes, scene, first, self.simulator))
        given = self.window_given(params, image, _ego_frames(boxes, scene.ego, self.simulator.substeps))
        latent = self.encode(params, image, given)
        cache = self._remember(params, key, latent, given, self._empty_cache(latent))
        return state.replace(latent=Latent(image[:, -1], cache))

    def _remember(self, params: dict, key: jax.Array, latent: Array, given: Given, cache: Cache) -> Cache:
        """The cache after frames [B, F, P, L], read at the past's signal level. key: key[B]."""
        levels = self._context(latent)
        noisy = shortcut.corrupt(latent, row_noise(key, latent.shape[1:]), levels.tau)
        return pixels_net.run(params, self.config.sizes, noisy, levels, given, cache)[1]

    def observe(self, params: dict, state: State) -> Observation:
        """The simulator's view of the imagined state, with the model's image."""
        return observe(state, self.simulator).replace(bev=jnp.round(state.latent.image * 255).astype(jnp.uint8))

    def step(self, params: dict, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """Moves the ego and the boxes, then draws the ego's next view twice; the second draw gives the disagreement."""
        following, outcome = Kinematic(KinematicConfig(), self.simulator).step((), key, state, action)
        # The whole swept step, not the place of a failure: from that, the model would know the outcome.
        after = ego_track_of(sweep(state, action, self.simulator))[..., -1]
        before = ego_row(state.now, state.scene.ego, -1)
        given = self._given(params, state.latent.image[:, None], before[:, None], after[:, None])
        k_draw, k_past = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
        draws = self._draw(params, k_draw, given, state.latent.cache)
        image, other = (self.decode(params, draws[:, i], given)[:, 0] for i in range(2))
        cache = self._remember(params, k_past, draws[:, 0], given, state.latent.cache)
        predicted = outcomes_of(self._heads(params, image, given.motion[:, 0]))
        apart = jnp.sqrt(jnp.square(image - other).mean((1, 2, 3)))
        return following.replace(latent=Latent(image, cache)), outcome.replace(predicted=predicted, disagreement=apart)

    def _draw(self, params: dict, key: jax.Array, given: Given, cache: Cache) -> Array:
        """Two draws of the next frame, float32[B, 2, 1, P, L]. key: key[B]."""

        def predict(noisy: Array, levels: Levels) -> Array:
            return pixels_net.run(params, self.config.sizes, noisy, levels, given, cache)[0]

        noise = row_noise(key, (2, *given.expected.shape[1:]))
        draw = jax.vmap(lambda noise: shortcut.sample(predict, noise, self.config.steps), 1, 1)
        return jnp.clip(draw(noise), -1.0, 1.0)  # the range of latents


def row_noise(key: jax.Array, shape: tuple[int, ...]) -> Array:
    """Normal noise [B, *shape], each row's from its own key. key: key[B]."""
    return jax.vmap(lambda one: jax.random.normal(one, shape))(key)


def _ego_frames(boxes: Agents, ego: Array, substeps: int) -> Agents:
    """The ego's boxes [B, F] at every `substeps`-th step of a window [B, A, K]."""
    return ego_row(boxes, ego, -2)[..., ::substeps]
