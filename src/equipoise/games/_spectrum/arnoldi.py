"""Dominant eigenvalues of a linear map given only as ``v -> A v``, by restarted Arnoldi."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer, value_error
from equipoise._jax.traced import traced
from equipoise._types import Array, Bool, Float, Int, PRNGKeyArray, Shaped, result
from equipoise.games._rules.numerics import rounding


@result
class DominantEigenvalues:
    """Eigenvalues of largest modulus, with what is known of their accuracy.

    Attributes:
        values: Complex Ritz values, largest modulus first; of a pair, positive imaginary first.
        vectors: Unit Ritz vectors in the rows.
        residuals: ‖A v − λ v‖ of each; a normal A has an eigenvalue within this of λ.
        converged: Whether each residual is at most ``tolerance``·abs(λ).
        num_products: How often A was applied.
    """

    values: Shaped[Array, " num"]
    vectors: Shaped[Array, "num n"]
    residuals: Float[Array, " num"]
    converged: Bool[Array, " num"]
    num_products: Int[Array, ""]


class _Krylov(NamedTuple):
    """A V_j = V_j H_j + (next basis row) H[j, j-1]: the relation that every step preserves."""

    basis: Float[Array, "m_plus_1 n"]
    hessenberg: Float[Array, "m_plus_1 m"]
    size: Int[Array, ""]
    num_products: Int[Array, ""]


@at("games.dominant_eigenvalues")
def dominant_eigenvalues(
    matvec: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    example_vector: Float[Array, " n"],
    key: PRNGKeyArray,
    *,
    num: int = 2,
    subspace: int = 32,
    tolerance: float = 1e-6,
    max_restarts: int = 100,
) -> DominantEigenvalues:
    r"""The eigenvalues of largest modulus of a real matrix that is never formed.

    .. math::

        A V = V H + f e_m^\top, \qquad V^\top V = I, \qquad V^\top f = 0

    is what Arnoldi's process keeps, and the leading eigenvalues of H approach those of A. When V is
    full, the unwanted eigenvalues of H are applied as exact shifts, which compresses the relation
    to the wanted directions without an error beyond rounding (Sorensen's implicit restart). An
    invariant subspace is continued with a new direction, so a start that misses an eigenvector is
    no trap.

    Args:
        matvec: v -> A v, linear, on vectors like ``example_vector``.
        example_vector: Gives length n and dtype; its values are not used.
        key: Of the start vector, and of the directions after a breakdown.
        num: How many eigenvalues.
        subspace: How many rows V has, m; memory is about 3·m·n numbers.
        tolerance: Of the residual, relative to the modulus.
        max_restarts: Bounds the number of products by about ``subspace``·``max_restarts``.

    Returns:
        :class:`DominantEigenvalues`. A zero map gives zeros, converged. A map that produces NaN or
        infinity gives NaN, not converged. An eigenvalue that repeats with several eigenvectors may
        be reported once. A defective one is a cluster of radius ε^(1/size of the block).

    Raises:
        TypeError: If ``num`` or ``subspace`` is no Python integer.
        ValueError: If ``num`` exceeds n or the subspace leaves no room to restart.

    Cost: ``num_products`` products, each with 4·m·n operations to keep V orthonormal, and an
    eigenvalue problem of m unknowns a restart; memory of about 3·m·n numbers.

    Examples:
        >>> weights = jnp.linspace(0.01, 1.0, 100).at[-1].set(-2.0)
        >>> found = games.dominant_eigenvalues(
        ...     lambda v: weights * v, jnp.ones(100), jax.random.key(0), num=1)
        >>> print(found.values.real.round(4), found.converged)
        [-2.] [ True]

    References:
        :cite:t:`sorensen1992`
    """
    n = example_vector.size
    num = positive_integer("num", num)
    if num > n:
        raise value_error("num", f"must be at most the length {n} of the vector", num)
    m = min(positive_integer("subspace", subspace), n)
    if m < n and m < num + 3:
        raise value_error("subspace", "must be at least num + 3", subspace)
    known = traced(matvec, example_vector)
    return _compiled(known, example_vector, key, num, m, tolerance, max_restarts)


def arnoldi(
    matvec: Callable[[Array], Array],
    example_vector: Array,
    key: PRNGKeyArray,
    num: int,
    subspace: int = 32,
    tolerance: float | Array = 1e-6,
    max_restarts: int | Array = 100,
) -> DominantEigenvalues:
    """``dominant_eigenvalues`` without checks."""
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
        values, _, residuals = _ritz(krylov.hessenberg, num)
        done = jnp.all(residuals <= tolerance * jnp.abs(values))
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
    values, coordinates, residuals = _ritz(krylov.hessenberg, num)
    basis = krylov.basis[:m]
    return DominantEigenvalues(
        values=values,
        vectors=jax.lax.complex(coordinates.real.T @ basis, coordinates.imag.T @ basis),
        residuals=residuals,
        converged=residuals <= tolerance * jnp.abs(values),
        num_products=krylov.num_products,
    )


_compiled = jax.jit(arnoldi, static_argnums=(3, 4))


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


def _ritz(hessenberg: Array, num: int) -> tuple[Array, Array, Array]:
    """The ``num`` Ritz values of largest modulus, their unit coordinates, their residuals."""
    values, vectors = jnp.linalg.eig(hessenberg[:-1])
    order = _descending(values)[:num]
    coordinates = vectors[:, order]
    return values[order], coordinates, hessenberg[-1, -1] * jnp.abs(coordinates[-1])


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
