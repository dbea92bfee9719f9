"""Cholesky factors of correlation matrices as a support."""

import math

import jax.numpy as jnp
import numpy as np

from equipoise._types import Array
from equipoise.vi._supports.bijectors import rounding
from equipoise.vi._supports.support import Support


def cholesky_correlation() -> Support:
    r"""Cholesky factors of correlation matrices: triangular, with unit rows.

    .. math::

        L_{ij} = \tanh(u_{ij}) \prod_{k < j} \operatorname{sech}(u_{ik}), \quad
        L_{ii} = \prod_{k < i} \operatorname{sech}(u_{ik}), \qquad
        \log\left|\frac{\partial L}{\partial u}\right| = \sum_{j < i} \Bigl(
        2 \log \operatorname{sech}(u_{ij}) + \sum_{k < j} \log \operatorname{sech}(u_{ik}) \Bigr)

    Densities are with respect to the entries below the diagonal of L, as those of an LKJ
    distribution of the factor are.

    Args:
        None.

    Returns:
        A :class:`Support` for leaves of shape ``(*batch, n, n)`` with n ≥ 1; 0 maps to the
        identity. There are n(n − 1)/2 free numbers, the rows of u one after the other.

    Cost: O(n²) for each matrix.

    Examples:
        >>> family = vi.mean_field(jnp.eye(3), support=vi.cholesky_correlation())
        >>> factor = family.sample(family.init(), jax.random.key(0), 1)[0]
        >>> print(jnp.round(jnp.diag(factor @ factor.T), 4))
        [1. 1. 1.]

    References:
        :cite:t:`lewandowski2009`.
    """
    return _CHOLESKY_CORRELATION


def _size(count: int) -> int:
    return (1 + math.isqrt(1 + 8 * count)) // 2


def _rows(u: Array) -> Array:
    """The free numbers as a strictly lower triangular matrix."""
    n = _size(u.shape[-1])
    matrix = jnp.zeros((*u.shape[:-1], n, n), u.dtype)
    return matrix.at[(..., *np.tril_indices(n, -1))].set(u)


def _log_sech(u: Array) -> Array:
    return math.log(2) - jnp.abs(u) - jnp.log1p(jnp.exp(-2 * jnp.abs(u)))


def _log_remaining(rows: Array) -> Array:
    """Log of the length that entries to the left leave: Σ_{k<j} log sech u_ik."""
    logs = _log_sech(rows)
    return jnp.cumsum(logs, axis=-1) - logs


def _forward(u: Array) -> Array:
    rows = _rows(u)
    diagonal = np.arange(rows.shape[-1])
    entries = jnp.tanh(rows).at[..., diagonal, diagonal].set(1)
    return jnp.tril(entries * jnp.exp(_log_remaining(rows)))


def _inverse(factor: Array) -> Array:
    n = factor.shape[-1]
    squares = jnp.tril(factor) ** 2
    tail = jnp.cumsum(squares[..., ::-1], axis=-1)[..., ::-1] - squares
    below = (..., *np.tril_indices(n, -1))
    return jnp.arcsinh(factor[below] / jnp.sqrt(tail[below]))


def _log_volume(u: Array) -> Array:
    rows = _rows(u)
    below = (..., *np.tril_indices(rows.shape[-1], -1))
    return jnp.sum((2 * _log_sech(rows) + _log_remaining(rows))[below])


def _flat_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 1:
        raise ValueError("square matrices in the last two axes")
    return (*shape[:-2], shape[-1] * (shape[-1] - 1) // 2)


def _contains(factor: Array) -> Array:
    lengths = jnp.sum(jnp.tril(factor) ** 2, axis=-1)
    return (
        jnp.all(jnp.triu(factor, 1) == 0)
        & jnp.all(jnp.diagonal(factor, axis1=-2, axis2=-1) > 0)
        & jnp.all(jnp.abs(lengths - 1) < rounding(factor))
    )


_CHOLESKY_CORRELATION = Support(
    "cholesky_correlation",
    _flat_shape,
    _forward,
    _inverse,
    _log_volume,
    _contains,
    (cholesky_correlation, ()),
)
