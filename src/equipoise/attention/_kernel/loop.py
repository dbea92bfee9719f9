"""The one loop over the blocks of a schedule: rows outside, with a carry along their keys."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from equipoise._jax.varying import alike, undivided
from equipoise._types import Array
from equipoise.attention._kernel.grid import Axes, Grid, Index, Place, Schedule, int32, is_named

_Totals = TypeVar("_Totals")
_Carry = TypeVar("_Carry")
_State: TypeAlias = tuple[Index, _Totals]
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
    """The totals after every block of heads and rows.

    Each of them starts a carry, updates it with the arrays' blocks at each place of its schedule,
    and puts it into the totals.
    """
    if schedule.row.size == 0 and not grid.every:
        return totals

    arrays = [read_whole(x, a, grid) for x, a in zip(arrays, axes, strict=True)]

    def cut(place: Place, *, held: bool) -> Callable[[Array, Axes], Array]:
        # Vectors of rows are read once for all keys, all else where it is used, without a copy.
        def read(x: Array, along: Axes) -> Array:
            by_rows = along.key is None and x.ndim - 1 not in along
            return grid.read(x, along, place) if by_rows == held else x

        return read

    def row_block(head: Index, row: Index, state: _State[_Totals]) -> _State[_Totals]:
        first, totals = state
        rows = grid.place(head, row, _ZERO)
        kept = list(map(cut(rows, held=True), arrays, axes))

        def at(place: Place, carry: _Carry) -> _Carry:
            return update(carry, place, list(map(cut(place, held=False), kept, axes)))

        def pair(i: Index, carry: _Carry) -> _Carry:
            # The row is looked up: known from outside, XLA would make arrays of it there.
            place = grid.place(head, _entry(schedule.row, i), _entry(schedule.key, i))
            return at(place, carry)

        carry = start(totals, rows)
        if grid.key_blocks == 1:
            # It is computed even if nothing in it is allowed: it adds zeros.
            return first, finish(totals, at(rows, carry), rows)
        if grid.every:

            def key_block(key: Index, carry: _Carry) -> _Carry:
                return at(grid.place(head, row, key), carry)

            return first, finish(totals, _repeat(grid.key_blocks, key_block, carry), rows)
        stop, carry = _loop(first, lambda: _entry(schedule.stop, row), pair, carry)
        return stop, finish(totals, carry, rows)

    def heads(head: Index, totals: _Totals) -> _Totals:
        rows = functools.partial(row_block, head)
        begin: _State[_Totals] = (_ZERO, totals)
        return _repeat(grid.row_blocks, rows, begin)[1]

    return _repeat(grid.head_blocks, heads, totals)


def read_whole(x: Array, axes: Axes, grid: Grid) -> Array:
    """An array that XLA may divide between devices, whole along keys, and rows read in parts.

    So each is sent once, before the loops and for all of them.
    """
    parts = [axes.row] if grid.row_blocks != 1 else []
    return undivided(x, [axis for axis in (*parts, axes.key) if axis is not None])


def written_whole(x: Array, axes: Axes, grid: Grid) -> Array:
    """The same for a total whose parts loops have written: they wrote into a whole one."""
    parts = (axes.row, grid.row_blocks), (axes.key, grid.key_blocks)
    return undivided(x, [axis for axis, blocks in parts if axis is not None and blocks != 1])


def _repeat(count: int, body: Callable[[Index, _Carry], _Carry], carry: _Carry) -> _Carry:
    """The carry after ``body(i, carry)`` for i < count; without a loop where that is 1."""
    if count == 1:
        return body(_ZERO, carry)
    if is_named(count):
        # With the bound carried along, so that it can be read off the program.
        return lax.fori_loop(_ZERO, int32(count), body, carry)
    return _loop(_ZERO, lambda: np.int32(count), body, carry)[1]


def _loop(
    first: Index,
    stop: Callable[[], Index],
    body: Callable[[Index, _Carry], _Carry],
    carry: _Carry,
) -> tuple[Index, _Carry]:
    """Where the index ends that goes from one to another, the latter read anew, and the carry."""

    def step(state: tuple[Index, _Carry]) -> tuple[Index, _Carry]:
        i, carry = state
        return lax.add(i, _ONE), body(i, carry)

    return lax.while_loop(lambda state: lax.lt(state[0], stop()), step, (first, carry))


def _entry(table: Array, index: Index) -> Array:
    """An entry of a table, whose index is known to lie within it."""
    return lax.dynamic_slice(table, (index,), (1,), allow_negative_indices=False).reshape(())


def zero_like_all(arrays: Sequence[Array], dtype: jnp.dtype) -> Array:
    """A scalar zero that varies over the mesh axes that any of the arrays varies over."""
    return alike([jnp.zeros((), dtype), *arrays])[0]


@jax.custom_batching.custom_vmap
def most_of_batch(numbers: Array) -> Array:
    """The numbers; under vmap the largest of any entry, so that a loop keeps one trip count.

    Of flags: whether any entry has them.
    """
    return numbers


@most_of_batch.def_vmap
def _most_of_batch_rule(
    axis_size: int, in_batched: list[bool], numbers: Array
) -> tuple[Array, bool]:
    del axis_size, in_batched
    return most_of_batch(numbers.max(axis=0)), False
