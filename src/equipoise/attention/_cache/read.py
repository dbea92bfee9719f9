r"""Reading: each row of a call meets the blocks of its entry that it may read, and no others.

The pairs (row, block) are listed, and a loop goes through as many as there are, so that bytes are
those of the tokens that are read, :math:`\sum_b \ell_b`, whatever the longest entry and the
capacity. Each pair gives a part of the softmax, and parts of one row are put together:

.. math::

    M = \max(M_1, M_2), \qquad Z = \sum_i e^{M_i - M} Z_i, \qquad A = \sum_i e^{M_i - M} A_i
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from equipoise._types import Array
from equipoise.attention._cache.cache import KVCache
from equipoise.attention._cache.quantized import restored
from equipoise.attention._cache.rows import Rows, in_rows, num_rows, page_of
from equipoise.attention._kernel.blockwise import broken_values
from equipoise.attention._kernel.grid import Grid
from equipoise.attention._kernel.loop import zero_like_all
from equipoise.attention._kernel.operations import (
    both,
    clean,
    heads_first,
    only,
    spread,
    times_value,
)
from equipoise.attention._kernel.problem import Block, Problem
from equipoise.attention._kernel.schedule import most_of_batch, possible_blocks
from equipoise.attention._kernel.scores import scores

# Without pages, tokens of a block; tokens that are read at once where a device is wide; and pairs
# of which a number is found by comparing all.
_BLOCK, _AT_ONCE, _FEW = 256, 2**14, 2**12


class _Sums(NamedTuple):
    """M (r, n, t), Z (r, n, t) and A (r, t, n, e) of some rows."""

    peak: Array
    total: Array
    read: Array


def read(problem: Problem, cache: KVCache, rows: Rows) -> tuple[Array, Array]:
    """(o, lse) of a problem without sinks, whose keys and values are those of the cache."""
    b, t, _, k, g = problem.sizes
    size = cache.key.shape[-3] if cache.page_table is not None else min(_BLOCK, cache.capacity)
    grid = Grid(k, t, cache.capacity, k, t, size)
    ends, count = _listed(problem, grid)
    e, dtype = cache.value.shape[-1], problem.dtype
    at_once = pairs_at_once(b, grid)
    # A row of the table takes no longer to compare than to search, and is a shorter program.
    search = "compare_all" if ends.size <= _FEW else "scan_unrolled"
    per_row = jnp.full(at_once, grid.key_blocks, jnp.int32)
    zero = zero_like_all((*jax.tree.leaves((problem, cache, rows.entry)), ends), dtype)
    start = _Sums(
        # Finite, so that what is -inf beside it has weight 0.
        jnp.broadcast_to(zero + np.finfo(dtype).min, (b, k * g, t)),
        jnp.broadcast_to(zero, (b, k * g, t)),
        jnp.broadcast_to(zero, (b, t, k * g, e)),
    )

    def some(number: Array, sums: _Sums) -> _Sums:
        numbers = number * at_once + jnp.arange(at_once, dtype=jnp.int32)
        # The pair whose number it is: the first up to which there are more.
        pair = jnp.searchsorted(ends, numbers, side="right", method=search).astype(jnp.int32)
        row, block = lax.div(pair, per_row), lax.rem(pair, per_row)
        if at_once == 1:
            return _put(sums, _part(problem, cache, rows, grid, row[0], block[0]), row[0])
        parts = jax.vmap(lambda row, block: _part(problem, cache, rows, grid, row, block))
        return _together(sums, parts(row, block), row)

    trips = most_of_batch((count + (at_once - 1)) // at_once)
    sums = lax.fori_loop(jnp.zeros_like(trips), trips, some, start)
    full = sums.total != 0
    safe = only(sums.total, full, 1)
    lse = only(sums.peak + jnp.log(safe), full, -jnp.inf)
    return sums.read / heads_first(safe)[..., None], heads_first(lse)


def pairs_at_once(rows: int, grid: Grid) -> int:
    """How many pairs a step of the loop has: one on a CPU, on a wide device enough to fill it.

    They are as many as rows at least, so that putting together costs no more than reading.
    """
    if jax.default_backend() == "cpu":
        return 1
    return min(rows * grid.key_blocks, max(_AT_ONCE // grid.key_block, rows))


def _listed(problem: Problem, grid: Grid) -> tuple[Array, Array]:
    """How many pairs there are up to each one of the grid (rows × blocks), and in all."""
    b = problem.query.shape[0]
    possible = possible_blocks(problem.mask, problem.offset, grid)
    flags = jnp.broadcast_to(jnp.asarray(possible)[:, 0], (b, grid.key_blocks))
    ends = jnp.cumsum(flags.reshape(-1), dtype=jnp.int32)
    return ends, ends[-1]


def _part(
    problem: Problem, cache: KVCache, rows: Rows, grid: Grid, row: Array, block: Array
) -> _Sums:
    """What one block of keys adds to a row, without an axis for it; nothing beyond the last row."""
    b, t, _, _, _ = problem.sizes
    live, row = row < b, jnp.minimum(row, b - 1)
    size = grid.key_block
    first = jnp.minimum(block * size, np.int32(cache.capacity - size))
    if cache.page_table is None:
        page, column = rows.entry[row], first
    else:
        page, column = page_of(cache, rows.entry[row], block), jnp.zeros_like(block)
    there = page < num_rows(cache)

    def cut(stored: Array) -> Array:
        stored = in_rows(cache, stored)
        corner = page, column, *(jnp.zeros_like(page),) * (stored.ndim - 2)
        return lax.dynamic_slice(stored, corner, (1, size, *stored.shape[2:]))

    def of_row(x: Array | None) -> Array | None:
        if x is None:
            return None
        if x.shape[0] != 1:
            x = lax.dynamic_slice_in_dim(x, row, 1, 0)
        if x.ndim == 4 and x.shape[3] != 1:
            x = lax.dynamic_slice_in_dim(x, first, size, 3)
        return x

    dtype = problem.dtype

    def wide(stored: Array, scale: Array | None) -> Array:
        return restored(cut(stored), None if scale is None else cut(scale), dtype)

    key, value = wide(cache.key, cache.key_scale), wide(cache.value, cache.value_scale)
    # A value that may not be read reaches nothing: it counts as 0, and if it is not finite its key
    # is NaN, as are those of a page that is not there, which reaches those who may read it.
    key = key + jnp.where(there, broken_values(value), jnp.nan)[..., None]
    part = dataclasses.replace(
        problem,
        query=lax.dynamic_slice_in_dim(problem.query, row, 1, 0),
        key=key,
        value=clean(value),
        offset=of_row(problem.offset),
        bias=of_row(problem.bias),
        allowed=of_row(problem.allowed),
    )
    step, keys = jnp.arange(t, dtype=jnp.int32), first + jnp.arange(size, dtype=jnp.int32)
    score, allowed = scores(Block(part, 0, step, keys, row))
    fresh = (keys >= block * size) & live
    score = only(score, both(allowed, fresh[None, None, None]), -jnp.inf)
    peak = jnp.maximum(score.max(-1), np.finfo(dtype).min)
    weight = jnp.exp(score - spread(peak, score))
    return _Sums(peak[0], weight.sum(-1)[0], heads_first(times_value(weight, part.value))[0])


def _put(sums: _Sums, part: _Sums, row: Array) -> _Sums:
    """One part put together with those of its row before."""
    old = _Sums(*(lax.dynamic_index_in_dim(x, row, 0, keepdims=False) for x in sums))
    peak = jnp.maximum(old.peak, part.peak)
    shrink, grow = jnp.exp(old.peak - peak), jnp.exp(part.peak - peak)
    new = _Sums(
        peak,
        old.total * shrink + part.total * grow,
        old.read * shrink.T[..., None] + part.read * grow.T[..., None],
    )
    return _Sums(
        *(lax.dynamic_update_index_in_dim(x, y, row, 0) for x, y in zip(sums, new, strict=True))
    )


def _together(sums: _Sums, parts: _Sums, row: Array) -> _Sums:
    """Parts of many rows, several of one maybe, put together with those before."""
    peak = sums.peak.at[row].max(parts.peak, mode="drop")
    shrink = jnp.exp(sums.peak - peak)
    grow = jnp.exp(parts.peak - peak.at[row].get(mode="clip"))
    shrink_read, grow_read = (jnp.swapaxes(x, 1, 2)[..., None] for x in (shrink, grow))
    return _Sums(
        peak,
        (sums.total * shrink).at[row].add(parts.total * grow, mode="drop"),
        (sums.read * shrink_read).at[row].add(parts.read * grow_read, mode="drop"),
    )


def whole(cache: KVCache, rows: Rows, dtype: jnp.dtype) -> tuple[Array, Array]:
    """All keys and values of the rows, (m, capacity, k, h or e); keys that are not there NaN."""
    page = rows.entry
    if cache.page_table is not None:
        numbers = jnp.arange(cache.page_table.shape[-1], dtype=jnp.int32)
        page = page_of(cache, rows.entry[:, None], numbers)

    def found(stored: Array, otherwise: float) -> Array:
        stored = in_rows(cache, stored)
        if cache.page_table is not None or not rows.every:
            stored = stored.at[page].get(mode="fill", fill_value=otherwise)
        return stored.reshape(page.shape[0], cache.capacity, *stored.shape[page.ndim + 1 :])

    def wide(stored: Array, scale: Array | None, otherwise: float) -> Array:
        if scale is None:
            return found(stored, otherwise).astype(dtype)
        return restored(found(stored, 0), found(scale, otherwise), dtype)

    return wide(cache.key, cache.key_scale, np.nan), wide(cache.value, cache.value_scale, 0)
