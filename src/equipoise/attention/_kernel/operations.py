"""Operations on the arrays of a block, as few as can be: what is compiled is what they trace to."""

import jax.numpy as jnp
from jax import lax

from equipoise._types import Array


def heads_first(x: Array) -> Array:
    """The array with its axes over rows and heads exchanged, in whichever order they are."""
    return lax.transpose(x, (0, 2, 1, *range(3, x.ndim)))


def spread(x: Array, like: Array) -> Array:
    """The array with its numbers repeated along the last axis of another one."""
    return lax.broadcast_in_dim(x, like.shape, range(x.ndim))


def only(x: Array, where: Array, otherwise: float) -> Array:
    """The array, with a number where a condition that broadcasts to it does not hold."""
    where = lax.broadcast_in_dim(where, x.shape, range(x.ndim))
    return lax.select(where, x, lax.full_like(x, otherwise))


def clean(x: Array) -> Array:
    """The array with 0 for what is not finite."""
    return only(x, lax.is_finite(x), 0)


def broken_values(value: Array) -> Array:
    """For each key 0, or NaN if its value is not finite."""
    return lax.reduce_sum(lax.sub(value, value), (3,))


def both(a: Array | None, b: Array | None) -> Array | None:
    """Where both permit; None permits all."""
    return b if a is None else a if b is None else a & b


def product(a: Array, b: Array, *, along: int) -> Array:
    """For each batch entry and head, the sum over the last axis of a and this one of b."""
    return lax.dot_general(a, b, (((3,), (along,)), ((0, 1), (0, 1))))


def times_value(weight: Array, value: Array) -> Array:
    """(b, n, t, s) × (b, s, k, e) → (b, n, t, e); query heads of a group share the rows."""
    b, n, t, s = weight.shape
    keys = heads_first(value.astype(weight.dtype))
    k = keys.shape[1]
    out = product(weight.reshape(b, k, n // k * t, s), keys, along=2)
    return out.reshape(b, n, t, -1)


def times_rows(number: Array, vector: Array) -> Array:
    """(b, t, n) × (b, t, n, e), as a contraction over nothing.

    Its transpose is a contraction too, which XLA on CPU has faster than a sum of products.
    """
    rows = (0, 1, 2)
    return lax.dot_general(
        number, vector, (((), ()), (rows, rows)), precision=lax.Precision.HIGHEST
    )


def merged(o_1: Array, l_1: Array, o_2: Array, l_2: Array) -> tuple[Array, Array]:
    """Two partial results as one; a part that read nothing has l = −inf and weighs 0."""
    top = lax.max(l_1, l_2)
    some = top != -jnp.inf
    top = only(top, some, 0)
    w_1, w_2 = lax.exp(l_1 - top), lax.exp(l_2 - top)
    total = only(w_1 + w_2, some, 1)
    out = spread(w_1 / total, o_1) * o_1 + spread(w_2 / total, o_2) * o_2
    return out, only(lax.log(total) + top, some, -jnp.inf)
