"""Attention with its scores written out, for small inputs and for what is counted by names.

Which blocks a loop computes is decided by values where lengths are names. Here every operation is
one that :mod:`equipoise.cost` counts exactly: n² scores, or n·r in a window.
"""

import jax
import jax.numpy as jnp

from equipoise._types import Array
from equipoise.attention._kernel.problem import wide
from equipoise.attention._layer.weights import Extent


def positions(n: Extent) -> Array:
    """0 to n − 1; ``jnp.arange`` writes further operations when n is a name."""
    return jax.lax.iota(jnp.int32, n)


def int32(size: Extent) -> Array:
    """A size as an operand: a name would be an int64 where those are on, and widen all indices."""
    return jnp.asarray(size, jnp.int32)


def plain_attention(
    q: Array, k: Array, v: Array, *, left: Extent, right: Extent, cap: float | None
) -> Array:
    """One sequence, q (t, n, h), k (s, k, h), v (s, k, e), each row reading a band of positions.

    A side of None is unbounded.
    """
    if left is not None and right is not None:
        return _nearby(q, k, v, positions(left + right + 1) - int32(left), cap)
    if left is None and right is None:
        return weighted(q, k, v, None, cap)
    i, j = positions(q.shape[0])[:, None], positions(k.shape[0])[None]
    if left is not None:
        return weighted(q, k, v, j >= i - int32(left), cap)
    causal = isinstance(right, int) and right == 0
    return weighted(q, k, v, i >= j if causal else j <= i + int32(right), cap)


def weighted(q: Array, k: Array, v: Array, allowed: Array | None, cap: float | None) -> Array:
    """Every query against every key, ``allowed`` (t, s); a table of scores for each head."""
    k, v = _for_each_head(k, q), _for_each_head(v, q)
    scores = _capped(jnp.einsum("nhk,mhk->hnm", q * _scale(q), k), cap)
    if allowed is not None:
        scores = jnp.where(allowed[None], scores, -jnp.inf)
    return jnp.einsum("hnm,mhk->nhk", _softmax(scores), v)


def _nearby(q: Array, k: Array, v: Array, offsets: Array, cap: float | None) -> Array:
    """Every query against the keys at the given offsets: n·r scores, not n²."""
    k, v = _for_each_head(k, q), _for_each_head(v, q)
    at = positions(q.shape[0])[:, None] + offsets[None]
    last = int32(k.shape[0] - 1)
    allowed = (at >= 0) & (at <= last)
    at = jnp.clip(at, 0, last)

    def near(x: Array) -> Array:
        return x.at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)

    scores = _capped(jnp.einsum("nhk,nrhk->nhr", q * _scale(q), near(k)), cap)
    weights = _softmax(jnp.where(allowed[:, None], scores, -jnp.inf))
    return jnp.einsum("nhr,nrhk->nhk", weights, near(v))


def _for_each_head(x: Array, q: Array) -> Array:
    """Keys or values with a head for each query head: n / k of those share one."""
    s, k, size = x.shape
    n = q.shape[1]
    if k == n:
        return x
    return jnp.broadcast_to(x[:, :, None], (s, k, n // k, size)).reshape(s, n, size)


def _scale(q: Array) -> float | Array:
    """1/√h for a head of h features; a number where h is one."""
    h: Extent = q.shape[-1]
    return h**-0.5 if isinstance(h, int) else jax.lax.rsqrt(jnp.asarray(h, q.dtype))


def _capped(scores: Array, cap: float | None) -> Array:
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def _softmax(scores: Array) -> Array:
    """Weights over the last axis, taken in float32 at least."""
    return jax.nn.softmax(scores.astype(wide(scores.dtype)), axis=-1).astype(scores.dtype)
