"""The kinds of masks: each a set of pairs, and what is known of a block without looking inside."""

from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np

from equipoise._check import positive_integer, value_error
from equipoise._types import Array, record, static_field
from equipoise.attention._masks.functions import Hoisted, hoist
from equipoise.attention._masks.mask import Bounds, Extent, Flags, Indices, Mask


@record
class Band(Mask):
    """Keys with query - left <= key <= query + right; a side of None is unbounded."""

    left: int | None = static_field()
    right: int | None = static_field()

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
class Before(Mask):
    """Keys, or rows, before a length, (b or 1,): counted from the first, not by position."""

    length: Array
    axis: str = static_field()  # "key" or "row"

    def allowed(self, pairs: Indices) -> Array:
        """Before the length."""
        index: Array = getattr(pairs, self.axis)
        return index < self.length[_entry(self.length, pairs.batch)]

    def bounds(self, extent: Extent) -> Bounds:
        """From the first and the last."""
        first, last = getattr(extent, self.axis)
        length = self.length[:, None, None]
        return first < length, last < length

    def arrays(self, rows: int, keys: int) -> Iterator[tuple[Array, tuple[int, ...]]]:
        """A number for each batch entry."""
        yield self.length, ()


@record
class Segments(Mask):
    """Equal ids of row and key, (b or 1, t) and (b or 1, s)."""

    rows: Array
    keys: Array

    def allowed(self, pairs: Indices) -> Array:
        """Of the same id."""
        rows = self.rows[_entry(self.rows, pairs.batch), pairs.row]
        return rows == self.keys[_entry(self.keys, pairs.batch), pairs.key]

    def bounds(self, extent: Extent) -> Bounds:
        """From the least and the largest id of the block's rows and keys."""
        rows, keys = extent.sizes
        r_min, r_max = _span(self.rows, extent.row[0], rows)
        k_min, k_max = _span(self.keys, extent.key[0], keys)
        possible = (r_min <= k_max) & (k_min <= r_max)
        return possible, possible & (r_min == r_max) & (k_min == k_max)

    def arrays(self, rows: int, keys: int) -> Iterator[tuple[Array, tuple[int, ...]]]:
        """An id for each row and key."""
        yield self.rows, (rows,)
        yield self.keys, (keys,)


def _span(ids: Array, first: Flags, size: int) -> tuple[Array, Array]:
    """Least and largest id of each block of so many."""
    number = np.arange if isinstance(first, np.ndarray) else jnp.arange
    inside = ids[:, first[0, ..., None] + number(size, dtype=np.int32)[None, None]]
    return inside.min(-1), inside.max(-1)


def _entry(array: Array, batch: Array) -> Array:
    """The batch index into an array that may have one entry for all."""
    return jnp.zeros_like(batch) if array.shape[0] == 1 else batch


@record
class _Function(Mask):
    """Pairs for which a function of (batch, head, query, key) is true."""

    function: Hoisted = static_field()
    captured: tuple[Array, ...]

    def allowed(self, pairs: Indices) -> Array:
        """The function's values."""
        return self.function(self.captured, (pairs.batch, pairs.head, pairs.query, pairs.key))

    def bounds(self, extent: Extent) -> Bounds:
        """Nothing is known of a block."""
        return np.ones((), bool), np.zeros((), bool)


def function_mask(argument: str, function: Callable[..., Array]) -> Mask:
    """A function of scalar indices as a mask."""
    hoisted, captured = hoist(argument, function, (jnp.int32,) * 4, jnp.bool_)
    return _Function(hoisted, captured)


def window_sides(argument: str, size: object) -> tuple[int | None, int | None]:
    """(left, right) of a window given as one number or as a pair, None for unbounded."""
    pair = size if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise value_error(argument, "must be a number or (left, right)", size)
    left, right = (
        None if side is None else positive_integer(argument, side, minimum=0) for side in pair
    )
    return left, right
