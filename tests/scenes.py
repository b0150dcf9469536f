"""The hand-made scenes of the conformance suite, under the name by which all tests know them."""

from tether.worldmodel.conformance.scenes import *  # noqa: F403
