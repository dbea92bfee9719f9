"""Laws of the matrix-free eigensolver, then NumPy's dense one, then size and memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games


# One compilation serves all cases of a size, so the cases share sizes.
@partial(jax.jit, static_argnames=("num", "subspace", "tolerance", "max_restarts"))
def solve(matrix, *, num=2, subspace=24, tolerance=1e-9, max_restarts=100):
    example = jnp.zeros(matrix.shape[0], matrix.dtype)
    return games.dominant_eigenvalues(
        lambda v: matrix @ v,
        example,
        jax.random.key(0),
        num=num,
        subspace=subspace,
        tolerance=tolerance,
        max_restarts=max_restarts,
    )


def dense(matrix):
    values = np.linalg.eigvals(matrix)
    return values[np.argsort(-np.abs(values), kind="stable")]


def rotated(block, rest, rng):
    """A block and smaller real eigenvalues, seen from random orthonormal axes."""
    size = len(block)
    n = size + len(rest)
    matrix = np.zeros((n, n))
    matrix[:size, :size] = block
    matrix[range(size, n), range(size, n)] = rest
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return q @ matrix @ q.T


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("n", [1, 2, 3, 24, 25, 60])
def test_dominant_eigenvalues_matches_numpy_float64(n, rng):
    matrix = rng.normal(size=(n, n))
    found = solve(matrix, num=min(n, 2))
    assert np.all(found.converged)
    # Random matrices are mildly non-normal: condition numbers below 100 at residual 1e-9.
    np.testing.assert_allclose(np.abs(found.values), np.abs(dense(matrix)[: min(n, 2)]), rtol=1e-7)
    assert found.num_products == n or n > 24


def test_dominant_eigenvalues_residual_is_that_of_the_vector(rng):
    matrix = rng.normal(size=(60, 60))
    found = solve(matrix, tolerance=1e-3)
    vectors = np.asarray(found.vectors)
    residual = vectors @ matrix.T - np.asarray(found.values)[:, None] * vectors
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-12)
    # The Krylov relation holds to rounding, 60·ε·‖A‖ ≈ 3e-13, through all restarts.
    np.testing.assert_allclose(np.linalg.norm(residual, axis=1), found.residuals, atol=1e-11)


def test_dominant_eigenvalues_finds_both_signs_of_a_tie(rng):
    matrix = rotated(np.diag([1.0, -1.0]), rng.uniform(-0.9, 0.9, 58), rng)
    found = solve(matrix)
    np.testing.assert_allclose(np.sort(found.values.real), [-1, 1], rtol=1e-9)


def test_dominant_eigenvalues_finds_equal_moduli_at_different_angles(rng):
    block = np.zeros((6, 6))
    angles = [0.3, 1.2, 2.0]
    for i, angle in enumerate(angles):
        block[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = rotation(angle)
    found = solve(rotated(block, rng.uniform(-0.9, 0.9, 54), rng), num=6)
    expected = sorted([-2.0, -1.2, -0.3, *angles])
    np.testing.assert_allclose(np.sort(np.angle(found.values)), expected, rtol=1e-8)


@pytest.mark.parametrize("size", [2, 3])
def test_dominant_eigenvalues_edge_defective_cluster(size, rng):
    block = np.eye(size) + np.diag(np.ones(size - 1), 1)
    found = solve(rotated(block, rng.uniform(-0.9, 0.9, 60 - size), rng), num=6)
    assert np.all(found.converged)
    # Perturbations of 1e-9 (the residual) move a block of size k by their kth root.
    np.testing.assert_allclose(found.values[:size], np.ones(size), atol=3 * 1e-9 ** (1 / size))


@pytest.mark.parametrize("matrix", [np.zeros((60, 60)), np.eye(60), np.ones((60, 60))])
def test_dominant_eigenvalues_edge_invariant_subspaces_are_continued(matrix):
    found = solve(matrix)
    assert np.all(found.converged)
    np.testing.assert_allclose(found.values, dense(matrix)[:2], atol=1e-13 * 60)


def test_dominant_eigenvalues_finds_copies_when_the_krylov_space_closes():
    found = solve(np.kron(np.eye(30), np.array([[0.0, -1.0], [1.0, 0.1]])), num=6)
    np.testing.assert_allclose(np.abs(found.values), np.ones(6), rtol=1e-12)


def test_dominant_eigenvalues_edge_nan_is_not_converged():
    found = solve(np.full((60, 60), np.nan))
    assert np.all(np.isnan(found.values))
    assert not np.any(found.converged)
    assert found.num_products == 24


def test_dominant_eigenvalues_says_when_restarts_run_out(rng):
    q, _ = np.linalg.qr(rng.normal(size=(60, 60)))
    found = solve(q, max_restarts=3)  # sixty eigenvalues of modulus one
    assert not np.any(found.converged)
    # Even so the values are Rayleigh quotients, which lie in the unit disc.
    assert np.all(np.abs(found.values) <= 1 + 1e-12)


def test_dominant_eigenvalues_vmap_equals_a_loop(rng):
    matrices = jnp.asarray(rng.normal(size=(3, 60, 60)))
    mapped = jax.vmap(solve)(matrices)
    for i in range(3):
        alone = solve(matrices[i])
        np.testing.assert_allclose(mapped.values[i], alone.values, rtol=1e-8)
        assert mapped.num_products[i] == alone.num_products


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
def test_dominant_eigenvalues_keeps_single_precision(dtype, tolerance, rng):
    matrix = np.asarray(rotated(rotation(1.0), rng.uniform(-0.8, 0.8, 58), rng))
    with jax.enable_x64(False):
        found = solve(jnp.asarray(matrix, dtype), tolerance=tolerance)
    assert found.values.dtype == jnp.complex64
    assert found.residuals.dtype == jnp.float32
    np.testing.assert_allclose(np.abs(found.values), [1, 1], rtol=10 * tolerance)


@pytest.mark.slow
def test_dominant_eigenvalues_of_a_hundred_thousand_unknowns_in_linear_memory():
    half, subspace, eta, sigma = 60_000, 40, 0.5, 1.0
    mu = jnp.linspace(0.1, 1.0, half, dtype=jnp.float32)

    def matvec(v):
        x, y = v[:half], v[half:]
        return jnp.concatenate([x - eta * (mu * x + sigma * y), y - eta * (mu * y - sigma * x)])

    def found():
        example = jnp.zeros(2 * half, jnp.float32)
        return games.dominant_eigenvalues(
            matvec, example, jax.random.key(1), subspace=subspace, tolerance=1e-4
        )

    for equation in jax.make_jaxpr(found)().jaxpr.eqns:
        assert all(np.size(v.aval) < 2 * half * (subspace + 2) for v in equation.outvars)
    compiled = jax.jit(found).lower().compile()
    numbers = compiled.memory_analysis().temp_size_in_bytes / 4 / (2 * half)
    assert numbers < 3 * subspace + 10
    result = compiled()
    exact = np.max(np.sqrt((1 - eta * np.asarray(mu)) ** 2 + (eta * sigma) ** 2))
    np.testing.assert_allclose(np.abs(result.values), exact, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num": 0}, r"dominant_eigenvalues: `num` must be at least 1; got int 0"),
        ({"num": 61}, r"dominant_eigenvalues: `num` must be at most the length 60"),
        ({"subspace": 4}, r"dominant_eigenvalues: `subspace` must be at least num \+ 3"),
    ],
)
def test_dominant_eigenvalues_rejects_sizes_that_do_not_fit(options, match):
    with pytest.raises(ValueError, match=match):
        solve(np.eye(60), **options)
