"""The masks by position that users name, and those by a function."""

from collections.abc import Callable

import numpy as np

from equipoise._check import at
from equipoise._types import Array, Bool, Int, PyTree
from equipoise.attention._masks.kinds import (
    Chunks,
    Window,
    band,
    function_mask,
    position,
    window_sides,
)
from equipoise.attention._masks.mask import Mask


@at("attention.causal")
def causal(*, offset: int | Int[Array, ""] = 0) -> Mask:
    r"""Each query reads its own position and the past.

    .. math::

        m_{ij} = [\, j \le i + \text{offset} \,]

    Args:
        offset: Further positions that a query may read; negative forbids the nearest past. A
            number, or a scalar array, such as that of one layer of a scan.

    Returns:
        A mask value. Position i is the row plus the ``query_offset`` of the call. With T ≠ S and
        no offset the first query reads the first key alone, as in :mod:`jax.nn`.

    Raises:
        TypeError: If ``offset`` is no integer.

    Cost: Blocks above the diagonal are not computed: about half of full attention.

    Examples:
        >>> x = jnp.eye(3)[:, None, :]
        >>> print(attention.dot_product_attention(x, x, x, mask=attention.causal())[0, 0])
        [1. 0. 0.]

    References:
        :cite:t:`vaswani2017`, section 3.2.3.
    """
    return band(None, position("offset", offset))


@at("attention.sliding_window")
def sliding_window(size: Window) -> Mask:
    r"""Each query reads a band of positions around its own.

    .. math::

        m_{ij} = [\, i - \text{left} \le j \le i + \text{right} \,]

    Args:
        size: (left, right), or one number for both; None for an unbounded side. A side may be a
            scalar array, as where layers of a scan have windows of their own.

    Returns:
        A mask value. Position i is the row plus the ``query_offset`` of the call.

    Raises:
        ValueError: If a side is a negative number, or there are not two.
        TypeError: If a side is no integer.

    Cost: Blocks outside the band are not computed: T·(left + right) pairs.

    Examples:
        >>> x = jnp.eye(3)[:, None, :]
        >>> print(attention.dot_product_attention(x, x, x, mask=attention.sliding_window(0))[2, 0])
        [0. 0. 1.]

    References:
        :cite:t:`beltagy2020longformer`, section 3.1.
    """
    return band(*window_sides("size", size))


@at("attention.chunked")
def chunked(size: int | Int[Array, ""]) -> Mask:
    r"""Queries read the keys of their own chunk, of so many positions.

    .. math::

        m_{ij} = [\, \lfloor i / \text{size} \rfloor = \lfloor j / \text{size} \rfloor \,]

    Args:
        size: Positions in a chunk, a number or a scalar array.

    Returns:
        A mask value. Position i is the row plus the ``query_offset`` of the call. Join it with
        :func:`causal` for chunks of a language model.

    Raises:
        ValueError: If ``size`` is a number below 1.
        TypeError: If ``size`` is no integer.

    Cost: Blocks outside the chunks are not computed: T·size pairs.

    Examples:
        >>> x = jnp.eye(4)[:, None, :]
        >>> y = attention.dot_product_attention(x, x, x, mask=attention.chunked(2), scale=0.0)
        >>> print(y[2, 0])
        [0.  0.  0.5 0.5]

    References:
        :cite:t:`child2019sparse`, section 4.3, the first of the fixed patterns.
    """
    length = position("size", size, minimum=1)
    scalar: PyTree = np.int32(length) if isinstance(length, int) else length
    return Chunks(scalar)


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
