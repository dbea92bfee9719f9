"""The attention layer: projections around :func:`dot_product_attention`."""

from typing import Any

import jax
import jax.numpy as jnp

from equipoise import _check_old as _check
from equipoise._types import Array, Bool, Float, Int, PRNGKeyArray, result, static_field
from equipoise.attention._cache import KVCache, decode_step, init_cache
from equipoise.attention._dot_product import dot_product_attention
from equipoise.attention._masks import Mask
from equipoise.attention._position import rotary_embedding

Parameters = dict[str, Array]


@result
class MultiHeadAttention:
    """A layer's sizes, and the pure functions that initialize and apply it.

    Attributes:
        model_size: d, features of input and output.
        num_heads: n, query heads.
        num_key_heads: k, key and value heads.
        head_size: h, features of a query or key.
        value_size: e, features of a value.
        rotary_base: Base of the rotary embedding, or None without one.
        use_bias: Whether projections add a bias.
        local_window_size: Positions that a row reads around its own, or None for all.
        logits_soft_cap: Bound on the scores, or None.
    """

    model_size: int = static_field()
    num_heads: int = static_field()
    num_key_heads: int = static_field()
    head_size: int = static_field()
    value_size: int = static_field()
    rotary_base: float | None = static_field()
    use_bias: bool = static_field()
    local_window_size: int | tuple[int | None, int | None] | None = static_field()
    logits_soft_cap: float | None = static_field()

    def init(self, key: PRNGKeyArray, dtype: Any = jnp.float32) -> Parameters:
        """Parameters: normal of variance 1/inputs; biases 0."""
        d, n, k = self.model_size, self.num_heads, self.num_key_heads
        h, e = self.head_size, self.value_size
        shapes = {
            "query": (d, n, h),
            "key": (d, k, h),
            "value": (d, k, e),
            "output": (n, e, d),
        }
        keys = jax.random.split(key, len(shapes))
        params = {}
        for (name, shape), draw in zip(shapes.items(), keys, strict=True):
            inputs = n * e if name == "output" else d
            params[name] = jax.random.normal(draw, shape, dtype) * inputs**-0.5
            if self.use_bias:
                params[f"{name}_bias"] = jnp.zeros(shape[1:] if name != "output" else (d,), dtype)
        return params

    def apply(
        self,
        params: Parameters,
        inputs: Float[Array, "*batch t d"],
        context: Float[Array, "*batch s d"] | None = None,
        *,
        is_causal: bool = False,
        bias: Float[Array, "..."] | None = None,
        mask: Bool[Array, "..."] | Mask | None = None,
        segment_ids: Int[Array, "*batch t"] | tuple[Any, Any] | None = None,
        positions: Int[Array, "*batch t"] | None = None,
        implementation: str | None = None,
    ) -> Float[Array, "*batch t d"]:
        """Output for every row of ``inputs``, which read ``context`` or themselves.

        ``positions`` turn the rotary embedding; with a context its tokens count from 0.
        """
        where = "attention.MultiHeadAttention.apply"
        inputs = self._checked(where, "inputs", inputs)
        source = inputs if context is None else self._checked(where, "context", context)
        q = _project(params, "query", inputs)
        k = _project(params, "key", source)
        v = _project(params, "value", source)
        if self.rotary_base is not None:
            q = rotary_embedding(q, positions, base=self.rotary_base)
            own = positions if context is None else None
            k = rotary_embedding(k, own, base=self.rotary_base)
        y = dot_product_attention(
            q,
            k,
            v,
            bias,
            mask,
            is_causal=is_causal,
            segment_ids=segment_ids,
            local_window_size=self.local_window_size,
            logits_soft_cap=self.logits_soft_cap,
            implementation=implementation,
        )
        return _output(params, y)

    def init_cache(
        self,
        capacity: int,
        *,
        batch: tuple[int, ...] = (),
        dtype: Any = jnp.float32,
        ring: bool = False,
    ) -> KVCache:
        """An empty cache for :meth:`step`."""
        return init_cache(
            capacity,
            self.num_key_heads,
            self.head_size,
            value_size=self.value_size,
            batch=batch,
            dtype=dtype,
            ring=ring,
        )

    def step(
        self, params: Parameters, cache: KVCache, inputs: Float[Array, "*batch t d"]
    ) -> tuple[Float[Array, "*batch t d"], KVCache]:
        """The next rows of the causal :meth:`apply`, and the cache with their keys and values."""
        inputs = self._checked("attention.MultiHeadAttention.step", "inputs", inputs)
        q = _project(params, "query", inputs)
        k = _project(params, "key", inputs)
        v = _project(params, "value", inputs)
        if self.rotary_base is not None:
            q, k = (rotary_embedding(x, offset=cache.length, base=self.rotary_base) for x in (q, k))
        y, cache = decode_step(
            cache,
            q,
            k,
            v,
            local_window_size=self.local_window_size,
            logits_soft_cap=self.logits_soft_cap,
        )
        return _output(params, y), cache

    def _checked(self, where: str, argument: str, value: Any) -> Array:
        array = _check.floating_array(where, argument, value)
        if array.ndim < 2 or array.shape[-1] != self.model_size:
            raise _check.value_error(
                where, argument, f"must have shape (*batch, t, {self.model_size})", array
            )
        return array


def _project(params: Parameters, name: str, x: Array) -> Array:
    y = jnp.einsum("...td,dnh->...tnh", x, params[name])
    bias = params.get(f"{name}_bias")
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 2) + bias.shape)


def _output(params: Parameters, y: Array) -> Array:
    out = jnp.einsum("...tnv,nvd->...td", y, params["output"])
    bias = params.get("output_bias")
    return out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)


def multi_head_attention(
    model_size: int,
    num_heads: int,
    *,
    num_key_heads: int | None = None,
    head_size: int | None = None,
    value_size: int | None = None,
    rotary_base: float | None = None,
    use_bias: bool = False,
    local_window_size: int | tuple[int | None, int | None] | None = None,
    logits_soft_cap: float | None = None,
) -> MultiHeadAttention:
    r"""Attention layer of several heads, as pure ``init``, ``apply`` and ``step``.

    .. math::

        y = \sum_{h=1}^{n} \operatorname{softmax}\!\left(
            \frac{x W^Q_h (c W^K_h)^\top}{\sqrt{d_h}}\right) c\, W^V_h W^O_h

    Args:
        model_size: d, features of input and output.
        num_heads: n, query heads.
        num_key_heads: Key and value heads, a divisor of n; 1 is multi-query. Default n.
        head_size: Features of a query or key. Default d / n.
        value_size: Features of a value. Default ``head_size``.
        rotary_base: Base of a rotary embedding of queries and keys. Default none.
        use_bias: Whether projections add a bias.
        local_window_size: (left, right) of positions that a row reads, or one number.
        logits_soft_cap: x ↦ cap·tanh(x/cap) on the scores.

    Returns:
        :class:`MultiHeadAttention` with ``init(key, dtype)`` → parameters, ``apply(params, inputs,
        context=None, ...)`` → outputs, and for decoding ``init_cache(capacity, ...)`` and
        ``step(params, cache, inputs)`` → (outputs, cache), equal to the causal ``apply``.

    Raises:
        ValueError: If a size is below 1, ``num_key_heads`` does not divide ``num_heads``, or
            ``num_heads`` does not divide ``model_size`` where ``head_size`` is not given.
        TypeError: If a size is no Python integer.

    Cost: 4·t·d·(n·h + k·h) + 4·n·t·s·h FLOPs for h = e; memory linear in t.

    Examples:
        >>> layer = attention.multi_head_attention(8, 4, num_key_heads=2, rotary_base=1e4)
        >>> params = layer.init(jax.random.key(0))
        >>> y = layer.apply(params, jnp.ones((2, 5, 8)), is_causal=True)
        >>> print(y.shape)
        (2, 5, 8)

    References:
        :cite:t:`vaswani2017`, section 3.2.2; :cite:t:`ainslie2023gqa`.
    """
    where = "attention.multi_head_attention"
    d = _check.positive_integer(where, "model_size", model_size)
    n = _check.positive_integer(where, "num_heads", num_heads)
    k = _check.positive_integer(
        where, "num_key_heads", n if num_key_heads is None else num_key_heads
    )
    if n % k:
        raise _check.value_error(where, "num_key_heads", f"must divide `num_heads`, {n}", k)
    if head_size is None and d % n:
        raise _check.value_error(
            where, "num_heads", f"must divide `model_size`, {d}", n, "Or pass `head_size`."
        )
    h = _check.positive_integer(where, "head_size", d // n if head_size is None else head_size)
    e = _check.positive_integer(where, "value_size", h if value_size is None else value_size)
    return MultiHeadAttention(
        model_size=d,
        num_heads=n,
        num_key_heads=k,
        head_size=h,
        value_size=e,
        rotary_base=rotary_base,
        use_bias=use_bias,
        local_window_size=local_window_size,
        logits_soft_cap=logits_soft_cap,
    )
