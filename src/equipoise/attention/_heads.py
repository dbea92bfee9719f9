"""The layer of attention: its sizes, and projections around :func:`dot_product_attention`."""

import functools
from typing import TypeAlias, Unpack

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from equipoise._check import at, floating_array, value_error
from equipoise._types import Array, Bool, Float, Int, PRNGKeyArray, static_result
from equipoise.attention._cache.append import append_to_cache
from equipoise.attention._cache.cache import KVCache, check_cache, places
from equipoise.attention._cache.rows import next_positions
from equipoise.attention._cache.start import Layout, init_cache
from equipoise.attention._decode import decode_step
from equipoise.attention._dot_product import dot_product_attention
from equipoise.attention._kernel.mesh import place, placed_by
from equipoise.attention._layer.plain import Scores, Sides, from_slots, in_full, scale_of
from equipoise.attention._layer.plain import positions as positions_of
from equipoise.attention._layer.projections import absorbed, expanded, output, projected
from equipoise.attention._layer.weights import Size, Weight, drawn, normal, plus, resolve, texts
from equipoise.attention._masks.kinds import Window
from equipoise.attention._masks.mask import Mask
from equipoise.attention._position import rotary_embedding
from equipoise.attention._request import Scoring

_Parameters: TypeAlias = dict[str, Array]


@static_result
class MultiHeadAttention:
    """A layer's sizes, and the pure functions that initialize and apply it.

    Attributes:
        model_size: d, features of input and output.
        num_heads: n, query heads.
        num_key_heads: k, key and value heads.
        head_size: h, features of a query or key.
        value_size: e, features of a value.
        latent_size: c, numbers that keys and values of all heads are made of, or None.
        query_latent_size: The same of queries, or None.
        rotary_base: Base of the rotary embedding, or None without one.
        rotary_size: r, features that are turned: of a head, or beside it where there is a latent.
        use_bias: Whether projections add a bias.
        local_window_size: Positions that a row reads around its own, or None for all.
        logits_soft_cap: Bound on the scores, or None.
        scale: Factor on q·k, or None for 1/√h.
        normalize_keys: Whether queries and keys, or their latents, are divided by their root mean
            square.
        use_sinks: Whether each head has a logit that takes weight and gives no value.
        dropout_rate: Probability that a weight is dropped, where there is a key for it.
    """

    model_size: Size
    num_heads: Size
    num_key_heads: Size
    head_size: Size
    value_size: Size
    latent_size: Size | None
    query_latent_size: Size | None
    rotary_base: float | None
    rotary_size: Size | None
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
        h, e, c, r = self.head_size, self.value_size, self.latent_size, self.rotary_size
        inward, outward = normal(0, (1, 2)), normal((0, 1), 2)
        asking = d if self.query_latent_size is None else self.query_latent_size
        reading = d if c is None else c
        weights = {
            "query": Weight((asking, n, h), inward),
            "key": Weight((reading, k, h), inward),
            "value": Weight((reading, k, e), inward),
            "output": Weight((n, e, d), outward),
        }
        latents = {"latent": c, "query_latent": self.query_latent_size}
        there = {name: width for name, width in latents.items() if width is not None}
        weights |= {name: Weight((d, width), normal(0, 1)) for name, width in there.items()}
        if c is not None and r is not None:
            weights["rotary_query"] = Weight((asking, n, r), inward)
            weights["rotary_key"] = Weight((d, r), normal(0, 1))
        if self.use_bias:
            biases = {"query": (n, h), "key": (k, h), "value": (k, e), "output": (d,)}
            weights |= {
                f"{name}_bias": Weight(shape, initializers.zeros) for name, shape in biases.items()
            }
        if self.normalize_keys:
            normed = {"query": h, "key": h} if c is None else there
            weights |= {
                f"{name}_norm": Weight((width,), initializers.ones)
                for name, width in normed.items()
            }
        if self.use_sinks:
            weights["sinks"] = Weight((n,), initializers.zeros)
        return weights

    @at("attention.MultiHeadAttention.init")
    def init(self, key: PRNGKeyArray, dtype: DTypeLike = jnp.float32) -> _Parameters:
        """Parameters: normal of variance 1/inputs; biases and sinks 0, weights of norms 1."""
        weights = self.weights
        constant = initializers.zeros, initializers.ones
        random = {n: w for n, w in weights.items() if w.initializer not in constant}
        ordered = random | weights
        found = drawn(list(ordered.values()), key, dtype, len(random))
        return dict(zip(ordered, found, strict=True))

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
        stand for the layer's own: a window may be an array, so that layers in one scan each have
        their own. ``positions`` turn the rotary embedding; with a context its tokens count from 0.
        Without a ``dropout_key`` nothing is dropped. ``implementation`` is that of
        :func:`dot_product_attention`, or ``"plain"``, which writes out the scores, s of them per
        row or those of the window, and is analyzed exactly with named sizes; of the options and
        arrays it takes ``is_causal`` alone, and no sinks.
        """
        inputs = self._checked(params, "inputs", inputs)
        source = inputs if context is None else self._checked(params, "context", context)
        sides = self._sides(inputs)
        q, k, v = self._heads(
            params, inputs, source, positions, positions if context is None else None
        )
        if self.latent_size is not None:
            k, v = expanded(params, k)
        if implementation == "plain":
            is_causal = bool(options.pop("is_causal", False))
            arrays = {"bias": bias, "mask": mask, "dropout_key": dropout_key}
            self._only_plain([name for name, x in {**arrays, **options}.items() if x is not None])
            scores = Scores(self._scale(q), self.logits_soft_cap)
            return output(params, in_full(q, k, v, scores, sides, is_causal=is_causal))
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

    def init_cache(self, capacity: int, **layout: Unpack[Layout]) -> KVCache:
        """An empty cache for :meth:`step`, ``layout`` as in :func:`init_cache`.

        With a latent it holds c + r numbers per token, for all heads together.
        """
        heads, size, values = self.num_key_heads, self.head_size, self.value_size
        if self.latent_size is not None:
            heads, size, values = 1, plus(self.latent_size, self.rotary_size or 0), 0
        return init_cache(
            capacity,
            heads,  # type: ignore[arg-type]  # names are refused there
            size,  # type: ignore[arg-type]
            value_size=values,  # type: ignore[arg-type]
            **layout,
        )

    @at("attention.MultiHeadAttention.step")
    @placed_by(places)
    def step(
        self,
        params: _Parameters,
        cache: KVCache,
        inputs: Float[Array, "*batch t d"],
        *,
        entries: Int[Array, " m"] | None = None,
        lengths: Int[Array, "*batch"] | None = None,
        local_window_size: Window = None,
        implementation: str | None = None,
    ) -> tuple[KVCache, Float[Array, "*batch t d"]]:
        """The cache with the next tokens, and their rows of the causal :meth:`apply`.

        ``entries`` and ``lengths`` are those of :func:`decode_step`; rows beyond a length mean
        nothing.
        """
        inputs = self._checked(params, "inputs", inputs)
        check_cache(cache)
        start, latent = cache.length, self.latent_size is not None
        positions = next_positions(cache, inputs.shape[-2], entries)
        q, k, v = self._heads(params, inputs, inputs, positions, positions)
        scale, sides = self._scale(q), self._sides(params["output"])
        if latent:
            q = absorbed(params, q)
        if implementation == "plain":
            given = {
                "local_window_size": local_window_size,
                "a cache of one length an entry": cache.ragged or None,
                "a cache in 8 bits": cache.key_scale,
            }
            self._only_plain([name for name, x in given.items() if x is not None])
            cache = append_to_cache(cache, k, v)
            y = self._from_cache(cache, q, Scores(scale, self.logits_soft_cap), start, sides)
            return cache, output(params, y, of_kept=latent)
        cache, y = decode_step(
            cache,
            q,
            k,
            v,
            entries=entries,
            lengths=lengths,
            scale=scale,
            local_window_size=sides if local_window_size is None else local_window_size,
            logits_soft_cap=self.logits_soft_cap,
            sinks=params.get("sinks"),
            implementation=implementation,
        )
        return cache, output(params, y, of_kept=latent)

    @functools.partial(jax.jit, static_argnums=0, inline=True)
    def _heads(
        self,
        params: _Parameters,
        inputs: Array,
        source: Array,
        asked_at: Array | None,
        kept_at: Array | None,
    ) -> tuple[Array, Array, Array]:
        """Queries, and what is kept as keys and values, turned; one program where eager."""
        q, k, v = projected(params, inputs, source)
        if self.rotary_base is not None:
            turn = functools.partial(
                rotary_embedding,
                base=self.rotary_base,
                rotary_size=self.rotary_size,  # type: ignore[arg-type]  # a name is refused there
            )
            q, k = turn(q, asked_at), turn(k, kept_at)
        return q, k, v

    def _scale(self, q: Array) -> float | Array:
        return scale_of(q) if self.scale is None else self.scale

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

    def _from_cache(
        self, cache: KVCache, q: Array, scores: Scores, start: Array, sides: Sides
    ) -> Array:
        """Attention with its scores written out, of the last rows that were put into a cache."""
        v = cache.key if self.latent_size is not None else cache.value
        slots = cache.positions[None]
        y = from_slots(q, cache.key, v, scores, sides, slots=slots, start=start)
        if cache.ring:
            return y
        room = start + positions_of(q.shape[-3]) < jnp.asarray(cache.capacity, jnp.int32)
        return jnp.where(room[:, None, None], y, jnp.nan)

    def _sides(self, x: Array) -> Sides:
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
        size = params["output"].shape[-1] if isinstance(self.model_size, str) else self.model_size
        if array.ndim < 2 or array.shape[-1] != size:
            raise value_error(argument, f"must have shape (*batch, t, {size})", array)
        return array
