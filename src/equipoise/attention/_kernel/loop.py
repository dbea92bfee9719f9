"""The one loop over the blocks of a schedule: rows outside, with a carry along their keys."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from equipoise._types import Array
from equipoise.attention._kernel.grid import Axes, Grid, Index, Place, Schedule

_Totals = TypeVar("_Totals")
_Carry = TypeVar("_Carry")
_ZERO = np.int32(0)


def walk(
    grid: Grid,
    schedule: Schedule,
    arrays: Sequence[Array],
    axes: Sequence[Axes],
    totals: _Totals,
    *,
    start: Callable[[_Totals], _Carry],
    update: Callable[[_Carry, Place, list[Array]], _Carry],
    finish: Callable[[_Totals, _Carry, Place], _Totals],
) -> _Totals:
    """The totals after every block of heads and rows.

    Each of them starts a carry, updates it with the arrays' blocks at each place of its schedule,
    and puts it into the totals.
    """
    num_rows, most = schedule.order.shape

    def cut(place: Place, *, keys: bool) -> Callable[[Array, Axes], Array]:
        # What runs over keys is read pair by pair, anything else once for the rows.
        return lambda x, a: grid.read(x, a, place) if (a.key is not None) == keys else x

    def row_block(head: Index, row: Index, totals: _Totals) -> _Totals:
        rows = grid.place(head, row, _ZERO)
        held = list(map(cut(rows, keys=False), arrays, axes))

        def pair(i: Index, carry: _Carry) -> _Carry:
            place = grid.place(head, row, _entry(schedule.order, row, i))
            return update(carry, place, list(map(cut(place, keys=True), held, axes)))

        count = _entry(schedule.counts, row)
        return finish(totals, _repeat(count, pair, start(totals), most=most), rows)

    def heads(head: Index, totals: _Totals) -> _Totals:
        return _repeat(num_rows, functools.partial(row_block, head), totals, most=num_rows)

    return _repeat(grid.head_blocks, heads, totals, most=grid.head_blocks)


def _entry(table: Array, *index: Index) -> Array:
    """An entry of a table, whose indices are known to lie within it."""
    size = (1,) * len(index)
    return lax.dynamic_slice(table, index, size, allow_negative_indices=False).reshape(())


def _repeat(
    count: int | Array, body: Callable[[Index, _Carry], _Carry], carry: _Carry, *, most: int
) -> _Carry:
    """The carry after ``body(i, carry)`` for i < count ≤ most; without a loop where most is 1.

    A single block may be computed though nothing in it is allowed: it adds zeros.
    """
    if most == 1:
        return body(_ZERO, carry)

    def step(i: Array, carry: _Carry) -> _Carry:
        return body(lax.convert_element_type(i, jnp.int32), carry)

    return lax.fori_loop(_ZERO, jnp.asarray(count, jnp.int32), step, carry)


def zero_like_all(arrays: Sequence[Array], dtype: jnp.dtype) -> Array:
    """A scalar zero that varies over the mesh axes that any of the arrays varies over."""
    total = jnp.zeros((), dtype)
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return total  # nothing varies outside of shard_map
    for x in arrays:
        if x.ndim and not jnp.issubdtype(x.dtype, jax.dtypes.extended):
            empty = lax.slice_in_dim(x, 0, 0, axis=0)
            total = total + jnp.sum(empty).astype(dtype)
        elif not x.ndim:
            total = total + jnp.sum(x[None][:0]).astype(dtype)
    return total
