"""Masks as values: which query may read which key, by index, composed with ``&``, ``|``, ``~``.

A mask answers two questions: ``allowed`` gives truth for index arrays, ``bounds`` for whole blocks
whether any pair *may* be allowed and whether all *must* be, from the first and last index alone.
"""

import functools
import operator
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from equipoise._check import at, type_error
from equipoise._types import Array, record
from equipoise.attention._masks.arrays import over_pairs

Flags: TypeAlias = np.ndarray | Array
Bounds: TypeAlias = tuple[Flags, Flags]
"""(some pair may be allowed, every pair is allowed) for each block of a grid."""
UNKNOWN: Bounds = np.ones((), bool), np.zeros((), bool)


class Indices(NamedTuple):
    """Where the pairs of a block lie: rows (t,), keys (s,), and its batch entries and heads.

    What it tells of them broadcasts to (batch, head, row, key). Where they are not contiguous a
    gap may part some of the rows or keys from those before.
    """

    rows: Array
    keys: Array
    offset: Array
    first_head: int | np.int32 | Array
    num_heads: int
    num_batch: int
    contiguous: bool = True
    first_batch: int | Array = 0

    @property
    def batch(self) -> Array:
        """Which entry of the batch."""
        entries = self.first_batch + jnp.arange(self.num_batch, dtype=jnp.int32)
        return entries[:, None, None, None]

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
    contiguous: bool = True


class Mask:
    r"""A set of (query, key) pairs that may attend, as a value that composes.

    .. math::

        m_{ij} \in \{0, 1\}, \qquad (m \,\&\, m')_{ij} = m_{ij} m'_{ij}, \qquad
        (m \mid m')_{ij} = \max(m_{ij}, m'_{ij}), \qquad (\sim\! m)_{ij} = 1 - m_{ij}

    It is made by :func:`causal`, :func:`sliding_window`, :func:`chunked`, :func:`segments`,
    :func:`document`, :func:`prefix`, :func:`tree` or :func:`from_function` and passed as ``mask``.
    A boolean array that broadcasts to ``(*batch, n, t, s)`` may stand on one side of ``&`` or
    ``|``. A mask is a frozen pytree, whose leaves are the ids, lengths and arrays that it holds.

    Raises:
        TypeError: If ``&`` or ``|`` meets what is neither a mask value nor a boolean array.

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

    def fitted(self, sizes: tuple[int, ...], offset: int | Array) -> "Mask":
        """The mask of a problem of these ``(*batch, n, t, s)``, whose first row is at the offset.

        An array that does not fit raises.
        """
        del sizes, offset
        return self

    __array_ufunc__ = None  # arrays of NumPy leave the operators to the mask

    def __and__(self, other: "Mask | Array") -> "Mask":
        return _Both(self, _mask("&", other))

    def __or__(self, other: "Mask | Array") -> "Mask":
        return _Either(self, _mask("|", other))

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> "Mask":
        return _Inverse(self)


def _mask(operator: str, value: object) -> Mask:
    if isinstance(value, Mask):
        return value
    if not isinstance(value, (jax.Array, np.ndarray)) or value.dtype != bool:
        with at("attention.Mask"):
            raise type_error(
                operator, "must combine a mask value with one or a boolean array", value
            )
    return Pairs(jnp.asarray(value))


@record
class Pairs(Mask):
    """Pairs for which an array is true, (b or 1, n or 1, t or 1, s or 1) once it is fitted."""

    array: Array

    def fitted(self, sizes: tuple[int, ...], offset: int | Array) -> "Mask":
        """With the batch axes as one."""
        return Pairs(over_pairs("mask", self.array, sizes))

    def allowed(self, pairs: Indices) -> Array:
        """The part of the array: rows, keys and heads of a block follow on each other."""
        shape = self.array.shape
        if not pairs.contiguous:
            at = pairs.batch, pairs.head, pairs.row, pairs.key
            return self.array[
                *(jnp.zeros_like(i) if n == 1 else i for i, n in zip(at, shape, strict=True)),
            ]
        rows, keys = ((x[0], x.size) for x in (pairs.rows, pairs.keys))
        entries = pairs.first_batch, pairs.num_batch
        parts = entries, (pairs.first_head, pairs.num_heads), rows, keys
        cut = [(0, 1) if n == 1 else part for n, part in zip(shape, parts, strict=True)]
        starts = [jnp.asarray(start, jnp.int32) for start, _ in cut]
        return lax.dynamic_slice(self.array, starts, [size for _, size in cut])

    def bounds(self, extent: Extent) -> Bounds:
        """Nothing is known of a block."""
        return UNKNOWN


@record
class _Both(Mask):
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

    def fitted(self, sizes: tuple[int, ...], offset: int | Array) -> "Mask":
        """Of both."""
        return _Both(*(part.fitted(sizes, offset) for part in (self.left, self.right)))


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

    def fitted(self, sizes: tuple[int, ...], offset: int | Array) -> "Mask":
        """Of both."""
        return _Either(*(part.fitted(sizes, offset) for part in (self.left, self.right)))


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

    def fitted(self, sizes: tuple[int, ...], offset: int | Array) -> "Mask":
        """Of the mask."""
        return _Inverse(self.mask.fitted(sizes, offset))


def conjuncts(mask: Mask | None) -> list[Mask]:
    """The masks that ``&`` joined."""
    if isinstance(mask, _Both):
        return conjuncts(mask.left) + conjuncts(mask.right)
    return [] if mask is None else [mask]


def parted(mask: Mask | None) -> tuple[Array | None, Mask | None]:
    """A boolean array that must hold, the first one, and the mask that must hold beside it."""
    parts = conjuncts(mask)
    first = next((part for part in parts if isinstance(part, Pairs)), None)
    if first is None:
        return None, mask
    rest = [part for part in parts if part is not first]
    return first.array, functools.reduce(operator.and_, rest) if rest else None
