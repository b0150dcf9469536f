"""How well the `pixels` world model predicts the image, as JSON: `python -m benchmarks.pixels [--out DIR]`.

Fits the model on training scenes of a data set, the ego driving its log. Then imagines held-out scenes for 4 s, the ego
repeating its logged actions. The images are compared with the simulator's rendering of the log, at 0.5, 1, 2 and 4 s,
beside those of three baselines:

  hold    the last real image
  warp    the last real image, moved by the ego's exact motion over the whole time: the ground is right where it was in
          view, all other agents stand still
  decode  the true latent, decoded on top of the true image before: the upper bound of a step's prediction

PSNR is the mean over the scenes; intervals are bootstraps over recordings. `traffic` is the squared error of the
present channels of other vehicles and of vulnerable road users, which geometry does not predict.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import command
from tether.data.command_line import Parser
from tether.data.pipeline import stack
from tether.data.scene import Array, Record, Scene, SceneSpec
from tether.data.sources import STARTER, open_split
from tether.evaluation.statistics import bootstrap, paired_difference, recordings, spearman
from tether.policy.baselines import LogExpert
from tether.simulator.config import RenderConfig, SimulatorConfig
from tether.simulator.log_replay import LogReplay
from tether.simulator.prepare import prepare
from tether.simulator.render import CHANNELS
from tether.simulator.rollout import rollout
from tether.simulator.world import Agents
from tether.worldmodel import pixels_net
from tether.worldmodel.batch import ModelBatch, driven_window, from_rollout
from tether.worldmodel.fitting import fit_step, start_fit
from tether.worldmodel.frames import rendered_frames, warp
from tether.worldmodel.image_latent import PatchSizes, brightness
from tether.worldmodel.pixels import Pixels, PixelsConfig
from tether.worldmodel.window import EGO_MOTION_SCALE, ego_motion, ego_row

# Half the policy's resolution, over the same ground, so that this runs on two cores.
RENDER = RenderConfig(height=32, width=32, resolution=2.0, tile_height=160, tile_width=160)
SIMULATOR = SimulatorConfig(render=RENDER)
MODEL = PixelsConfig(
    tokenizer=PatchSizes(patch=4, latent=24, hidden=128), sizes=pixels_net.Sizes(width=64, layers=2, window=4)
)
FIT_HORIZON, HORIZON = 6, 8  # world steps
REPORTED = (1, 2, 4, 8)  # world steps after the last real image
SAMPLER_STEPS = (1, 2, 4)
LEARNING_RATE = 3e-3
TRAFFIC = tuple(CHANNELS.index(name) for name in ("vehicle", "vulnerable"))
START = SceneSpec.current


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.pixels", description=__doc__)
    parser.add_argument("--data", default=str(STARTER), help="data set (default: the starter set)")
    parser.add_argument("--steps", type=int, default=400, help="gradient steps (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=256, help="training scenes (default: %(default)s)")
    parser.add_argument("--test-scenes", type=int, default=96, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="scenes per step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and draws (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="folder for a figure of imagined images (default: none)")
    return parser.parse_args(arguments)


def read(directory: str, split: str, count: int) -> list[Record]:
    """Records with prepared scenes, spread evenly over a split."""
    source = open_split(directory, split, SceneSpec(agents=32))
    numbers = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
    records = (source[int(i)] for i in numbers)
    return [dataclasses.replace(record, scene=prepare(record.scene, SIMULATOR)) for record in records]


@functools.partial(jax.jit, static_argnums=2)
def replayed(scene: Scene, start: Array, horizon: int) -> ModelBatch:
    """The expert's rollouts from log steps `start` [B]."""
    keys = jax.random.split(jax.random.key(0), len(start))
    rollouts = rollout(LogReplay(SIMULATOR), (), LogExpert(SIMULATOR), (), scene, horizon, keys, keys, start)
    return from_rollout(scene, start, rollouts, jnp.ones(start.shape, bool))


def training_batches(records: list[Record], size: int, rng: np.random.Generator) -> Iterator[ModelBatch]:
    """Endless batches of random scenes from random starts, each rollout within its log."""
    latest = SceneSpec().steps - 1 - FIT_HORIZON * SIMULATOR.substeps
    while True:
        chosen = stack([records[i].scene for i in rng.choice(len(records), size, replace=False)])
        yield replayed(chosen, jnp.asarray(rng.integers(START, latest, size), jnp.int32), FIT_HORIZON)


def fit(model: Pixels, records: list[Record], options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Parameters after the fit, and its cost and last losses."""
    batches = training_batches(records, options.batch, np.random.default_rng(options.seed))
    k_init, k_fit = jax.random.split(jax.random.key(options.seed))
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, 20, options.steps, LEARNING_RATE / 20)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-3))
    state = start_fit(model.init(k_init, next(batches)), optimizer)
    step, history = jax.jit(fit_step(model, optimizer), donate_argnums=0), []
    for i in range(options.steps):
        if i == 1:
            begun = time.process_time()  # the first step compiles
        state, metrics = step(state, k_fit, next(batches))
        history.append({name: float(value) for name, value in metrics.items()})
    last = history[-max(options.steps // 10, 1) :]
    return state.params, {
        "cpu_s_per_step": round((time.process_time() - begun) / max(options.steps - 1, 1), 3),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "last_tenth": {name: round(float(np.mean([m[name] for m in last])), 4) for name in history[0]},
    }


def truth_of(batch: ModelBatch) -> tuple[Array, Agents]:
    """The logged images from the first state on, [B, H + 1, ...] in [0, 1], and the ego's boxes at these times."""
    first = START // SIMULATOR.substeps
    boxes = driven_window(batch, START, SIMULATOR)
    images = brightness(rendered_frames(boxes, batch.scene, batch.start - START, SIMULATOR))
    ego = ego_row(boxes[..., :: SIMULATOR.substeps], batch.scene.ego, -2)
    return images[:, first:], ego[:, first:]


def warped(image: Array, ego: Agents) -> Array:
    """The image [B, ...] of the first pose, moved to each pose of the ego [B, N]."""
    motion = ego_motion(ego[:, :1], ego)
    pose = [motion[..., i] / scale for i, scale in enumerate(EGO_MOTION_SCALE)]
    return jax.vmap(jax.vmap(functools.partial(warp, config=RENDER), (None, 0, 0, 0)))(image, *pose)[0]


def imagine(model: Pixels, params: Any, key: Array, batch: ModelBatch) -> tuple[Array, Array]:
    """The model's images [B, H, ...] in [0, 1] and disagreement [B, H]. No row ends early, so that all are compared."""

    def step(state: Any, inputs: tuple) -> tuple[Any, tuple]:
        index, action = inputs
        keys = jax.vmap(jax.random.fold_in, (0, None))(key, index)
        state = state.replace(scene=batch.scene, alive=jnp.ones_like(state.alive))
        following, outcome = model.step(params, keys, state, action)
        return following.replace(scene=()), (following.latent.image, outcome.disagreement)

    actions = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), batch.action)
    state = model.reset(params, key, batch.scene, batch.start).replace(scene=())
    _, drawn = jax.lax.scan(step, state, (jnp.arange(HORIZON), actions))
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), drawn)


def squared_errors(predicted: Array, truth: Array) -> dict[str, Array]:
    """Mean squared error [B, H] over all channels and over those of traffic."""
    error = jnp.square(predicted - truth).mean((-3, -2))
    return {"all": error.mean(-1), "traffic": error[..., jnp.array(TRAFFIC)].mean(-1)}


def measured(models: dict[str, Pixels], params: Any) -> Callable[[Array, ModelBatch], tuple]:
    """A function of a key and a batch that returns squared errors by method, disagreement by model, and the images."""

    @jax.jit
    def measure(key: Array, batch: ModelBatch) -> tuple[dict, dict[str, Array], dict[str, Array]]:
        images, ego = truth_of(batch)
        truth, any_model = images[:, 1:], next(iter(models.values()))
        given = any_model.window_given(params, images, ego)
        predicted = {
            "hold": jnp.broadcast_to(images[:, :1], truth.shape),
            "warp": warped(images[:, 0], ego)[:, 1:],
            "decode": any_model.decode(params, any_model.encode(params, images, given), given)[:, 1:],
        }
        disagreement = {}
        for name, model in models.items():
            predicted[name], disagreement[name] = imagine(model, params, key, batch)
        errors = {name: squared_errors(image, truth) for name, image in predicted.items()}
        return errors, disagreement, {"log": truth, **predicted}

    return measure


def rows_of(entries: list[dict], *path: str) -> np.ndarray:
    """One array [scenes, H] of all batches' entries."""
    return np.concatenate([np.asarray(functools.reduce(lambda tree, name: tree[name], path, e)) for e in entries])


def rounded(interval: dict[str, float]) -> str:
    """Mean and interval, to three digits after the point."""
    return "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**interval)


def report(errors: list[dict], disagreement: list[dict], groups: Sequence[str]) -> dict[str, Any]:
    """By method of prediction and time: PSNR, traffic error, and both paired with `warp`. groups: of the scenes."""
    psnr = {name: -10 * np.log10(rows_of(errors, name, "all")) for name in errors[0]}
    traffic = {name: 1e3 * rows_of(errors, name, "traffic") for name in errors[0]}
    by_method = {}
    for name in psnr:
        for h in REPORTED:
            by_method.setdefault(name, {})[f"{h * SIMULATOR.substeps * SIMULATOR.dt:g}s"] = {
                "psnr_db": rounded(bootstrap(psnr[name][:, h - 1], groups)),
                "psnr_db_over_warp": rounded(paired_difference(psnr[name][:, h - 1], psnr["warp"][:, h - 1], groups)),
                "traffic_1e-3": rounded(bootstrap(traffic[name][:, h - 1], groups)),
                "traffic_1e-3_over_warp": rounded(
                    paired_difference(traffic[name][:, h - 1], traffic["warp"][:, h - 1], groups)
                ),
            }
    ranks = {
        name: {
            f"step_{h}": round(spearman(rows_of(disagreement, name)[:, h - 1], -psnr[name][:, h - 1]), 3)
            for h in REPORTED
        }
        for name in disagreement[0]
    }
    return {"images": by_method, "disagreement_against_error": ranks}


def as_picture(image: np.ndarray) -> np.ndarray:
    """A BEV [H, W, C] in colours: road white, route green, vehicles red, a second ago dim, vulnerable users blue."""
    channel = dict(zip(CHANNELS, np.moveaxis(image, -1, 0), strict=True))
    ground = 0.5 * channel["road_edge"] + 0.25 * channel["lane"] + 0.15 * channel["marking"]
    past = 0.5 * channel["vehicle_0.5s_ago"] + 0.3 * channel["vehicle_1s_ago"]
    colours = [ground + channel["vehicle"] + past, ground + 0.4 * channel["route"], ground + channel["vulnerable"]]
    return np.clip(np.stack(colours, -1), 0, 1)


def draw(images: dict[str, Array], row: int, path: pathlib.Path) -> None:
    """Draws one scene: a row of images for each method of prediction, the log first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * HORIZON, 1.7 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), HORIZON, squeeze=False)
    for line, (name, sequence) in zip(axes, images.items(), strict=True):
        for h, axis in enumerate(line):
            axis.imshow(as_picture(np.asarray(sequence[row, h])))
            axis.set(xticks=[], yticks=[], title=f"{(h + 1) * SIMULATOR.substeps * SIMULATOR.dt:g} s")
        line[0].set_ylabel(name)
    figure.savefig(path, dpi=110)


def main(arguments: list[str]) -> None:
    """Fits, measures, prints."""
    options = parse(arguments)
    model = MODEL.build(SIMULATOR)
    train, held_out = read(options.data, "train", options.scenes), read(options.data, "test", options.test_scenes)
    if options.batch > min(len(train), len(held_out)):
        sizes = f"{len(train)} scenes to fit and {len(held_out)} held-out ones"
        raise ValueError(f"--batch: expected at most as many as there are, {sizes}, found {options.batch}")
    params, fitting = fit(model, train, options)
    models = {f"pixels_{k}": dataclasses.replace(MODEL, steps=k).build(SIMULATOR) for k in SAMPLER_STEPS}
    measure = measured(models, params)
    errors, disagreement, images = [], [], {}
    whole = len(held_out) - len(held_out) % options.batch
    for first in range(0, whole, options.batch):
        batch = replayed(
            stack([record.scene for record in held_out[first : first + options.batch]]),
            jnp.full(options.batch, START),
            HORIZON,
        )
        keys = jax.random.split(jax.random.key(options.seed + first + 1), options.batch)
        *measures, images = jax.device_get(measure(keys, batch))
        errors.append(measures[0])
        disagreement.append(measures[1])
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for row in range(4):
            draw(images, row, options.out / f"pixels_{row}.png")
    report_ = {
        "steps": options.steps,
        "batch": options.batch,
        "fit": fitting,
        **report(errors, disagreement, recordings(held_out[:whole])),
    }
    print(json.dumps(report_, indent=2))


if __name__ == "__main__":
    command.run(main)
