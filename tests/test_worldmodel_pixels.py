"""Pixels: images and their patches, what the ego's motion does to an image, causality in time, what policies see."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.simulator.render import render
from tether.simulator.transition import start_state
from tether.simulator.world import Action
from tether.worldmodel import image_latent, pixels_net
from tether.worldmodel.batch import log_window
from tether.worldmodel.conformance.small import SMALL
from tether.worldmodel.frames import rendered_frames, warp
from tether.worldmodel.image_latent import PatchSizes
from tether.worldmodel.nets import draw
from tether.worldmodel.pixels import Pixels
from tether.worldmodel.pixels_net import Given
from tether.worldmodel.shortcut import Levels
from tether.worldmodel.tokens_net import empty_cache

CONFIG = SMALL["pixels"]
SUBSTEPS = 5


@pytest.fixture(scope="module")
def scene(batch):
    return jax.tree.map(jnp.asarray, batch)


@pytest.mark.parametrize("shape", [(16, 8, 12), (8, 24, 3)], ids=["bev", "three cameras of 8 x 8"])
def test_patches_are_read_in_order_and_put_back(rng, shape):
    image = jnp.asarray(rng.uniform(size=(2, 5, *shape)))
    patches = image_latent.to_patches(image, 4)
    assert patches.shape == (2, 5, image_latent.patch_count(shape, PatchSizes(patch=4)), 16 * shape[-1])
    np.testing.assert_array_equal(patches[..., 1, :].reshape(2, 5, 4, 4, -1), image[..., :4, 4:8, :])
    np.testing.assert_array_equal(image_latent.from_patches(patches, shape, 4), image)


def test_latents_are_bounded_and_encode_differences(rng):
    """A changed pixel changes the latent of its patch; where image and background agree the latent is 0."""
    shape, sizes = (8, 16, 3), PatchSizes(patch=4, latent=6, hidden=16)
    params = draw(jax.random.key(0), image_latent.tokenizer_layers(shape, sizes))
    image = jnp.asarray(rng.uniform(size=shape))
    background = image.at[5, 2].set(0.0)
    latent = image_latent.encode(params, image, background, sizes)
    assert latent.shape == (8, 6) and np.all(np.abs(latent) < 1)
    assert set(np.flatnonzero(latent.any(-1))) == {4}
    np.testing.assert_array_equal(image_latent.encode(params, image, image, sizes), 0.0)


def test_a_latent_of_nothing_decodes_to_the_background(rng):
    """Except where it is too bright or too dark to encode; the loss is the divergence by hand."""
    shape, sizes = (8, 8, 3), PatchSizes(patch=4, latent=6, hidden=16)
    params = draw(jax.random.key(0), image_latent.tokenizer_layers(shape, sizes))
    background = jnp.asarray(rng.uniform(size=shape)).at[0, 0].set(jnp.array([0.0, 1.0, 0.5]))
    logits = image_latent.decode_logits(params, jnp.zeros((4, 6)), background, jnp.ones(4), sizes)
    decoded = jax.nn.sigmoid(logits)
    np.testing.assert_allclose(decoded, background, atol=0.007)
    image = jnp.asarray(rng.uniform(size=shape))
    by_hand = np.mean(image * np.log(image / decoded) + (1 - image) * np.log((1 - image) / (1 - decoded)))
    assert float(image_latent.image_loss(logits, image)) == pytest.approx(float(by_hand), rel=1e-4)


def test_an_image_of_broken_patches_is_refused():
    with pytest.raises(ValueError, match="whole patches of 8 pixels, found 20 x 16"):
        image_latent.patch_count((20, 16, 3), PatchSizes(patch=8))


@pytest.fixture(scope="module")
def shown(sim_config):
    """The simulator's image of a state, compiled."""
    return jax.jit(lambda state: render(state, sim_config))


def test_frames_are_what_the_simulator_shows(scene, shown, sim_config):
    """The newest frame of the history is the observation at its end."""
    start = jnp.full(4, 30)
    frames = jax.jit(lambda boxes: rendered_frames(boxes, scene, start - 10, sim_config))
    window = frames(log_window(scene, start, 10, 0))
    seen = shown(start_state(scene, start, latent=()))
    assert window.shape == (4, 3, *seen.shape[1:]) and window.dtype == jnp.uint8
    np.testing.assert_array_equal(window[:, -1], seen)


def test_warp_by_whole_pixels_and_by_right_angles(rng, sim_config):
    """Two pixels ahead: what was there comes nearer. A left turn about the ego: ahead is what was on the left."""
    config = dataclasses.replace(sim_config.render, behind=32.0)
    image = jnp.asarray(rng.uniform(size=(16, 16, 2)))
    moved, seen = warp(image, 8.0, 0.0, 0.0, config)
    np.testing.assert_allclose(moved[2:], image[:-2], atol=1e-5)
    np.testing.assert_allclose(moved[:2], 0.0, atol=1e-5)
    np.testing.assert_array_equal(seen[:, 3], [False] * 2 + [True] * 14)
    sideways, _ = warp(image, 0.0, -4.0, 0.0, config)
    np.testing.assert_allclose(sideways[:, :-1], image[:, 1:], atol=1e-5)
    turned, _ = warp(image, 0.0, 0.0, jnp.pi / 2, config)
    np.testing.assert_allclose(turned, np.rot90(image, -1), atol=1e-4)


def test_a_warped_image_is_what_the_simulator_shows_from_there(scene, shown, sim_config):
    """From 8 m ahead, 2 m to the left and turned: nearer to it than the image that was, for all scenes."""
    state = start_state(scene, jnp.full(4, 30), latent=())
    ego = state.ego  # all drive along x
    there = state.replace(ego=ego.replace(x=ego.x + 8.0, y=ego.y + 2.0, heading=ego.heading + 0.4))
    before, after = shown(state) / 255.0, shown(there) / 255.0
    moved, seen = jax.vmap(lambda image: warp(image, 8.0, 2.0, 0.4, sim_config.render))(before)
    apart, held = (np.abs(image - after)[np.asarray(seen)].mean() for image in (moved, before))
    assert apart < held / 2


@pytest.fixture(scope="module")
def sequence():
    """Parameters, and five noisy frames of four patches with all that is given."""
    shape, sizes = (16, 16, 12), CONFIG.sizes
    params = pixels_net.init_net(jax.random.key(3), shape, CONFIG.tokenizer, sizes)
    keys = jax.random.split(jax.random.key(0), 3)
    noisy, expected = (jax.random.normal(key, (2, 5, 4, 8)) for key in keys[:2])
    motion = jax.random.normal(keys[2], (2, 5, 3))
    given = Given(jnp.zeros((2, 5, *shape)), expected, jnp.ones((2, 5, 4)), motion)
    return params, noisy, Levels(jnp.full((2, 5), 0.5), jnp.full((2, 5), 0.25)), given


@jax.jit
def read(params, noisy, levels, given, cache):
    return pixels_net.run(params, CONFIG.sizes, noisy, levels, given, cache)


def test_time_is_causal_and_ends_with_the_window(sequence):
    """What changes in frame 1 changes it and the next two, and nothing before; the window is three frames."""
    params, noisy, levels, given = sequence
    empty = empty_cache(CONFIG.sizes, 2, 4)
    clean, _ = read(params, noisy, levels, given, empty)
    changes = (
        (noisy.at[:, 1].add(1.0), levels, given),
        (noisy, levels.replace(tau=levels.tau.at[:, 1].set(0.0)), given),
        (noisy, levels, given.replace(motion=given.motion.at[:, 1].add(1.0))),
    )
    for change in changes:
        apart = np.abs(read(params, *change, empty)[0] - clean).max((0, 2, 3))
        assert np.all(apart[[0, 4]] == 0) and np.all(apart[1:4] > 1e-5)


def test_the_cache_gives_what_the_whole_sequence_gives(sequence):
    params, *rest = sequence
    whole, last = read(params, *rest, empty_cache(CONFIG.sizes, 2, 4))
    cache, pieces = empty_cache(CONFIG.sizes, 2, 4), []
    for i in range(5):
        clean, cache = read(params, *jax.tree.map(lambda a, i=i: a[:, i : i + 1], rest), cache)
        pieces.append(clean)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cache, last)


def test_policies_see_real_images_first_and_generated_ones_later(scene, keys, sim_config):
    """With two cameras of 8 x 8 side by side, which need another frame source and nothing else.

    What the ego does moves what it sees, and no box of the others.
    """
    shape, start = (8, 16, 3), jnp.full(4, 30)

    def recorded(boxes, scene, first, simulator):
        steps = first[:, None] + simulator.substeps * jnp.arange((boxes.x.shape[-1] - 1) // simulator.substeps + 1)
        return jnp.broadcast_to(steps[..., None, None, None].astype(jnp.uint8), (*steps.shape, *shape))

    model = Pixels(dataclasses.replace(CONFIG, moved=False), sim_config, recorded, shape)
    params = pixels_net.init_net(jax.random.key(1), shape, CONFIG.tokenizer, CONFIG.sizes)

    @jax.jit
    def views(acceleration):
        state = model.reset(params, keys, scene, start)
        action = Action(jnp.full((4, SUBSTEPS), acceleration), jnp.zeros((4, SUBSTEPS)))
        after, outcome = model.step(params, keys, state, action)
        return model.observe(params, state).bev, model.observe(params, after).bev, outcome.disagreement

    first, second, apart = views(0.0)
    np.testing.assert_array_equal(first, np.full((4, *shape), 30))
    assert second.shape == first.shape and second.dtype == jnp.uint8 and np.any(second != 30)
    assert apart.shape == (4,) and np.all(apart > 0)
    assert np.any(views(3.0)[1] != second)
