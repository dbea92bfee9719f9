"""The layer of attention: its sizes, and projections around :func:`dot_product_attention`."""

from collections.abc import Callable
from typing import TypeAlias, Unpack

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from equipoise._check import at, floating_array, value_error
from equipoise._types import Array, Bool, Float, Int, PRNGKeyArray, static_result
from equipoise.attention._cache.append import append_to_cache
from equipoise.attention._cache.cache import KVCache, check_cache, places
from equipoise.attention._cache.start import init_cache
from equipoise.attention._decode import decode_step
from equipoise.attention._dot_product import dot_product_attention
from equipoise.attention._kernel.mesh import place, placed_by
from equipoise.attention._layer.plain import int32, plain_attention, weighted
from equipoise.attention._layer.plain import positions as positions_of
from equipoise.attention._layer.projections import output, projected
from equipoise.attention._layer.weights import (
    Extent,
    Size,
    Weight,
    normal,
    only_numbers,
    resolve,
    texts,
)
from equipoise.attention._masks.kinds import Window
from equipoise.attention._masks.mask import Mask
from equipoise.attention._position import rotary_embedding
from equipoise.attention._request import Scoring

_Parameters: TypeAlias = dict[str, Array]
_Sides: TypeAlias = tuple[Extent, ...] | None


@static_result
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
        scale: Factor on q·k, or None for 1/√h.
        normalize_keys: Whether queries and keys are divided by their root mean square.
        use_sinks: Whether each head has a logit that takes weight and gives no value.
        dropout_rate: Probability that a weight is dropped, where there is a key for it.
    """

    model_size: Size
    num_heads: Size
    num_key_heads: Size
    head_size: Size
    value_size: Size
    rotary_base: float | None
    use_bias: bool
    local_window_size: Size | tuple[Size | None, Size | None] | None
    logits_soft_cap: float | None
    scale: float | None
    normalize_keys: bool
    use_sinks: bool
    dropout_rate: float

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
        if self.normalize_keys:
            weights |= dict.fromkeys(("query_norm", "key_norm"), Weight((h,), initializers.ones))
        if self.use_sinks:
            weights["sinks"] = Weight((n,), initializers.zeros)
        return weights

    @at("attention.MultiHeadAttention.init")
    def init(self, key: PRNGKeyArray, dtype: DTypeLike = jnp.float32) -> _Parameters:
        """Parameters: normal of variance 1/inputs; biases and sinks 0, weights of norms 1."""
        keys = iter(jax.random.split(key, 4))
        params = {}
        for name, weight in self.weights.items():
            only_numbers(weight)
            drawn = weight.initializer not in (initializers.zeros, initializers.ones)
            draw = next(keys) if drawn else key
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
        bias: Float[Array, "..."] | None = None,
        mask: Bool[Array, "..."] | Mask | None = None,
        positions: Int[Array, "*batch t"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
        implementation: str | None = None,
        **options: Unpack[Scoring],
    ) -> Float[Array, "*batch t d"]:
        """Output for every row of ``inputs``, which read ``context`` or themselves.

        ``options`` are those of :func:`dot_product_attention` from ``scale`` to ``mask_fn``, and
        stand for the layer's own: a window may be an array, so that layers in one scan have each
        theirs. ``positions`` turn the rotary embedding; with a context its tokens count from 0.
        Without a ``dropout_key`` nothing is dropped. ``implementation`` is that of
        :func:`dot_product_attention`, or ``"plain"``, which writes out the scores, s of them a row
        or those of the window, and is analyzed exactly with named sizes; of the options and
        arrays it takes ``is_causal`` alone, and no sinks.
        """
        inputs = self._checked(params, "inputs", inputs)
        source = inputs if context is None else self._checked(params, "context", context)
        sides = self._sides(inputs)
        q, k, v = projected(params, inputs, source)
        if self.rotary_base is not None:
            q = rotary_embedding(q, positions, base=self.rotary_base)
            k = rotary_embedding(k, positions if context is None else None, base=self.rotary_base)
        if implementation == "plain":
            is_causal = bool(options.pop("is_causal", False))
            arrays = {"bias": bias, "mask": mask, "dropout_key": dropout_key}
            self._only_plain([name for name, x in {**arrays, **options}.items() if x is not None])
            return output(params, self._in_full(q, k, v, sides, is_causal=is_causal))
        own: Scoring = {
            "scale": self.scale,
            "local_window_size": sides,
            "logits_soft_cap": self.logits_soft_cap,
            "sinks": params.get("sinks"),
        }
        own.update(options)
        y = dot_product_attention(
            q,
            k,
            v,
            bias,
            mask,
            dropout_rate=0.0 if dropout_key is None else self.dropout_rate,
            dropout_key=dropout_key,
            implementation=implementation,
            **own,
        )
        return output(params, y)

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
        local_window_size: Window = None,
        implementation: str | None = None,
    ) -> tuple[KVCache, Float[Array, "*batch t d"]]:
        """The cache with the next tokens, and their rows of the causal :meth:`apply`."""
        inputs = self._checked(params, "inputs", inputs)
        q, k, v = projected(params, inputs, inputs)
        check_cache(cache)
        start = cache.length
        if self.rotary_base is not None:
            q, k = (rotary_embedding(x, offset=start, base=self.rotary_base) for x in (q, k))
        sides = self._sides(params["query"])
        if implementation == "plain":
            self._only_plain(["local_window_size"] if local_window_size is not None else [])
            cache = append_to_cache(cache, k, v)
            return cache, output(params, self._from_cache(cache, q, start, sides))
        cache, y = decode_step(
            cache,
            q,
            k,
            v,
            scale=self.scale,
            local_window_size=sides if local_window_size is None else local_window_size,
            logits_soft_cap=self.logits_soft_cap,
            sinks=params.get("sinks"),
            implementation=implementation,
        )
        return cache, output(params, y)

    def _only_plain(self, given: list[str]) -> None:
        """Raises where scores that are written out were asked for more than they serve."""
        given = [*given, *(["sinks"] if self.use_sinks else [])]
        if given:
            raise value_error(
                "implementation",
                f"'plain' does not serve {', '.join(given)}",
                "plain",
                "Use implementation=None, which serves all.",
            )

    def _in_full(self, q: Array, k: Array, v: Array, sides: _Sides, *, is_causal: bool) -> Array:
        """Attention with its scores written out."""
        left, right = sides or (None, None)

        def one(q: Array, k: Array, v: Array) -> Array:
            last = 0 if is_causal else right
            return plain_attention(q, k, v, left=left, right=last, cap=self.logits_soft_cap)

        return _over_batch(one, q.ndim - 3)(self._scaled(q), k, v)

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

        return _over_batch(one, q.ndim - 3)(self._scaled(q), cache.key, cache.value)

    def _scaled(self, q: Array) -> Array:
        """Queries whose products, by the default scale, have the layer's."""
        if self.scale is None:
            return q
        return q * (jnp.sqrt(jnp.asarray(q.shape[-1], q.dtype)) * self.scale)

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
