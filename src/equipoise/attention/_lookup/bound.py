"""How much a lookup can lose to other keys, and the margin that keeps the loss small."""

import functools

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_array, value_error
from equipoise._types import Array, Float, Scalar, result
from equipoise.attention._kernel.mesh import replicated
from equipoise.attention._lookup.lookup import checked, mixture, scalar


@result
class LookupErrorBound:
    """How much weight a lookup loses to other keys, and how far its output can move.

    Attributes:
        leaked_weight: Largest total weight on keys outside the mixture.
        output_error: Largest Euclidean distance of the output from the wanted one.
    """

    leaked_weight: Scalar
    output_error: Scalar


@at("attention.lookup_error_bound")
@replicated
def lookup_error_bound(
    weights: Float[Array, " n"], values: Float[Array, "n e"], *, margin: Scalar | float
) -> LookupErrorBound:
    r"""How far a lookup with a given margin can be from the wanted mixture.

    .. math::

        \varepsilon \le \frac{(n - m)\, e^{-\Delta}}{m + (n - m)\, e^{-\Delta}}, \qquad
        \Bigl| o - \sum_{a \in A} w_a v_a \Bigr|
            \le \varepsilon \max_{i \notin A} \Bigl| v_i - \sum_{a \in A} w_a v_a \Bigr|

    A, of m keys, is where w > 0. For a copy, m = 1. The first is an equality if the other
    keys' scores are equal, as with orthonormal keys; then the error is ε times the distance of
    the *mean* of the other values from the mixture.

    Args:
        weights: w, the mixture, normalized here. Shape ``(n,)``.
        values: v, one row per key. Shape ``(n, e)``.
        margin: Δ, the log-mean-exp of the scores in A less the largest other score: the
            ``margin`` of a :class:`LookupQuery`, or its sharpness. A scalar.

    Returns:
        :class:`LookupErrorBound`; both numbers are 0 if no key lies outside A, NaN if
        ``weights`` is no mixture.

    Raises:
        ValueError: If ``weights`` is not a non-empty vector, ``values`` not a matrix of as many
            rows, or ``margin`` not a scalar.
        TypeError: If one of them is not floating-point.

    Cost: O(n·e) FLOPs.

    Examples:
        >>> bound = attention.lookup_error_bound(
        ...     jnp.array([1.0, 0.0, 0.0]), jnp.eye(3), margin=jnp.log(2.0))
        >>> print(bound.leaked_weight)
        0.5

    References:
        :cite:t:`vaswani2017`, equation 1, of which these are exact consequences.
    """
    values = floating_array("values", values)
    if values.ndim != 2:
        raise value_error("values", "must have shape (n, e)", values)
    values, weights, dtype = checked(values, weights, name="values")
    return _bound(values, weights, scalar("margin", margin), dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def _bound(values: Array, weights: Array, margin: Array, dtype: jnp.dtype) -> LookupErrorBound:
    delta = margin.astype(values.dtype)
    support, log_weights, valid = mixture(weights)
    w = jnp.where(support, jnp.exp(log_weights), 0)
    others = jnp.sum(~support, dtype=values.dtype)
    leaked = jnp.where(others > 0, jax.nn.sigmoid(_log_odds(support, delta.dtype) - delta), 0)
    squared = jnp.sum((values - (w @ values)[None]) ** 2, axis=1, where=~support[:, None])
    farthest = jnp.max(jnp.where(support, 0, squared))
    farthest = jnp.where(farthest > 0, jnp.sqrt(jnp.where(farthest > 0, farthest, 1)), 0)
    leaked = jnp.where(valid, leaked, jnp.nan)
    return LookupErrorBound(leaked.astype(dtype), (leaked * farthest).astype(dtype))


@at("attention.lookup_sharpness")
@replicated
def lookup_sharpness(weights: Float[Array, " n"], *, leaked_weight: Scalar | float) -> Scalar:
    r"""Margin at which a lookup leaks no more than a given weight, whatever the keys.

    .. math::

        \Delta = \log \frac{n - m}{m} + \log \frac{1 - \varepsilon}{\varepsilon}

    The inverse of the first bound of :func:`lookup_error_bound`: copying one of n keys with 99.9 %
    of the weight needs log(n − 1) + 6.907.

    Args:
        weights: w, the mixture; only where it is positive matters. Shape ``(n,)``.
        leaked_weight: ε in (0, 1), the total weight allowed outside the mixture. A scalar.

    Returns:
        Δ, a scalar, the ``sharpness`` to ask of :func:`lookup_query`. −∞ if no key lies
        outside the mixture; NaN if ``weights`` is no mixture or ε lies outside [0, 1].

    Raises:
        ValueError: If ``weights`` is not a non-empty vector or ``leaked_weight`` not a scalar.
        TypeError: If one of them is not floating-point.

    Cost: O(n) FLOPs.

    Examples:
        >>> one_of_1000 = jnp.zeros(1000).at[7].set(1.0)
        >>> print(f"{attention.lookup_sharpness(one_of_1000, leaked_weight=1e-3):.2f}")
        13.81

    References:
        :cite:t:`vaswani2017`, equation 1, of which this is an exact consequence.
    """
    weights = floating_array("weights", weights)
    if weights.ndim != 1:
        raise value_error("weights", "must have shape (n,)", weights)
    _, weights, dtype = checked(weights[:, None], weights)
    return _sharpness(weights, scalar("leaked_weight", leaked_weight), dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def _sharpness(weights: Array, leaked_weight: Array, dtype: jnp.dtype) -> Array:
    epsilon = leaked_weight.astype(weights.dtype)
    support, _, valid = mixture(weights)
    margin = _log_odds(support, epsilon.dtype) + jnp.log1p(-epsilon) - jnp.log(epsilon)
    return jnp.where(valid, margin, jnp.nan).astype(dtype)


def _log_odds(support: Array, dtype: jnp.dtype) -> Array:
    """log((n − m)/m), the log-odds of leaking when all scores are equal; −∞ at n = m."""
    others = jnp.sum(~support, dtype=dtype)
    return jnp.log(others) - jnp.log(jnp.sum(support, dtype=dtype))
