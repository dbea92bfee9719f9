"""Lanczos's iteration with thick restarts: the largest eigenvalue of a symmetric map of pytrees."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from equipoise._types import Array, PyTree
from equipoise.games._rules.numerics import rounding

_Vector: TypeAlias = PyTree


class Largest(NamedTuple):
    """The largest eigenvalue, its unit vector, a bound of the error, and products it took."""

    value: Array
    vector: _Vector
    error: Array
    num_products: Array


class _Krylov(NamedTuple):
    """S V = V T + (next row) βᵀ: the relation that every step preserves, on the first rows."""

    basis: _Vector
    matrix: Array
    size: Array
    value: Array
    weights: Array
    error: Array
    num_products: Array


def inner(a: _Vector, b: _Vector) -> Array:
    """⟨a, b⟩."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jnp.sum(jnp.stack([jnp.vdot(x, y) for x, y in pairs]))


def scaled(factor: Array, a: _Vector) -> _Vector:
    """The vector times a number."""
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, a)


def _combined(weights: Array, rows: _Vector) -> _Vector:
    """The combination of rows with one weight each."""
    return jax.tree.map(lambda b: _product(weights.astype(b.dtype), b, 1), rows)


def rest_of(w: _Vector, rows: _Vector) -> tuple[_Vector, Array, Array]:
    """What of w is orthogonal to the rows, its coefficients along them, and the norm of the rest.

    The rest is 0 where it is rounding.
    """
    size, num = jnp.sqrt(inner(w, w)), sum(leaf.size for leaf in jax.tree.leaves(w))
    noise = 10 * math.sqrt(num) * rounding(size.dtype) * size
    coefficients = jnp.zeros(jax.tree.leaves(rows)[0].shape[0], size.dtype)
    for _ in range(2):  # the second pass makes the rest orthogonal to rounding
        parts = [
            _product(b, x, x.ndim)
            for b, x in zip(jax.tree.leaves(rows), jax.tree.leaves(w), strict=True)
        ]
        along = jnp.sum(jnp.stack(parts), axis=0).astype(size.dtype)
        w = jax.tree.map(lambda x, y: x - y, w, _combined(along, rows))
        coefficients = coefficients + along
    norm = jnp.sqrt(inner(w, w))
    norm = jnp.where(norm > noise, norm, 0)
    return scaled(jnp.where(norm > 0, 1, 0) / jnp.where(norm > 0, norm, 1), w), coefficients, norm


def largest_eigenvalue(
    apply: Callable[[_Vector], _Vector],
    start: _Vector,
    *,
    subspace: int,
    tolerance: float,
    max_products: int,
) -> Largest:
    """The largest eigenvalue of ``apply``, itself and not its modulus.

    The error is bounded by the residual r, and by r²/gap with the distance to the next eigenvalue
    as far as it is known.
    """
    num = sum(leaf.size for leaf in jax.tree.leaves(start))
    m = min(subspace, num)
    kept = max(1, m // 2)
    start = scaled(1 / jnp.sqrt(inner(start, start)), start)
    basis = jax.tree.map(lambda x: jnp.zeros((m + 1, *x.shape), x.dtype).at[0].set(x), start)
    zero = inner(start, start) * 0
    tolerance = max(tolerance, 4 * rounding(zero.dtype))
    begun = _Krylov(
        basis,
        jnp.zeros((m, m), zero.dtype),
        jnp.asarray(0),
        zero,
        jnp.zeros(m, zero.dtype),
        zero + jnp.inf,
        jnp.asarray(0),
    )

    def unfinished(krylov: _Krylov) -> Array:
        scale = jnp.maximum(jnp.abs(krylov.value), jnp.max(jnp.abs(jnp.diag(krylov.matrix))))
        is_known = jnp.isfinite(scale) | (krylov.num_products == 0)
        open_ = ~(krylov.error <= tolerance * scale) & (krylov.num_products < max_products)
        return open_ & is_known

    def advance(krylov: _Krylov) -> _Krylov:
        krylov = jax.lax.cond(krylov.size == m, lambda k: _compress(k, kept), lambda k: k, krylov)
        j = krylov.size
        w = apply(jax.tree.map(lambda b: b[j], krylov.basis))
        rest, along, norm = rest_of(w, krylov.basis)
        basis = jax.tree.map(lambda b, x: b.at[j + 1].set(x), krylov.basis, rest)
        matrix = krylov.matrix.at[:, j].set(along[:m]).at[j, :].set(along[:m])
        value, following, weights = _ritz(matrix, j + 1)
        residual = norm * jnp.abs(weights[j])
        gap = value - following
        # So early the next eigenvalue is not yet known.
        is_early = krylov.num_products < min(8, m - 1)
        error = jnp.where(is_early, residual, residual**2 / jnp.maximum(gap, residual))
        error = jnp.where(residual == 0, 0, error)
        return _Krylov(basis, matrix, j + 1, value, weights, error, krylov.num_products + 1)

    end = jax.lax.while_loop(unfinished, advance, begun)
    padded = jnp.append(end.weights, 0)
    return Largest(end.value, _combined(padded, end.basis), end.error, end.num_products)


def _ritz(matrix: Array, size: Array) -> tuple[Array, Array, Array]:
    """The largest eigenvalue of the rows in use, the next one, and the weights of its vector.

    Rows not yet in use get an eigenvalue below all others.
    """
    below = -10 * (1 + jnp.linalg.norm(matrix))
    used = jnp.arange(len(matrix)) < size
    values, vectors = jnp.linalg.eigh(matrix + jnp.diag(jnp.where(used, 0, below)))
    return values[-1], values[max(-2, -len(matrix))], vectors[:, -1]


def _compress(krylov: _Krylov, kept: int) -> _Krylov:
    """The relation on the vectors of the largest eigenvalues; the last row of the basis follows."""
    m = len(krylov.matrix)
    values, vectors = jnp.linalg.eigh(krylov.matrix)
    mixing = jnp.zeros((m + 1, m + 1), values.dtype)
    mixing = mixing.at[:kept, :m].set(vectors[:, m - kept :].T).at[kept, m].set(1)
    basis = jax.tree.map(lambda b: _product(mixing.astype(b.dtype), b, 1), krylov.basis)
    diagonal = jnp.zeros(m, values.dtype).at[:kept].set(values[m - kept :])
    return krylov._replace(basis=basis, matrix=jnp.diag(diagonal), size=jnp.asarray(kept))


def _product(a: Array, b: Array, axes: int) -> Array:
    return jnp.tensordot(a, b, axes, precision=jax.lax.Precision.HIGHEST)
