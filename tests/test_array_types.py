"""Arrays behind names: indexed, joined along time and transposed together."""

import jax.numpy as jnp
import numpy as np
import pytest

from tether.simulator.world import Agents


def boxes(first: float, steps: int) -> Agents:
    """Two agents, `Agents` [2, steps], the second 100 m from the first, at 3 m/s along x and 4 along y."""
    x = first + jnp.arange(steps) + jnp.array([[0.0], [100.0]])
    return Agents(x, -x, 0 * x, jnp.full_like(x, 3.0), jnp.full_like(x, 4.0), x < 100)


def test_an_index_selects_from_every_field():
    agents = boxes(0.0, 5)
    assert (agents[..., -1].x.tolist(), agents[..., -1].valid.tolist()) == ([4.0, 104.0], [True, False])
    assert agents[1, 2:].y.tolist() == [-102.0, -103.0, -104.0]
    assert agents[:, None].heading.shape == (2, 1, 5)


def test_later_steps_are_appended():
    joined = boxes(0.0, 3).then(boxes(3.0, 2))
    np.testing.assert_array_equal(joined.x, boxes(0.0, 5).x)
    np.testing.assert_array_equal(joined.valid, boxes(0.0, 5).valid)


def test_speed_and_time_first():
    agents = boxes(0.0, 3)
    np.testing.assert_allclose(agents.speed, np.full((2, 3), 5.0))
    assert agents.T.x.tolist() == [[0.0, 100.0], [1.0, 101.0], [2.0, 102.0]]


def test_a_record_of_arrays_is_no_sequence():
    """Python would iterate by index, and an index beyond the end of a `jax.Array` is no error."""
    with pytest.raises(TypeError, match="not iterable"):
        iter(boxes(0.0, 3))
