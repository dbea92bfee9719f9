"""Masks as values: which query may read which key, by index, composed with ``&``, ``|``, ``~``.

A mask answers two questions. ``allowed`` gives truth for index arrays, and ``bounds`` gives for
whole blocks whether any pair *may* be allowed and whether all pairs *must* be, from the first and
last index alone: what no pair may enter is never computed, and nothing of size T × S exists.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from equipoise._check import at, type_error
from equipoise._types import Array, record

Flags: TypeAlias = np.ndarray | Array
Bounds: TypeAlias = tuple[Flags, Flags]
"""(some pair may be allowed, every pair is allowed) for each block of a grid."""


class Indices(NamedTuple):
    """Where the pairs of a block lie: rows (t,), keys (s,), and its batch entries and heads.

    What it tells of them broadcasts to (batch, head, row, key), and is made where it is asked for.
    """

    rows: Array
    keys: Array
    offset: Array
    first_head: int | np.int32 | Array
    num_heads: int
    num_batch: int

    @property
    def batch(self) -> Array:
        """Which entry of the batch."""
        return jnp.arange(self.num_batch, dtype=jnp.int32)[:, None, None, None]

    @property
    def head(self) -> Array:
        """Which query head."""
        heads = self.first_head + jnp.arange(self.num_heads, dtype=jnp.int32)
        return heads[None, :, None, None]

    @property
    def row(self) -> Array:
        """Which row of the query array."""
        return self.rows[None, None, :, None]

    @property
    def query(self) -> Array:
        """Which position."""
        return self.row + self.offset[:, None, None, None]

    @property
    def key(self) -> Array:
        """Which key."""
        return self.keys[None, None, None, :]


class Extent(NamedTuple):
    """First and last index of blocks, each broadcast over the grid (batch, row block, key block).

    Rows and keys are known while tracing if their lengths are numbers; the query offset may be
    traced. ``sizes`` are the rows and keys of a block.
    """

    row: tuple[Flags, Flags]
    query: tuple[Flags, Flags]
    key: tuple[Flags, Flags]
    sizes: tuple[int, int]


class Mask:
    r"""A set of (query, key) pairs that may attend, as a value that composes.

    .. math::

        m_{ij} \in \{0, 1\}, \qquad (m \,\&\, m')_{ij} = m_{ij} m'_{ij}, \qquad
        (m \mid m')_{ij} = \max(m_{ij}, m'_{ij}), \qquad (\sim\! m)_{ij} = 1 - m_{ij}

    It is made by :func:`causal`, :func:`sliding_window`, :func:`segments`, :func:`prefix` or
    :func:`from_function` and passed as ``mask``. A mask is a frozen pytree, whose leaves are the
    ids, lengths and captured arrays that it holds.

    Raises:
        TypeError: If ``&`` or ``|`` meets what is no mask value.

    Cost: Blocks of pairs of which a mask can tell from first and last index that none may attend
    are not computed. Composition keeps what its parts can tell.

    Examples:
        >>> x = jnp.eye(4)[:, None, :]
        >>> mask = attention.causal() & ~attention.prefix(1)
        >>> print(attention.dot_product_attention(x, x, x, scale=0.0, mask=mask)[2, 0])
        [0.  0.5 0.5 0. ]

    References:
        :cite:t:`dong2024flex`, section 3, for masks as functions of indices.
    """

    def allowed(self, pairs: Indices) -> Array:
        """Whether each pair may attend, broadcast to (batch, head, row, key)."""
        raise NotImplementedError

    def bounds(self, extent: Extent) -> Bounds:
        """Whether some pair of each block may attend, and whether every pair does."""
        raise NotImplementedError

    def arrays(self, rows: int, keys: int) -> Iterator[tuple[Array, tuple[int, ...]]]:
        """Each array that belongs to batch entries, and what its shape after the batch must be."""
        del rows, keys
        yield from ()

    def __and__(self, other: "Mask") -> "Mask":
        return Both(self, _mask("&", other))

    def __or__(self, other: "Mask") -> "Mask":
        return _Either(self, _mask("|", other))

    def __invert__(self) -> "Mask":
        return _Inverse(self)


def _mask(operator: str, value: object) -> Mask:
    if not isinstance(value, Mask):
        with at("attention.Mask"):
            raise type_error(
                operator,
                "must combine two mask values",
                value,
                "Write an array as attention.from_function(lambda b, h, q, k: array[q, k]).",
            )
    return value


@record
class Both(Mask):
    """Pairs of two masks."""

    left: Mask
    right: Mask

    def allowed(self, pairs: Indices) -> Array:
        """Allowed by both."""
        return self.left.allowed(pairs) & self.right.allowed(pairs)

    def bounds(self, extent: Extent) -> Bounds:
        """Possible where both are, certain where both are."""
        (p, c), (q, d) = self.left.bounds(extent), self.right.bounds(extent)
        return p & q, c & d

    def arrays(self, rows: int, keys: int) -> Iterator[tuple[Array, tuple[int, ...]]]:
        """Those of both."""
        yield from self.left.arrays(rows, keys)
        yield from self.right.arrays(rows, keys)


@record
class _Either(Mask):
    """Pairs of one mask or another."""

    left: Mask
    right: Mask

    def allowed(self, pairs: Indices) -> Array:
        """Allowed by one."""
        return self.left.allowed(pairs) | self.right.allowed(pairs)

    def bounds(self, extent: Extent) -> Bounds:
        """Possible where one is; certain where one is, though two may be together unseen."""
        (p, c), (q, d) = self.left.bounds(extent), self.right.bounds(extent)
        return p | q, c | d

    def arrays(self, rows: int, keys: int) -> Iterator[tuple[Array, tuple[int, ...]]]:
        """Those of both."""
        yield from self.left.arrays(rows, keys)
        yield from self.right.arrays(rows, keys)


@record
class _Inverse(Mask):
    """Pairs that a mask leaves out."""

    mask: Mask

    def allowed(self, pairs: Indices) -> Array:
        """Not allowed by the mask."""
        return ~self.mask.allowed(pairs)

    def bounds(self, extent: Extent) -> Bounds:
        """Possible where the mask is not certain, certain where it is not possible."""
        possible, certain = self.mask.bounds(extent)
        return certain ^ True, possible ^ True

    def arrays(self, rows: int, keys: int) -> Iterator[tuple[Array, tuple[int, ...]]]:
        """Those of the mask."""
        yield from self.mask.arrays(rows, keys)
