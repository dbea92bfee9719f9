"""From the arguments of the public functions to a :class:`Problem`; every mistake raises here."""

import math
from collections.abc import Callable, Sequence
from typing import TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import floating_array, is_traced, type_error, value_error
from equipoise._types import Array, Float, Int, PRNGKeyArray
from equipoise.attention._kernel.grid import is_named
from equipoise.attention._kernel.problem import Problem, wide
from equipoise.attention._masks.arrays import over_pairs
from equipoise.attention._masks.functions import hoist
from equipoise.attention._masks.kinds import (
    Band,
    Before,
    Segments,
    Window,
    band,
    function_mask,
    window_sides,
)
from equipoise.attention._masks.mask import Mask, Pairs, parted


class Scoring(TypedDict, total=False):
    """What decides the weights, in the order of :func:`dot_product_attention`."""

    scale: float | Float[Array, ""] | None
    is_causal: bool
    query_seq_lengths: Int[Array, "*batch"] | None
    key_value_seq_lengths: Int[Array, "*batch"] | None
    local_window_size: Window
    logits_soft_cap: float | Float[Array, ""] | None
    segment_ids: Int[Array, "*batch t"] | tuple[Array, Array] | None
    sinks: Float[Array, " n"] | None
    query_offset: int | Int[Array, "*batch"]
    score_fn: Callable[..., Array] | None
    mask_fn: Callable[..., Array] | None


class Options(Scoring, total=False):
    """What attention can be asked for by keyword: then, which of the weights are kept."""

    dropout_rate: float
    dropout_key: PRNGKeyArray | None


def problem_of(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    mask: Array | Mask | None = None,
    **options: Unpack[Options],
) -> Problem:
    """The problem in normal form."""
    check_names(options)
    query, key, value = _arrays(query, key, value)
    batch = query.shape[:-3]
    t, n, h = query.shape[-3:]
    s, k = key.shape[-3:-1]
    b = math.prod(batch)
    sizes = (*batch, n, t, s)
    if bias is not None:
        bias = over_pairs("bias", floating_array("bias", bias), sizes)
    dtype = wide(query.dtype)
    captured: tuple[Array, ...] = ()
    program = None
    score_fn, cap = options.get("score_fn"), options.get("logits_soft_cap")
    if score_fn is not None:
        scalars = (dtype, *(jnp.int32,) * 4)
        program, captured = hoist("score_fn", score_fn, scalars, jnp.floating, (query, key))
    allowed, by_index = parted(mask_of(mask, options, sizes))
    return Problem(
        query=query.reshape(b, t, n, h),
        key=key.reshape(b, s, k, h),
        value=value.reshape(b, s, k, value.shape[-1]),
        scale=_scale(options.get("scale"), h, dtype),
        offset=offset_of(options.get("query_offset", 0), batch),
        bias=bias,
        allowed=allowed,
        mask=by_index,
        captured=captured,
        kept=dropout_words(options, (b, n, t), s),
        soft_cap=None if cap is None else _scalar("logits_soft_cap", cap, dtype),
        sinks=sinks_of(options, n),
        score_fn=program,
        dropout_rate=float(options.get("dropout_rate", 0.0)),
    )


def check_names(options: Options) -> None:
    """Options are those of attention."""
    for name, option in options.items():
        if name not in Options.__annotations__:
            raise type_error(name, "is not an argument of attention", option)


def mask_of(mask: Array | Mask | None, options: Options, sizes: tuple[int, ...]) -> Mask | None:
    """All that is asked for, as one mask."""
    *batch, _, t, s = sizes
    offset = offset_of(options.get("query_offset", 0), tuple(batch))
    parts: list[Mask] = []
    if mask is not None:
        mask = mask if isinstance(mask, Mask) else Pairs(_boolean(mask))
        parts.append(mask.fitted(sizes, offset))
    if options.get("is_causal"):
        parts.append(Band(None, 0))
    window, ids = options.get("local_window_size"), options.get("segment_ids")
    if window is not None:
        parts.append(band(*window_sides("local_window_size", window)))
    lengths = {
        ("query_seq_lengths", "row"): options.get("query_seq_lengths"),
        ("key_value_seq_lengths", "key"): options.get("key_value_seq_lengths"),
    }
    for (name, axis), length in lengths.items():
        if length is not None:
            parts.append(Before(_per_batch(name, length, tuple(batch)), axis))
    if ids is not None:
        parts.append(_segments(ids, tuple(batch), t, s))
    mask_fn = options.get("mask_fn")
    if mask_fn is not None:
        parts.append(function_mask("mask_fn", mask_fn))
    combined = None
    for part in parts:
        combined = part if combined is None else combined & part
    return combined


def _boolean(mask: Array) -> Array:
    if callable(mask):
        raise type_error(
            "mask",
            "must be boolean (True attends) or a mask value",
            mask,
            "Call what makes one, as in attention.causal(); a function of indices is `mask_fn`.",
        )
    array = jnp.asarray(mask)
    if array.dtype != bool:
        raise type_error(
            "mask",
            "must be boolean (True attends) or a mask value",
            array,
            "Pass an additive mask as `bias`.",
        )
    return array


def _scale(scale: float | Array | None, h: int, dtype: jnp.dtype) -> float | Array:
    if scale is None:
        return jax.lax.rsqrt(jnp.asarray(h, dtype)) if is_named(h) else 1 / math.sqrt(h)
    array = _scalar("scale", scale, dtype)
    return array if is_traced(scale) else float(scale)


def offset_of(offset: int | Array, batch: tuple[int, ...]) -> int | Array:
    if isinstance(offset, (int, np.integer)) and not isinstance(offset, bool):
        return int(offset)
    return _per_batch("query_offset", offset, batch)


def _arrays(query: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
    """Query, key and value, checked against each other."""
    query = floating_array("query", query)
    key = floating_array("key", key)
    value = floating_array("value", value)
    if query.ndim < 3:
        raise value_error(
            "query",
            "must have shape (*batch, T, N, H)",
            query,
            "Give a single head its own axis: query[:, None, :].",
        )
    *batch, _, n, h = query.shape
    for name, array in (("key", key), ("value", value)):
        if array.ndim != query.ndim or list(array.shape[:-3]) != batch:
            raise value_error(
                name,
                f"must have shape (*batch, S, K, H) with the batch {tuple(batch)} of `query`",
                array,
                "Broadcast it first: jnp.broadcast_to.",
            )
        if array.dtype != query.dtype:
            raise type_error(
                name,
                f"must have the dtype of `query`, {query.dtype}",
                array,
                f"Convert it first: {name}.astype(query.dtype).",
            )
    if key.shape[-1] != h:
        raise value_error(
            "key",
            f"must have the head size {h} of `query` {query.shape}",
            key,
            "If heads are folded into the last axis, split them first: "
            "key.reshape(*key.shape[:-1], heads, -1).",
        )
    if value.shape[:-1] != key.shape[:-1]:
        raise value_error(
            "value", f"must have the lengths and heads of `key`, {key.shape[:-1]}", value
        )
    k = key.shape[-2]
    if k == 0 or n % k or h == 0:
        raise value_error(
            "query",
            f"must have a head size and a number of heads that is a multiple of `key`'s, {k}",
            query,
            "Each key head serves N / K query heads.",
        )
    return query, key, value


def _per_batch(argument: str, value: int | Array, batch: tuple[int, ...]) -> Array:
    """Integers for each batch entry as (b or 1,), int32."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise type_error(argument, "must hold integers", array)
    if array.shape not in (batch, (), (1,)):
        raise value_error(
            argument, f"must have shape {batch}, one number for each batch entry", array
        )
    return array.reshape(-1).astype(jnp.int32)


def _segments(ids: Array | Sequence[Array], batch: tuple[int, ...], t: int, s: int) -> Mask:
    """Segment ids given as one array (self-attention) or as (query ids, key ids)."""
    pair = ids if isinstance(ids, (tuple, list)) else (ids, ids)
    if len(pair) != 2:
        raise value_error("segment_ids", "must be one array or a pair (query ids, key ids)", ids)
    arrays = []
    for value, length in zip(pair, (t, s), strict=True):
        array = jnp.asarray(value)
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise type_error("segment_ids", "must hold integers", array)
        if array.shape not in ((*batch, length), (length,)):
            raise value_error(
                "segment_ids",
                f"must have shape {(*batch, length)} or {(length,)}",
                array,
                "Pass a pair (query ids, key ids) where the lengths differ.",
            )
        arrays.append(array.reshape(-1, length))
    return Segments(*arrays)


def _scalar(argument: str, value: float | Array, dtype: jnp.dtype) -> Array:
    array = jnp.asarray(value)
    if array.shape != () or not jnp.issubdtype(array.dtype, jnp.number):
        raise type_error(argument, "must be a real scalar", array)
    return array.astype(dtype)


def sinks_of(options: Options, heads: int) -> Array | None:
    """The logits of sinks, if there are some."""
    sinks = options.get("sinks")
    if sinks is None:
        return None
    array = floating_array("sinks", sinks)
    if array.shape != (heads,):
        raise value_error("sinks", f"must have shape {(heads,)}, one a head", array)
    return array


def dropout_words(options: Options, rows: tuple[int, ...], keys: int) -> tuple[Array, Array] | None:
    """Random words of rows and keys; those of a pair mix into its fate, never a T × S array."""
    rate, key = options.get("dropout_rate", 0.0), options.get("dropout_key")
    if is_traced(rate) or not isinstance(rate, (int, float, np.floating)):
        raise type_error("dropout_rate", "must be a Python number", rate)
    if not 0 <= rate < 1:
        raise value_error("dropout_rate", "must lie in [0, 1)", rate)
    if rate == 0:
        return None
    if key is None:
        raise value_error(
            "dropout_key",
            "must be a random key where dropout_rate > 0",
            key,
            "Pass dropout_key=jax.random.key(seed), or dropout_rate=0.0 outside training.",
        )
    row_key, key_key = jax.random.split(key)
    return jax.random.bits(row_key, rows, jnp.uint32), jax.random.bits(key_key, (keys,), jnp.uint32)
