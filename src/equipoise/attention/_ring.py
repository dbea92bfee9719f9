"""Attention over a sequence that is split across devices: keys travel, queries stay."""

import dataclasses
import math
from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp

from equipoise._check import at, choice, floating_array, value_error
from equipoise._types import Array, Bool, Float
from equipoise.attention._dot_product import attended
from equipoise.attention._kernel.operations import only
from equipoise.attention._masks.mask import Mask
from equipoise.attention._masks.placed import Part, Placed, part_of
from equipoise.attention._reference import with_sinks
from equipoise.attention._request import (
    Options,
    check_names,
    dropout_words,
    mask_of,
    offset_of,
    problem_of,
    sinks_of,
)


@at("attention.ring_attention")
def ring_attention(
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch s k h"],
    value: Float[Array, "*batch s k e"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Mask | None = None,
    *,
    axis_name: str,
    layout: str = "contiguous",
    implementation: str | None = None,
    block_size: int | None = None,
    return_residual: bool = False,
    **options: Unpack[Options],
) -> Float[Array, "*batch t n e"] | tuple[Float[Array, "*batch t n e"], Float[Array, "*batch t n"]]:
    r"""Exact attention over a sequence that is split across devices.

    .. math::

        L = \log \sum_r e^{L_r}, \qquad o = \sum_r e^{L_r - L}\, o_r

    Call it inside :func:`jax.shard_map`; every device holds equal parts of query, key and value,
    and of the positions all devices count together. Part r of the keys comes from the device r
    places before. Every order of derivative has the same form: what arrives is received again
    rather than kept.

    Args:
        query: q, this device's rows. Shape ``(*batch, t, n, h)``.
        key: k, this device's keys. Shape ``(*batch, s, k, h)``; n is a multiple of k.
        value: v. Shape ``(*batch, s, k, e)``.
        bias: Added to the scores. Either this device's rows for *all* keys, device after device,
            broadcasting to ``(*batch, n, t, devices · s)``, or equal for all rows and split with
            the keys, broadcasting to ``(*batch, n, 1, s)``.
        mask: A boolean array split as ``bias`` is, or a mask value of the whole sequence, whose
            arrays every device has as a whole.
        axis_name: The mesh axis that the sequence is split over.
        layout: ``"contiguous"``, parts in order; or ``"zigzag"``, where device r of d holds parts
            r and 2·d − 1 − r of 2·d, so that causal work is the same on all.
        implementation: As in :func:`dot_product_attention`, for each block.
        block_size: As in :func:`dot_product_attention`.
        return_residual: Whether to return this device's log-sum-exp too.
        **options: The keyword arguments of :func:`dot_product_attention` from ``scale`` to
            ``dropout_key``, with its meanings for the whole sequence: positions, lengths, the
            offset and what is dropped are those of one device. Segment ids are those of this
            device's tokens.

    Returns:
        y of this device's rows, ``(*batch, t, n, e)`` in the dtype of ``value``, equal to attention
        on one device up to rounding; with ``return_residual`` also the log-sum-exp ``(*batch, t,
        n)``. A row that reads nothing is 0 and its log-sum-exp −inf.

    Raises:
        ValueError: If shapes disagree, as :func:`dot_product_attention` says, ``bias`` or ``mask``
            is split in neither way, or ``layout`` is unknown or cannot halve the parts.
        TypeError: If dtypes are wrong, as :func:`dot_product_attention` says.

    Cost: as :func:`dot_product_attention` over all keys, shared by the devices; memory is linear in
        the tokens of one device, but for a random word a row with dropout. Keys and values travel
        devices − 1 times.

    Examples:
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("sequence",))
        >>> split = jax.sharding.PartitionSpec(None, "sequence")
        >>> ring = jax.shard_map(
        ...     lambda q, k, v: attention.ring_attention(
        ...         q, k, v, axis_name="sequence", is_causal=True),
        ...     mesh=mesh, in_specs=(split,) * 3, out_specs=split)
        >>> x = jnp.ones((1, 4, 1, 2))
        >>> print(ring(x, x, x)[0, :, 0, 0])
        [1. 1. 1. 1.]

    References:
        :cite:t:`liu2023ring`; :cite:t:`milakov2018online` for the merge; :cite:t:`grattafiori2024`,
        section 3.3.2, for the zigzag.
    """
    check_names(options)
    query = floating_array("query", query)
    key = floating_array("key", key)
    value = floating_array("value", value)
    devices, me = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    zigzag = choice("layout", layout, ("contiguous", "zigzag")) == "zigzag"
    t, s = query.shape[-3:-2] + key.shape[-3:-2]
    if zigzag and (t % 2 or s % 2):
        raise value_error(
            "layout", f"must halve the {t} rows and {s} keys of a device", layout, "Pad them."
        )
    batch, n = query.shape[:-3], query.shape[-2]
    whole = (*batch, n, devices * t, devices * s)
    offset = offset_of(options.get("query_offset", 0), batch)
    ids, score_fn = options.pop("segment_ids", None), options.pop("score_fn", None)
    row_ids, key_ids = ids if isinstance(ids, (tuple, list)) else (ids, ids)
    of_whole = mask_of(mask if isinstance(mask, Mask) else None, options, whole)
    words = dropout_words(options, (math.prod(batch), n, devices * t), devices * s)
    array = None if mask is None or isinstance(mask, Mask) else jnp.asarray(mask)
    bias = None if bias is None else floating_array("bias", bias)
    splits = [
        x is not None and _travels(name, x, query.ndim, s, devices)
        for name, x in (("bias", bias), ("mask", array))
    ]
    rows = part_of(me, t, devices, zigzag=zigzag)

    # Rematerialized: a derivative receives the part again instead of keeping one for each device.
    def part(
        shift: int,
        query: Array,
        keys: tuple[Array, Array, Array | None],
        arrays: tuple[Array | None, Array | None],
    ) -> tuple[Array, Array]:
        moving = keys, tuple(x if split else None for x, split in zip(arrays, splits, strict=True))
        if shift:
            ring = [(device, (device + shift) % devices) for device in range(devices)]
            moving = jax.lax.ppermute(moving, axis_name, ring)  # type: ignore[no-untyped-call]
        (key, value, ids), arrived = moving
        source = (me - shift) % devices
        there = part_of(source, s, devices, zigzag=zigzag)

        def of_source(x: Array | None, arrived: Array | None) -> Array | None:
            if x is None or arrived is not None or x.shape[-1] == 1:
                return x if arrived is None else arrived
            return jax.lax.dynamic_slice_in_dim(x, source * s, s, axis=-1)

        bias, allowed = map(of_source, arrays, arrived)
        seen = None if of_whole is None else Placed(of_whole, rows, there, not zigzag)
        local: Options = {
            "scale": options.get("scale"),
            "logits_soft_cap": options.get("logits_soft_cap"),
            "query_offset": offset,
            "segment_ids": None if ids is None or row_ids is None else (row_ids, ids),
            "score_fn": None if score_fn is None else _of_whole(score_fn, offset, rows, there),
        }
        both = allowed if seen is None else seen if allowed is None else seen & allowed
        problem = problem_of(query, key, value, bias, both, **local)
        if words is not None:
            places = rows(jnp.arange(t, dtype=jnp.int32)), there(jnp.arange(s, dtype=jnp.int32))
            taken = words[0][..., places[0]], words[1][places[1]]
            rate = float(options["dropout_rate"])
            problem = dataclasses.replace(problem, kept=taken, dropout_rate=rate)
        return attended(problem, implementation, block_size)

    received = jax.checkpoint(part, static_argnums=0)
    operands = query, (key, value, key_ids), (bias, array)
    out, lse = received(0, *operands)
    for shift in range(1, devices):
        out, lse = _merged(out, lse, *received(shift, *operands))
    out, lse = with_sinks(out, lse, sinks_of(options, n))
    out = out.reshape(*query.shape[:-1], -1).astype(value.dtype)
    return (out, lse.reshape(query.shape[:-1])) if return_residual else out


def _of_whole(
    score_fn: Callable[..., Array], offset: int | Array, rows: Part, keys: Part
) -> Callable[..., Array]:
    """The function of positions in the whole, where it is given those in a part."""

    def score(score: Array, batch: Array, head: Array, q: Array, k: Array) -> Array:
        ahead = jnp.asarray(offset, jnp.int32).reshape(-1)
        first = ahead[batch if ahead.size > 1 else 0]
        return score_fn(score, batch, head, rows(q - first) + first, keys(k))

    return score


def _merged(o_1: Array, l_1: Array, o_2: Array, l_2: Array) -> tuple[Array, Array]:
    """Two partial results as one; a part that read nothing has l = −inf and weighs 0."""
    some = ~jnp.isneginf(l_1) | ~jnp.isneginf(l_2)
    a, b = only(l_1, some, 0), only(l_2, some, 0)
    top = jax.lax.stop_gradient(jnp.maximum(a, b))
    w_1, w_2 = (
        only(jnp.exp(only(x, ~jnp.isneginf(x), 0) - top), ~jnp.isneginf(x), 0) for x in (a, b)
    )
    total = w_1 + w_2
    out = (w_1 / total)[..., None] * o_1 + (w_2 / total)[..., None] * o_2
    return out, only(jnp.log(total) + top, some, -jnp.inf)


def _travels(argument: str, array: Array, rank: int, s: int, devices: int) -> bool:
    """Whether an array over pairs is split with the keys rather than with the rows."""
    row_axis = array.shape[-2] if array.ndim > 1 else 1
    if array.ndim > rank or array.shape[-1:] not in ((1,), (s,), (devices * s,)):
        expected = f"must have {s} (one device's) or {devices * s} (all) keys"
        raise value_error(argument, expected, array)
    travels = array.shape[-1] == s != 1 and devices > 1
    if travels and row_axis != 1:
        raise value_error(
            argument,
            f"must be equal for all rows where it is split with the keys ({s} of them)",
            array,
            f"Split it with the rows and keep all {devices * s} keys.",
        )
    return travels
