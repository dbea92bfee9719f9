"""Arnoldi's iteration with implicit restarts, on a linear map given only as ``v -> A v``."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._types import Array, Bool, Float, Int, PRNGKeyArray, Shaped, result
from equipoise.games._rules.numerics import rounding


@result
class DominantEigenvalues:
    """Eigenvalues of largest modulus, with what is known of their accuracy.

    Attributes:
        values: Complex Ritz values, largest modulus first; of a pair, positive imaginary first.
        vectors: Unit Ritz vectors in the rows.
        residuals: ‖A v − λ v‖ of each, and not less than rounding makes of it, 8·√n·ε·‖A‖. A
            normal A has an eigenvalue within this of λ.
        conditions: How many times its residual an eigenvalue of another A can be off: 1/abs(⟨u, v⟩)
            with the left Ritz vector u.
        converged: Whether each residual is at most ``tolerance``·abs(λ), or rounding.
        num_products: How often A was applied.
    """

    values: Shaped[Array, " num"]
    vectors: Shaped[Array, "num n"]
    residuals: Float[Array, " num"]
    conditions: Float[Array, " num"]
    converged: Bool[Array, " num"]
    num_products: Int[Array, ""]


class _Krylov(NamedTuple):
    """A V_j = V_j H_j + (next basis row) H[j, j-1]: the relation that every step preserves."""

    basis: Float[Array, "m_plus_1 n"]
    hessenberg: Float[Array, "m_plus_1 m"]
    size: Int[Array, ""]
    num_products: Int[Array, ""]


def arnoldi(
    matvec: Callable[[Array], Array],
    example_vector: Array,
    key: PRNGKeyArray,
    num: int,
    subspace: int = 32,
    tolerance: float | Array = 1e-6,
    max_restarts: int | Array = 100,
) -> DominantEigenvalues:
    """The ``num`` eigenvalues of largest modulus; see ``dominant_eigenvalues``."""
    n = example_vector.size
    m = min(subspace, n)
    # Half of the space that is not wanted is kept: cheaper restarts against slower forgetting.
    keep = min(num + (m - num) // 2, m - 2)
    dtype = example_vector.dtype if example_vector.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)

    def apply(v: Array) -> Array:
        return matvec(v.astype(example_vector.dtype)).astype(dtype)

    start_key, key = jax.random.split(key)
    start = _random_unit(start_key, n, dtype)
    krylov = _Krylov(
        jnp.zeros((m + 1, n), dtype).at[0].set(start),
        jnp.zeros((m + 1, m), dtype),
        jnp.asarray(0, jnp.int32),
        jnp.asarray(0, jnp.int32),
    )

    def unfinished(carry: tuple[_Krylov, Array]) -> Array:
        krylov, rounds = carry
        done = jnp.all(_ritz(krylov.hessenberg, num, n, tolerance).converged)
        finite = jnp.all(jnp.isfinite(krylov.hessenberg))
        # Where m = n the first round leaves H similar to A, and its eigenvalues are final.
        last = 0 if m == n else max_restarts
        return (rounds == 0) | (finite & ~done & (rounds <= last))

    def next_round(carry: tuple[_Krylov, Array]) -> tuple[_Krylov, Array]:
        krylov, rounds = carry
        round_key = jax.random.fold_in(key, rounds)
        if m < n:
            krylov = jax.lax.cond(
                rounds > 0, lambda: _compress(krylov, keep, round_key), lambda: krylov
            )
        return _expand(apply, krylov, round_key), rounds + 1

    krylov, _ = jax.lax.while_loop(unfinished, next_round, (krylov, jnp.asarray(0, jnp.int32)))
    values, coordinates, residuals, conditions, converged = _ritz(
        krylov.hessenberg, num, n, tolerance
    )
    basis = krylov.basis[:m]
    return DominantEigenvalues(
        values=values,
        vectors=jax.lax.complex(coordinates.real.T @ basis, coordinates.imag.T @ basis),
        residuals=residuals,
        conditions=conditions,
        converged=converged,
        num_products=krylov.num_products,
    )


def _random_unit(key: PRNGKeyArray, n: int, dtype: jnp.dtype) -> Array:
    v = jax.random.normal(key, (n,), dtype)
    return v / jnp.linalg.norm(v)


def _orthonormal(
    w: Array, basis: Array, scale: Array, key: PRNGKeyArray
) -> tuple[Array, Array, Array]:
    """Orthogonalize w against the rows of the basis: unit rest, its coefficients, its norm.

    The norm is exactly 0 where the rest is rounding noise relative to ``scale``; the unit vector is
    then a random one. Rows not yet in use are zero and take no part.
    """
    first = basis @ w
    rest = w - first @ basis
    # √n·ε bounds the noise of one pass; ten of it also covers the sums over the basis.
    noise = 10 * math.sqrt(w.size) * rounding(w.dtype)
    broken = jnp.linalg.norm(rest) <= noise * scale

    def another() -> Array:
        v = _random_unit(key, w.size, w.dtype)
        return v - (basis @ v) @ basis

    rest = jax.lax.cond(broken, another, lambda: rest)
    second = basis @ rest  # the second pass makes the result orthogonal to rounding
    rest = rest - second @ basis
    norm = jnp.linalg.norm(rest)
    unit = rest / jnp.where(norm > 0, norm, 1)
    return unit, jnp.where(broken, first, first + second), jnp.where(broken, 0, norm)


def _expand(apply: Callable[[Array], Array], krylov: _Krylov, key: PRNGKeyArray) -> _Krylov:
    """Arnoldi steps until the basis is full."""
    m = krylov.hessenberg.shape[1]

    def step(krylov: _Krylov) -> _Krylov:
        basis, hessenberg, j, num_products = krylov
        w = apply(basis[j])
        unit, column, norm = _orthonormal(w, basis, jnp.linalg.norm(w), jax.random.fold_in(key, j))
        column = column.at[j + 1].set(norm)
        return _Krylov(
            basis.at[j + 1].set(unit), hessenberg.at[:, j].set(column), j + 1, num_products + 1
        )

    return jax.lax.while_loop(lambda krylov: krylov.size < m, step, krylov)


class _Ritz(NamedTuple):
    """Ritz values of largest modulus, their unit coordinates in columns, and how good they are."""

    values: Array
    coordinates: Array
    residuals: Array
    conditions: Array
    converged: Array


def _ritz(hessenberg: Array, num: int, n: int, tolerance: float | Array) -> _Ritz:
    square, eps = hessenberg[:-1], rounding(hessenberg.dtype)
    values, vectors = jnp.linalg.eig(square)
    order = _descending(values)[:num]
    coordinates, values = vectors[:, order], values[order]
    found = hessenberg[-1, -1] * jnp.abs(coordinates[-1])
    # √n·ε is the noise of a product and of a pass of orthogonalization.
    floor = 8 * math.sqrt(n) * eps * jnp.max(jnp.linalg.norm(square, axis=0))
    conditions = jnp.linalg.norm(jnp.linalg.inv(vectors), axis=1)[order]
    return _Ritz(
        values,
        coordinates,
        jnp.maximum(found, floor),
        jnp.where(jnp.isnan(conditions), jnp.inf, conditions),
        found <= jnp.maximum(tolerance * jnp.abs(values), floor),
    )


def _descending(values: Array) -> Array:
    """Order by modulus; stable, so that conjugates, which LAPACK puts side by side, stay so."""
    return jnp.argsort(-jnp.abs(values), stable=True)


def _compress(krylov: _Krylov, keep: int, key: PRNGKeyArray) -> _Krylov:
    """The Krylov relation of the ``keep`` (or one more, to hold a pair) wanted Ritz values."""
    basis, full, _, num_products = krylov
    hessenberg, last = full[:-1], full[-1, -1]
    m = hessenberg.shape[0]
    values = jnp.linalg.eigvals(hessenberg)
    values = values[_descending(values)]
    kept = jnp.where(values[keep - 1].imag > 0, keep + 1, keep)
    identity = jnp.eye(m, dtype=full.dtype)

    def shift(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        h, rotation = carry
        re, im = values[i].real, values[i].imag
        # A pair is one real quadratic, applied at its first member.
        single = h - re * identity
        factor = jnp.where(im == 0, single, single @ single + im**2 * identity)
        q, _ = jnp.linalg.qr(factor)
        skip = (i < kept) | (im < 0)
        rotated = jnp.triu(q.T @ h @ q, -1)  # Hessenberg again; below is rounding
        return jnp.where(skip, h, rotated), jnp.where(skip, rotation, rotation @ q)

    hessenberg, rotation = jax.lax.fori_loop(keep, m, shift, (hessenberg, identity))
    used = jnp.arange(m) < kept
    # One product makes the kept rows and, below them, the rest of the relation's last column.
    rest = jnp.append(rotation[:, kept] * hessenberg[kept, kept - 1], last * rotation[-1, kept - 1])
    mixing = jnp.zeros((m + 1, m + 1), full.dtype)
    mixing = mixing.at[:m, :m].set(jnp.where(used[:, None], rotation.T, 0)).at[kept].set(rest)
    basis = mixing @ basis
    unit, correction, norm = _orthonormal(
        basis[kept], basis.at[kept].set(0), jnp.max(jnp.abs(hessenberg)), key
    )
    full = full.at[:m].set(jnp.where(used[:, None] & used[None, :], hessenberg, 0)).at[m].set(0)
    full = full.at[:, kept - 1].add(correction).at[kept, kept - 1].set(norm)
    return _Krylov(basis.at[kept].set(unit), full, kept.astype(jnp.int32), num_products)
