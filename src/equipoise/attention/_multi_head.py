"""The attention layer: projections around :func:`dot_product_attention`."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from equipoise._check import at, floating_array, value_error
from equipoise._types import Array, Bool, Float, Int, PRNGKeyArray, result, static_field
from equipoise.attention._cache import (
    KVCache,
    append_to_cache,
    check_cache,
    decode_step,
    init_cache,
    places,
)
from equipoise.attention._dot_product import dot_product_attention
from equipoise.attention._kernel.mesh import place, placed_by
from equipoise.attention._layer.plain import int32, plain_attention, weighted
from equipoise.attention._layer.plain import positions as positions_of
from equipoise.attention._layer.weights import (
    Extent,
    Size,
    Weight,
    normal,
    only_numbers,
    quotient,
    resolve,
    size,
    texts,
)
from equipoise.attention._masks.mask import Mask
from equipoise.attention._position import rotary_embedding

_Parameters: TypeAlias = dict[str, Array]
_Sides: TypeAlias = tuple[Extent, ...] | None


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

    model_size: Size = static_field()
    num_heads: Size = static_field()
    num_key_heads: Size = static_field()
    head_size: Size = static_field()
    value_size: Size = static_field()
    rotary_base: float | None = static_field()
    use_bias: bool = static_field()
    local_window_size: Size | tuple[Size | None, Size | None] | None = static_field()
    logits_soft_cap: float | None = static_field()

    @property
    def weights(self) -> dict[str, Weight]:
        """Shapes of the parameters, and how they are drawn."""
        d, n, k = self.model_size, self.num_heads, self.num_key_heads
        h, e = self.head_size, self.value_size
        inward, outward = normal(0, (1, 2)), normal((0, 1), 2)
        weights = {
            "query": Weight((d, n, h), inward),
            "key": Weight((d, k, h), inward),
            "value": Weight((d, k, e), inward),
            "output": Weight((n, e, d), outward),
        }
        if self.use_bias:
            biases = {"query": (n, h), "key": (k, h), "value": (k, e), "output": (d,)}
            weights |= {
                f"{name}_bias": Weight(shape, initializers.zeros) for name, shape in biases.items()
            }
        return weights

    @at("attention.MultiHeadAttention.init")
    def init(self, key: PRNGKeyArray, dtype: DTypeLike = jnp.float32) -> _Parameters:
        """Parameters: normal of variance 1/inputs; biases 0."""
        keys = iter(jax.random.split(key, 4))
        params = {}
        for name, weight in self.weights.items():
            only_numbers(weight)
            draw = key if weight.initializer is initializers.zeros else next(keys)
            params[name] = weight.initializer(draw, weight.shape, dtype)
        return params

    def shapes(self, dtype: str = "f32") -> dict[str, str]:
        """The parameters as strings such as ``"f32[d,n,h]"``, arguments of ``cost.analyze``."""
        return texts(self.weights, dtype)

    @at("attention.MultiHeadAttention.apply")
    @placed_by(lambda arguments: place(arguments["inputs"], without=1, beside=1))
    def apply(
        self,
        params: _Parameters,
        inputs: Float[Array, "*batch t d"],
        context: Float[Array, "*batch s d"] | None = None,
        *,
        is_causal: bool = False,
        bias: Float[Array, "..."] | None = None,
        mask: Bool[Array, "..."] | Mask | None = None,
        segment_ids: Int[Array, "*batch t"] | tuple[Array, Array] | None = None,
        positions: Int[Array, "*batch t"] | None = None,
        implementation: str | None = None,
    ) -> Float[Array, "*batch t d"]:
        """Output for every row of ``inputs``, which read ``context`` or themselves.

        ``positions`` turn the rotary embedding; with a context its tokens count from 0.
        ``implementation`` is that of :func:`dot_product_attention`, or ``"plain"``, which writes
        out the scores, s of them a row or those of the window, and can be analyzed with named
        sizes; it takes neither ``bias`` nor ``mask`` nor ``segment_ids``.
        """
        inputs = self._checked(params, "inputs", inputs)
        source = inputs if context is None else self._checked(params, "context", context)
        sides = self._sides(inputs)
        q, k, v = _projected(params, inputs, source)
        if self.rotary_base is not None:
            q = rotary_embedding(q, positions, base=self.rotary_base)
            k = rotary_embedding(k, positions if context is None else None, base=self.rotary_base)
        if implementation == "plain":
            if not (bias is mask is segment_ids is None):
                raise value_error(
                    "implementation",
                    "'plain' serves no bias, mask or segment ids",
                    implementation,
                    "Use implementation=None, which serves all.",
                )
            y = self._in_full(q, k, v, sides, is_causal=is_causal)
        else:
            y = dot_product_attention(
                q,
                k,
                v,
                bias,
                mask,
                is_causal=is_causal,
                segment_ids=segment_ids,
                local_window_size=sides,
                logits_soft_cap=self.logits_soft_cap,
                implementation=implementation,
            )
        return _output(params, y)

    def init_cache(
        self,
        capacity: int,
        *,
        batch: tuple[int, ...] = (),
        dtype: DTypeLike = jnp.float32,
        ring: bool = False,
    ) -> KVCache:
        """An empty cache for :meth:`step`."""
        return init_cache(
            capacity,
            self.num_key_heads,  # type: ignore[arg-type]  # names are refused there
            self.head_size,  # type: ignore[arg-type]
            value_size=self.value_size,  # type: ignore[arg-type]
            batch=batch,
            dtype=dtype,
            ring=ring,
        )

    @at("attention.MultiHeadAttention.step")
    @placed_by(places)
    def step(
        self,
        params: _Parameters,
        cache: KVCache,
        inputs: Float[Array, "*batch t d"],
        *,
        implementation: str | None = None,
    ) -> tuple[KVCache, Float[Array, "*batch t d"]]:
        """The cache with the next tokens, and their rows of the causal :meth:`apply`."""
        inputs = self._checked(params, "inputs", inputs)
        q, k, v = _projected(params, inputs, inputs)
        check_cache(cache)
        start = cache.length
        if self.rotary_base is not None:
            q, k = (rotary_embedding(x, offset=start, base=self.rotary_base) for x in (q, k))
        sides = self._sides(params["query"])
        if implementation == "plain":
            cache = append_to_cache(cache, k, v)
            return cache, _output(params, self._from_cache(cache, q, start, sides))
        cache, y = decode_step(
            cache,
            q,
            k,
            v,
            local_window_size=sides,
            logits_soft_cap=self.logits_soft_cap,
            implementation=implementation,
        )
        return cache, _output(params, y)

    def _in_full(self, q: Array, k: Array, v: Array, sides: _Sides, *, is_causal: bool) -> Array:
        """Attention with its scores written out."""
        left, right = sides or (None, None)

        def one(q: Array, k: Array, v: Array) -> Array:
            last = 0 if is_causal else right
            return plain_attention(q, k, v, left=left, right=last, cap=self.logits_soft_cap)

        return _over_batch(one, q.ndim - 3)(q, k, v)

    def _from_cache(self, cache: KVCache, q: Array, start: Array, sides: _Sides) -> Array:
        """The same for the last rows, whose keys and values were put into a cache."""
        at, slots = start + positions_of(q.shape[-3]), cache.positions[None]
        allowed = (slots >= 0) & (slots <= at[:, None])
        left = sides[0] if sides is not None else None
        if left is not None:
            allowed = allowed & (slots >= at[:, None] - int32(left))

        def one(q: Array, k: Array, v: Array) -> Array:
            y = weighted(q, k.astype(q.dtype), v.astype(q.dtype), allowed, self.logits_soft_cap)
            if cache.ring:
                return y
            return jnp.where((at < int32(cache.capacity))[:, None, None], y, jnp.nan)

        return _over_batch(one, q.ndim - 3)(q, cache.key, cache.value)

    def _sides(self, x: Array) -> _Sides:
        """The window as (left, right), its names as the symbolic dimensions of a traced array."""
        window = self.local_window_size
        if window is None:
            return None
        sides = window if isinstance(window, tuple) else (window, window)
        return tuple(
            None if side is None else resolve("local_window_size", side, x, of="inputs")
            for side in sides
        )

    def _checked(self, params: _Parameters, argument: str, value: Array) -> Array:
        array = floating_array(argument, value)
        size = params["query"].shape[0] if isinstance(self.model_size, str) else self.model_size
        if array.ndim < 2 or array.shape[-1] != size:
            raise value_error(argument, f"must have shape (*batch, t, {size})", array)
        return array


def _over_batch(function: Callable[..., Array], num_axes: int) -> Callable[..., Array]:
    for _ in range(num_axes):
        function = jax.vmap(function)
    return function


def _projected(params: _Parameters, inputs: Array, source: Array) -> tuple[Array, Array, Array]:
    """Queries of the inputs, keys and values of what they read."""
    return (
        _project(params, "query", inputs),
        _project(params, "key", source),
        _project(params, "value", source),
    )


def _project(params: _Parameters, name: str, x: Array) -> Array:
    y = jnp.einsum("...td,dnh->...tnh", x, params[name])
    bias = params.get(f"{name}_bias")
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 2) + bias.shape)


def _output(params: _Parameters, y: Array) -> Array:
    out = jnp.einsum("...tnv,nvd->...td", y, params["output"])
    bias = params.get("output_bias")
    return out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)


@at("attention.multi_head_attention")
def multi_head_attention(
    model_size: Size,
    num_heads: Size,
    *,
    num_key_heads: Size | None = None,
    head_size: Size | None = None,
    value_size: Size | None = None,
    rotary_base: float | None = None,
    use_bias: bool = False,
    local_window_size: Size | tuple[Size | None, Size | None] | None = None,
    logits_soft_cap: float | None = None,
) -> MultiHeadAttention:
    r"""Attention layer of several heads, as pure ``init``, ``apply`` and ``step``.

    .. math::

        y = \sum_{h=1}^{n} \operatorname{softmax}\!\left(
            \frac{x W^Q_h (c W^K_h)^\top}{\sqrt{d_h}}\right) c\, W^V_h W^O_h

    It is the library's one layer of attention: ``equipoise.layers`` builds its transformer block
    on it. It has batch axes, contexts and grouped heads, for use; and named sizes, for counting.

    Args:
        model_size: d, features of input and output; a number, or, as all sizes, a name for
            ``cost.analyze``, which takes ``shapes()`` and ``apply`` with
            ``implementation="plain"``.
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
        ``step(params, cache, inputs)`` → (cache, outputs), equal to the causal ``apply``.

    Raises:
        ValueError: If a size is below 1, ``num_key_heads`` does not divide ``num_heads``, or
            ``num_heads`` does not divide ``model_size`` where ``head_size`` is not given.
        TypeError: If a size is neither a Python integer nor a string.

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
    d, n = size("model_size", model_size), size("num_heads", num_heads)
    k = n if num_key_heads is None else size("num_key_heads", num_key_heads)
    if quotient(n, k) is None:
        raise value_error("num_key_heads", f"must divide `num_heads`, {n}", str(k))
    each = quotient(d, n) if head_size is None else size("head_size", head_size)
    if each is None:
        raise value_error(
            "num_heads", f"must divide `model_size`, {d}", str(n), "Or pass `head_size`."
        )
    h, e = each, each if value_size is None else size("value_size", value_size)
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
