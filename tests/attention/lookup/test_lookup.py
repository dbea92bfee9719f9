"""Lookup design: the least-norm query, its separation, and what it can lose."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.test_util import check_grads

from equipoise import attention

EPS = np.finfo(np.float64).eps


def problem(rng, n, d, m):
    weights = np.zeros(n)
    weights[rng.choice(n, m, replace=False)] = rng.dirichlet(np.full(m, 3.0))
    return rng.normal(size=(n, d)), weights


def constraints(keys, weights, sharpness):
    """Equalities E q = e and inequalities G q >= h, by the definition in NumPy."""
    support = np.flatnonzero(weights)
    others = np.flatnonzero(weights == 0)
    first = support[0]
    w = weights / weights.sum()
    equal = keys[support[1:]] - keys[first]
    ratios = np.log(w[support[1:]] / w[first])
    below = keys[first] - keys[others]
    gap = np.full(len(others), sharpness + np.log(len(support)) + np.log(w[first]))
    return equal, ratios, below, gap


def feasible_by_linear_programming(keys, weights, sharpness):
    equal, ratios, below, gap = constraints(keys, weights, sharpness)
    found = scipy.optimize.linprog(
        np.zeros(keys.shape[1]),
        A_ub=-below if len(below) else None,
        b_ub=-gap if len(below) else None,
        A_eq=equal if len(equal) else None,
        b_eq=ratios if len(equal) else None,
        bounds=(None, None),
    )
    return found.status == 0


def least_norm_by_enumeration(keys, weights, sharpness):
    """The smallest feasible least-norm solution over every set of tight inequalities."""
    equal, ratios, below, gap = constraints(keys, weights, sharpness)
    best = None
    for size in range(min(len(below), keys.shape[1]) + 1):
        for chosen in itertools.combinations(range(len(below)), size):
            rows = np.vstack([equal, below[list(chosen)]])
            bounds = np.concatenate([ratios, gap[list(chosen)]])
            q = np.linalg.pinv(rows) @ bounds if len(rows) else np.zeros(keys.shape[1])
            satisfied = np.allclose(rows @ q, bounds, atol=1e-9) and np.all(below @ q >= gap - 1e-9)
            if satisfied and (best is None or q @ q < best @ best):
                best = q
    return best


query = jax.jit(
    lambda keys, weights, sharpness: attention.lookup_query(keys, weights, sharpness=sharpness)
)
margin = jax.jit(attention.lookup_margin)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_lookup_query_is_the_least_norm_solution(rng, m):
    for trial in range(8):
        keys, weights = problem(rng, 7, (m, 5)[trial % 2], m)
        sharpness = rng.uniform(0.5, 8.0)
        found = query(keys, weights, sharpness)
        best = least_norm_by_enumeration(keys, weights, sharpness)
        assert bool(found.feasible) == (best is not None)
        assert bool(found.feasible) == feasible_by_linear_programming(keys, weights, sharpness)
        if best is not None:
            # Gaussian keys: condition numbers below 1e4, the oracle's own tests are 1e-9.
            np.testing.assert_allclose(found.query, best, rtol=1e-8, atol=1e-8 * np.abs(best).max())


def test_lookup_query_reads_the_mixture_with_the_margin(rng):
    reached = 0
    for _ in range(20):
        keys, weights = problem(rng, 9, 8, int(rng.integers(1, 4)))
        found = query(keys, weights, 5.0)
        reached += bool(found.feasible)
        scores = keys @ np.asarray(found.query)
        support = weights > 0
        mass = np.exp(scores[support])
        # Scores are of size |k||q|: their rounding is the error of the log weights.
        atol = 64 * EPS * (1 + np.abs(scores).max())
        np.testing.assert_allclose(mass / mass.sum(), weights[support], atol=atol, rtol=0)
        level = np.log(mass.mean())
        assert np.all(scores[~support] <= level - 5.0 + atol * np.exp(5))
        np.testing.assert_allclose(found.margin, level - scores[~support].max(), rtol=1e-9)
        np.testing.assert_allclose(found.norm, np.linalg.norm(found.query), rtol=4 * EPS)
    assert reached == 20, "as many dimensions as differences: always reachable"


def test_lookup_query_copies_orthonormal_keys(rng):
    n, beta = 6, 4.0
    keys = np.linalg.qr(rng.normal(size=(8, n)))[0].T
    for j in range(n):
        found = query(keys, np.eye(n)[j], beta)
        np.testing.assert_allclose(found.query, beta * (keys[j] - keys.mean(0)), atol=1e-13)
        # The definition βk_j has the same scores but for a constant: the same weights.
        plain = jax.nn.softmax(keys @ (beta * keys[j]))
        np.testing.assert_allclose(found.weights, plain, rtol=1e-12)
        assert found.norm < beta


def test_lookup_query_averages_orthonormal_keys():
    n, beta = 7, 3.0
    found = query(np.eye(n), np.array([0, 0.5, 0, 0, 0.5, 0, 0]), beta)
    alpha = np.exp(beta) / (2 * np.exp(beta) + n - 2)
    np.testing.assert_allclose(np.asarray(found.weights)[[1, 4]], alpha, rtol=1e-14)
    np.testing.assert_allclose(
        found.query, beta * (np.eye(n)[1] + np.eye(n)[4] - 2 / n), atol=1e-14
    )


def test_lookup_query_with_a_zero_key_is_the_plain_sum():
    # A key at the origin fixes the level of the scores, which leaves q = β(k_a + k_b).
    keys = np.vstack([np.eye(5), np.zeros(5)])
    found = query(keys, np.array([0.5, 0, 0.5, 0, 0, 0]), 2.5)
    np.testing.assert_allclose(found.query, [2.5, 0, 2.5, 0, 0], atol=1e-14)


def test_lookup_query_scales_and_moves_with_the_keys(rng):
    keys, weights = problem(rng, 6, 5, 2)
    found = query(keys, weights, 2.0)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    moved = query(3.0 * keys @ turn.T + rng.normal(size=5), weights, 2.0)
    np.testing.assert_allclose(moved.query, turn @ np.asarray(found.query) / 3, rtol=1e-11)
    order = rng.permutation(6)
    np.testing.assert_allclose(
        query(keys[order], weights[order], 2.0).query, found.query, rtol=1e-11
    )
    np.testing.assert_allclose(query(keys, 5 * weights, 2.0).query, found.query, rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_lookup_query_finds_a_key_inside_the_hull(rng, dtype, scale):
    corners = rng.normal(size=(4, 3))
    inside = np.array([0.1, 0.2, 0.3, 0.4]) @ corners
    keys = jnp.asarray(scale * np.vstack([corners, inside, rng.normal(size=(2, 3))]), dtype)
    weights = jnp.zeros(7, dtype).at[4].set(1)
    found = query(keys, weights, jnp.asarray(1.0, dtype))
    assert not found.feasible
    assert "separated" in attention.LookupReason(int(found.reason)).sentence
    assert np.all(np.isnan(found.query))
    assert np.all(np.isnan(found.weights))
    assert margin(keys, weights) == 0
    c = np.asarray(found.certificate, np.float64)
    eps = np.finfo(dtype).eps
    # c proves it: the wanted key is a convex combination of others, up to rounding.
    assert abs(c.sum()) <= 32 * eps * np.abs(c).sum()
    assert np.linalg.norm(c @ np.asarray(keys, np.float64)) <= 256 * eps * scale * np.abs(c).sum()
    assert c[4] > 0
    assert np.all(np.delete(c, 4) <= 0)


def test_lookup_query_reports_ratios_that_contradict():
    line = np.array([[0.0], [1.0], [2.0], [-9.0]])
    # The middle score is the mean of the outer two, so w_1² = w_0 w_2.
    assert query(line, np.array([0.1, 0.2, 0.4, 0.0]), 1.0).feasible
    found = query(line, np.array([0.1, 0.3, 0.4, 0.0]), 1.0)
    assert not found.feasible
    assert "ratios" in attention.LookupReason(int(found.reason)).sentence
    c = np.asarray(found.certificate)
    np.testing.assert_allclose(c @ line, 0, atol=1e-14)
    assert c[3] == 0


def test_lookup_query_reports_equal_keys():
    keys = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert not query(keys, np.array([1.0, 0, 0]), 1.0).feasible
    assert query(keys, np.array([0.5, 0.5, 0]), 1.0).feasible
    assert not query(keys, np.array([0.4, 0.6, 0]), 1.0).feasible


@pytest.mark.parametrize(
    "weights", [[0.0, 0.0], [-0.5, 1.5], [np.nan, 1.0], [np.inf, 1.0]], ids=str
)
def test_lookup_query_reports_weights_that_are_no_mixture(weights):
    found = query(np.eye(2), np.array(weights), 1.0)
    assert not found.feasible
    assert "weights" in attention.LookupReason(int(found.reason)).sentence
    assert np.all(np.isnan(found.query))
    assert np.isnan(margin(np.eye(2), np.array(weights)))
    bound = attention.lookup_error_bound(np.array(weights), np.eye(2), margin=1.0)
    assert np.isnan(bound.leaked_weight)
    assert np.isnan(attention.lookup_sharpness(np.array(weights), leaked_weight=0.1))


def test_lookup_query_edge_all_keys_in_the_mixture():
    found = query(np.eye(3), np.full(3, 1 / 3), 100.0)
    np.testing.assert_array_equal(found.query, np.zeros(3))
    assert found.margin == np.inf
    assert margin(np.eye(3), np.full(3, 1 / 3)) == np.inf
    assert query(np.ones((1, 2)), np.ones(1), 1.0).norm == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed_of_case", range(2))
def test_lookup_query_gradient_matches_finite_differences(seed_of_case):
    rng = np.random.default_rng(seed_of_case)
    keys, weights = problem(rng, 6, 4, 2)
    support = np.flatnonzero(weights)

    @jax.jit
    def solve(keys, wanted, sharpness):
        full = jnp.zeros(6).at[support].set(wanted)
        return attention.lookup_query(keys, full, sharpness=sharpness).query

    args = jnp.asarray(keys), jnp.asarray(weights[support]), jnp.asarray(3.0)
    assert np.all(np.isfinite(solve(*args)))
    check_grads(solve, args, order=1, eps=1e-5, rtol=1e-4)


def test_lookup_margin_gradient_matches_finite_differences(rng):
    keys, weights = problem(rng, 6, 5, 2)
    check_grads(lambda keys: margin(keys, weights), (jnp.asarray(keys),), order=2, modes=["rev"])


def test_lookup_query_float32_agrees_with_float64(rng):
    for _ in range(10):
        keys, weights = problem(rng, 8, 7, 2)
        wide = query(keys, weights, 4.0)
        narrow = query(*(jnp.asarray(x, jnp.float32) for x in (keys, weights, 4.0)))
        assert narrow.query.dtype == jnp.float32
        # Forward error of the active system: its condition number times float32 rounding.
        condition = np.linalg.cond(keys - keys.mean(0)) ** 2
        error = np.linalg.norm(np.asarray(narrow.query) - np.asarray(wide.query)) / wide.norm
        assert error <= 16 * condition * np.finfo(np.float32).eps


def test_lookup_query_half_precision_is_solved_in_single():
    found = query(*(jnp.asarray(x, jnp.bfloat16) for x in (np.eye(4), np.eye(4)[0], 4.0)))
    assert found.query.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found.query, np.float32), [3, -1, -1, -1])


@pytest.mark.parametrize("m", [1, 2, 3])
def test_lookup_margin_is_the_distance_between_the_hulls(rng, m):
    for _ in range(5):
        keys, weights = problem(rng, 7, 6, m)
        inside, outside = keys[weights > 0], keys[weights == 0]

        def gap(c, inside=inside, outside=outside):
            affine = np.append(c[: len(inside) - 1], 1 - c[: len(inside) - 1].sum())
            return affine @ inside - c[len(inside) - 1 :] @ outside

        count = m - 1 + len(outside)
        found = scipy.optimize.minimize(
            lambda c, gap=gap: gap(c) @ gap(c),
            np.full(count, 1 / count),
            method="SLSQP",
            bounds=[(None, None)] * (m - 1) + [(0, 1)] * len(outside),
            constraints={"type": "eq", "fun": lambda c, m=m: c[m - 1 :].sum() - 1},
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        # SLSQP ends with squared distance to about 1e-8.
        distance = margin(keys, weights)
        np.testing.assert_allclose(distance, np.sqrt(found.fun), rtol=1e-5, atol=2e-4)
        uniform = (weights > 0) / m
        np.testing.assert_allclose(query(keys, uniform, 3.0).norm, 3.0 / distance, rtol=1e-10)


def test_lookup_margin_of_orthonormal_keys():
    n = 6
    for m in range(1, n):
        weights = (np.arange(n) < m) / m
        expected = np.sqrt(1 / m + 1 / (n - m))  # distance of the two centroids
        np.testing.assert_allclose(margin(np.eye(n), weights), expected, rtol=1e-14)


def test_lookup_margin_gradient_is_zero_where_hulls_meet():
    line = jnp.array([[0.0], [1.0], [2.0]])
    gradient = jax.grad(margin)(line, jnp.array([0.0, 1.0, 0.0]))
    np.testing.assert_array_equal(gradient, 0)


def test_lookup_error_bound_holds_for_every_lookup(rng):
    for _ in range(20):
        keys, weights = problem(rng, 8, 7, int(rng.integers(1, 4)))
        values = rng.normal(size=(8, 3))
        found = query(keys, weights, rng.uniform(0.1, 6.0))
        bound = attention.lookup_error_bound(weights, values, margin=found.margin)
        alpha = np.asarray(found.weights)
        assert alpha[weights == 0].sum() <= bound.leaked_weight * (1 + 1e-12)
        error = np.linalg.norm(alpha @ values - weights @ values)
        assert error <= bound.output_error * (1 + 1e-12)


@pytest.mark.parametrize("m", [1, 2, 4])
def test_lookup_error_bound_is_exact_for_orthonormal_keys(rng, m):
    n, beta = 9, 2.0
    weights = (np.arange(n) < m) / m
    values = rng.normal(size=(n, 2))
    alpha = np.asarray(query(np.eye(n), weights, beta).weights)
    bound = attention.lookup_error_bound(weights, values, margin=beta)
    np.testing.assert_allclose(alpha[m:].sum(), bound.leaked_weight, rtol=1e-13)
    np.testing.assert_allclose(
        bound.leaked_weight, (n - m) / (m * np.exp(beta) + n - m), rtol=1e-13
    )
    target = weights @ values
    exact = bound.leaked_weight * np.linalg.norm(values[m:].mean(0) - target)
    np.testing.assert_allclose(np.linalg.norm(alpha @ values - target), exact, rtol=1e-12)


def test_lookup_error_bound_edge_no_other_key():
    bound = attention.lookup_error_bound(np.array([0.3, 0.7]), np.eye(2), margin=0.0)
    assert bound.leaked_weight == 0
    assert bound.output_error == 0


def test_lookup_sharpness_inverts_the_error_bound(rng):
    for leak in (0.5, 1e-3, 1e-9):
        _, weights = problem(rng, 30, 2, 4)
        needed = attention.lookup_sharpness(weights, leaked_weight=leak)
        bound = attention.lookup_error_bound(weights, np.eye(30), margin=needed)
        np.testing.assert_allclose(bound.leaked_weight, leak, rtol=1e-13)


def test_lookup_sharpness_edge_values():
    assert attention.lookup_sharpness(np.ones(3), leaked_weight=0.1) == -np.inf
    assert np.isnan(attention.lookup_sharpness(np.array([1.0, 0.0]), leaked_weight=1.5))


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        (ValueError, lambda: query(np.ones(3), np.ones(3), 1.0), "`keys` must be a matrix"),
        (ValueError, lambda: query(np.ones((0, 3)), np.ones(0), 1.0), "`keys` must be a matrix"),
        (
            ValueError,
            lambda: query(np.eye(3), np.ones(2), 1.0),
            r"`weights` must have shape \(3,\)",
        ),
        (ValueError, lambda: query(np.eye(3), np.ones(3), np.ones(3)), "`sharpness` must be a sc"),
        (TypeError, lambda: query(np.eye(3, dtype=int), np.ones(3), 1.0), "`keys` must be a fl"),
        (ValueError, lambda: attention.lookup_margin(np.eye(3), np.ones(2)), "`weights` must"),
        (TypeError, lambda: attention.lookup_margin(np.eye(3), np.ones(3, int)), "`weights` must"),
        (
            ValueError,
            lambda: attention.lookup_error_bound(np.ones(2), np.ones(2), margin=1.0),
            r"`values` must have shape \(n, e\)",
        ),
        (
            ValueError,
            lambda: attention.lookup_error_bound(np.ones(2), np.eye(3), margin=1.0),
            "`weights` must have shape",
        ),
        (
            ValueError,
            lambda: attention.lookup_error_bound(np.ones(3), np.eye(3), margin=np.ones(3)),
            "`margin` must be a scalar",
        ),
        (
            TypeError,
            lambda: attention.lookup_error_bound(np.ones(3), np.eye(3, dtype=int), margin=1.0),
            "`values` must be a floating",
        ),
        (
            ValueError,
            lambda: attention.lookup_sharpness(np.eye(2), leaked_weight=0.1),
            r"`weights` must have shape \(n,\)",
        ),
        (
            ValueError,
            lambda: attention.lookup_sharpness(np.ones(2), leaked_weight=np.ones(1)),
            "`leaked_weight` must be a scalar",
        ),
        (
            TypeError,
            lambda: attention.lookup_sharpness(np.ones(2, int), leaked_weight=0.1),
            "`weights` must be a floating",
        ),
    ],
)
def test_lookup_rejects_wrong_arguments(kind, call, message):
    with pytest.raises(kind, match=message):
        call()
