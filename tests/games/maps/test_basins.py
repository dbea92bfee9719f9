"""Basins of attraction of known maps."""

import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games


def test_basins_of_a_double_well_meet_between_the_wells():
    xs = jnp.linspace(-1.4, 1.4, 14)
    found = games.basins(lambda x: x - 0.5 * (x**3 - x), [xs], embed=lambda x: x)
    np.testing.assert_array_equal(found.labels, np.where(xs < 0, 1, 2))
    np.testing.assert_allclose(found.attractors[:2], [-1, 1], rtol=1e-12)
    assert np.all(np.isnan(found.attractors[2:]))
    np.testing.assert_allclose(found.fractions[:4], [0, 0, 0.5, 0.5], rtol=1e-15)
    assert found.num_attractors == 2


def test_basins_escape_boundary_of_descent_on_a_quartic():
    eta = 0.5
    boundary = np.sqrt(2 / eta)
    xs = jnp.asarray(boundary * np.array([-1.5, -1.001, -0.999, -0.2, 0.0, 0.999, 1.001]))
    found = games.basins(lambda x: x - eta * x**3, [xs], embed=lambda x: x, num_steps=3_000)
    np.testing.assert_array_equal(found.labels == -1, np.abs(xs) > boundary)
    # Only the start at rest has settled: the others approach as 1/√t and are not miscounted.
    assert found.num_attractors == 1


def test_basins_counts_a_cycle_once_and_lists_no_more_than_asked():
    def fn(z):
        x, y = z
        return -x * (1.5 - x**2 / 2), 0.3 * y  # x = ±1 is a two-cycle that attracts

    axes = [jnp.array([-1.2, -0.7, 0.5, 1.1]), jnp.array([-1.0, 2.0])]
    found = games.basins(fn, axes, embed=lambda x, y: (x, y))
    assert found.num_attractors == 1
    np.testing.assert_array_equal(found.labels, np.ones((4, 2)))
    many = games.basins(lambda z: z, axes, max_attractors=3, num_steps=1)  # every point is fixed
    assert many.num_attractors == 3
    np.testing.assert_array_equal(many.labels, [[1, 2], [3, 0], [0, 0], [0, 0]])


@pytest.mark.parametrize("n", [150, pytest.param(400, marks=pytest.mark.slow)])
def test_basins_of_henon_have_the_bounded_share_of_the_reference(n):
    def henon(z):
        return jnp.stack([1 - 1.4 * z[0] ** 2 + z[1], 0.3 * z[0]])

    axis = jnp.linspace(-2, 2, n)
    found = games.basins(henon, [axis, axis], num_steps=150, max_attractors=1, bound=100.0)
    # The border is about 20 sides long and each of its cells may fall on either side: √(20n)/n².
    np.testing.assert_allclose(
        1 - found.fractions[0], 0.4325, atol=3 * np.sqrt(20 * n) / n**2 + 2e-3
    )
    assert found.num_attractors == 0  # chaos is no cycle


@pytest.mark.parametrize(
    ("axes", "error", "match"),
    [
        ([], ValueError, "`axes` must hold at least one vector"),
        ([jnp.ones((2, 2))], ValueError, r"`axes\[0\]` must be a vector with a point"),
        ([jnp.arange(3)], TypeError, r"`axes\[0\]` must be a floating-point array"),
    ],
)
def test_basins_rejects_what_is_no_grid(axes, error, match):
    with pytest.raises(error, match=f"games.basins: {match}"):
        games.basins(lambda z: z, axes)
