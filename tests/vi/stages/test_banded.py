"""Matrices of a few diagonals: the same factors and solutions as full ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.vi._stages import banded


def matrix(size, width):
    """Positive definite, of that many diagonals, and shuffled."""
    rng = np.random.default_rng(size)
    root = np.tril(rng.standard_normal((size, size))) + 3 * np.eye(size)
    index = np.arange(size)
    root[index[:, None] - index > width] = 0
    shuffled = rng.permutation(size)
    return (root @ root.T)[np.ix_(shuffled, shuffled)]


@pytest.mark.parametrize(("size", "width"), [(1, 0), (12, 0), (12, 1), (40, 2), (12, 11)])
def test_factor_and_solutions_match_numpy(size, width):
    whole = matrix(size, width)
    order, found = banded.order_of(whole != 0)
    assert sorted(order) == list(range(size))
    # A series is found again; wider ones at most twice as wide, and full ones are told.
    assert (found is None) == (width == 11)
    assert found is None or found <= (width if width < 2 else 2 * width)
    ordered = whole[np.ix_(order, order)]
    stored = banded.stored(jnp.asarray(banded.directions(size, found) @ ordered), found)
    root = jax.jit(banded.factor, static_argnums=1)(stored, found)
    right = np.random.default_rng(0).standard_normal(size)
    expected = np.linalg.cholesky(ordered)
    for solve, full in ((banded.forward, expected), (banded.backward, expected.T)):
        # Well conditioned: some hundred roundings.
        np.testing.assert_allclose(solve(root, right, found), np.linalg.solve(full, right), 1e-11)
    np.testing.assert_allclose(banded.diagonal(root, found), np.diagonal(expected), 1e-12)


@pytest.mark.parametrize("width", [None, 1])
def test_factor_of_a_matrix_that_is_not_positive_definite_has_a_nan(width):
    stored = banded.stored(jnp.asarray(banded.directions(5, width) @ -np.eye(5)), width)
    assert np.isnan(banded.factor(stored, width)).any()
    mended = banded.with_diagonal(stored, 2 * np.ones(5), width)
    np.testing.assert_allclose(banded.diagonal(banded.factor(mended, width), width), 1)
