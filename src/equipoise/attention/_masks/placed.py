"""Where a device's rows and keys lie in a sequence that several share; masks and scores there."""

from collections.abc import Callable

import jax.numpy as jnp

from equipoise._types import Array, record, static_field
from equipoise.attention._masks.mask import Bounds, Extent, Flags, Indices, Mask


@record
class _Part:
    """Two runs of indices, the second one later in the whole; ``half`` is the length of the first.

    Called with indices of the part it gives those of the whole, in the same order.
    """

    starts: Array
    half: int = static_field()

    def __call__(self, index: Flags) -> Array:
        ahead = jnp.where(index < self.half, self.starts[0], self.starts[1] - self.half)
        return ahead + index


def part_of(device: Array, count: int, devices: int, *, zigzag: bool) -> _Part:
    """What a device holds: as many in a row as each, or two halves, as far from either end."""
    half = count // 2
    second = (2 * devices - 1 - device) * half if zigzag else device * count + half
    return _Part(jnp.stack([device * (half if zigzag else count), second]), half)


@record
class Placed(Mask):
    """A mask of the whole, seen from a part of its rows and a part of its keys."""

    mask: Mask
    rows: _Part
    keys: _Part
    contiguous: bool = static_field()

    def allowed(self, pairs: Indices) -> Array:
        """As in the whole."""
        rows, keys = self.rows(pairs.rows), self.keys(pairs.keys)
        there = pairs._replace(rows=rows, keys=keys, contiguous=self.contiguous)
        return self.mask.allowed(there)

    def bounds(self, extent: Extent) -> Bounds:
        """Of all that lies between the first and the last in the whole."""
        row, key = (
            (part(first), part(last))
            for part, (first, last) in ((self.rows, extent.row), (self.keys, extent.key))
        )
        ahead = extent.query[0] - extent.row[0]
        query = row[0] + ahead, row[1] + ahead
        return self.mask.bounds(Extent(row, query, key, extent.sizes, self.contiguous))


def of_whole(
    score_fn: Callable[..., Array], offset: int | Array, rows: _Part, keys: _Part
) -> Callable[..., Array]:
    """The function of positions in the whole, where it is given those in a part."""

    def score(score: Array, batch: Array, head: Array, q: Array, k: Array) -> Array:
        ahead = jnp.asarray(offset, jnp.int32).reshape(-1)
        first = ahead[batch if ahead.size > 1 else 0]
        return score_fn(score, batch, head, rows(q - first) + first, keys(k))

    return score
