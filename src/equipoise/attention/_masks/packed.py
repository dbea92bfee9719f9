"""The masks that say where sequences begin and end: packed ones, and prefixes."""

import jax.numpy as jnp

from equipoise._check import at, type_error, value_error
from equipoise._types import Array, Int
from equipoise.attention._masks.kinds import Before, Documents, Segments
from equipoise.attention._masks.mask import Mask


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
    rows = integers("query_ids", query_ids, minimum_ndim=1)
    keys = rows if key_ids is None else integers("key_ids", key_ids, minimum_ndim=1)
    return Segments(rows.reshape(-1, rows.shape[-1]), keys.reshape(-1, keys.shape[-1]))


@at("attention.document")
def document(lengths: Int[Array, "*batch documents"]) -> Mask:
    r"""Queries read the keys of their own document, of documents one after the other.

    .. math::

        m_{ij} = [\, d(i) = d(j) \,], \qquad
        d(i) = \#\{ k : \text{length}_1 + \dots + \text{length}_k \le i \}

    Args:
        lengths: Tokens of each document. Shape ``(*batch, documents)``, or ``(documents,)``
            for all. A length of 0 is no document.

    Returns:
        A mask value. A row counts by its position, the ``query_offset`` of the call included.
        Positions after the last document form one more.

    Raises:
        ValueError: If there is no axis of documents.
        TypeError: If lengths are not integers.

    Cost: Pairs of blocks that share no document are not computed. O((T + S) log(documents)) to
        find each position's, whatever the blocks.

    Examples:
        >>> x = jnp.eye(4)[:, None, :]
        >>> mask = attention.document(jnp.array([3, 1]))
        >>> print(attention.dot_product_attention(x, x, x, mask=mask)[3, 0])
        [0. 0. 0. 1.]

    References:
        :cite:t:`raffel2020t5`, appendix on packing, for the use of packed sequences.
    """
    array = integers("lengths", lengths, minimum_ndim=1).reshape(-1, jnp.shape(lengths)[-1])
    return Documents(jnp.cumsum(array, axis=-1, dtype=jnp.int32))


@at("attention.prefix")
def prefix(length: int | Int[Array, "*batch"]) -> Mask:
    r"""Every query reads the first keys; joined with a causal mask, a prefix model.

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
    return Before(integers("length", length, minimum_ndim=0).reshape(-1), "key")


def integers(argument: str, value: object, *, minimum_ndim: int) -> Array:
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise type_error(argument, "must hold integers", array)
    if array.ndim < minimum_ndim:
        raise value_error(argument, "must have an axis of positions", array)
    return array.astype(jnp.int32) if minimum_ndim == 0 else array
