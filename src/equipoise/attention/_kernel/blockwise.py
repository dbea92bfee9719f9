"""Attention by blocks: the forward loop, and its derivative of any order."""

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.zeros import is_zero
from equipoise._types import Array, PyTree
from equipoise.attention._kernel.fused import Kernel
from equipoise.attention._kernel.grid import Axes, Grid, Place, Schedule
from equipoise.attention._kernel.loop import walk, zero_like_all
from equipoise.attention._kernel.problem import Problem
from equipoise.attention._kernel.schedule import grid_of, schedule_of
from equipoise.attention._kernel.scores import both, dropout, scores
from equipoise.attention._kernel.tangent import (
    BY_ROW,
    block_of,
    clean,
    leaf_axes,
    overlap,
    tangent,
    times_value,
)

_Totals: TypeAlias = tuple[Array, Array]
_Carry: TypeAlias = tuple[Array, Array, Array]


def blockwise(
    problem: Problem, block_size: int | None, kernel: Kernel | None = None
) -> tuple[Array, Array]:
    """(o, lse) with o (b, t, n, e) and lse (b, t, n) in the dtype of sums.

    A kernel gives the value of o where nothing is differentiated; lse is then not to be used.
    """
    b, t, s, k, g = problem.sizes
    if 0 in (b, t, s, g):
        shape = (b, t, k * g)
        zero = zero_like_all(jax.tree.leaves(problem.as_arrays()), problem.dtype)
        out = jnp.broadcast_to(zero, (*shape, problem.value.shape[-1]))
        return out, jnp.broadcast_to(zero - jnp.inf, shape)
    grid = grid_of(problem, block_size)
    schedule = schedule_of(problem, grid)
    problem = dataclasses.replace(problem, sinks=None).as_arrays()
    return _attend(problem, schedule, _Static(grid, kernel))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    grid: Grid
    kernel: Kernel | None = None


@jax.custom_jvp
def _attend(problem: Problem, schedule: Schedule, static: _Static) -> tuple[Array, Array]:
    if static.kernel is not None:
        return static.kernel(problem)
    return _forward(problem, schedule, static.grid)


def _attend_jvp(
    primals: tuple[Problem, Schedule, _Static], tangents: tuple[PyTree, PyTree, PyTree]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    problem, schedule, static = primals
    out, lse = _attend(problem, schedule, _Static(static.grid))
    directions = [None if is_zero(x) else x for x in jax.tree.leaves(tangents[0], is_leaf=is_zero)]
    return (out, lse), tangent(problem, schedule, static.grid, out, lse, directions)


_attend.defjvp(_attend_jvp, symbolic_zeros=True)


def _forward(problem: Problem, schedule: Schedule, grid: Grid) -> _Totals:
    """Streams keys past each block of rows with a running maximum."""
    b, t, _, k, g = problem.sizes
    e, dtype = problem.value.shape[-1], problem.dtype
    leaves, structure = jax.tree.flatten(problem)
    zero = zero_like_all((*leaves, *schedule), dtype)
    # For each key 0, or NaN if its value is not finite.
    broken = jnp.sum((problem.value - problem.value).astype(dtype), axis=-1)

    def start(_: _Totals) -> _Carry:
        # A maximum that is finite from the start: beside it what is -inf has weight 0.
        shape = (b, grid.head_block * g, grid.row_block)
        lowest = jnp.broadcast_to(zero + np.finfo(dtype).min, shape)
        return lowest, jnp.broadcast_to(zero, shape), jnp.broadcast_to(zero, (*shape, e))

    def update(carry: _Carry, place: Place, blocks: list[Array]) -> _Carry:
        top, total, acc = carry
        *blocks, broken = blocks
        block = block_of(jax.tree.unflatten(structure, blocks), place, grid)
        value = block.problem.value
        score, allowed = scores(block)
        allowed = both(allowed, overlap(place, block, grid, of_rows=False))
        if allowed is not None:
            # A weight of 0 times NaN is NaN: the value counts as 0, and who may read it is NaN.
            whole = jnp.repeat(jnp.swapaxes(broken, 1, 2), g, axis=1)[:, :, None] == 0
            score = jnp.where(allowed, jnp.where(whole, score, jnp.nan), -jnp.inf)
            value = clean(value)
        # The maximum so far enters the block, whose own is then the new one.
        peak = jnp.max(jnp.maximum(score, top[..., None]), axis=-1)
        weight = jnp.exp(score - peak[..., None])
        shrink = jnp.exp(top - peak)
        total = total * shrink + jnp.sum(weight, axis=-1)
        factor = dropout(block)
        if factor is not None:
            weight = weight * factor
        return peak, total, acc * shrink[..., None] + times_value(weight, value)

    def finish(totals: _Totals, carry: _Carry, rows: Place) -> _Totals:
        top, total, acc = carry
        empty = total == 0
        safe = jnp.where(empty, 1, total)
        lse = jnp.where(empty, -jnp.inf, top + jnp.log(safe))
        out = acc / safe[..., None]
        return (
            grid.write(totals[0], jnp.swapaxes(out, 1, 2), BY_ROW, rows),
            grid.write(totals[1], jnp.swapaxes(lse, 1, 2), BY_ROW, rows),
        )

    totals = jnp.broadcast_to(zero, (b, t, k * g, e)), jnp.broadcast_to(zero, (b, t, k * g))
    arrays, axes = [*leaves, broken], [*leaf_axes(problem), Axes(head=2, key=1)]
    return walk(grid, schedule, arrays, axes, totals, start=start, update=update, finish=finish)
