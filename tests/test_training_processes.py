"""Devices that are asked for and are not there."""

import jax
import pytest

from tether.training import processes


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda'")])
def test_a_device_that_is_not_there_is_named_beside_those_that_are(monkeypatch, error):
    there = jax.devices()

    def devices():
        if jax.config.jax_platforms == "cuda":
            raise error
        return there

    before = jax.config.jax_platforms
    monkeypatch.setattr(jax, "devices", devices)
    assert processes.devices() == there
    jax.config.update("jax_platforms", "cuda")
    try:
        with pytest.raises(ValueError, match=r"JAX_PLATFORMS asks for 'cuda': expected one of \['cpu'\]"):
            processes.devices()
        assert jax.config.jax_platforms == "cuda"
    finally:
        jax.config.update("jax_platforms", before)
