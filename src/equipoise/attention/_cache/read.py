r"""Reading: blocks of a row's tokens meet the blocks of its entry that they may read, no others.

The pairs are listed, and a loop goes through as many as there are, so that bytes are those of the
tokens that are read, :math:`\sum_b \ell_b`, whatever the longest entry and the capacity. Each pair
gives a part of the softmax, and parts of the same tokens are put together:

.. math::

    M = \max(M_1, M_2), \qquad Z = \sum_i e^{M_i - M} Z_i, \qquad A = \sum_i e^{M_i - M} A_i
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from equipoise._jax.late import late
from equipoise._jax.varying import alike
from equipoise._types import Array
from equipoise.attention._cache.cache import KVCache
from equipoise.attention._cache.quantized import restored
from equipoise.attention._cache.rows import Rows, in_rows, num_rows, page_of
from equipoise.attention._kernel.grid import Axes, Grid
from equipoise.attention._kernel.loop import most_of_batch, zero_like_all
from equipoise.attention._kernel.operations import (
    both,
    broken_values,
    clean,
    heads_first,
    only,
    spread,
    times_value,
)
from equipoise.attention._kernel.problem import Problem, scores
from equipoise.attention._kernel.schedule import possible_blocks
from equipoise.attention._kernel.tangent import block_of

# Without pages, tokens of a block that is read, and new tokens of a block that reads; tokens and
# scores at once where a device is wide; pairs of which a number is found by comparing all.
_BLOCK, _ROWS, _AT_ONCE, _SCORES, _FEW = 256, 512, 2**14, 2**24, 2**12


class _Sums(NamedTuple):
    """M (r, n, t), Z (r, n, t) and A (r, t, n, e) of some blocks of new tokens."""

    peak: Array
    total: Array
    read: Array


def read(problem: Problem, cache: KVCache, rows: Rows) -> tuple[Array, Array]:
    """(o, lse) of a problem without sinks, whose keys and values are those of the cache."""
    shape, dtype = problem.query.shape[:-1], problem.dtype
    kinds = ((*shape, cache.value.shape[-1]), dtype), (shape, dtype)
    out, lse = late(_read, problem, cache, rows, results=kinds)
    return out, lse


def _read(platform: str, problem: Problem, cache: KVCache, rows: Rows) -> tuple[Array, Array]:
    b, t, _, k, g = problem.sizes
    size = cache.key.shape[-3] if cache.page_table is not None else min(_BLOCK, cache.capacity)
    grid = Grid(k, t, cache.capacity, k, -(-t // -(-t // _ROWS)), size)
    ends, count = _listed(problem, grid)
    r, e, dtype = b * grid.row_blocks, cache.value.shape[-1], problem.dtype
    # One on a CPU, on a wide device enough to fill it.
    at_once = 1 if platform == "cpu" else _pairs_at_once(r, k * g, grid)
    # Few are no longer to compare than to search, and make a shorter program.
    search = "compare_all" if ends.size <= _FEW else "scan_unrolled"
    per_row = jnp.full(at_once, grid.key_blocks, jnp.int32)
    zero = zero_like_all((*jax.tree.leaves((problem, cache, rows.entry)), ends), dtype)
    start = _Sums(
        # Finite, so that what is -inf beside it has weight 0.
        jnp.broadcast_to(zero + np.finfo(dtype).min, (r, k * g, grid.row_block)),
        jnp.broadcast_to(zero, (r, k * g, grid.row_block)),
        jnp.broadcast_to(zero, (r, grid.row_block, k * g, e)),
    )
    part = functools.partial(_part, problem, cache, rows, grid)

    def some(number: Array, sums: _Sums) -> _Sums:
        numbers = number * at_once + jnp.arange(at_once, dtype=jnp.int32)
        # The pair whose number it is: the first up to which there are more.
        pair = jnp.searchsorted(ends, numbers, side="right", method=search).astype(jnp.int32)
        row, block = lax.div(pair, per_row), lax.rem(pair, per_row)
        if at_once == 1:
            return _put(sums, part(row[0], block[0]), row[0])
        return _together(sums, jax.vmap(part)(row, block), row)

    trips: Array = most_of_batch((count + (at_once - 1)) // at_once)
    sums = lax.fori_loop(jnp.zeros_like(trips), trips, some, start)
    full = sums.total != 0
    safe = only(sums.total, full, 1)
    lse = only(sums.peak + jnp.log(safe), full, -jnp.inf)
    out = sums.read / heads_first(safe)[..., None]
    return _joined(out, grid, b), _joined(heads_first(lse), grid, b)


def _pairs_at_once(rows: int, heads: int, grid: Grid) -> int:
    """How many pairs a step of the loop has where all are computed at once."""
    most = _SCORES // (heads * grid.row_block * grid.key_block)
    return max(1, min(most, _AT_ONCE // grid.key_block, rows * grid.key_blocks))


def _listed(problem: Problem, grid: Grid) -> tuple[Array, Array]:
    """How many pairs there are up to each one of (rows × their blocks × blocks), and in all."""
    assert problem.mask is not None
    b = problem.query.shape[0]
    possible = jnp.asarray(possible_blocks(problem.mask, problem.offset, grid))
    flags = jnp.broadcast_to(possible, (b, grid.row_blocks, grid.key_blocks))
    ends = jnp.cumsum(flags.reshape(-1), dtype=jnp.int32)
    return ends, ends[-1]


def _part(
    problem: Problem, cache: KVCache, rows: Rows, grid: Grid, row: Array, block: Array
) -> _Sums:
    """What a block of keys adds to one of new tokens, without an axis for it.

    Nothing beyond the last one.
    """
    blocks, size = np.int32(grid.row_blocks), grid.key_block
    live = row < problem.query.shape[0] * blocks
    row, number = lax.div(row, blocks), lax.rem(row, blocks)
    row = jnp.minimum(row, np.int32(problem.query.shape[0] - 1))
    place = grid.place(np.int32(0), number, block)
    if cache.page_table is None:
        page, column = rows.entry[row], place.key_start
    else:
        page, column = page_of(cache, rows.entry[row], block), jnp.zeros_like(block)

    def of_row(x: Array, axes: Axes) -> Array:
        one = x if x.shape[0] == 1 else lax.dynamic_slice_in_dim(x, row, 1, 0)
        return grid.read(one, axes, place)

    def of_pairs(x: Array | None) -> Array | None:
        if x is None:
            return None
        return of_row(
            x, Axes(row=None if x.shape[2] == 1 else 2, key=None if x.shape[3] == 1 else 3)
        )

    # In a branch, as before a loop XLA on a CPU would widen the whole of a cache of short floats.
    found = functools.partial(_block, cache, size, problem.dtype)
    there = page < num_rows(cache)
    key, value = lax.cond(there, found, functools.partial(_nothing, found), page, column)
    # A value that may not be read reaches nothing: it counts as 0, and if it is not finite its key
    # is NaN, which reaches those who may read it.
    key = key + broken_values(value)[..., None]
    part = dataclasses.replace(
        problem,
        query=of_row(problem.query, Axes(row=1)),
        key=key,
        value=clean(value),
        offset=of_row(jnp.asarray(problem.offset), Axes()),
        bias=of_pairs(problem.bias),
        allowed=of_pairs(problem.allowed),
    )
    cut_out = block_of(part, place, grid)._replace(entry=row)
    score, allowed = scores(cut_out)
    fresh = (cut_out.keys >= place.key_first) & live
    score = only(score, both(fresh[None, None, None], allowed), -jnp.inf)  # type: ignore[arg-type]
    peak = jnp.maximum(score.max(-1), np.finfo(problem.dtype).min)
    weight = jnp.exp(score - spread(peak, score))
    return _Sums(peak[0], weight.sum(-1)[0], heads_first(times_value(weight, part.value))[0])


def _block(
    cache: KVCache, size: int, dtype: jnp.dtype, page: Array, column: Array
) -> tuple[Array, Array]:
    """Keys and values (1, size, k, h or e) of a row of the storage, from a column on."""

    def cut(stored: Array) -> Array:
        stored = in_rows(cache, stored)
        corner = page, column, *(jnp.zeros_like(page),) * (stored.ndim - 2)
        return lax.dynamic_slice(stored, corner, (1, size, *stored.shape[2:]))

    def wide(stored: Array, scale: Array | None) -> Array:
        return restored(cut(stored), None if scale is None else cut(scale), dtype)

    key, value = wide(cache.key, cache.key_scale), wide(cache.value, cache.value_scale)
    key, value, *_ = alike([key, value])
    return key, value


def _nothing(
    found: Callable[[Array, Array], tuple[Array, Array]], page: Array, column: Array
) -> tuple[Array, Array]:
    """Keys that are NaN, which reach whoever may read them."""
    key, value = jax.eval_shape(found, page, column)
    return jnp.full_like(key, np.nan), jnp.zeros_like(value)


def _put(sums: _Sums, part: _Sums, row: Array) -> _Sums:
    """One part put together with those of its tokens before."""
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
    """Parts in the order of their tokens, several of some maybe, put together with those before."""
    peak = sums.peak.at[row].max(parts.peak, mode="drop")
    new, old = (x.at[row].get(mode="clip") for x in (peak, sums.peak))
    # What was there before shrinks once, at the first of the parts.
    first = jnp.concatenate([jnp.ones(1, bool), row[1:] != row[:-1]])[:, None, None]
    shrink, grow = only(jnp.exp(old - new), first, 1), jnp.exp(parts.peak - new)

    def added(x: Array, part: Array, shrink: Array, grow: Array) -> Array:
        return x.at[row].multiply(shrink, mode="drop").at[row].add(part * grow, mode="drop")

    turned = (jnp.swapaxes(x, 1, 2)[..., None] for x in (shrink, grow))
    return _Sums(
        peak,
        added(sums.total, parts.total, shrink, grow),
        added(sums.read, parts.read, *turned),
    )


def _joined(blocks: Array, grid: Grid, b: int) -> Array:
    """Blocks of new tokens (b · blocks, row_block, ...) as (b, t, ...); the last one overlaps."""
    parts = blocks.reshape(b, grid.row_blocks, *blocks.shape[1:])
    if grid.row_blocks == 1:
        return parts[:, 0]
    before = parts[:, :-1].reshape(b, -1, *blocks.shape[2:])
    return jnp.concatenate([before, parts[:, -1, before.shape[1] - grid.rows :]], axis=1)


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
