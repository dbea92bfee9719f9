"""Attention by blocks: the forward loop, and its derivative of any order."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from equipoise._jax.zeros import is_zero
from equipoise._types import Array, PyTree
from equipoise.attention._kernel.grid import Grid, Place, Schedule
from equipoise.attention._kernel.loop import walk, zero_like_all
from equipoise.attention._kernel.problem import Problem
from equipoise.attention._kernel.schedule import any_of_batch, grid_of, schedule_of
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


def blockwise(problem: Problem, block_size: int | None) -> tuple[Array, Array]:
    """(o, lse) with o (b, t, n, e) and lse (b, t, n) in the dtype of sums."""
    b, t, s, k, g = problem.sizes
    if 0 in (b, t, s, g):
        shape = (b, t, k * g)
        zero = zero_like_all(jax.tree.leaves(problem.as_arrays()), problem.dtype)
        out = jnp.broadcast_to(zero, (*shape, problem.value.shape[-1]))
        return out, jnp.broadcast_to(zero - jnp.inf, shape)
    grid = grid_of(problem, block_size)
    schedule = schedule_of(problem, grid)
    problem = dataclasses.replace(problem, sinks=None).as_arrays()
    return _attend(problem, schedule, _Static(grid))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    grid: Grid


@jax.custom_jvp
def _attend(problem: Problem, schedule: Schedule, static: _Static) -> tuple[Array, Array]:
    return _forward(problem, schedule, static.grid)


def _attend_jvp(
    primals: tuple[Problem, Schedule, _Static], tangents: tuple[PyTree, PyTree, PyTree]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    problem, schedule, static = primals
    out, lse = _attend(problem, schedule, static)
    directions = [None if is_zero(x) else x for x in jax.tree.leaves(tangents[0], is_leaf=is_zero)]
    return (out, lse), tangent(problem, schedule, static.grid, out, lse, directions)


_attend.defjvp(_attend_jvp, symbolic_zeros=True)


def _forward(problem: Problem, schedule: Schedule, grid: Grid) -> tuple[Array, Array]:
    """Streams keys past each block of rows with a running maximum."""
    b, t, _, k, g = problem.sizes
    e, dtype = problem.value.shape[-1], problem.dtype
    leaves, structure = jax.tree.flatten(problem)
    zero = zero_like_all((*leaves, *schedule), dtype)

    def start(_: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        shape = (b, grid.head_block * g, grid.row_block)
        return (
            jnp.broadcast_to(zero - jnp.inf, shape),
            jnp.broadcast_to(zero, shape),
            jnp.broadcast_to(zero, (*shape, e)),
        )

    def update(
        carry: tuple[Array, Array, Array], place: Place, blocks: list[Array]
    ) -> tuple[Array, Array, Array]:
        top, total, acc = carry
        block = block_of(jax.tree.unflatten(structure, blocks), place, grid)
        score, allowed = scores(block)
        allowed = both(allowed, overlap(place, block, grid, of_rows=False))
        if allowed is not None:
            score = jnp.where(allowed, score, -jnp.inf)
        peak = jnp.maximum(top, jnp.max(score, axis=-1))
        finite = jnp.where(jnp.isneginf(peak), 0, peak)
        weight = jnp.exp(score - finite[..., None])
        shrink = jnp.exp(top - finite)
        total = total * shrink + jnp.sum(weight, axis=-1)
        factor = dropout(block)
        if factor is not None:
            weight = weight * factor
        acc = acc * shrink[..., None] + _weighted(weight, allowed, block.problem.value)
        return peak, total, acc

    def finish(
        totals: tuple[Array, Array], carry: tuple[Array, Array, Array], rows: Place
    ) -> tuple[Array, Array]:
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
    axes = leaf_axes(problem)
    return walk(grid, schedule, leaves, axes, totals, start=start, update=update, finish=finish)


def _weighted(weight: Array, allowed: Array | None, value: Array) -> Array:
    """The weighted sum of values; what is not finite counts only where it may be read."""
    if allowed is None:
        return times_value(weight, value)

    def exact(weight: Array, value: Array) -> Array:
        reads = jnp.broadcast_to(allowed, weight.shape).astype(weight.dtype)
        out = times_value(weight, clean(value))
        for test, result in (
            (jnp.isnan, jnp.nan),
            (jnp.isposinf, jnp.inf),
            (jnp.isneginf, -jnp.inf),
        ):
            out = out + jnp.where(times_value(reads, test(value)) > 0, result, 0).astype(out.dtype)
        return out

    broken = any_of_batch(~jnp.isfinite(jnp.max(jnp.abs(value))))
    return lax.cond(broken, exact, times_value, weight, value)
