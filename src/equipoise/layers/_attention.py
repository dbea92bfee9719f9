"""Self-attention: every position reads every other in one step."""

from typing import Any

import jax
import jax.numpy as jnp

from equipoise import _check_old as _check
from equipoise._types import Array, PyTree
from equipoise.attention import dot_product_attention
from equipoise.layers._layer import (
    Layer,
    Size,
    Weight,
    divide,
    glorot,
    no_step,
    resolve,
    sequence,
    size,
    softmax,
)


def attention_weights(where: str, width: Size, num_heads: Size) -> dict[str, Weight]:
    """The four projections, one matrix a head."""
    width, num_heads = size(where, "width", width), size(where, "num_heads", num_heads)
    each = divide(
        where, width, num_heads, f"For named sizes write the width as a product: '{num_heads}*k'."
    )
    head = glorot(in_axis=0, out_axis=(1, 2))
    return {
        "query": Weight((width, num_heads, each), head),
        "key": Weight((width, num_heads, each), head),
        "value": Weight((width, num_heads, each), head),
        "output": Weight((num_heads, each, width), glorot(in_axis=(0, 1), out_axis=2)),
    }


def project(params: PyTree, x: Array) -> tuple[Array, Array, Array]:
    """Queries, keys and values, each (n, h, k)."""
    return tuple(jnp.einsum("nd,dhk->nhk", x, params[name]) for name in ("query", "key", "value"))  # type: ignore[return-value]


def scale(q: Array) -> Any:
    """1/√k for a head of k features; a number where k is one."""
    k = q.shape[-1]
    return k**-0.5 if isinstance(k, int) else jax.lax.rsqrt(jnp.asarray(k, q.dtype))


def positions(n: Any) -> Array:
    """0 to n − 1; ``jnp.arange`` writes further operations when n is a name."""
    return jax.lax.iota(jnp.int32, n)


def int32(size: Any) -> Array:
    """A size as an operand: a name would be an int64 where those are on, and widen all indices."""
    return jnp.asarray(size, jnp.int32)


def _everywhere(q: Array, k: Array, v: Array) -> Array:
    weights = softmax(jnp.einsum("nhk,mhk->hnm", q * scale(q), k))
    return jnp.einsum("hnm,mhk->nhk", weights, v)


def _earlier(q: Array, k: Array, v: Array) -> Array:
    i = positions(q.shape[0])
    scores = jnp.einsum("nhk,mhk->hnm", q * scale(q), k)
    weights = softmax(jnp.where((i[:, None] >= i[None])[None], scores, -jnp.inf))
    return jnp.einsum("hnm,mhk->nhk", weights, v)


def _nearby(q: Array, k: Array, v: Array, offsets: Array) -> Array:
    """Every query against the keys at the given offsets: n·r scores, not n²."""
    at = positions(q.shape[0])[:, None] + offsets[None]
    last = int32(q.shape[0] - 1)
    allowed = (at >= 0) & (at <= last)
    at = jnp.clip(at, 0, last)

    def near(x: Array) -> Array:
        return x.at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)

    scores = jnp.einsum("nhk,nrhk->nhr", q * scale(q), near(k))
    weights = softmax(jnp.where(allowed[:, None], scores, -jnp.inf))
    return jnp.einsum("nhr,nrhk->nhk", weights, near(v))


def self_attention(
    width: Size,
    *,
    num_heads: Size = 1,
    is_causal: bool = False,
    window: Size | None = None,
    implementation: str = "plain",
) -> Layer:
    r"""Softmax self-attention over all positions, earlier ones, or a window of them.

    .. math::

        y_i = \sum_h \sum_{j \in A(i)} p^h_{ij}\, x_j W^h_V W^h_O, \qquad
        p^h_{ij} \propto \exp\bigl(k^{-1/2}\, x_i W^h_Q \cdot x_j W^h_K\bigr)

    A(i) is everything; j ≤ i if causal; and \|i − j\| < ``window`` besides, if that is given.
    Weights are drawn after Glorot and Bengio.

    Args:
        width: d, the width of input and output; a number, or a name for ``cost.analyze``.
        num_heads: h. It divides d; heads have k = d / h features.
        is_causal: Whether a position reads itself and earlier ones alone.
        window: How many positions to either side count, the own one included.
        implementation: ``"plain"`` writes out the scores, n² of them or n·r in a window, and can
            be analyzed with named sizes; ``"blockwise"`` is
            :func:`equipoise.attention.dot_product_attention`, in memory linear in n, whose loops
            over blocks need sizes that are numbers.

    Returns:
        A :class:`Layer` with ``params`` ``query``, ``key``, ``value`` (d, h, k) and ``output``
        (h, k, d). If causal, its state holds the keys and values of ``max_length`` positions, or
        of ``window``; a step past ``max_length`` gives nan.

    Raises:
        ValueError: If a size is below one or does not parse, the heads do not divide the width,
            the implementation is unknown, ``x`` is not (n, d), or ``step`` is asked of a layer
            that is not causal.

    Cost: 8·n·d² + 4·n²·d FLOPs; with a window of r, 4·n·d·r (causal) or 8·n·d·r in place of
    4·n²·d. A step costs 8·d² + 4·m·d for a state of m positions.

    Examples:
        >>> layer = layers.self_attention(4, num_heads=2, is_causal=True)
        >>> params = layer.init(jax.random.key(0))
        >>> layer.apply(params, jnp.ones((5, 4))).shape
        (5, 4)

    References:
        :cite:t:`vaswani2017`, equation 1 and section 4; :cite:t:`glorot2010understanding`.
    """
    where = "layers.self_attention"
    weights = attention_weights(where, width, num_heads)
    _check.choice(where, "implementation", implementation, ("plain", "blockwise"))
    window = None if window is None else size(where, "window", window)

    def apply(params: PyTree, x: Array) -> Array:
        x = sequence(where, x, params["query"].shape[0])
        q, k, v = project(params, x)
        if window is None:
            reach = None
        else:
            last = resolve(where, "window", window, x) - 1
            reach = (last, 0 if is_causal else last)
        if implementation == "blockwise":
            y = dot_product_attention(q, k, v, is_causal=is_causal, local_window_size=reach)
        elif reach is not None:
            y = _nearby(q, k, v, positions(sum(reach) + 1) - int32(reach[0]))
        else:
            y = (_earlier if is_causal else _everywhere)(q, k, v)
        return jnp.einsum("nhk,hkd->nd", y, params["output"])

    if not is_causal:
        return Layer(
            "self_attention", weights, apply, *no_step(where, "Make it with is_causal=True.")
        )

    def init_state(params: PyTree, max_length: int) -> tuple[Array, Array, Array]:
        length = _check.positive_integer(where, "max_length", max_length)
        if window is not None:
            length = resolve(where, "window", window, params["query"])
        cache = jnp.zeros((length, *params["key"].shape[1:]), params["key"].dtype)
        return cache, cache, jnp.zeros((), jnp.int32)

    def step(params: PyTree, state: Any, x_t: Array) -> tuple[Any, Array]:
        keys, values, t = state
        q, k, v = project(params, x_t[None])
        length = keys.shape[0]
        keys, values = (
            jax.lax.dynamic_update_index_in_dim(cache, new[0], t % length, 0)
            for cache, new in ((keys, k), (values, v))
        )
        scores = jnp.einsum("hk,mhk->hm", q[0] * scale(q), keys)
        weights = softmax(jnp.where((positions(length) <= t)[None], scores, -jnp.inf))
        y = jnp.einsum("hm,mhk->hk", weights, values)
        y_t = jnp.einsum("hk,hkd->d", y, params["output"])
        if window is None:
            y_t = jnp.where(t < length, y_t, jnp.nan)
        return (keys, values, t + 1), y_t

    return Layer("self_attention", weights, apply, init_state, step)
