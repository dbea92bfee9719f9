"""The kinds of masks: each a set of pairs, and what is known of a block without looking inside."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import positive_integer, type_error, value_error
from equipoise._types import Array, Int, record, static_field
from equipoise.attention._masks.arrays import check_entries
from equipoise.attention._masks.functions import Hoisted, hoist
from equipoise.attention._masks.mask import UNKNOWN, Bounds, Extent, Flags, Indices, Mask

_Side: TypeAlias = int | Int[Array, ""] | None
Window: TypeAlias = _Side | tuple[_Side, _Side]
"""A band of positions: (left, right) or one number for both, None for unbounded sides."""


class _Between(Mask):
    """Keys with query - left <= key <= query + right; a side of None is unbounded."""

    left: int | Array | None
    right: int | Array | None

    def allowed(self, pairs: Indices) -> Array:
        """Between both sides."""
        inside = [pairs.key >= pairs.query - self.left] if self.left is not None else []
        inside += [pairs.key <= pairs.query + self.right] if self.right is not None else []
        return inside[0] & inside[-1] if inside else pairs.key >= 0

    def bounds(self, extent: Extent) -> Bounds:
        """From the corners of the block nearest to a side and farthest from it."""
        (q_first, q_last), (k_first, k_last) = extent.query, extent.key
        possible: Flags = np.ones((), bool)
        certain: Flags = np.ones((), bool)
        if self.left is not None:
            possible = possible & (k_last >= q_first - self.left)
            certain = certain & (k_first >= q_last - self.left)
        if self.right is not None:
            possible = possible & (k_first <= q_last + self.right)
            certain = certain & (k_last <= q_first + self.right)
        return possible, certain


@record
class Band(_Between):
    """Sides that are known while tracing."""

    left: int | None = static_field()
    right: int | None = static_field()


@record
class _MovingBand(_Between):
    """Sides that are arrays, as those of layers in a scan."""

    left: Array | None
    right: Array | None


def band(left: int | Array | None, right: int | Array | None) -> Mask:
    """A band of positions, whose sides may be arrays."""
    if isinstance(left, int | None) and isinstance(right, int | None):
        return Band(left, right)
    return _MovingBand(*(x if x is None else jnp.asarray(x, jnp.int32) for x in (left, right)))


@record
class Chunks(Mask):
    """Positions of equal quotients by a size, a scalar of int32, of NumPy where it is known."""

    size: Array

    def allowed(self, pairs: Indices) -> Array:
        """Of the same chunk."""
        return pairs.query // self.size == pairs.key // self.size

    def bounds(self, extent: Extent) -> Bounds:
        """From the chunks of the first and the last."""
        q_first, q_last, k_first, k_last = (x // self.size for x in (*extent.query, *extent.key))
        same = (q_first == q_last) & (k_first == k_last) & (q_first == k_first)
        return (q_first <= k_last) & (k_first <= q_last), same


@record
class Before(Mask):
    """Keys, or rows, before a length, (b or 1,): counted from the first, not by position."""

    length: Array
    axis: str = static_field()  # "key" or "row"

    def allowed(self, pairs: Indices) -> Array:
        """Before the length."""
        index: Array = getattr(pairs, self.axis)
        return index < self.length[entry(self.length, pairs.batch)]

    def bounds(self, extent: Extent) -> Bounds:
        """From the first and the last."""
        first, last = getattr(extent, self.axis)
        length = self.length[:, None, None]
        return first < length, last < length

    def fitted(self, sizes: tuple[int, ...], offset: int | Array) -> Mask:
        """A number for each batch entry."""
        check_entries(self.length, sizes)
        return self


@record
class Segments(Mask):
    """Equal ids of row and key, (b or 1, t) and (b or 1, s)."""

    rows: Array
    keys: Array

    def allowed(self, pairs: Indices) -> Array:
        """Of the same id."""
        rows = self.rows[entry(self.rows, pairs.batch), pairs.row]
        return rows == self.keys[entry(self.keys, pairs.batch), pairs.key]

    def bounds(self, extent: Extent) -> Bounds:
        """From the least and the largest id of the block's rows and keys."""
        if not extent.contiguous:
            return UNKNOWN
        rows, keys = extent.sizes
        r_min, r_max = _span(self.rows, extent.row[0], rows)
        k_min, k_max = _span(self.keys, extent.key[0], keys)
        possible = (r_min <= k_max) & (k_min <= r_max)
        return possible, possible & (r_min == r_max) & (k_min == k_max)

    def fitted(self, sizes: tuple[int, ...], offset: int | Array) -> Mask:
        """An id for each row and key."""
        check_entries(self.rows, sizes, sizes[-2:-1])
        check_entries(self.keys, sizes, sizes[-1:])
        return self


@record
class Documents(Mask):
    """Documents one after the other, by the positions (b or 1, documents) at which they end."""

    ends: Array

    def fitted(self, sizes: tuple[int, ...], offset: int | Array) -> Mask:
        """As segments: the documents that have ended before a position."""
        check_entries(self.ends, sizes, self.ends.shape[1:])
        ended = jnp.vectorize(
            functools.partial(jnp.searchsorted, side="right"), signature="(m),(t)->(t)"
        )
        row, key = (jnp.arange(n, dtype=jnp.int32)[None] for n in sizes[-2:])
        ahead = jnp.asarray(offset, jnp.int32).reshape(-1, 1)
        return Segments(ended(self.ends, row + ahead), ended(self.ends, key))


def _span(ids: Array, first: Flags, size: int) -> tuple[Array, Array]:
    """Least and largest id of each block of so many."""
    number = np.arange if isinstance(first, np.ndarray) else jnp.arange
    inside = ids[:, first[0, ..., None] + number(size, dtype=np.int32)[None, None]]
    return inside.min(-1), inside.max(-1)


def entry(array: Array, batch: Array) -> Array:
    """The batch index into an array that may have one entry for all."""
    return jnp.zeros_like(batch) if array.shape[0] == 1 else batch


@record
class _Function(Mask):
    """Pairs for which a function of (batch, head, query, key) is true."""

    function: Hoisted = static_field()
    captured: tuple[Array, ...]

    def __repr__(self) -> str:
        """As it was made, without the program of its function."""
        return "from_function(...)"

    def allowed(self, pairs: Indices) -> Array:
        """The function's values."""
        return self.function(self.captured, (pairs.batch, pairs.head, pairs.query, pairs.key))

    def bounds(self, extent: Extent) -> Bounds:
        """Nothing is known of a block."""
        return UNKNOWN


def function_mask(argument: str, function: Callable[..., Array]) -> Mask:
    """A function of scalar indices as a mask."""
    hoisted, captured = hoist(argument, function, (jnp.int32,) * 4, jnp.bool_)
    return _Function(hoisted, captured)


def window_sides(argument: str, size: object) -> tuple[int | Array | None, int | Array | None]:
    """(left, right) of a window given as one number or as a pair, None for unbounded."""
    pair = size if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise value_error(argument, "must be a number or (left, right)", size)
    left, right = (None if side is None else position(argument, side, minimum=0) for side in pair)
    return left, right


def position(argument: str, value: object, *, minimum: int | None = None) -> int | Array:
    """A number of positions: a Python integer, not below a minimum, or a scalar array."""
    if not isinstance(value, jax.Array):
        least = minimum if minimum is not None else -(2**31)
        return positive_integer(argument, value, minimum=least)
    if value.shape or not jnp.issubdtype(value.dtype, jnp.integer):
        raise type_error(argument, "must be an integer or a scalar array of integers", value)
    return value.astype(jnp.int32)
