"""Rounding, matrices of linear maps, linear solves and Newton's method, on flat vectors."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._types import Array

_Flat = Callable[[Array], Array]
# Above this many unknowns a matrix is no longer formed.
DENSE_LIMIT = 512


def rounding(dtype: jnp.dtype, power: float = 1) -> float:
    """The relative rounding error ε of a floating-point type, or a power of it."""
    return float(jnp.finfo(dtype).eps ** power)  # type: ignore[no-untyped-call]


def dense_matrix(matvec: _Flat, n: int, dtype: jnp.dtype) -> Array:
    """The matrix of a linear map on vectors of length n."""
    return jax.vmap(matvec, in_axes=1, out_axes=1)(jnp.eye(n, dtype=dtype))


def solve_linear(matvec: _Flat, b: Array, *, least_squares: bool = False) -> Array:
    """X with ``matvec(x) = b``: by a factorization where small, by GMRES where large.

    ``least_squares`` takes the solution of least norm of a singular system (where small).
    """
    if b.size > DENSE_LIMIT:

        def krylov(matvec: _Flat, b: Array) -> Array:
            return jax.scipy.sparse.linalg.gmres(  # type: ignore[no-untyped-call]
                matvec, b, tol=10 * rounding(b.dtype), restart=50, maxiter=20
            )[0]

        # GMRES of JAX has no transpose of its own.
        return jax.lax.custom_linear_solve(matvec, b, krylov, krylov)
    matrix = dense_matrix(matvec, b.size, b.dtype)
    if least_squares:
        # The pseudo-inverse is a constant of the solve, so that a multiple singular value, where
        # its own derivative does not exist, does no harm.
        return jnp.linalg.pinv(jax.lax.stop_gradient(matrix)) @ b
    return jnp.linalg.solve(matrix, b)


def newton_root(
    f: _Flat, start: Array, *, max_steps: int | Array, least_squares: bool = False
) -> Array:
    """A root of f near the start; it differentiates implicitly.

    Each step takes the best of eight lengths 1, 1/2, … 1/128 of Newton's direction. It ends where
    the residual is rounding, or no length makes it smaller.
    """

    def solve(g: _Flat, guess: Array) -> Array:
        return _iterate(g, guess, max_steps=max_steps, least_squares=least_squares)

    def tangent_solve(g: _Flat, y: Array) -> Array:
        return solve_linear(g, y, least_squares=least_squares)

    start = jax.lax.stop_gradient(start)
    return jax.lax.custom_root(f, start, solve, tangent_solve)


def _iterate(f: _Flat, start: Array, *, max_steps: int | Array, least_squares: bool) -> Array:
    tolerance = 8 * rounding(start.dtype)
    lengths = 0.5 ** jnp.arange(8, dtype=start.dtype)

    def residual(u: Array) -> Array:
        size = jnp.max(jnp.abs(f(u)))
        return jnp.where(jnp.isnan(size), jnp.inf, size)

    def unfinished(carry: tuple[Array, Array, Array, Array]) -> Array:
        u, size, previous, step = carry
        return (
            (step < max_steps) & (size > tolerance * (1 + jnp.max(jnp.abs(u)))) & (size < previous)
        )

    def advance(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        u, size, _, step = carry
        value, tangent = jax.linearize(f, u)
        direction = solve_linear(tangent, -value, least_squares=least_squares)
        candidates = jax.vmap(lambda t: u + t * direction)(lengths)
        sizes = jax.vmap(residual)(candidates)
        best = jnp.argmin(sizes)
        better = sizes[best] < size
        return (
            jnp.where(better, candidates[best], u),
            jnp.minimum(sizes[best], size),
            size,
            step + 1,
        )

    carry = (start, residual(start), jnp.asarray(jnp.inf, start.dtype), jnp.asarray(0))
    return jax.lax.while_loop(unfinished, advance, carry)[0]
