"""Attention over a sequence that is split across devices: keys travel, queries stay."""

import dataclasses
import math
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at, choice, floating_array, value_error
from equipoise._jax.meshes.ring import Ring, ring_sum
from equipoise._jax.varying import alike
from equipoise._jax.zeros import is_zero
from equipoise._types import Array, Bool, Float, PyTree, record
from equipoise.attention._dot_product import attended
from equipoise.attention._kernel.loop import zero_like_all
from equipoise.attention._kernel.mesh import Portable
from equipoise.attention._kernel.operations import merged
from equipoise.attention._kernel.problem import Problem, wide
from equipoise.attention._kernel.schedule import Where
from equipoise.attention._kernel.tangent import given
from equipoise.attention._masks.functions import hoist
from equipoise.attention._masks.mask import Mask
from equipoise.attention._masks.placed import Placed, of_whole, part_of
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
    and of the positions all devices count together. Keys and values go around the devices once, in
    one loop, so that the program does not grow with their number. Every order of derivative has
    the same form: what arrives is received again rather than kept.

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
        the tokens of one device, apart from one random word per row with dropout. Keys and values
        travel once around the ring.

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
    whole_mask = mask_of(mask if isinstance(mask, Mask) else None, options, whole)
    words = dropout_words(options, (math.prod(batch), n, devices * t), devices * s)
    array = None if mask is None or isinstance(mask, Mask) else jnp.asarray(mask)
    bias = None if bias is None else floating_array("bias", bias)
    numbers = {
        "scale": options.get("scale"),
        "logits_soft_cap": options.get("logits_soft_cap"),
        "query_offset": offset,
    }
    if score_fn is not None:
        scalars = wide(query.dtype), *(jnp.int32,) * 4
        score_fn = Portable(*hoist("score_fn", score_fn, scalars, jnp.floating))
    bias, sent_bias = _parted("bias", bias, query.ndim, s, devices)
    array, sent_array = _parted("mask", array, query.ndim, s, devices)
    arrays = {name: x for name, x in numbers.items() if isinstance(x, jax.Array)}
    held = _Held(query, bias, array, row_ids, whole_mask, words, arrays, score_fn, me)
    sent = _Sent(key, value, key_ids, sent_bias, sent_array)
    static = _Static(
        Ring(axis_name, devices),
        zigzag,
        implementation,
        block_size,
        float(options.get("dropout_rate", 0.0)),
        tuple(item for item in numbers.items() if item[0] not in arrays),
    )
    leaves, structure = jax.tree.flatten((held, sent))
    held, sent = jax.tree.unflatten(structure, alike(leaves))
    out, lse = _around(held, sent, static)
    out, lse = with_sinks(out, lse, sinks_of(options, n))
    out = out.reshape(*query.shape[:-1], -1).astype(value.dtype)
    return (out, lse.reshape(query.shape[:-1])) if return_residual else out


@record
class _Held:
    """What a device keeps: its rows, and what it knows of the whole."""

    query: Array
    bias: Array | None
    allowed: Array | None
    ids: Array | None
    mask: Mask | None
    words: tuple[Array, Array] | None
    numbers: dict[str, Array]
    score_fn: Portable | None
    me: Array


@record
class _Sent:
    """What goes around: keys, values, and what belongs to them."""

    key: Array
    value: Array
    ids: Array | None
    bias: Array | None
    allowed: Array | None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    """What is no array: how rows and keys lie, how parts are computed, and known numbers."""

    ring: Ring
    zigzag: bool
    implementation: str | None
    block_size: int | None
    dropout_rate: float
    numbers: tuple[tuple[str, PyTree], ...]

    def problem(self, held: _Held, sent: _Sent, source: Array) -> Problem:
        """Of this device's rows and the keys of another."""
        devices, (t, s) = self.ring.devices, (held.query.shape[-3], sent.key.shape[-3])
        rows, keys = (
            part_of(device, count, devices, zigzag=self.zigzag)
            for device, count in ((held.me, t), (source, s))
        )

        def of_source(x: Array | None, arrived: Array | None) -> Array | None:
            if x is None or x.shape[-1] == 1:
                return x if arrived is None else arrived
            return jax.lax.dynamic_slice_in_dim(x, source * s, s, axis=-1)

        allowed = of_source(held.allowed, sent.allowed)
        seen = None if held.mask is None else Placed(held.mask, rows, keys, not self.zigzag)
        numbers: PyTree = dict(self.numbers) | held.numbers
        offset, score_fn = numbers["query_offset"], held.score_fn
        problem = problem_of(
            held.query,
            sent.key,
            sent.value,
            of_source(held.bias, sent.bias),
            allowed if seen is None else seen if allowed is None else seen & allowed,
            segment_ids=None if held.ids is None or sent.ids is None else (held.ids, sent.ids),
            score_fn=None if score_fn is None else of_whole(score_fn, offset, rows, keys),
            **numbers,
        )
        if held.words is None:
            return problem
        places = rows(jnp.arange(t, dtype=jnp.int32)), keys(jnp.arange(s, dtype=jnp.int32))
        taken = held.words[0][..., places[0]], held.words[1][places[1]]
        return dataclasses.replace(problem, kept=taken, dropout_rate=self.dropout_rate)


@jax.custom_jvp
def _around(held: _Held, sent: _Sent, static: _Static) -> tuple[Array, Array]:
    """(o, lse) after all keys have come by."""
    problem = static.problem(held, sent, held.me)
    b, t, s, k, g = problem.sizes
    rows, ring = (b, t, k * g), static.ring
    zero = zero_like_all(jax.tree.leaves((held, sent)), problem.dtype)
    nothing = (
        jnp.broadcast_to(zero, (*rows, problem.value.shape[-1])),
        jnp.broadcast_to(zero - jnp.inf, rows),
    )
    if 0 in (*rows, s):
        return nothing

    def step(hops: Array, carry: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
        sent, out, lse = carry
        problem = static.problem(held, sent, ring.source(held.me, hops))
        found = attended(problem, static.implementation, static.block_size)
        return ring.ahead(sent), *merged(out, lse, *found)

    count = np.int32(ring.devices)
    return jax.lax.fori_loop(np.int32(0), count, step, (sent, *nothing))[1:]


def _around_jvp(
    primals: tuple[_Held, _Sent, _Static], tangents: tuple[PyTree, PyTree, PyTree]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Around the same ring: the tangent of the whole is a sum of the parts'."""
    held, sent, static = primals
    out, lse = _around(held, sent, static)
    leaves, structure = jax.tree.flatten((held, sent))
    dots = jax.tree.leaves(tangents[:2], is_leaf=is_zero)
    moving = {i: x for i, x in enumerate(dots) if not is_zero(x)}
    count = len(jax.tree.leaves(held))

    def body(source: Array, stay: PyTree, travel: PyTree) -> tuple[Array, Array]:
        (held_leaves, totals, held_dots), (sent_leaves, sent_dots) = stay, travel
        dots, point = held_dots | sent_dots, [*held_leaves, *sent_leaves]

        def moved(values: dict[int, Array]) -> tuple[Array, Array]:
            full = [values.get(i, x) for i, x in enumerate(point)]
            held, sent = jax.tree.unflatten(structure, full)
            problem = static.problem(held, sent, source)
            return given(problem.as_arrays(), *totals, Where(static.block_size, None))

        return jax.jvp(moved, ({i: point[i] for i in dots},), (dots,))[1]

    stay = leaves[:count], (out, lse), {i: x for i, x in moving.items() if i < count}
    travel = leaves[count:], {i: x for i, x in moving.items() if i >= count}
    return (out, lse), ring_sum(body, static.ring, held.me, stay, travel)


_around.defjvp(_around_jvp, symbolic_zeros=True)


def _parted(
    argument: str, array: Array | None, rank: int, s: int, devices: int
) -> tuple[Array | None, Array | None]:
    """An array over pairs as what stays here, or as what is split with the keys and travels."""
    if array is None:
        return None, None
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
    return (None, array) if travels else (array, None)
