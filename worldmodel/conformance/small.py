"""The built-in models at sizes that compile fast: the rules do not depend on size."""

from typing import Any

from tether.worldmodel import pixels_net, rssm_net, tokens_net
from tether.worldmodel.image_latent import PatchSizes
from tether.worldmodel.kinematic import KinematicConfig
from tether.worldmodel.lanes import LanesConfig
from tether.worldmodel.oracle import OracleConfig
from tether.worldmodel.pixels import PixelsConfig
from tether.worldmodel.registry import WORLD_MODELS
from tether.worldmodel.rssm import RSSMConfig
from tether.worldmodel.tokens import TokensConfig

SMALL = {
    "kinematic": KinematicConfig(),
    "lanes": LanesConfig(),
    "oracle": OracleConfig(),
    "rssm": RSSMConfig(
        sizes=rssm_net.Sizes(deter=16, groups=2, classes=4, hidden=24, tokens=12, outcome_hidden=24, ensemble=2)
    ),
    "tokens": TokensConfig(
        sizes=tokens_net.Sizes(width=16, layers=2, heads=2, things=12, window=3, outcome_hidden=24, ensemble=2)
    ),
    "pixels": PixelsConfig(
        tokenizer=PatchSizes(patch=8, latent=8, hidden=24),
        sizes=pixels_net.Sizes(width=16, layers=1, heads=2, window=3, outcome_hidden=24),
        steps=2,
        finest=4,
    ),
}


def config_of(name: str) -> Any:
    """The config to test of a model: small for a built-in one, with its defaults for any other.

    Raises: ValueError for a name of which `Importable.default_config` makes nothing.
    """
    return SMALL[name] if name in SMALL else WORLD_MODELS.default_config(name)
