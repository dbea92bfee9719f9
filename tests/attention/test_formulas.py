"""The formulas of the theory page on linear memory, in NumPy, against the library's derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention

C = 0.7
# Sums of a dozen terms of order one.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def attend(q, k, v):
    """(o, L) of one head, without its axis."""
    y, lse = attention.dot_product_attention(
        q[:, None], k[:, None], v[:, None], scale=C, return_residual=True, block_size=3
    )
    return y[:, 0], lse[:, 0]


@pytest.fixture
def point(rng):
    return rng.normal(size=(5, 4)), rng.normal(size=(7, 4)), rng.normal(size=(7, 3))


@pytest.fixture
def direction(rng):
    return rng.normal(size=(5, 4)), rng.normal(size=(7, 4)), rng.normal(size=(7, 3))


@pytest.fixture
def cotangent(rng):
    return rng.normal(size=(5, 3)), rng.normal(size=5)


def forward(q, k, v):
    s = C * q @ k.T
    lse = np.log(np.exp(s).sum(1))
    p = np.exp(s - lse[:, None])
    return p, p @ v, lse


def tangents(point, direction):
    """Ṡ, L̇, Ȯ and Ṗ."""
    (q, k, v), (qd, kd, vd) = point, direction
    p, o, _ = forward(q, k, v)
    sd = C * (qd @ k.T + q @ kd.T)
    ld = (p * sd).sum(1)
    od = (p * sd) @ v - ld[:, None] * o + p @ vd
    return sd, ld, od, p * (sd - ld[:, None])


def vjp(point, cotangent):
    (q, k, v), (do, dl) = point, cotangent
    p, o, _ = forward(q, k, v)
    d = (do * o).sum(1) - dl
    ds = p * (do @ v.T - d[:, None])
    return C * ds @ k, C * ds.T @ q, p.T @ do


def test_tangent_formula_matches_jvp(point, direction):
    primal, tangent = jax.jvp(attend, point, direction)
    _, o, lse = forward(*point)
    for ours, expected in zip(primal, (o, lse), strict=True):
        np.testing.assert_allclose(ours, expected, **CLOSE)
    _, ld, od, _ = tangents(point, direction)
    np.testing.assert_allclose(tangent[0], od, **CLOSE)
    np.testing.assert_allclose(tangent[1], ld, **CLOSE)


def test_cotangent_formula_matches_vjp(point, cotangent):
    pulled = jax.vjp(attend, *map(jnp.asarray, point))[1](tuple(map(jnp.asarray, cotangent)))
    for ours, expected in zip(pulled, vjp(point, cotangent), strict=True):
        np.testing.assert_allclose(ours, expected, **CLOSE)


def test_tangent_of_the_cotangent_formula_matches_forward_over_reverse(
    point, direction, cotangent, rng
):
    (q, k, v), (qd, kd, vd) = point, direction
    do, dl = cotangent
    dod, dld = rng.normal(size=do.shape), rng.normal(size=dl.shape)

    def pulled(point, cotangent):
        return jax.vjp(attend, *point)[1](cotangent)

    ours = jax.jvp(pulled, (point, cotangent), (direction, (dod, dld)))[1]
    p, o, _ = forward(q, k, v)
    sd, ld, od, pd = tangents(point, direction)
    np.testing.assert_allclose(pd, p * (sd - ld[:, None]), **CLOSE)
    d = (do * o).sum(1) - dl
    dd = (dod * o + do * od).sum(1) - dld
    inner = do @ v.T - d[:, None]
    ds, dsd = p * inner, pd * inner + p * (dod @ v.T + do @ vd.T - dd[:, None])
    expected = (
        C * (dsd @ k + ds @ kd),
        C * (dsd.T @ q + ds.T @ qd),
        pd.T @ do + p.T @ dod,
    )
    for a, e in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, e, **CLOSE)


def test_partial_results_merge_by_their_log_sum_exp(point):
    q, k, v = point
    whole, lse = attend(q, k, v)
    (o1, l1), (o2, l2) = attend(q, k[:4], v[:4]), attend(q, k[4:], v[4:])
    merged = np.logaddexp(l1, l2)
    np.testing.assert_allclose(merged, lse, **CLOSE)
    output = np.exp(l1 - merged)[:, None] * o1 + np.exp(l2 - merged)[:, None] * o2
    np.testing.assert_allclose(output, whole, **CLOSE)
