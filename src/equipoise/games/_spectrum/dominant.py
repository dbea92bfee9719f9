"""Dominant eigenvalues of a linear map that is given only as ``v -> A v``."""

from collections.abc import Callable

import jax

from equipoise._check import at, positive_integer, value_error
from equipoise._jax.traced import traced
from equipoise._types import Array, Float, PRNGKeyArray
from equipoise.games._spectrum.arnoldi import DominantEigenvalues, arnoldi


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
        key: Randomness of the start vector, and of the directions after a breakdown.
        num: How many eigenvalues.
        subspace: How many rows V has, m; memory is about 3·m·n numbers.
        tolerance: Largest residual that counts as none, relative to the modulus.
        max_restarts: Bounds the number of products by about ``subspace``·``max_restarts``.

    Returns:
        :class:`DominantEigenvalues`. A zero map gives zeros, converged. A map that produces NaN or
        infinity gives NaN, not converged. An eigenvalue that repeats with several eigenvectors may
        be reported once. A defective one is a cluster of radius ε^(1/size of the block).

    Raises:
        TypeError: If ``num`` or ``subspace`` is no Python integer.
        ValueError: If ``num`` exceeds n or the subspace leaves no room to restart.

    Cost: ``num_products`` products, each with 4·m·n operations to keep V orthonormal, and an
    eigenvalue problem of m unknowns per restart; memory of about 3·m·n numbers.

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
    return _arnoldi(known, example_vector, key, num, m, tolerance, max_restarts)


_arnoldi = jax.jit(arnoldi, static_argnums=(3, 4))
