"""The supports: positive, interval, simplex, ordered, Cholesky factor of a correlation."""

import functools
import math

import jax
import jax.numpy as jnp

from equipoise._check import at, type_error, value_error
from equipoise._types import Array
from equipoise.vi._supports.support import REAL, Support, same_shape


def real() -> Support:
    r"""All real numbers, entry by entry; what a leaf without bounds has.

    .. math::

        x = u, \qquad \log\left|\frac{\partial x}{\partial u}\right| = 0

    Args:
        None.

    Returns:
        A :class:`Support`. It contains every finite number.

    Cost: nothing.

    Examples:
        >>> supports = {"a": vi.real(), "b": vi.positive()}
        >>> family = vi.mean_field({"a": 0.0, "b": 1.0}, support=supports)
        >>> print(family.unravel(jnp.zeros(2)))
        {'a': Array(0., dtype=float32), 'b': Array(1., dtype=float32)}

    References:
        :cite:t:`kucukelbir2017`, section 2.3.
    """
    return REAL


def positive() -> Support:
    r"""Numbers above zero, entry by entry, by the exponential.

    .. math::

        x = e^u, \qquad \log\left|\frac{\partial x}{\partial u}\right| = \sum u

    Args:
        None.

    Returns:
        A :class:`Support`; 0 maps to 1. A normal family on it is log-normal.

    Cost: one exponential for each entry.

    Examples:
        >>> family = vi.mean_field(jnp.ones(2), support=vi.positive())
        >>> print(family.sample(family.init(), jax.random.key(0), 1000).min() > 0)
        True

    References:
        :cite:t:`kucukelbir2017`, section 2.3.
    """
    return interval(0.0, math.inf)


@at("vi.interval")
def interval(low: float, high: float) -> Support:
    r"""Numbers between two bounds, entry by entry; either bound may be infinite.

    .. math::

        x = a + (b - a)\,\sigma(u), \qquad
        \log\left|\frac{\partial x}{\partial u}\right| = \sum \log (b - a)\,\sigma(u)\,\sigma(-u)

    Args:
        low: a, in the units of the leaf, or −∞.
        high: b, in the units of the leaf, or ∞.

    Returns:
        A :class:`Support`; 0 maps to the middle. With one infinite bound, x = a + e^u or b − e^−u;
        with two it is all reals. Far out, x rounds to a bound, where the density of a family is 0.

    Raises:
        TypeError: If a bound is no number.
        ValueError: If ``low`` is not below ``high``, or either is nan.

    Cost: one exponential for each entry.

    Examples:
        >>> family = vi.mean_field(jnp.zeros(3), support=vi.interval(-1.0, 1.0))
        >>> print(family.unravel(jnp.array([-50.0, 0.0, 50.0])))
        [-1.  0.  1.]

    References:
        :cite:t:`kucukelbir2017`, section 2.3.
    """
    for name, bound in (("low", low), ("high", high)):
        if not hasattr(bound, "__float__"):
            raise type_error(name, "must be a number", bound)
    if not float(low) < float(high):
        raise value_error("low", "must be below `high`", f"low={low}, high={high}", "Swap them.")
    return _interval(float(low), float(high))


@functools.lru_cache(maxsize=256)
def _interval(low: float, high: float) -> Support:
    if math.isinf(low) and math.isinf(high):
        return REAL
    name = "positive" if (low, high) == (0.0, math.inf) else f"interval({low:g}, {high:g})"

    def contains(x: Array) -> Array:
        return jnp.all((x > low) & (x < high))

    recipe = _interval, (low, high)
    if math.isinf(high):
        return Support(
            name,
            same_shape,
            lambda u: low + jnp.exp(u) if low else jnp.exp(u),
            lambda x: jnp.log(x - low),
            jnp.sum,
            contains,
            recipe,
        )
    if math.isinf(low):
        return Support(
            name,
            same_shape,
            lambda u: high - jnp.exp(-u),
            lambda x: -jnp.log(high - x),
            lambda u: -jnp.sum(u),
            contains,
            recipe,
        )
    width = high - low
    return Support(
        name,
        same_shape,
        lambda u: low + width * jax.nn.sigmoid(u),
        lambda x: jnp.log(x - low) - jnp.log(high - x),
        lambda u: jnp.sum(math.log(width) + jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u)),
        contains,
        recipe,
    )


def ordered() -> Support:
    r"""Increasing vectors along the last axis, by positive steps.

    .. math::

        x_1 = u_1, \quad x_i = x_{i-1} + e^{u_i}, \qquad
        \log\left|\frac{\partial x}{\partial u}\right| = \sum_{i > 1} u_i

    Args:
        None.

    Returns:
        A :class:`Support` for leaves of shape ``(*batch, n)`` with n ≥ 1.

    Cost: one exponential and one addition for each entry.

    Examples:
        >>> family = vi.mean_field(jnp.zeros(3), support=vi.ordered())
        >>> print(family.unravel(jnp.zeros(3)))
        [0. 1. 2.]

    References:
        :cite:t:`carpenter2017`.
    """
    return _ORDERED


def _vector_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not shape or shape[-1] < 1:
        raise ValueError("a last axis with an entry at least")
    return shape


def _ordered_forward(u: Array) -> Array:
    steps = jnp.concatenate([u[..., :1], jnp.exp(u[..., 1:])], axis=-1)
    return jnp.cumsum(steps, axis=-1)


def _ordered_inverse(x: Array) -> Array:
    return jnp.concatenate([x[..., :1], jnp.log(jnp.diff(x, axis=-1))], axis=-1)


_ORDERED = Support(
    "ordered",
    _vector_shape,
    _ordered_forward,
    _ordered_inverse,
    lambda u: jnp.sum(u[..., 1:]),
    lambda x: jnp.all(jnp.isfinite(x)) & jnp.all(jnp.diff(x, axis=-1) > 0),
    (ordered, ()),
)


def simplex() -> Support:
    r"""Probability vectors along the last axis, by an orthonormal softmax.

    .. math::

        x = \operatorname{softmax}(V u), \qquad
        \log\left|\frac{\partial x_{1:n-1}}{\partial u}\right| = \sum_i \log x_i + \tfrac12 \log n

    The n − 1 columns of V are orthonormal and sum to 0 each, so that no entry is special. Densities
    are with respect to the first n − 1 entries, the convention in which a Dirichlet(1) density is
    the constant (n − 1)!.

    Args:
        None.

    Returns:
        A :class:`Support` for leaves of shape ``(*batch, n)`` with n ≥ 1; 0 maps to 1/n each.

    Cost: one exponential for each entry; V is never formed.

    Examples:
        >>> family = vi.mean_field(jnp.ones(4) / 4, support=vi.simplex())
        >>> print(family.dimension, family.unravel(jnp.zeros(3)))
        3 [0.25 0.25 0.25 0.25]

    References:
        :cite:t:`egozcue2003`, the isometric log-ratio transform.
    """
    return _SIMPLEX


def _helmert(u: Array) -> tuple[Array, Array]:
    """1, ..., n − 1 along the last axis, and the lengths of (1, ..., 1, −j, 0, ..., 0)."""
    j = jnp.broadcast_to(jnp.arange(1, u.shape[-1] + 1, dtype=u.dtype), u.shape)
    return j, jnp.sqrt(j * (j + 1))


def _simplex_logits(u: Array) -> Array:
    j, length = _helmert(u)
    w = u / length
    tail = jnp.cumsum(w[..., ::-1], axis=-1)[..., ::-1]
    zero = jnp.zeros((*u.shape[:-1], 1), u.dtype)
    return jnp.concatenate([tail, zero], axis=-1) - jnp.concatenate([zero, j * w], axis=-1)


def _simplex_inverse(x: Array) -> Array:
    z = jnp.log(x)
    j, length = _helmert(z[..., 1:])
    return (jnp.cumsum(z, axis=-1)[..., :-1] - j * z[..., 1:]) / length


def _simplex_log_volume(u: Array) -> Array:
    logits = _simplex_logits(u)
    vectors = logits.size // logits.shape[-1]
    return jnp.sum(jax.nn.log_softmax(logits)) + 0.5 * vectors * math.log(logits.shape[-1])


def _simplex_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = _vector_shape(shape)
    return (*shape[:-1], shape[-1] - 1)


def rounding(x: Array) -> float:
    """How far a sum of n entries of size 1 at most may be from its exact value, generously."""
    return math.sqrt(jnp.finfo(x.dtype).eps)  # type: ignore[no-untyped-call]


_SIMPLEX = Support(
    "simplex",
    _simplex_shape,
    lambda u: jax.nn.softmax(_simplex_logits(u)),
    _simplex_inverse,
    _simplex_log_volume,
    lambda x: jnp.all(x > 0) & jnp.all(jnp.abs(jnp.sum(x, axis=-1) - 1) < rounding(x)),
    (simplex, ()),
)
