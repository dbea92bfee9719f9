"""From the arguments of the public functions to a :class:`Problem`; every mistake raises here."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import _check_old as _check
from equipoise._types import Array
from equipoise.attention import _masks
from equipoise.attention._functions import hoist
from equipoise.attention._masks import Mask
from equipoise.attention._problem import Problem, wide


def problem_from(
    where: str,
    query: Any,
    key: Any,
    value: Any,
    bias: Any,
    mask: Any,
    *,
    scale: Any,
    is_causal: bool,
    query_seq_lengths: Any,
    key_value_seq_lengths: Any,
    local_window_size: Any,
    logits_soft_cap: Any,
    segment_ids: Any,
    sinks: Any,
    query_offset: Any,
    score_fn: Callable[..., Any] | None,
    mask_fn: Callable[..., Any] | None,
    dropout_rate: float,
    dropout_key: Any,
) -> Problem:
    """The problem in normal form."""
    query, key, value = _arrays(where, query, key, value)
    batch = query.shape[:-3]
    t, n, h = query.shape[-3:]
    s, k = key.shape[-3:-1]
    b = math.prod(batch)
    sizes = (*batch, n, t, s)
    masks = []
    if isinstance(mask, Mask):
        _check_mask(where, mask, b, t, s)
        masks.append(mask)
        mask = None
    if mask is not None:
        mask = _pair_array(where, "mask", jnp.asarray(mask), sizes)
        if mask.dtype != bool:
            raise _check.type_error(
                where,
                "mask",
                "must be boolean (True attends) or a mask value",
                mask,
                "Pass an additive mask as `bias`.",
            )
    if bias is not None:
        bias = _pair_array(where, "bias", _check.floating_array(where, "bias", bias), sizes)
    if is_causal:
        masks.append(Mask(_masks.BAND, (None, 0), ()))
    if local_window_size is not None:
        sides = _masks.window_sides(where, "local_window_size", local_window_size)
        masks.append(Mask(_masks.BAND, sides, ()))
    for argument, lengths, rule in (
        ("query_seq_lengths", query_seq_lengths, _masks.ROWS),
        ("key_value_seq_lengths", key_value_seq_lengths, _masks.PREFIX),
    ):
        if lengths is not None:
            masks.append(Mask(rule, (), (_per_batch(where, argument, lengths, batch),)))
    if segment_ids is not None:
        masks.append(_segments(where, segment_ids, batch, t, s))
    if mask_fn is not None:
        masks.append(_masks.hoisted_mask(where, "mask_fn", mask_fn))
    combined = None
    for part in masks:
        combined = part if combined is None else combined & part
    static_offset = None
    if isinstance(query_offset, (int, np.integer)) and not isinstance(query_offset, bool):
        static_offset, query_offset = int(query_offset), np.full((1,), query_offset, np.int32)
    else:
        query_offset = _per_batch(where, "query_offset", query_offset, batch)
    dtype = wide(query.dtype)
    scale = 1 / math.sqrt(h) if scale is None else scale
    captured: tuple[Any, ...] = ()
    program = None
    if score_fn is not None:
        scalars = (dtype, *(jnp.int32,) * 4)
        program, captured = hoist(where, "score_fn", score_fn, scalars, jnp.floating)
    return Problem(
        query=query.reshape(b, t, n, h),
        key=key.reshape(b, s, k, h),
        value=value.reshape(b, s, k, value.shape[-1]),
        scale=_scalar(where, "scale", scale, dtype),
        offset=query_offset,
        bias=bias,
        allowed=mask,
        mask=combined,
        captured=captured,
        kept=_dropout_words(where, dropout_rate, dropout_key, (b, n, t), s),
        soft_cap=None
        if logits_soft_cap is None
        else _scalar(where, "logits_soft_cap", logits_soft_cap, dtype),
        sinks=_sinks(where, sinks, n),
        score_fn=program,
        dropout_rate=float(dropout_rate),
        static_offset=static_offset,
        static_scale=None if _check.is_traced(scale) else float(scale),
    )


def _arrays(where: str, query: Any, key: Any, value: Any) -> tuple[Array, Array, Array]:
    """Query, key and value, checked against each other."""
    query = _check.floating_array(where, "query", query)
    key = _check.floating_array(where, "key", key)
    value = _check.floating_array(where, "value", value)
    if query.ndim < 3:
        raise _check.value_error(
            where,
            "query",
            "must have shape (*batch, T, N, H)",
            query,
            "Give a single head its own axis: query[:, None, :].",
        )
    *batch, _, n, h = query.shape
    for name, array in (("key", key), ("value", value)):
        if array.ndim != query.ndim or list(array.shape[:-3]) != batch:
            raise _check.value_error(
                where,
                name,
                f"must have shape (*batch, S, K, H) with the batch {tuple(batch)} of `query`",
                array,
                "Broadcast it first: jnp.broadcast_to.",
            )
        if array.dtype != query.dtype:
            raise _check.type_error(
                where,
                name,
                f"must have the dtype of `query`, {query.dtype}",
                array,
                f"Convert it first: {name}.astype(query.dtype).",
            )
    if key.shape[-1] != h:
        raise _check.value_error(
            where,
            "key",
            f"must have the head size {h} of `query` {query.shape}",
            key,
            "If heads are folded into the last axis, split them first: "
            "key.reshape(*key.shape[:-1], heads, -1).",
        )
    if value.shape[:-1] != key.shape[:-1]:
        raise _check.value_error(
            where, "value", f"must have the lengths and heads of `key`, {key.shape[:-1]}", value
        )
    k = key.shape[-2]
    if k == 0 or n % k or h == 0:
        raise _check.value_error(
            where,
            "query",
            f"must have a head size and a number of heads that is a multiple of `key`'s, {k}",
            query,
            "Each key head serves N / K query heads.",
        )
    return query, key, value


def _pair_array(where: str, argument: str, array: Array, sizes: tuple[int, ...]) -> Array:
    """An array over pairs as (b or 1, n or 1, t or 1, s or 1)."""
    full = (1,) * (len(sizes) - array.ndim) + array.shape
    if array.ndim > len(sizes) or any(a not in (1, n) for a, n in zip(full, sizes, strict=True)):
        raise _check.value_error(
            where, argument, f"must broadcast to (*batch, N, T, S) = {sizes}", array
        )
    batch = full[:-3]
    if any(a != 1 for a in batch):
        batch = sizes[:-3]
        array = jnp.broadcast_to(array, (*batch, *full[-3:]))
    return array.reshape(math.prod(batch), *full[-3:])


def _per_batch(where: str, argument: str, value: Any, batch: tuple[int, ...]) -> Array:
    """Integers for each batch entry as (b or 1,), int32."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise _check.type_error(where, argument, "must hold integers", array)
    if array.shape not in (batch, (), (1,)):
        raise _check.value_error(
            where, argument, f"must have shape {batch}, one number for each batch entry", array
        )
    return array.reshape(-1).astype(jnp.int32)


def _check_mask(where: str, mask: Mask, b: int, t: int, s: int) -> None:
    """The arrays of a mask value fit the problem."""
    expected = {_masks.SEGMENTS: ((t,), (s,)), _masks.PREFIX: ((),)}.get(mask.rule)
    for operand, shape in zip(mask.operands, expected or (None,) * len(mask.operands), strict=True):
        if isinstance(operand, Mask):
            _check_mask(where, operand, b, t, s)
        elif shape is not None and operand.shape not in ((b, *shape), (1, *shape)):
            raise _check.value_error(
                where,
                "mask",
                f"must have arrays of shape {(b, *shape)} (batch axes as one) or {shape}",
                operand,
                "Build the mask from ids or lengths of this query and key.",
            )


def _segments(where: str, ids: Any, batch: tuple[int, ...], t: int, s: int) -> Mask:
    """Segment ids given as one array (self-attention) or as (query ids, key ids)."""
    pair = ids if isinstance(ids, (tuple, list)) else (ids, ids)
    if len(pair) != 2:
        raise _check.value_error(
            where, "segment_ids", "must be one array or a pair (query ids, key ids)", ids
        )
    arrays = []
    for value, length in zip(pair, (t, s), strict=True):
        array = jnp.asarray(value)
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise _check.type_error(where, "segment_ids", "must hold integers", array)
        if array.shape not in ((*batch, length), (length,)):
            raise _check.value_error(
                where,
                "segment_ids",
                f"must have shape {(*batch, length)} or {(length,)}",
                array,
                "Pass a pair (query ids, key ids) where the lengths differ.",
            )
        arrays.append(array.reshape(-1, length))
    return Mask(_masks.SEGMENTS, (), tuple(arrays))


def _scalar(where: str, argument: str, value: Any, dtype: Any) -> Array:
    array = jnp.asarray(value)
    if array.shape != () or not jnp.issubdtype(array.dtype, jnp.number):
        raise _check.type_error(where, argument, "must be a real scalar", array)
    return array.astype(dtype)


def _sinks(where: str, sinks: Any, heads: int) -> Array | None:
    if sinks is None:
        return None
    array = _check.floating_array(where, "sinks", sinks)
    if array.shape != (heads,):
        raise _check.value_error(where, "sinks", f"must have shape {(heads,)}, one a head", array)
    return array


def _dropout_words(
    where: str, rate: float, key: Any, rows: tuple[int, ...], keys: int
) -> tuple[Array, Array] | None:
    """Random words of rows and keys; those of a pair mix into its fate, never a T × S array."""
    if _check.is_traced(rate) or not isinstance(rate, (int, float, np.floating)):
        raise _check.type_error(where, "dropout_rate", "must be a Python number", rate)
    if not 0 <= rate < 1:
        raise _check.value_error(where, "dropout_rate", "must lie in [0, 1)", rate)
    if rate == 0:
        return None
    if key is None:
        raise _check.value_error(
            where,
            "dropout_key",
            "must be a random key where dropout_rate > 0",
            key,
            "Pass dropout_key=jax.random.key(seed), or dropout_rate=0.0 outside training.",
        )
    row_key, key_key = jax.random.split(key)
    return jax.random.bits(row_key, rows, jnp.uint32), jax.random.bits(key_key, (keys,), jnp.uint32)
