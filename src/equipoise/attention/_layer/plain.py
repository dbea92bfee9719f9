"""Attention with its scores written out, for small inputs and for what is counted by names.

Which blocks a loop computes is decided by values where lengths are names. Here every operation is
one that :mod:`equipoise.cost` counts exactly: n² scores, or n·r in a window.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from equipoise._types import Array
from equipoise.attention._kernel.problem import wide
from equipoise.attention._layer.weights import Extent

Sides: TypeAlias = tuple[Extent, ...] | None


def positions(n: Extent) -> Array:
    """0 to n − 1; ``jnp.arange`` writes further operations when n is a name."""
    return jax.lax.iota(jnp.int32, n)


def _int32(size: Extent) -> Array:
    """A size as an operand: a name would be an int64 where those are on, and widen all indices."""
    return jnp.asarray(size, jnp.int32)


class Scores(NamedTuple):
    """What the scores are made of beside queries and keys: their factor and their bound."""

    scale: float | Array
    cap: float | None


def scale_of(q: Array) -> float | Array:
    """1/√h for queries of h features; a number where h is one."""
    h: Extent = q.shape[-1]
    return h**-0.5 if isinstance(h, int) else jax.lax.rsqrt(jnp.asarray(h, q.dtype))


def in_full(
    q: Array, k: Array, v: Array, scores: Scores, sides: Sides, *, is_causal: bool
) -> Array:
    """Attention of sequences, q (*batch, t, n, h), in a window of (left, right)."""
    left, right = sides or (None, None)

    def one(q: Array, k: Array, v: Array) -> Array:
        return _attention(q, k, v, scores, left=left, right=0 if is_causal else right)

    return _over_batch(one, q.ndim - 3)(q, k, v)


def from_slots(
    q: Array, k: Array, v: Array, scores: Scores, sides: Sides, *, slots: Array, start: Array
) -> Array:
    """The same for the last rows, from ``start`` on; each slot of the keys has a position."""
    at = start + positions(q.shape[-3])
    allowed = (slots >= 0) & (slots <= at[:, None])
    left = sides[0] if sides is not None else None
    if left is not None:
        allowed = allowed & (slots >= at[:, None] - _int32(left))

    def one(q: Array, k: Array, v: Array) -> Array:
        return _weighted(q, k.astype(q.dtype), v.astype(q.dtype), scores, allowed)

    return _over_batch(one, q.ndim - 3)(q, k, v)


def _over_batch(function: Callable[..., Array], num_axes: int) -> Callable[..., Array]:
    for _ in range(num_axes):
        function = jax.vmap(function)
    return function


def _attention(
    q: Array, k: Array, v: Array, scores: Scores, *, left: Extent, right: Extent
) -> Array:
    """One sequence, q (t, n, h), k (s, k, h), v (s, k, e), each row reading a band of positions.

    A side of None is unbounded.
    """
    if left is not None and right is not None:
        return _nearby(q, k, v, scores, positions(left + right + 1) - _int32(left))
    if left is None and right is None:
        return _weighted(q, k, v, scores, None)
    i, j = positions(q.shape[0])[:, None], positions(k.shape[0])[None]
    if left is not None:
        return _weighted(q, k, v, scores, j >= i - _int32(left))
    causal = isinstance(right, int) and right == 0
    return _weighted(q, k, v, scores, i >= j if causal else j <= i + _int32(right))


def _weighted(q: Array, k: Array, v: Array, scores: Scores, allowed: Array | None) -> Array:
    """Every query against every key, ``allowed`` (t, s); a table of scores for each head."""
    k, v = _for_each_head(k, q), _for_each_head(v, q)
    table = _capped(jnp.einsum("nhk,mhk->hnm", q * scores.scale, k), scores.cap)
    if allowed is not None:
        table = jnp.where(allowed[None], table, -jnp.inf)
    return jnp.einsum("hnm,mhk->nhk", _softmax(table), v)


def _nearby(q: Array, k: Array, v: Array, scores: Scores, offsets: Array) -> Array:
    """Every query against the keys at the given offsets: n·r scores, not n²."""
    k, v = _for_each_head(k, q), _for_each_head(v, q)
    at = positions(q.shape[0])[:, None] + offsets[None]
    last = _int32(k.shape[0] - 1)
    allowed = (at >= 0) & (at <= last)
    at = jnp.clip(at, 0, last)

    def near(x: Array) -> Array:
        return x.at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)

    table = _capped(jnp.einsum("nhk,nrhk->nhr", q * scores.scale, near(k)), scores.cap)
    weights = _softmax(jnp.where(allowed[:, None], table, -jnp.inf))
    return jnp.einsum("nhr,nrhk->nhk", weights, near(v))


def _for_each_head(x: Array, q: Array) -> Array:
    """Keys or values with a head for each query head: n / k of those share one."""
    s, k, size = x.shape
    n = q.shape[1]
    if k == n:
        return x
    return jnp.broadcast_to(x[:, :, None], (s, k, n // k, size)).reshape(s, n, size)


def _capped(scores: Array, cap: float | None) -> Array:
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def _softmax(scores: Array) -> Array:
    """Weights over the last axis, taken in float32 at least."""
    return jax.nn.softmax(scores.astype(wide(scores.dtype)), axis=-1).astype(scores.dtype)
