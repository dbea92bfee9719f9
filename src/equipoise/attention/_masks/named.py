"""The masks that users name."""

from collections.abc import Callable

import jax.numpy as jnp

from equipoise._check import at, type_error, value_error
from equipoise._types import Array, Bool, Int
from equipoise.attention._masks.kinds import (
    Band,
    Before,
    Segments,
    function_mask,
    window_sides,
)
from equipoise.attention._masks.mask import Mask


@at("attention.causal")
def causal(*, offset: int = 0) -> Mask:
    r"""Each query reads its own position and the past.

    .. math::

        m_{ij} = [\, j \le i + \text{offset} \,]

    Args:
        offset: Further positions that a query may read; negative forbids the nearest past.

    Returns:
        A mask value. Position i is the row plus the ``query_offset`` of the call. With T ≠ S and
        no offset the first query reads the first key alone, as in :mod:`jax.nn`.

    Raises:
        TypeError: If ``offset`` is no Python integer.

    Cost: Blocks above the diagonal are not computed: about half of full attention.

    Examples:
        >>> x = jnp.eye(3)[:, None, :]
        >>> print(attention.dot_product_attention(x, x, x, mask=attention.causal())[0, 0])
        [1. 0. 0.]

    References:
        :cite:t:`vaswani2017`, section 3.2.3.
    """
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise type_error(
            "offset",
            "must be a Python integer",
            offset,
            "Pass a traced offset as `query_offset` of the attention.",
        )
    return Band(None, offset)


@at("attention.sliding_window")
def sliding_window(size: int | tuple[int | None, int | None]) -> Mask:
    r"""Each query reads a band of positions around its own.

    .. math::

        m_{ij} = [\, i - \text{left} \le j \le i + \text{right} \,]

    Args:
        size: (left, right), or one number for both; None for an unbounded side.

    Returns:
        A mask value. Position i is the row plus the ``query_offset`` of the call.

    Raises:
        ValueError: If a side is negative, or there are not two.
        TypeError: If a side is no Python integer.

    Cost: Blocks outside the band are not computed: T·(left + right) pairs.

    Examples:
        >>> x = jnp.eye(3)[:, None, :]
        >>> print(attention.dot_product_attention(x, x, x, mask=attention.sliding_window(0))[2, 0])
        [0. 0. 1.]

    References:
        :cite:t:`beltagy2020longformer`, section 3.1.
    """
    return Band(*window_sides("size", size))


@at("attention.segments")
def segments(
    query_ids: Int[Array, "*batch t"], key_ids: Int[Array, "*batch s"] | None = None
) -> Mask:
    r"""Queries read the keys of their own segment, as in packed sequences.

    .. math::

        m_{ij} = [\, a_i = b_j \,]

    Args:
        query_ids: a, the segment of each row. Shape ``(*batch, t)``, or ``(t,)`` for all.
        key_ids: b, the segment of each key. Shape ``(*batch, s)``. Default ``query_ids``.

    Returns:
        A mask value. It counts rows, whatever the ``query_offset`` of the call.

    Raises:
        ValueError: If there is no axis of positions.
        TypeError: If ids are not integers.

    Cost: Pairs of blocks whose ranges of ids are disjoint are not computed.

    Examples:
        >>> x = jnp.eye(4)[:, None, :]
        >>> mask = attention.segments(jnp.array([0, 0, 1, 1]))
        >>> print(attention.dot_product_attention(x, x, x, mask=mask)[0, 0, 2:])
        [0. 0.]

    References:
        :cite:t:`raffel2020t5`, appendix on packing, for the use of packed sequences.
    """
    rows = _integers("query_ids", query_ids, minimum_ndim=1)
    keys = rows if key_ids is None else _integers("key_ids", key_ids, minimum_ndim=1)
    return Segments(rows.reshape(-1, rows.shape[-1]), keys.reshape(-1, keys.shape[-1]))


@at("attention.prefix")
def prefix(length: int | Int[Array, "*batch"]) -> Mask:
    r"""Every query reads the first keys; with a causal mask, a prefix model.

    .. math::

        m_{ij} = [\, j < \text{length} \,]

    Args:
        length: Number of keys, the same for all queries of a batch entry. Shape ``(*batch)``.

    Returns:
        A mask value.

    Raises:
        TypeError: If ``length`` is not an integer.

    Cost: Blocks of keys beyond the length are not computed.

    Examples:
        >>> x = jnp.eye(3)[:, None, :]
        >>> mask = attention.causal() | attention.prefix(2)
        >>> print(attention.dot_product_attention(x, x, x, mask=mask)[0, 0, 2])
        0.0

    References:
        :cite:t:`raffel2020t5`, section 3.2.1.
    """
    return Before(_integers("length", length, minimum_ndim=0).reshape(-1), "key")


@at("attention.from_function")
def from_function(mask_fn: Callable[..., Bool[Array, ""]]) -> Mask:
    r"""The pairs for which a function of four scalar indices is true.

    .. math::

        m_{ij} = f(\text{batch}, \text{head}, i, j)

    Args:
        mask_fn: f(batch, head, q_index, k_index) → boolean, on scalar integers; it may capture
            arrays. Batch axes count as one, flattened; q_index includes the ``query_offset``.

    Returns:
        A mask value.

    Raises:
        TypeError: If ``mask_fn`` is not callable or returns no boolean scalar.

    Cost: No block is ruled out by the function itself; combine it with ``&`` and a mask that does.

    Examples:
        >>> x = jnp.eye(3)[:, None, :]
        >>> mask = attention.from_function(lambda b, h, q, k: k != q)
        >>> print(attention.dot_product_attention(x, x, x, mask=mask)[0, 0])
        [0.  0.5 0.5]

    References:
        :cite:t:`dong2024flex`, section 3.
    """
    return function_mask("mask_fn", mask_fn)


def _integers(argument: str, value: object, *, minimum_ndim: int) -> Array:
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise type_error(argument, "must hold integers", array)
    if array.ndim < minimum_ndim:
        raise value_error(argument, "must have an axis of positions", array)
    return array.astype(jnp.int32) if minimum_ndim == 0 else array
