"""The one loop over the blocks of a schedule: rows outside, with a carry along their keys."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from equipoise._types import Array
from equipoise.attention._kernel.grid import Axes, Grid, Place, Schedule

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

    def row_block(i: Array, totals: _Totals) -> _Totals:
        rows = grid.rows_at(i)
        # What runs over keys is read pair by pair, anything else once for the rows.
        held = [
            grid.read(x, a, rows) if a.key is None else x for x, a in zip(arrays, axes, strict=True)
        ]
        entry = i % num_rows

        def pair(p: Array, carry: _Carry) -> _Carry:
            place = grid.keys_at(rows, schedule.order[entry, jnp.asarray(p, jnp.int32)])
            blocks = [
                x if a.key is None else grid.read(x, a, place)
                for x, a in zip(held, axes, strict=True)
            ]
            return update(carry, place, blocks)

        carry = _repeat(schedule.counts[entry], pair, start(totals), most=most)
        return finish(totals, carry, rows)

    steps = grid.head_blocks * num_rows
    return _repeat(steps, row_block, totals, most=steps)


def _repeat(
    count: int | Array, body: Callable[[Array, _Carry], _Carry], carry: _Carry, *, most: int
) -> _Carry:
    """The carry after ``body(i, carry)`` for i < count ≤ most; without a loop where most is 1.

    A single block may be computed though nothing in it is allowed: it adds zeros.
    """
    if most == 1:
        return body(_ZERO, carry)  # type: ignore[arg-type]
    return lax.fori_loop(_ZERO, jnp.asarray(count, jnp.int32), body, carry)


def zero_like_all(arrays: Sequence[Array], dtype: jnp.dtype) -> Array:
    """A scalar zero that varies over the mesh axes that any of the arrays varies over."""
    total = jnp.zeros((), dtype)
    for x in arrays:
        if x.ndim and not jnp.issubdtype(x.dtype, jax.dtypes.extended):
            empty = lax.slice_in_dim(x, 0, 0, axis=0)
            total = total + jnp.sum(empty).astype(dtype)
        elif not x.ndim:
            total = total + jnp.sum(x[None][:0]).astype(dtype)
    return total
