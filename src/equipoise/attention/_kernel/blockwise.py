"""Attention by blocks: the forward loop, and its derivative of any order."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from equipoise._jax.late import Frame, framed, late
from equipoise._jax.zeros import is_zero
from equipoise._types import Array, PyTree
from equipoise.attention._kernel.at_once import at_once, few
from equipoise.attention._kernel.grid import Axes, Grid, Place
from equipoise.attention._kernel.loop import read_whole, walk, written_whole, zero_like_all
from equipoise.attention._kernel.mesh import rows_divided
from equipoise.attention._kernel.operations import (
    both,
    broken_values,
    clean,
    heads_first,
    only,
    spread,
    times_value,
)
from equipoise.attention._kernel.problem import Block, Problem, dropout, indices, scores
from equipoise.attention._kernel.schedule import (
    Where,
    grid_of_values,
    needed,
    partly_allowed,
    schedule_of,
)
from equipoise.attention._kernel.tangent import (
    BY_ROW,
    block_of,
    leaf_axes,
    overlap,
    tangent,
)

_Totals: TypeAlias = tuple[Array, Array]
_Carry: TypeAlias = tuple[Array, Array, Array]


def blockwise(problem: Problem, block_size: int | None) -> _Totals:
    """(o, lse) with o (b, t, n, e) and lse (b, t, n) in the dtype of sums."""
    b, t, s, k, g = problem.sizes
    if 0 in (b, t, s, g):
        shape = (b, t, k * g)
        zero = zero_like_all(jax.tree.leaves(problem.as_arrays()), problem.dtype)
        out = jnp.broadcast_to(zero, (*shape, problem.value.shape[-1]))
        return out, jnp.broadcast_to(zero - jnp.inf, shape)
    alone = dataclasses.replace(needed(problem), sinks=None).as_arrays()
    if block_size is None and few(problem):
        return at_once(alone)
    frame, arrays = framed(alone)
    return _attend(arrays, frame, Where(block_size, rows_divided()))


@jax.custom_jvp
def _attend(arrays: Sequence[Array], frame: Frame, where: Where) -> _Totals:
    problem: Problem = frame.whole(arrays)
    b, t, _, k, g = problem.sizes
    rows, dtype = (b, t, k * g), problem.dtype
    kinds = ((*rows, problem.value.shape[-1]), dtype), (rows, dtype)
    out, lse = late(_forward, where, problem, results=kinds)
    return out, lse


def _attend_jvp(
    primals: tuple[Sequence[Array], Frame, Where], tangents: tuple[PyTree, PyTree, PyTree]
) -> tuple[_Totals, _Totals]:
    arrays, frame, where = primals
    out, lse = _attend(arrays, frame, where)
    directions = frame.by_leaf([None if is_zero(x) else x for x in tangents[0]])
    return (out, lse), tangent(frame.whole(arrays), out, lse, directions, where)


_attend.defjvp(_attend_jvp, symbolic_zeros=True)


def _forward(platform: str, where: Where, problem: Problem) -> _Totals:
    """Streams keys past each block of rows with a running maximum; one program where eager."""
    where = where.on(platform)
    grid = grid_of_values(problem, where)
    schedule = schedule_of(problem, grid)
    b, t, _, k, g = problem.sizes
    e, dtype = problem.value.shape[-1], problem.dtype
    leaves, structure = jax.tree.flatten(problem)
    zero = zero_like_all((*leaves, *schedule), dtype)
    # Several blocks of rows meet a key again and again; a single one, only those that it reads.
    several = grid.row_blocks != 1

    def start(totals: _Totals, rows: Place) -> _Carry:
        # A maximum that is finite from the start: beside it what is -inf has weight 0, and what
        # stands in the totals has, if another block of rows has written there.
        shape = (b, grid.head_block * g, grid.block_rows)
        lowest = jnp.broadcast_to(zero + np.finfo(dtype).min, shape)
        return lowest, jnp.broadcast_to(zero, shape), grid.read(totals[0], BY_ROW, rows)

    def update(carry: _Carry, place: Place, blocks: list[Array]) -> _Carry:
        top, total, acc = carry
        part = jax.tree.unflatten(structure, blocks[: len(leaves)])
        # Rows are fewer numbers to scale than scores are.
        part = dataclasses.replace(part, query=part.query.astype(dtype) * part.scale, scale=1.0)
        if problem.masked:
            # A masked value must reach nothing, and 0 times NaN is NaN: it counts as 0, and its key
            # is NaN, which reaches the scores of those alone who may read it.
            broken = blocks[-1] if several else broken_values(part.value)
            key = lax.add(part.key, spread(broken, part.key))
            part = dataclasses.replace(part, key=key, value=clean(part.value))
        block = block_of(part, place, grid)
        score = _allowed_scores(block, place, grid, where)
        peak = lax.max(top, lax.reduce_max(score, (3,)))
        weight = lax.exp(lax.sub(score, spread(peak, score)))
        shrink = lax.exp(lax.sub(top, peak))
        total = lax.add(lax.mul(total, shrink), lax.reduce_sum(weight, (3,)))
        factor = dropout(block)
        if factor is not None:
            weight = weight * factor
        read = heads_first(times_value(weight, block.problem.value))
        shrunk = lax.mul(acc, spread(heads_first(shrink), acc))
        return peak, total, lax.add(shrunk, read)

    def finish(totals: _Totals, carry: _Carry, rows: Place) -> _Totals:
        top, total, acc = carry
        full = total != 0
        safe = only(total, full, 1)
        lse = only(lax.add(top, lax.log(safe)), full, -jnp.inf)
        out = lax.div(acc, spread(heads_first(safe), acc))
        return (
            grid.write(totals[0], out, BY_ROW, rows),
            grid.write(totals[1], heads_first(lse), BY_ROW, rows),
        )

    rows = (b, t, k * g)
    totals = jnp.broadcast_to(zero, (*rows, e)), jnp.broadcast_to(zero - jnp.inf, rows)
    arrays, axes = leaves, leaf_axes(problem)
    if problem.masked and several:
        along = Axes(head=2, key=1)
        value = read_whole(problem.value, along, grid)
        arrays, axes = [*arrays, broken_values(value)], [*axes, along]
    found = walk(grid, schedule, arrays, axes, totals, start=start, update=update, finish=finish)
    return written_whole(found[0], BY_ROW, grid), written_whole(found[1], BY_ROW, grid)


def _allowed_scores(block: Block, place: Place, grid: Grid, where: Where) -> Array:
    """Scores of a block, -inf where a pair may not attend or an earlier block had it."""
    problem = block.problem
    partly, mask = partly_allowed(problem, place, grid, where), problem.mask
    if partly is not None:
        block = block._replace(problem=dataclasses.replace(problem, mask=None))
    score, allowed = scores(block)
    allowed = both(allowed, overlap(place, block, grid, of_rows=False))
    if allowed is not None:
        score = only(score, allowed, -jnp.inf)
    if partly is None or mask is None:
        return score

    def ruled(score: Array) -> Array:
        return only(score, mask.allowed(indices(block)), -jnp.inf)

    # In this order: XLA copies what is handed through a first branch.
    found: Array = lax.cond(partly, ruled, lambda score: score, score)
    return found
