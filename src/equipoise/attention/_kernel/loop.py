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
_ZERO, _ONE = np.int32(0), np.int32(1)


def walk(
    grid: Grid,
    schedule: Schedule,
    arrays: Sequence[Array],
    axes: Sequence[Axes],
    totals: _Totals,
    *,
    start: Callable[[_Totals, Place], _Carry],
    update: Callable[[_Carry, Place, list[Array]], _Carry],
    finish: Callable[[_Totals, _Carry, Place], _Totals],
) -> _Totals:
    """The totals after every block of heads and every run of blocks with the same rows.

    Each run starts a carry, updates it with the arrays' blocks at each of its places, and puts it
    into the totals.
    """
    most = schedule.row.shape[0]
    if not most:
        return totals

    def cut(place: Place, *, held: bool) -> Callable[[Array, Axes], Array]:
        # Vectors of rows are read once a run, all else where it is used, which costs no copy.
        def read(x: Array, along: Axes) -> Array:
            by_run = along.key is None and x.ndim - 1 not in along
            return grid.read(x, along, place) if by_run == held else x

        return read

    def run(head: Index, first: Index, totals: _Totals) -> tuple[Index, _Totals]:
        rows = grid.place(head, _entry(schedule.row, first), _ZERO)
        kept = list(map(cut(rows, held=True), arrays, axes))

        def continues(i: Index) -> Array:
            following = _entry(schedule.row, lax.min(i, np.int32(most - 1)))
            same = lax.eq(following, _entry(schedule.row, first))
            return lax.bitwise_and(lax.lt(i, schedule.length), same)

        def pair(i: Index, carry: _Carry) -> tuple[Index, _Carry]:
            # Its row is looked up again: known from outside, XLA would make arrays of it there.
            place = grid.place(head, _entry(schedule.row, i), _entry(schedule.key, i))
            blocks = list(map(cut(place, held=False), kept, axes))
            return lax.add(i, _ONE), update(carry, place, blocks)

        carry = start(totals, rows)
        if grid.key_blocks == 1 or most == 1:
            after, carry = pair(first, carry)
        else:
            after, carry = _while(continues, pair, first, carry)
        return after, finish(totals, carry, rows)

    def heads(head: Index, totals: _Totals) -> tuple[Index, _Totals]:
        if most == 1:
            # A single block is computed even if nothing in it is allowed: it adds zeros.
            _, totals = run(head, _ZERO, totals)
        else:
            more = functools.partial(run, head)
            _, totals = _while(lambda i: lax.lt(i, schedule.length), more, _ZERO, totals)
        return lax.add(head, _ONE), totals

    if grid.head_blocks == 1:
        return heads(_ZERO, totals)[1]
    count = np.int32(grid.head_blocks)
    return _while(lambda head: lax.lt(head, count), heads, _ZERO, totals)[1]


def _while(
    proceed: Callable[[Index], Array],
    body: Callable[[Index, _Carry], tuple[Index, _Carry]],
    index: Index,
    carry: _Carry,
) -> tuple[Index, _Carry]:
    """Where the index ends that the body moves on, and the carry there."""
    return lax.while_loop(lambda s: proceed(s[0]), lambda s: body(*s), (index, carry))


def _entry(table: Array, index: Index) -> Array:
    """An entry of a table, whose index is known to lie within it."""
    return lax.dynamic_slice(table, (index,), (1,), allow_negative_indices=False).reshape(())


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
