"""Sizes of the policy, by about how many parameters they have.

Counted with the default images, instructions and bins, without cameras:

| size | discrete | flow |
|---|---|---|
| 1m | 919,368 | 1,035,542 |
| 10m | 9,986,913 | 10,841,887 |
| 50m | 52,103,937 | 54,998,847 |
| 300m | 294,501,569 | 312,093,311 |
"""

import math

import jax

from tether.policy.flow_head import FlowConfig
from tether.policy.vla import VLA, VLAConfig

SIZES = {
    "1m": VLAConfig(width=120, layers=4, heads=4, stem=(16, 32, 64, 96), value_width=64),
    "10m": VLAConfig(
        width=320,
        layers=7,
        heads=5,
        stem=(32, 64, 128, 256),
        value_heads=4,
        value_width=256,
        flow=FlowConfig(width=128, layers=3),
    ),
    "50m": VLAConfig(
        width=576,
        layers=12,
        heads=9,
        stem=(64, 128, 256, 384),
        value_heads=4,
        value_width=512,
        flow=FlowConfig(width=192, layers=4),
    ),
    "300m": VLAConfig(
        width=1152,
        layers=18,
        heads=18,
        stem=(64, 128, 256, 512),
        value_heads=4,
        value_width=512,
        flow=FlowConfig(width=384, layers=6),
    ),
}


def parameters(vla: VLA) -> int:
    """The number of a policy's parameters; nothing is allocated."""
    shapes = jax.eval_shape(vla.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
